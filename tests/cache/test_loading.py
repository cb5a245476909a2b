"""Loading: rows opened one by one are those of the whole, and no value comes from bytes that were not verified."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vbx.cache import loading
from vbx.cache.importing import import_vectors
from vbx.cache.layout import Block, Commit, Layout, write_layout
from vbx.cache.loading import ARRAYS, MappedRows, map_all, map_rows, open_outputs
from vbx.cache.store import Store
from vbx.cache.units import write_unit
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError


def fill(folder: Path, form: Layout, values: dict[int, np.ndarray], failed: dict[int, str] | None = None) -> None:
    """Write rows, `(D,)` or `(F, D)` each; rows between them are empty."""
    write_layout(folder, form)
    everything = [*values, *(failed or {})]
    ARRAYS[form.format].prepare(folder, form, max(everything) + 1)
    for unit in sorted({row // form.unit_rows for row in everything}):
        rows = [row for row in sorted(everything) if row // form.unit_rows == unit]
        inside = range(unit * form.unit_rows, rows[-1] + 1)
        if form.frames:
            parts = [values.get(row, np.zeros((0, form.dim), form.dtype)) for row in inside]
            block = Block(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))
        else:
            nothing = np.full(form.dim, np.nan, form.dtype)
            block = Block(np.stack([values.get(row, nothing) for row in inside]))
        failures = {row: reason for row, reason in (failed or {}).items() if row in rows}
        assert write_unit(folder, form, block, Commit(form.output, unit, tuple(rows), failures, (), {}))


def vectors(rows: range, dim: int, seed: int = 0) -> dict[int, np.ndarray]:
    return dict(zip(rows, np.random.default_rng(seed).standard_normal((len(rows), dim), dtype=np.float32), strict=True))


def data_files(folder: Path, output: str) -> list[Path]:
    """Files that hold values, without those that describe them."""
    found = [path for path in (folder / output).rglob("*") if path.is_file() and path.suffix != ".json"]
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.parts])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


Make = Callable[..., tuple[MappedRows, np.ndarray]]


@pytest.fixture(params=["zarr", "hdf5"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpus" / "spec"


@pytest.fixture(params=[64, 512])
def shuffled(request: pytest.FixtureRequest, folder: Path, kind: str) -> tuple[MappedRows, np.ndarray]:
    """1,100 utterances in another order than their rows, some twice, some without a vector; two outputs."""
    rng = np.random.default_rng(1)
    failed = {row: "bad" for row in range(0, 1200, 97)}
    whole = []
    for output, dim, dtype in (("hidden", 5, "float32"), ("logits", 3, "float16")):
        known = {row: v.astype(dtype) for row, v in vectors(range(1200), dim, dim).items()}
        form = Layout(output, tuple(f"{output}_{i}" for i in range(dim)), dtype, False, request.param, kind)
        fill(folder, form, {row: v for row, v in known.items() if row not in failed}, failed)
        whole.append(np.stack(list(known.values())).astype(np.float32))
    rows = rng.permutation(1200)[:1100]
    rows[5], rows[700], rows[701] = -1, rows[3], rows[3]
    mapped = map_rows([f"u{i}" for i in range(len(rows))], rows, open_outputs(folder, ["hidden", "logits"]))
    there = np.array([row >= 0 and row not in failed for row in rows.tolist()])
    assert mapped.ids == tuple(f"u{i}" for i in np.flatnonzero(there))
    assert mapped.places.tolist() == np.flatnonzero(there).tolist()
    return mapped, np.hstack(whole)[rows[there]]


def test_all_rows_and_some_rows_are_those_that_were_written(shuffled: tuple[MappedRows, np.ndarray]) -> None:
    mapped, expected = shuffled
    assert mapped.columns == (*(f"hidden_{i}" for i in range(5)), *(f"logits_{i}" for i in range(3)))
    loaded = mapped.load()
    assert loaded.dtype == np.float32 and np.array_equal(loaded, expected)
    rng = np.random.default_rng(0)
    for count in (1, 256, 3000):
        numbers = rng.integers(0, len(expected), count)
        assert np.array_equal(mapped.gather(numbers), expected[numbers])
    mask = rng.random(len(expected)) < 0.2
    assert np.array_equal(mapped.gather(mask), expected[mask])
    assert mapped.gather([]).shape == (0, 8)
    with pytest.raises(IndexError):
        mapped.gather([len(expected)])


def test_threads_give_the_same(shuffled: tuple[MappedRows, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, expected = shuffled
    monkeypatch.setattr(loading, "FEW_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert np.array_equal(mapped.load(), expected)
    path = data_files(mapped.outputs[0].folder, "hidden")[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match="damaged"):
        mapped.load()


@pytest.mark.parametrize("order", ["straight", "reversed", "holes", "twice"])
def test_every_order_of_rows_is_kept(folder: Path, kind: str, order: str) -> None:
    known = vectors(range(600), 4)
    fill(folder, Layout("hidden", tuple("abcd"), "float32", False, 512, kind), known)
    rows = {"straight": np.arange(600), "reversed": np.arange(600)[::-1], "holes": np.arange(3, 600, 7)}.get(
        order, np.array([0, 0, 2, 599, 597, 597])
    )
    loaded = map_all(folder, ["hidden"], rows).load()
    assert np.array_equal(loaded, np.stack([known[row] for row in rows.tolist()]))


def test_what_is_touched_is_verified_and_only_that(folder: Path, kind: str) -> None:
    known = vectors(range(1024), 2)
    fill(folder, Layout("hidden", ("a", "b"), "float32", False, 512, kind), known)
    path = data_files(folder, "hidden")[1]
    whole = path.read_bytes()
    place = whole.index(known[700].tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    mapped = map_all(folder, ["hidden"], np.arange(1024))
    assert np.array_equal(mapped.gather([0, 511]), [known[0], known[511]])
    for numbers in ([700], [0, 700], [513]):  # 513 lies in the same piece
        with pytest.raises(CacheError, match="damaged"):
            mapped.gather(numbers)
    with pytest.raises(CacheError, match="damaged"):
        mapped.load()


def test_frames_come_clip_by_clip(folder: Path, kind: str) -> None:
    """Three units; frames of the second fill whole chunks of 256, so that clips lie across them."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 30, 150)
    lengths[127] += -lengths[64:128].sum() % 256
    clips = {row: rng.standard_normal((n, 3)).astype(np.float16) for row, n in enumerate(lengths.tolist())}
    assert sum(lengths[64:128]) % 256 == 0
    del clips[70]
    clips[71] = rng.standard_normal((lengths[70] + lengths[71], 3)).astype(np.float16)
    fill(folder, Layout("frames", tuple("abc"), "float16", True, 64, kind), clips, {70: "bad"})
    mapped = map_rows([f"u{i}" for i in range(150)], np.arange(150), open_outputs(folder, ["frames"]))
    assert len(mapped.ids) == 149 and "u70" not in mapped.ids
    for number in rng.permutation(149).tolist():
        frames = mapped.frames(number)
        assert frames.dtype == np.float16 and np.array_equal(frames, clips[int(mapped.rows[number])])
    assert not mapped.frames(0).flags.writeable, "a view of the file"
    with pytest.raises(CacheError, match="load_frames"):
        mapped.gather([0])


def test_a_clip_of_damaged_frames_is_refused(folder: Path, kind: str) -> None:
    clips = {row: np.full((5, 2), row, np.float16) for row in range(130)}
    fill(folder, Layout("frames", ("a", "b"), "float16", True, 64, kind), clips)
    path = next(p for p in data_files(folder, "frames") if clips[100].tobytes() in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(clips[100].tobytes(), clips[101].tobytes()))
    mapped = map_all(folder, ["frames"], np.arange(130))
    assert np.array_equal(mapped.frames(3), clips[3])
    with pytest.raises(CacheError, match="damaged"):
        mapped.frames(100)


def test_vectors_are_not_frames(folder: Path, kind: str) -> None:
    fill(folder, Layout("hidden", ("a",), "float32", False, 64, kind), vectors(range(3), 1))
    with pytest.raises(CacheError, match="use load_vectors"):
        map_all(folder, ["hidden"], np.arange(3)).frames(0)


def test_a_row_that_is_not_there_and_an_output_that_is_not_there(folder: Path, kind: str) -> None:
    fill(folder, Layout("hidden", ("a",), "float32", False, 64, kind), vectors(range(3), 1), {3: "bad"})
    for rows in ([0, 3], [0, 64], [-1]):
        with pytest.raises(CacheError, match=f"row {rows[-1]} has no vector"):
            map_all(folder, ["hidden"], np.array(rows))
    with pytest.raises(CacheError, match="no output 'logits' yet"):
        open_outputs(folder, ["logits"])
    assert map_all(folder, ["hidden"], np.zeros(0, np.int64)).load().shape == (0, 1)


def test_many_units_hold_no_file_open_and_travel_to_other_processes(folder: Path, kind: str) -> None:
    known = vectors(range(64 * 40), 1)
    fill(folder, Layout("hidden", ("a",), "float32", False, 64, kind), known)
    mapped = map_all(folder, ["hidden"], np.arange(64 * 40))
    before = open_files()
    values = mapped.gather(np.arange(64 * 40))
    assert open_files() <= before + 2
    again = pickle.loads(pickle.dumps(mapped))
    assert np.array_equal(again.gather(np.arange(64 * 40)), values)
    assert np.array_equal(values[:, 0], np.array(list(known.values()))[:, 0])


def test_a_store_opens_what_it_loads(kind: str, tmp_path: Path) -> None:
    """Two arrays of one corpus, the second without every third utterance; joined, and each alone."""
    store, x = Store(tmp_path, kind), np.random.default_rng(3).standard_normal((90, 5)).astype(np.float32)
    ages = np.arange(90.0)
    kept = np.flatnonzero(np.arange(90) % 3)
    for name, rows, columns in (("array:one", np.arange(90), [0, 1, 2]), ("array:two", kept, [3, 4])):
        labels = {"split": ["train"] * len(rows), "age": ages[rows]}
        table = Vectors.from_arrays(x[np.ix_(rows, columns)], labels, feature=name, corpus="toy")
        # Ids are numbers of rows here, and those of the second are rows of the first.
        ids = tuple(str(row) for row in rows.tolist())
        import_vectors(store, Vectors(**{**vars(table), "ids": ids}))
    for feature, rows, columns in (("array:one", np.arange(90), slice(3)), ("array:one+array:two", kept, slice(5))):
        vectors, opened = store.load_vectors("toy", feature), store.open_rows("toy", feature)
        assert vectors.ids == opened.ids == tuple(str(row) for row in rows.tolist())
        assert np.array_equal(vectors.x, x[rows, columns]) and vectors.labels["age"].tolist() == ages[rows].tolist()
        assert np.array_equal(opened.gather([5, 0]), x[rows[[5, 0]], columns])
        assert vectors.columns == opened.columns and vectors.missing == 90 - len(rows)
