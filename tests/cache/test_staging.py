"""Units on an object store: whoever dies or meddles between two steps, what is visible is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vbx.cache import units
from vbx.cache.check import check_cache
from vbx.cache.layout import Block, Commit, Layout, read_commits
from vbx.cache.remote import RemotePath
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.staging import STAGING, settle
from vbx.cache.store import LabelTable, Store
from vbx.cache.tidy import collect_leftovers, drop_units
from vbx.errors import CacheError

LAYOUT = Layout("hidden", ("a", "b"), "float32", False, 64, "zarr")


def open_toy(url: str) -> tuple[Store, RemotePath]:
    store = Store(url)
    names = [str(i) for i in range(64)]
    files = pd.DataFrame({"content": names, "start_s": 0.0, "end_s": np.nan, "header_s": 1.0, "path": names})
    labels, schema = pd.DataFrame({"split": ["train"] * 64}), {"split": Column("class", ("train",))}
    store.put_corpus(LabelTable("toy", tuple(names), np.zeros(0, np.int64), labels, schema, {"root": "/x"}), files)
    folder = store.open_spec("toy", EncoderSpec("noise", "sha256"), {}, [LAYOUT])
    assert isinstance(folder, RemotePath)
    return store, folder


def write(store: Store, folder: RemotePath, value: float = 1.0) -> bool:
    block = Block(np.full((64, 2), value, np.float32))
    return store.write_unit(folder, LAYOUT, block, Commit("hidden", 0, tuple(range(64)), {}, (), {}))


def stop_before(name: str, monkeypatch: pytest.MonkeyPatch, store: Store, folder: RemotePath) -> None:
    """Write the unit, and die before a step."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(units, name, die)
        with pytest.raises(KeyboardInterrupt):
            write(store, folder)


def test_a_writer_that_staged_and_died_leaves_something_to_collect(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = open_toy(bucket)
    stop_before("write_commit", monkeypatch, store, folder)
    assert read_commits(folder, "hidden") == {}
    assert [f.problem for f in check_cache(store)] == ["leftover"]
    assert write(store, folder, 2.0), "another has other bytes"
    assert (store.load_vectors("toy", "noise").x == 2.0).all()
    assert len(collect_leftovers(store)) == 1
    assert check_cache(store) == []


def test_a_reader_finishes_what_a_writer_committed_and_died(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = open_toy(bucket)
    stop_before("publish", monkeypatch, store, folder)
    assert not (folder / "hidden/c/0/0").is_file()
    assert not write(store, folder, 2.0), "it is there"
    assert (store.load_vectors("toy", "noise").x == 1.0).all()
    assert (folder / "hidden/c/0/0").is_file()
    assert not (folder / STAGING).is_dir()
    assert check_cache(store) == []


def test_gc_never_takes_what_is_committed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = open_toy(bucket)
    stop_before("publish", monkeypatch, store, folder)
    assert collect_leftovers(store) == []
    assert (store.load_vectors("toy", "noise").x == 1.0).all()


def test_a_reader_who_may_not_write_leaves_out_what_is_not_at_its_place(
    bucket: str, monkeypatch: pytest.MonkeyPatch, proxy: Callable[[Any], Any], faults: Callable[..., Any]
) -> None:
    store, folder = open_toy(bucket)
    stop_before("publish", monkeypatch, store, folder)
    met = proxy(faults(forbid=frozenset({"PUT", "POST", "DELETE"})))
    reader = Store(bucket)
    with pytest.raises(CacheError, match="no vector of 'noise' yet"):
        reader.load_vectors("toy", "noise")
    folder.bucket.copy(next(iter(folder.bucket.walk(f"{folder.key}/{STAGING}"))), f"{folder.key}/hidden/c/0/0")
    assert (reader.load_vectors("toy", "noise").x == 1.0).all(), "it is at its place, only not tidied up"
    met.forbid = frozenset()


def test_a_writer_whose_staged_files_gc_took_puts_them_back(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = open_toy(bucket)
    real = units.write_commit

    def meddle(*words: Any) -> bool:
        assert len(collect_leftovers(store)) == 1
        return real(*words)

    monkeypatch.setattr(units, "write_commit", meddle)
    assert write(store, folder)
    assert (store.load_vectors("toy", "noise").x == 1.0).all()
    assert check_cache(store) == []


def test_a_dropped_unit_takes_what_was_staged_along(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = open_toy(bucket)
    stop_before("publish", monkeypatch, store, folder)
    drop_units(folder)
    assert not folder.is_dir()


def test_nothing_to_settle_costs_one_request(
    bucket: str, proxy: Callable[[Any], Any], faults: Callable[..., Any], tmp_path: Path
) -> None:
    met = proxy(faults())
    _, folder = open_toy(bucket)
    met.done.clear()
    assert settle(folder, {"hidden-000000-abc": ["hidden/c/0/0"]}) == set()
    assert dict(met.done) == {"GET": 1}
