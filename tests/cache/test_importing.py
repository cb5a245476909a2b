"""Vectors from elsewhere: kept like ours, never taken for ours."""

from pathlib import Path

import numpy as np
import pytest

from vbx.cache.check import check_cache
from vbx.cache.importing import import_vectors
from vbx.cache.store import Store
from vbx.cache.vectors import Vectors, join
from vbx.errors import CacheError


def vectors(rows: int = 300, **changes: str) -> Vectors:
    rng = np.random.default_rng(0)
    labels = {"split": ["Train", "Val", "Test"] * (rows // 3), "speaker": [f"{i % 7:02d}" for i in range(rows)]}
    names = {"feature": "array:mine", "corpus": "toy", **changes}
    return Vectors.from_arrays(rng.standard_normal((rows, 5)), {**labels, "age": rng.uniform(20, 40, rows)}, **names)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    store, mine = Store(tmp_path), vectors()
    import_vectors(store, mine)
    back = store.load_vectors("toy", "array:mine")
    assert np.array_equal(back.x, mine.x) and back.ids == mine.ids
    assert back.labels["split"].tolist() == mine.labels["split"].tolist() and back.schema["age"].kind == "number"
    assert check_cache(store) == []


def test_a_second_array_joins_the_first_and_its_gaps_are_counted(tmp_path: Path) -> None:
    store, mine = Store(tmp_path), vectors()
    import_vectors(store, mine)
    some = Vectors.from_arrays(mine.x[:100, :2], {"split": ["train"] * 100}, feature="array:two", corpus="toy")
    import_vectors(store, some)
    assert store.load_vectors("toy", "array:two").missing == 200
    both = store.load_vectors("toy", "array:mine+array:two")
    assert both.x.shape == (100, 7) and both.missing == 200
    assert np.array_equal(both.x[:, 5:], both.x[:, :2])


def test_an_array_cannot_pass_for_an_encoder_nor_for_another_corpus(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(CacheError, match="array:NAME"):
        import_vectors(store, vectors(feature="egemaps"))
    import_vectors(store, vectors(30))
    with pytest.raises(CacheError, match="are not in corpus"):
        import_vectors(store, vectors(60))


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CacheError, match="N rows of labels"):
        Vectors.from_arrays(np.zeros((3, 2)), {"age": [1, 2]})
    with pytest.raises(CacheError, match="not finite"):
        Vectors.from_arrays(np.array([[1.0], [np.nan]]), {"age": [1, 2]})


def test_joining_one_is_itself() -> None:
    mine = vectors(30)
    assert join([mine], "x") is mine
