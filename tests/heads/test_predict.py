"""Predictions as a table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError
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
