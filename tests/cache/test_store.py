"""Store: rows once and for all, units once, vectors verified; in both formats."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tensorstore
import zarr

from vbx.cache.layout import Block, Commit, Layout, read_commits
from vbx.cache.rows import read_rows
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.errors import CacheError, UnknownName

SPEC = EncoderSpec("noise", "sha256")
COLUMNS = tuple(f"noise_{i}" for i in range(4))


def put(store: Store, contents: list[str], name: str = "toy", lengths: list[float] | None = None) -> LabelTable:
    files = pd.DataFrame(
        {
            "content": contents,
            "start_s": 0.0,
            "end_s": np.nan,
            "header_s": lengths or [1.0] * len(contents),
            "path": [f"{c}.wav" for c in contents],
        }
    )
    ids = tuple(f"{i}.wav" for i in range(len(contents)))
    labels = pd.DataFrame({"split": ["train"] * len(ids), "speaker": ["03"] * len(ids)})
    schema = {"split": Column("class", ("train",)), "speaker": Column("text")}
    empty = np.zeros(0, np.int64)
    return store.put_corpus(LabelTable(name, ids, empty, labels, schema, {"root": "/x", "split": "given"}), files)


def fill(store: Store, spec: EncoderSpec = SPEC, unit_rows: int = 64, failed: set[int] = frozenset()) -> Path:
    """Write the units that are missing, with values that tell the row."""
    layout = Layout("hidden", COLUMNS, "float32", False, unit_rows, store.format)
    folder = store.open_spec("toy", spec, {}, [layout])
    rows = read_rows(store.root / "toy")["row"].tolist()
    for unit in sorted({row // unit_rows for row in rows}):
        inside = [row for row in rows if row // unit_rows == unit]
        values = np.full((max(inside) - unit * unit_rows + 1, 4), np.nan, np.float32)
        for row in inside:
            if row not in failed:
                values[row - unit * unit_rows] = row
        failures = {row: "bad" for row in inside if row in failed}
        store.write_unit(folder, layout, Block(values), Commit("hidden", unit, tuple(inside), failures, (), {}))
    return folder


@pytest.fixture(params=["zarr", "hdf5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", request.param)


def test_vectors_come_back_in_the_order_of_the_corpus(store: Store) -> None:
    contents = [f"{i:03d}" for i in range(150)]
    table = put(store, contents, lengths=[float(150 - i) for i in range(150)])
    assert table.rows.tolist() == list(range(149, -1, -1)), "rows are in order of length"
    fill(store)
    vectors = store.load_vectors("toy", "noise")
    assert vectors.x[:, 0].tolist() == table.rows.tolist()
    assert vectors.ids == table.ids
    assert vectors.labels["speaker"].tolist() == ["03"] * 150


def test_content_decides_which_row_an_utterance_has(store: Store) -> None:
    before = put(store, ["a", "b", "c"])
    renamed = put(store, ["c", "a", "b"])
    assert renamed.rows.tolist() == [before.rows[2], before.rows[0], before.rows[1]]
    edited = put(store, ["c", "a", "new"])
    assert edited.rows[2] not in before.rows


def test_the_same_audio_twice_has_one_row(store: Store) -> None:
    assert put(store, ["a", "a", "b"]).rows.tolist() == [0, 0, 1]
    fill(store)
    assert store.load_vectors("toy", "noise").x.shape == (3, 4)


def test_new_rows_never_fall_into_a_unit_that_is_there(store: Store) -> None:
    put(store, [f"{i}" for i in range(70)])
    folder = fill(store)
    before = {name: (folder / name).read_bytes() for c in read_commits(folder, "hidden").values() for name in c.files}
    table = put(store, [f"{i}" for i in range(75)])
    assert table.rows[70:].tolist() == [4096, 4097, 4098, 4099, 4100]  # beyond the largest unit there may be
    fill(store)
    assert store.load_vectors("toy", "noise").x[:, 0].tolist() == table.rows.tolist()
    assert all((folder / name).read_bytes() == data for name, data in before.items()), "nothing is rewritten"


def test_a_failed_row_has_no_vector_and_costs_no_neighbour(store: Store) -> None:
    put(store, ["a", "b", "c"])
    folder = fill(store, failed={1})
    vectors = store.load_vectors("toy", "noise")
    assert vectors.ids == ("0.wav", "2.wav")
    assert vectors.missing == 1
    assert np.isfinite(vectors.x).all()
    assert store.failures(folder) == {"1.wav": "bad"}


def test_whoever_comes_second_with_a_unit_writes_nothing(store: Store) -> None:
    put(store, ["a"])
    folder = fill(store)
    layout = Layout("hidden", COLUMNS, "float32", False, 64, store.format)
    other = Block(np.full((1, 4), 7.0, np.float32))
    assert not store.write_unit(folder, layout, other, Commit("hidden", 0, (0,), {}, (), {}))
    assert store.load_vectors("toy", "noise").x[0, 0] == 0.0


def test_frames_come_back_as_they_were(store: Store) -> None:
    put(store, ["a", "b", "c"])
    layout = Layout("frames", COLUMNS, "float16", True, 64, store.format)
    folder = store.open_spec("toy", SPEC, {}, [layout])
    values = np.arange(20, dtype=np.float16).reshape(5, 4)
    block = Block(values, np.array([0, 2, 2, 5], np.int64))
    store.write_unit(folder, layout, block, Commit("frames", 0, (0, 1, 2), {1: "bad"}, (), {}))
    frames = store.load_frames("toy", "noise@frames")
    assert set(frames) == {"0.wav", "2.wav"}
    assert np.array_equal(frames["0.wav"], values[:2])
    assert np.array_equal(frames["2.wav"], values[2:])
    with pytest.raises(CacheError, match="load_frames"):
        store.load_vectors("toy", "noise@frames")


def test_zarr_and_tensorstore_read_the_same_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    table = put(store, [f"{i}" for i in range(700)])
    folder = fill(store, unit_rows=512)
    x = store.load_vectors("toy", "noise").x
    array = zarr.open(str(folder / "hidden"))
    assert array.shape == (700, 4)
    assert np.array_equal(array[:][table.rows], x)
    kvstore = {"driver": "file", "path": str(folder / "hidden")}
    other = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    assert np.array_equal(other[table.rows], x)
    layout = Layout("frames", COLUMNS, "float16", True, 512, "zarr")
    store.open_spec("toy", SPEC, {}, [layout])
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    offsets = np.array([0, 3], np.int64)
    store.write_unit(folder, layout, Block(values, offsets), Commit("frames", 0, (0,), {}, (), {}))
    group = zarr.open_group(str(folder / "frames"), mode="r")
    assert np.array_equal(group["000000/values"][:], values)
    assert np.array_equal(group["000000/offsets"][:], offsets)


def test_zarr_python_refuses_a_flipped_bit_of_ours(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    put(store, ["a", "b"])
    shard = fill(store) / "hidden" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open(str(shard.parents[2]))[:]


def test_an_hdf5_unit_opens_in_h5py(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", "hdf5")
    put(store, ["a", "b"])
    with h5py.File(fill(store) / "hidden" / "000000.h5") as file:
        assert file["values"][:, 0].tolist() == [0.0, 1.0]
        assert [c.decode() for c in file["columns"][:]] == list(COLUMNS)


def test_a_changed_setting_is_another_encoder_and_never_served_as_this_one(store: Store) -> None:
    """The neighbour that kept one table per corpus served eGeMAPS vectors under the name of ComParE."""
    put(store, ["a", "b"])
    fill(store)
    fill(store, replace(SPEC, normalise="peak"))
    assert len(store.specs("toy")) == 2
    assert store.find("toy", _part("noise"))[1] == SPEC
    with pytest.raises(CacheError, match="no vectors of 'compare'"):
        store.load_vectors("toy", "compare")


def test_two_models_of_one_name_are_never_mixed(store: Store) -> None:
    put(store, ["a"])
    one = fill(store, replace(SPEC, weights="1111"))
    fill(store, replace(SPEC, weights="2222"))
    with pytest.raises(CacheError, match="say which"):
        store.load_vectors("toy", "noise")
    key = one.name.rpartition("-")[2]
    assert store.load_vectors("toy", f"noise#{key}").x.shape == (1, 4)


def test_unknown_names_and_places_are_one_sentence(tmp_path: Path, store: Store) -> None:
    put(store, ["a"])
    with pytest.raises(UnknownName, match="did you mean 'toy'"):
        store.load_vectors("tois", "noise")
    with pytest.raises(CacheError, match="plain path"):
        Store("file:///tmp/cache")
    with pytest.raises(CacheError, match="s3://BUCKET/PREFIX"):
        Store("ftp://host/cache")
    with pytest.raises(UnknownName, match="cache format"):
        Store(tmp_path, "npy")


def _part(name: str):  # type: ignore[no-untyped-def]
    from vbx.cache.feature import read_feature

    return read_feature(name).parts[0]


def test_another_precision_is_found_by_name_and_the_usual_one_comes_first(store: Store) -> None:
    """What a name leaves open has a default; the key says which where there are two."""
    put(store, ["a", "b"])
    half = replace(SPEC, precision="bfloat16")
    assert half.folder.rpartition("-")[0].endswith("bfloat16")
    for spec, value in ((half, 2.0), (SPEC, 1.0)):
        layout = Layout("hidden", ("a",), "float32", False, 64, store.format)
        folder = store.open_spec("toy", spec, {}, [layout])
        block = Block(np.full((2, 1), value, np.float32))
        store.write_unit(folder, layout, block, Commit("hidden", 0, (0, 1), {}, (), {}))
        assert (store.load_vectors("toy", "noise").x == value).all()
    assert (store.load_vectors("toy", f"noise#{half.key[:8]}").x == 2.0).all()
