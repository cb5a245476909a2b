"""A cache in an object store: everything that a cache on a disk does, in few requests."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pandas as pd
import pytest
import zarr
from obstore.store import S3Store, from_url
from typer.testing import CliRunner
from zarr.storage import ObjectStore

from vbx.cache.check import check_cache
from vbx.cache.importing import import_vectors
from vbx.cache.layout import Block, Commit, Layout, read_commits
from vbx.cache.remote import RemotePath, open_place
from vbx.cache.rows import read_rows
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.cache.tables import read_table, swap_table
from vbx.cache.tidy import drop_corpus, drop_damaged, drop_units
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, MissingExtra, StoreError, UnknownName

SPEC = EncoderSpec("noise", "sha256")
COLUMNS = tuple(f"noise_{i}" for i in range(4))


def put(store: Store, contents: list[str], name: str = "toy") -> LabelTable:
    n = len(contents)
    files = pd.DataFrame(
        {"content": contents, "start_s": 0.0, "end_s": np.nan, "header_s": 1.0, "path": [f"{c}.wav" for c in contents]}
    )
    labels = pd.DataFrame({"split": ["train"] * n, "speaker": ["03"] * n})
    schema = {"split": Column("class", ("train",)), "speaker": Column("text")}
    ids = tuple(f"{c}.wav" for c in contents)
    table = LabelTable(name, ids, np.zeros(0, np.int64), labels, schema, {"root": "/x", "split": "given"})
    return store.put_corpus(table, files)


def fill(store: Store, failed: frozenset[int] = frozenset(), frames: bool = False, add: float = 0.0) -> RemotePath:
    """Write the units that are missing, with values that tell the row."""
    layout = Layout("frames" if frames else "hidden", COLUMNS, "float32", frames, 64, "zarr")
    folder = store.open_spec("toy", SPEC, {}, [layout])
    rows = read_rows(folder.parent)["row"].tolist()
    for unit in sorted({row // 64 for row in rows}):
        inside = [row for row in rows if row // 64 == unit]
        size = max(inside) - unit * 64 + 1
        values = np.full((size, 4), np.nan, np.float32)
        good = [row for row in inside if row not in failed]
        values[[row - unit * 64 for row in good]] = np.array(good, np.float32)[:, None] + add
        block = Block(np.nan_to_num(values), np.arange(size + 1, dtype=np.int64)) if frames else Block(values)
        failures = {row: "bad" for row in inside if row in failed}
        store.write_unit(folder, layout, block, Commit(layout.output, unit, tuple(inside), failures, (), {}))
    assert isinstance(folder, RemotePath)
    return folder


def test_vectors_and_frames_come_back_as_from_a_disk(bucket: str, tmp_path: Path) -> None:
    contents = [f"{i:03d}" for i in range(150)]
    for store in (Store(bucket), Store(tmp_path)):
        put(store, contents)
    remote, local = Store(bucket), Store(tmp_path)
    fill(remote, failed=frozenset({7}))
    fill(remote, frames=True)
    layout = Layout("hidden", COLUMNS, "float32", False, 64, "zarr")
    folder = local.open_spec("toy", SPEC, {}, [layout])
    for unit in range(3):
        rows = [row for row in range(150) if row // 64 == unit]
        values = np.repeat(np.array(rows, np.float32)[:, None], 4, axis=1)
        bad = {7: "bad"} if unit == 0 else {}
        values[[row - unit * 64 for row in bad]] = np.nan
        local.write_unit(folder, layout, Block(values), Commit("hidden", unit, tuple(rows), bad, (), {}))
    one, other = remote.load_vectors("toy", "noise"), local.load_vectors("toy", "noise")
    assert np.array_equal(one.x, other.x)
    assert one.ids == other.ids
    assert one.fingerprint == other.fingerprint
    assert one.missing == 1
    frames = remote.load_frames("toy", "noise@frames")
    assert [frames[f"{c}.wav"][0, 0] for c in contents] == list(range(150))
    assert Store(Path(bucket)).corpora() == ["toy"], "a Path has lost one of the slashes"
    assert pickle.loads(pickle.dumps(remote)).corpora() == ["toy"], "another process opens its own"


def test_a_corpus_may_be_called_almost_anything(bucket: str) -> None:
    store = Store(bucket)
    put(store, ["a"], name="Müller & Söhne #1 (50 %)")
    assert store.corpora() == ["Müller & Söhne #1 (50 %)"]
    assert store.label_table("Müller & Söhne #1 (50 %)").ids == ("a.wav",)
    with pytest.raises(StoreError, match="no name for an object"):
        put(store, ["a"], name="tab\there")
    with pytest.raises(UnknownName, match="unknown corpus"):
        store.folder("..")


def test_zarr_python_reads_the_array_in_the_bucket(bucket: str) -> None:
    store = Store(bucket)
    table = put(store, [f"{i:03d}" for i in range(150)])
    folder = fill(store)
    name = bucket.removeprefix("s3://").split("/")[0]
    raw = S3Store(name, prefix=f"some prefix/{folder.key}/hidden", client_options={"allow_http": True})
    array = zarr.open_array(ObjectStore(raw), mode="r")
    assert np.array_equal(np.asarray(array[:])[table.rows], store.load_vectors("toy", "noise").x)


def test_damage_is_found_refused_and_mended(bucket: str) -> None:
    store = Store(bucket)
    put(store, [f"{i:03d}" for i in range(150)])
    folder = fill(store)
    whole = store.load_vectors("toy", "noise").x
    shard = folder / "hidden/c/1/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    folder.bucket.put(shard.key, bytes(data))
    with pytest.raises(CacheError, match="c/1/0 is damaged"):
        Store(bucket).load_vectors("toy", "noise")
    assert [(f.path, f.problem) for f in check_cache(store)] == [(shard.key, "damaged")]
    drop_damaged(store)
    assert check_cache(store) == []
    assert set(read_commits(folder, "hidden")) == {0, 2}
    fill(store)
    assert np.array_equal(store.load_vectors("toy", "noise").x, whole)


@pytest.mark.parametrize("name", ["utterances.parquet", "labels.parquet", "corpus.json", "utterances.parquet.sha256"])
def test_a_flipped_bit_of_a_table_is_found(bucket: str, name: str) -> None:
    store = Store(bucket)
    put(store, ["a", "b"])
    fill(store)
    path = open_place(bucket) / "toy" / name
    assert isinstance(path, RemotePath)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.bucket.put(path.key, bytes(data))
    assert [f.problem for f in check_cache(store)] == ["damaged"]
    with pytest.raises(CacheError, match=name.removesuffix(".sha256")):
        store.load_vectors("toy", "noise")


def test_what_is_dropped_is_gone_and_made_again(bucket: str) -> None:
    store = Store(bucket)
    put(store, [f"{i:03d}" for i in range(150)])
    folder = fill(store, failed=frozenset({70}))
    assert store.failures(folder) == {"070.wav": "bad"}
    assert drop_units(folder, failed_only=True) == 1
    fill(store)
    assert store.load_vectors("toy", "noise").missing == 0
    assert drop_units(folder) == 3
    assert not folder.exists()
    drop_corpus(store, "toy")
    assert store.corpora() == []
    whole = from_url(bucket.rsplit("/", 1)[0], client_options={"allow_http": True})
    assert obstore.list(whole).collect() == []


def test_imported_vectors_come_back(bucket: str) -> None:
    mine = Vectors.from_arrays(np.eye(3), {"age": [1, 2, 3]}, feature="array:mine", corpus="toy")
    import_vectors(Store(bucket), mine)
    assert np.array_equal(Store(bucket).load_vectors("toy", "array:mine").x, np.eye(3))


def test_a_large_table_goes_in_pieces(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbx.cache.bucket.PIECE", 5 * 2**20)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.integers(0, 2**62, 2_000_000)})
    path = open_place(bucket) / "t.parquet"
    swap_table(path, lambda old: frame)
    assert isinstance(path, RemotePath)
    assert (path.bucket.head(path.key) or pytest.fail("gone")).size > 15e6
    assert np.array_equal(read_table(path)["a"], frame["a"])
    data = rng.bytes(17 * 2**20)
    path.bucket.put("large", data)
    assert path.bucket.get("large")[0] == data


def test_loading_needs_few_requests_side_by_side(bucket: str, proxy: Callable[[Any], Any], faults: type) -> None:
    store = Store(bucket)
    put(store, [f"{i:04d}" for i in range(64 * 40)])
    fill(store)
    seen = proxy(faults({"slow": 1.0}, slow_s=0.02))
    Store(bucket).load_vectors("toy", "noise")
    assert seen.most >= 8, "side by side"
    assert seen.done["GET"] <= 2 * 40 + 25, "a record and a shard per unit, and what there is once"
    assert seen.done["HEAD"] <= 10
    before = seen.done["GET"]
    store = Store(bucket)
    folder = next(iter(store.specs("toy")))
    for _ in range(5):
        read_commits(folder, "hidden")
    assert seen.done["GET"] - before <= 40 + 20, "records that were read once are only listed again"


def test_the_commands_work(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vbx.cli import app

    put(Store(bucket), ["a", "b", "c"])
    folder = fill(Store(bucket), failed=frozenset({1}))
    Store(bucket).write_failures(folder)
    folder.bucket.put(f"{folder.key}/staging/hidden-000000-ab/hidden/c/0/0", b"left by a writer that was killed")
    monkeypatch.setenv("VBX_CACHE", bucket)
    monkeypatch.chdir(tmp_path)

    def vbx(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    assert '"vectors": 2' in vbx("cache", "ls", "--json")
    assert '"problem": "leftover"' in vbx("cache", "check", "--json")
    assert "staging/hidden-000000-ab" in vbx("cache", "gc", "--json")
    assert "[]" in vbx("cache", "check", "--json")
    assert "nothing would be extracted" in vbx("cache", "why", "noise")
    vbx("cache", "export", "noise", "--to", "npz", "--out", "x.npz")
    assert np.load("x.npz")["x"].shape == (2, 4)
    assert "1 units dropped" in vbx("cache", "drop", "noise", "--failed", "--yes")


# ------------------------------------------------------------------ sentences


def test_what_is_no_cache_is_one_sentence(
    bucket: str, proxy: Callable[[Any], Any], faults: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="HDF5 is for local folders"):
        Store(bucket, "hdf5")
    with pytest.raises(StoreError, match=r"cannot list s3://nonesuch-bucket.*no such bucket; create it"):
        Store("s3://nonesuch-bucket/x").corpora()
    with pytest.raises(StoreError, match=r"s3://nonesuch-bucket.*no such bucket"):
        put(Store("s3://nonesuch-bucket/x"), ["a"])
    put(Store(bucket), ["a"])
    proxy(faults(forbid=frozenset({"PUT"})))
    assert Store(bucket).corpora() == ["toy"]
    with pytest.raises(StoreError, match=r"cannot write s3://.*permission denied; the credentials .*may not"):
        put(Store(bucket), ["b"])
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "soon")
    with pytest.raises(StoreError, match="give seconds"):
        Store(bucket)


def test_a_store_that_cannot_be_reached_is_one_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "0.5")
    with pytest.raises(StoreError, match=r"cannot list s3://.*no luck in 0.5 s .* nothing in the cache is damaged"):
        Store(bucket).corpora()


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m == "vbx.cache.bucket" or m.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vbx\[remote\]'"):
        Store("s3://bucket/prefix")


def test_a_store_that_ignores_conditions_is_refused(
    bucket: str, proxy: Callable[[Any], Any], faults: Callable[..., Any]
) -> None:
    proxy(faults(unconditional=True))
    with pytest.raises(StoreError, match="knows no conditional puts"):
        put(Store(bucket), ["a"])
