"""Several corpora as one, and classes that are called alike."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vbx.cache.feature import read_feature
from vbx.cache.schema import Column
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError, UnknownName
from vbx.heads.data import read_labels
from vbx.heads.parts import Task
from vbx.heads.protocols.corpora import join_corpora, load_corpora, map_classes

EMOTION = Task("emotion", ("emotion",), "cross_entropy", ("uar",))


def make(name, n, seed=0, **columns):
    random = np.random.default_rng(seed)
    labels = {"split": np.resize(["train", "test"], n), "speaker": [f"{i % 3:02}" for i in range(n)], **columns}
    frame = pd.DataFrame(labels, index=[f"u{i}" for i in range(n)])
    return Vectors.from_arrays(random.standard_normal((n, 4)), frame, corpus=name, feature="toy")


@pytest.fixture
def emodb():
    emotions = ["anger", "joy", "anger", "sadness", "joy", "joy"]
    return replace(make("emodb", 6, 1, emotion=emotions, age=[30.0, 40, 50, 30, 40, 50]), missing=2)


@pytest.fixture
def nemo():
    return replace(
        make("nemo", 4, 2, emotion=["anger", "fear", "happiness", None], accent=["x", "y", "x", "y"]), missing=3
    )


def test_a_joined_corpus_has_all_utterances_and_says_whose_they_are(emodb, nemo):
    joined = join_corpora([emodb, nemo])
    assert joined.corpus == "emodb+nemo" and joined.missing == 5 and joined.feature == "toy"
    assert joined.ids == (*(f"emodb/u{i}" for i in range(6)), *(f"nemo/u{i}" for i in range(4)))
    np.testing.assert_array_equal(joined.x, np.vstack([emodb.x, nemo.x]))
    assert joined.labels["corpus"].tolist() == ["emodb"] * 6 + ["nemo"] * 4
    assert joined.schema["corpus"] == Column("class", ("emodb", "nemo"))
    assert joined.labels["speaker"].tolist()[:2] == ["emodb:00", "emodb:01"]
    assert not set(joined.labels["speaker"][:6]) & set(joined.labels["speaker"][6:])
    assert joined.schema["emotion"].classes == ("anger", "fear", "happiness", "joy", "sadness")
    assert joined.labels["emotion"].tolist()[:9] == [*emodb.labels["emotion"], "anger", "fear", "happiness"]
    assert list(joined.schema) == list(joined.labels.columns)


def test_what_a_corpus_lacks_is_missing_there(emodb, nemo):
    joined = join_corpora([emodb, nemo])
    assert joined.schema["age"] == Column("number", (), 30.0, 50.0, missing=True)
    assert joined.labels["age"].dtype == np.float64
    np.testing.assert_array_equal(joined.labels["age"][6:].isna(), [True] * 4)
    assert [pd.isna(v) for v in joined.labels["accent"]] == [True] * 6 + [False] * 4
    assert joined.schema["accent"].missing and joined.schema["accent"].kind == "class"
    numbers = read_labels(joined, Task("age", ("age",), "mse", ("mae",)))
    assert np.isnan(numbers).sum() == 4
    assert (read_labels(joined, EMOTION) < 0).tolist() == [False] * 9 + [True]
    assert (read_labels(join_corpora([nemo, emodb]), EMOTION) < 0).tolist() == [False] * 3 + [True] + [False] * 6


def test_columns_of_different_kinds(emodb, nemo):
    other = make("nemo", 4, 2, emotion=[1.0, 2.0, 1.5, 2.0], age=["young", "old", "old", "young"])
    with pytest.raises(RecipeError, match=r"'emotion'.*'class' in 'emodb', 'number' in 'nemo'.*--label emotion:KIND"):
        join_corpora([emodb, other], ["emotion"])
    joined = join_corpora([emodb, other])  # nobody asks for it
    assert joined.schema["emotion"].kind == joined.schema["age"].kind == "text"
    assert joined.labels["age"].tolist()[5:7] == ["50", "young"]
    with pytest.raises(RecipeError, match="'text'"):
        read_labels(joined, EMOTION)
    empty = make("nemo", 4, 2, emotion=[None] * 4, age=["", "", None, None])
    joined = join_corpora([emodb, empty], ["emotion", "age"])  # a column without values is of no kind
    assert joined.schema["emotion"].kind == "class" and joined.schema["age"].kind == "number"
    assert joined.labels["age"].isna().sum() == 4
    metres, feet = (
        replace(v, schema={**v.schema, "age": replace(v.schema["age"], unit=unit)})
        for v, unit in ((emodb, "m"), (make("nemo", 3, age=[1.0, 2.0, 3.0]), "ft"))
    )
    with pytest.raises(RecipeError, match="units: ft, m"):
        join_corpora([metres, feet], ["age"])


def test_corpora_that_cannot_be_joined(emodb, nemo):
    with pytest.raises(RecipeError, match="twice"):
        join_corpora([emodb, emodb])
    with pytest.raises(RecipeError, match="label column 'corpus'"):
        join_corpora([emodb, make("nemo", 4, corpus=["a", "b", "a", "b"])])
    wide = replace(nemo, columns=(*nemo.columns[:3], "other"))
    with pytest.raises(CacheError, match="same columns"):
        join_corpora([emodb, wide])


def with_parts(vectors, feature, **spec):
    """Vectors as the cache gives them: with the specs behind them."""
    parts = [replace(p, spec=replace(p.spec, **{"weights": "w1", **spec})) for p in read_feature(feature).parts]
    return replace(vectors, feature=feature, parts=tuple(parts), columns=("a", "b", "c", "d"), key=str(spec))


def test_vectors_of_other_encoders_are_not_compared(emodb, nemo):
    same = join_corpora([with_parts(emodb, "egemaps"), with_parts(nemo, "egemaps")])
    assert same.key == "{}" and same.parts == with_parts(emodb, "egemaps").parts
    for spec, says in (({"weights": "w2"}, "weights"), ({"resampler": "kaiser"}, "resampler"), ({"code": 9}, "code")):
        with pytest.raises(CacheError, match=f"'emodb' and 'nemo' cannot be compared.*different {says}.*egemaps#"):
            join_corpora([with_parts(emodb, "egemaps"), with_parts(nemo, "egemaps", **spec)])
    with pytest.raises(CacheError, match="codebook"):
        join_corpora([with_parts(emodb, "boaw-125"), with_parts(nemo, "boaw-125", weights="w2")])
    arrays = [with_parts(v, "array:mine", weights=v.corpus) for v in (emodb, nemo)]
    assert len(join_corpora(arrays).key) == 64  # whose digests differ by nature


MAPPING = {"emotion": {"joy": "positive", "happiness": "positive", "anger": "negative", "sadness": "", "nemo:fear": ""}}


def test_classes_are_united_and_left_out_and_counted(emodb, nemo):
    loaded = {"emodb": emodb, "nemo": nemo}
    joined, notes = load_corpora(loaded.__getitem__, loaded, "emodb+nemo", MAPPING, ["emotion"])
    assert joined.schema["emotion"] == Column("class", ("negative", "positive"), missing=True)
    told = ["negative", "positive", "negative", None, "positive", "positive", "negative", None, "positive", None]
    assert joined.labels["emotion"].where(joined.labels["emotion"].notna(), None).tolist() == told
    text = "; ".join(notes)
    for part in ("anger to negative (2)", "joy to positive (3)", "left out: sadness (1)", "left out: fear (1)"):
        assert part in text
    same, quiet = map_classes(nemo, {"accent": {"x": "x", "y": "y"}})
    assert quiet == [] and same.labels["accent"].tolist() == nemo.labels["accent"].tolist()


def test_a_mapping_holds_for_one_corpus_too_and_changes_what_a_run_is(emodb, nemo):
    loaded = {"emodb": emodb, "nemo": nemo, "emodb+nemo": nemo}
    one, _ = load_corpora(loaded.__getitem__, loaded, "emodb", MAPPING)
    assert one.corpus == "emodb" and one.schema["emotion"].classes == ("negative", "positive")
    bare, notes = load_corpora(loaded.__getitem__, loaded, "emodb")
    assert bare is emodb and notes == []
    assert load_corpora(loaded.__getitem__, loaded, "emodb+nemo")[0] is nemo  # a corpus that is called so
    other = {"emotion": {**MAPPING["emotion"], "sadness": "negative"}}
    del loaded["emodb+nemo"]
    prints = {load_corpora(loaded.__getitem__, loaded, "emodb+nemo", m)[0].fingerprint for m in ({}, MAPPING, other)}
    assert len(prints | {emodb.fingerprint, nemo.fingerprint}) == 5


def test_what_a_mapping_forgets_or_invents(emodb, nemo):
    loaded = {"emodb": emodb, "nemo": nemo}

    def load(mapping):
        return load_corpora(loaded.__getitem__, loaded, "emodb+nemo", {"emotion": mapping})

    rest = {"joy": "j", "happiness": "j", "anger": "a", "sadness": "s"}
    with pytest.raises(RecipeError, match=r"class 'fear' of 'emotion' in corpus 'nemo' \(1 utt.*'nemo:fear' = 'NAME'"):
        load(rest)
    with pytest.raises(RecipeError, match="'anger' of 'emotion' in corpus 'nemo'"):
        load({"joy": "j", "happiness": "j", "emodb:anger": "a", "sadness": "s", "fear": ""})
    with pytest.raises(UnknownName, match="'nemo:feer'"):
        load({**rest, "fear": "", "nemo:feer": ""})
    with pytest.raises(UnknownName, match="'emotoin'"):
        load_corpora(loaded.__getitem__, loaded, "emodb+nemo", {"emotoin": rest})
    with pytest.raises(RecipeError, match="--label age:class"):
        load_corpora(loaded.__getitem__, loaded, "emodb+nemo", {"age": {"30": "x"}})
    both = load({**rest, "fear": "f", "nemo:anger": "rage"})[0]  # the corpus's own entry comes first
    assert both.labels["emotion"].tolist()[:7] == ["a", "j", "a", "s", "j", "j", "rage"]
