"""Predictions as a table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vbx.cache.feature import Part
from vbx.cache.spec import EncoderSpec
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError
from vbx.heads.calibration import Calibration
from vbx.heads.head import apply_head
from vbx.heads.parts import Task, Trunk
from vbx.heads.predict import predict
from vbx.heads.scaling import scale_by_speaker


def test_one_row_per_utterance_with_labels_and_probabilities(vectors, make_run, make_head):
    head = make_head(make_run(trunk=Trunk(())))
    table, outputs = predict(head, vectors), apply_head(head, vectors.x)
    assert list(table.columns) == [
        "id", "Awe", "Joy", "Country", "Country.Brazil", "Country.China", "Country.US", "Age",
    ]  # fmt: skip
    assert table["id"].tolist() == list(vectors.ids)
    np.testing.assert_array_equal(table[["Awe", "Joy"]], outputs["emotion"])
    np.testing.assert_array_equal(table["Age"], outputs["age"][:, 0])
    probabilities = table[[f"Country.{name}" for name in ("Brazil", "China", "US")]]
    np.testing.assert_array_equal(probabilities, outputs["country"])
    assert table["Country"].tolist() == [name.split(".")[1] for name in probabilities.idxmax(axis=1)]
    assert table["Country"].nunique() > 1


def test_labels_and_splits_are_not_needed(vectors, make_run, make_head):
    head = make_head(make_run())
    bare = replace(vectors, labels=pd.DataFrame(index=range(24)), schema={}, corpus="")
    pd.testing.assert_frame_equal(predict(head, bare), predict(head, vectors))


def test_names_that_clash_begin_with_the_task(vectors, make_run, make_head):
    tasks = (Task("a", ("Age",), "mse", ("ccc",)), Task("b", ("Age", "Joy"), "mse", ("ccc",)))
    assert list(predict(make_head(make_run(tasks=tasks)), vectors).columns) == ["id", "a.Age", "b.Age", "Joy"]
    assert list(predict(make_head(make_run(tasks=(Task("t", ("id",), "mse", ("ccc",)),))), vectors)) == ["id", "t.id"]


def test_vectors_of_another_feature_are_refused(vectors, make_run, make_head):
    head = make_head(make_run())
    small = Vectors.from_arrays(vectors.x[:, :3], vectors.labels, feature="toy")
    with pytest.raises(CacheError, match=r"learnt from 'toy' \(5 columns\), the vectors are 'toy' \(3\)"):
        predict(head, small)
    other = Vectors.from_arrays(vectors.x, vectors.labels, feature="other")
    with pytest.raises(CacheError, match="column 0 is 'other_0', not 'toy_0'"):
        predict(head, other)


def test_a_head_that_scales_by_speaker_needs_speakers(vectors, make_run, make_head):
    head = make_head(make_run(scale_by_speaker=True))
    with pytest.raises(RecipeError, match="no 'speaker' column"):
        predict(head, replace(vectors, labels=vectors.labels.drop(columns="speaker")))
    scaled = scale_by_speaker(vectors.x, vectors.labels["speaker"].tolist(), "standard")
    np.testing.assert_array_equal(predict(head, vectors)["Age"], apply_head(head, scaled)["age"][:, 0])
    assert not np.allclose(predict(head, vectors)["Age"], apply_head(head, vectors.x)["age"][:, 0])


def test_a_calibrated_head_gives_softer_probabilities_and_intervals(vectors, make_run, make_head):
    told = Calibration({"country": 2.0}, {"age": (3.0,), "emotion": (0.2, np.inf)}, {})
    head = make_head(make_run())
    table, raw = predict(replace(head, calibration=told), vectors), predict(head, vectors)
    assert list(table.columns) == [
        "id", "Awe", "Awe.low", "Awe.high", "Joy", "Joy.low", "Joy.high", "Country", "Country.Brazil", "Country.China",
        "Country.US", "Age", "Age.low", "Age.high",
    ]  # fmt: skip
    odds = np.sqrt(raw.filter(regex=r"Country\..*").to_numpy(np.float64))  # half of the logits
    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(table.filter(regex=r"Country\..*"), expected, rtol=1e-4, atol=1e-7)
    assert table["Country"].tolist() == raw["Country"].tolist()
    np.testing.assert_allclose(table["Age.low"], raw["Age"] - 3, rtol=1e-5)
    np.testing.assert_allclose(table["Age.high"], raw["Age"] + 3, rtol=1e-5)
    np.testing.assert_allclose(table["Awe.high"], np.minimum(raw["Awe"] + 0.2, 1), rtol=1e-6)
    assert (table["Joy.low"] == 0).all() and (table["Joy.high"] == 1).all()
    pd.testing.assert_frame_equal(predict(replace(head, calibration=told), vectors, raw=True), raw)


def test_what_the_trunk_unlearnt_is_told_only_on_request(vectors, make_run, make_head):
    age = Task("age", ("Age",), "mse", ("mae",), role="adversarial")
    joy = Task("joy", ("Joy",), "mse", ("mae",), role="auxiliary")
    country = Task("country", ("Country",), "cross_entropy", ("uar",))
    spy = Task("spy", ("Country",), "cross_entropy", ("uar",), role="discriminator")
    head = make_head(make_run(tasks=(age, joy, country, spy)))
    classes = [f"Country.{name}" for name in ("Brazil", "China", "US")]
    assert list(predict(head, vectors)) == ["id", "Joy", "Country", *classes]
    assert {"Age", "country.Country", "spy.Country"} <= set(predict(head, vectors, every=True))


def test_vectors_of_other_weights_are_refused(vectors, make_run, make_head):
    spec = EncoderSpec("wav2vec2", "org/name", weights="a" * 64)
    mine, same = Part(spec, ("hidden",), "x"), Part(replace(spec, channel="1", revision="v2"), ("hidden",), "x")
    head = replace(make_head(make_run()), parts=(mine,))
    for known in ((), (mine,), (same,)):
        assert len(predict(head, replace(vectors, parts=known))) == 24
    for field, words in (
        ({"weights": "b" * 64}, "weights 'bbbbbbbbbbbb…' rather than 'aaaaaaaaaaaa…'"),
        ({"precision": "bfloat16"}, "precision 'bfloat16' rather than 'float32'"),
        ({"normalise": "peak"}, "normalise 'peak' rather than 'none'"),
    ):
        with pytest.raises(CacheError, match=words):
            predict(head, replace(vectors, parts=(Part(replace(spec, **field), ("hidden",), "x"),)))
    with pytest.raises(CacheError, match="from 1 encoders, the vectors are of 2"):
        predict(head, replace(vectors, parts=(mine, mine)))
