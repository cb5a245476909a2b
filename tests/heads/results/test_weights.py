"""Files of heads: plain safetensors that other programs read, merged without a change."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file as load_torch

from vbx.cache.feature import Part
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError
from vbx.heads.calibration import Calibration
from vbx.heads.parts import Trunk
from vbx.heads.results.weights import check_heads, merge_heads, read_head, write_heads


@pytest.fixture
def heads(make_run, make_head):
    """Of several shapes and both dtypes; the odd widths put float64 where 8 does not divide."""
    runs = [
        make_run(1),
        make_run(2, trunk=Trunk((3,), norm="none")),
        make_run(3, dtype="float64"),
        make_run(4, trunk=Trunk(())),
    ]
    return {run.key: make_head(run) for run in runs}


def assert_same(ours, theirs):
    assert (ours.run, ours.columns, ours.classes) == (theirs.run, theirs.columns, theirs.classes)
    assert (ours.feature, ours.corpus, ours.vectors_key) == (theirs.feature, theirs.corpus, theirs.vectors_key)
    assert ours.state.keys() == theirs.state.keys()
    for name, array in {**theirs.state, "centre": theirs.centre, "spread": theirs.spread}.items():
        read = ours.state[name] if name in ours.state else getattr(ours, name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_heads_come_back(tmp_path, heads):
    write_heads(tmp_path / "a", heads)
    for key, head in heads.items():
        assert_same(read_head(tmp_path / "a", key), head)


def test_others_read_them(tmp_path, heads):
    write_heads(tmp_path / "a", heads)
    ours, torchs = load_numpy(tmp_path / "a"), load_torch(tmp_path / "a")
    assert ours.keys() == torchs.keys()
    for key, head in heads.items():
        for name, array in head.state.items():
            np.testing.assert_array_equal(ours[f"{key}/{name}"], array)
            np.testing.assert_array_equal(torchs[f"{key}/{name}"].numpy(), array)


def test_names_of_columns_are_kept_once(tmp_path, heads, vectors):
    write_heads(tmp_path / "a", heads)
    assert (tmp_path / "a").read_bytes().count(vectors.columns[0].encode()) == 1


def test_merging_changes_nothing_and_drops_what_is_there_twice(tmp_path, heads):
    keys = list(heads)
    for name, chosen in (("a", keys[:2]), ("b", keys[1:3]), ("c", keys[3:])):
        write_heads(tmp_path / name, {key: heads[key] for key in chosen})
    merge_heads([tmp_path / name for name in "abc"], tmp_path / "all")
    check_heads(tmp_path / "all")
    for key, head in heads.items():
        assert_same(read_head(tmp_path / "all", key), head)
    assert sum(a.nbytes for a in load_numpy(tmp_path / "all").values()) == sum(
        sum(a.nbytes for a in (*head.state.values(), head.centre, head.spread)) for head in heads.values()
    )
    write_heads(tmp_path / "once", heads)
    merge_heads([tmp_path / "once"], tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "once").read_bytes()


@pytest.mark.parametrize("data", [b"", b"abc", b"\x02" + 7 * b"\0" + b"{}x", b"\xff" * 40, b"\x02" + 7 * b"\0" + b"[]"])
def test_what_is_no_safetensors_is_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CacheError, match="not a whole file of weights"):
        check_heads(tmp_path / "a")
    with pytest.raises(CacheError, match="not a whole file of weights"):
        read_head(tmp_path / "a", "key")


def test_changed_settings_are_found(tmp_path, heads):
    """The digest covers what a head is as well as its weights."""
    write_heads(tmp_path / "a", heads)
    data = (tmp_path / "a").read_bytes()
    changed = data.replace(json.dumps('"US"')[1:-1].encode(), json.dumps('"UK"')[1:-1].encode())
    assert changed != data
    (tmp_path / "a").write_bytes(changed)
    with pytest.raises(CacheError, match="digest"):
        read_head(tmp_path / "a", next(iter(heads)))


def test_calibration_and_encoders_come_back_and_are_kept_once(tmp_path, heads):
    spec = EncoderSpec("wav2vec2", "org/name", weights="5" * 64, pooling="mean", window_s=30.0)
    parts = (Part(spec, ("hidden", "logits"), "hf:org/name", name="hf:org/name"),)
    told = Calibration({"country": 1.5}, {"age": (math.inf,), "emotion": (0.1, 0.2)}, {"country": 9, "age": 3})
    known = {key: replace(head, calibration=told, parts=parts) for key, head in heads.items()}
    write_heads(tmp_path / "a", known)
    for key in known:
        read = read_head(tmp_path / "a", key)
        assert (read.calibration, read.parts) == (told, parts)
    assert (tmp_path / "a").read_bytes().count(b"5" * 64) == 1
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "b").write_bytes(data.replace(rb"country\":1.5", rb"country\":1.6"))
    with pytest.raises(CacheError, match="does not match its digest"):
        read_head(tmp_path / "b", next(iter(heads)))


def test_heads_of_before_calibration_are_read(tmp_path, heads):
    """Their JSON has neither key, and its digest was taken without."""
    write_heads(tmp_path / "a", heads)
    with safe_open(tmp_path / "a", "numpy") as file:
        about = json.loads(file.metadata()[next(iter(heads))])
    assert about.keys() == {"run", "feature", "corpus", "vectors_key", "classes", "columns_digest", "digest"}
    read = read_head(tmp_path / "a", next(iter(heads)))
    assert read.calibration is None and read.parts == ()
