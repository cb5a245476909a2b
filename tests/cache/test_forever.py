"""Forever: caches that earlier versions wrote are read by this one, value for value.

A cache is added here when what is written changes, and none is ever made again: the folder's name is the version that
wrote it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vbx
from vbx.cache.check import check_cache

GOLDEN = Path(__file__).parent.parent / "golden" / "caches"


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> vbx.Store:
    """A copy, as even looking may lock a folder."""
    shutil.copytree(GOLDEN / request.param, tmp_path / request.param)
    return vbx.Store(tmp_path / request.param)


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((GOLDEN / "expected.json").read_text())


def test_vectors_labels_and_frames_are_read_as_they_were_written(cache: vbx.Store, expected: dict) -> None:
    for feature in ("noise", "prosody"):
        vectors = cache.load_vectors("toy", feature)
        assert list(vectors.ids) == expected["ids"] and vectors.missing == 1
        np.testing.assert_array_equal(vectors.x, np.array(expected[feature], np.float32))
        for column in ("emotion", "age", "split"):
            assert list(vectors.labels[column]) == expected[column]
    frames = cache.load_frames("toy", "noise@frames")
    found = {name: [len(values), float(np.asarray(values, np.float64).sum())] for name, values in frames.items()}
    assert found == expected["frames"]


def test_nothing_is_wrong_with_it_and_failures_are_told(cache: vbx.Store) -> None:
    assert check_cache(cache) == []
    (folder,) = (f for f, spec in cache.specs("toy").items() if spec.encoder == "noise")
    reasons = cache.failures(folder)
    assert list(reasons) == ["4.wav"] and "is empty" in reasons["4.wav"]
