"""Files of heads: plain safetensors that other programs read, merged without a change."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file as load_torch

from vbx.errors import CacheError
from vbx.heads.parts import Trunk
from vbx.heads.weights import check_heads, merge_heads, read_head, write_heads


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
