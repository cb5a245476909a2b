"""Zarr shards: the bytes are what they always were, other readers agree, and no byte can change unnoticed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import zarr

from vbx.cache import zarr_arrays
from vbx.cache.layout import Block, Commit, Layout
from vbx.errors import CacheError

GOLDEN = {  # of the first version of the format: caches on people's disks must stay readable
    ((5, 3), 64, "float32"): "7907d1331de33bee",
    ((300, 2), 512, "float16"): "a721c22b3e0435cd",
    ((512, 1), 512, "float32"): "8710d8aeea235db8",
}


def layout(dim: int, unit_rows: int, dtype: str = "float32", frames: bool = False) -> Layout:
    return Layout("hidden", tuple(f"c{i}" for i in range(dim)), dtype, frames, unit_rows, "zarr")


def write(folder: Path, form: Layout, block: Block, unit: int = 0) -> Commit:
    zarr_arrays.prepare(folder, form, (unit + 1) * form.unit_rows)
    written = zarr_arrays.write_unit(folder, form, unit, block)
    names = {path: path.relative_to(folder).as_posix() for path in written}
    files = {names[path]: (path.stat().st_size, zarr_arrays.checksum(path.read_bytes())) for path in written}
    chunks = {names[path]: zarr_arrays.checksum(crcs) for path, crcs in written.items() if crcs}
    return Commit(form.output, unit, (0,), {}, (), files, chunks)


def read(folder: Path, form: Layout, commit: Commit) -> np.ndarray:
    mapped = zarr_arrays.open_unit(folder, form, commit)
    for piece in mapped.pieces:
        piece.verify()
    return np.concatenate([piece.rows for piece in mapped.pieces])


@pytest.mark.parametrize(("shape", "unit_rows", "dtype"), GOLDEN)
def test_a_shard_has_the_bytes_it_always_had(
    tmp_path: Path, shape: tuple[int, int], unit_rows: int, dtype: str
) -> None:
    values = (np.arange(np.prod(shape)) % 100).reshape(shape).astype(dtype)
    write(tmp_path, layout(shape[1], unit_rows, dtype), Block(values))
    data = (tmp_path / "hidden/c/0/0").read_bytes()
    assert hashlib.sha256(data).hexdigest()[:16] == GOLDEN[shape, unit_rows, dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("rows", "unit_rows"), [(1, 64), (64, 64), (200, 512), (256, 512), (257, 512), (1024, 1024)])
def test_zarr_python_and_we_read_the_same(tmp_path: Path, rows: int, unit_rows: int, dtype: str) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, 3)).astype(dtype)
    commit = write(tmp_path, layout(3, unit_rows, dtype), Block(values), unit=1)
    ours = read(tmp_path, layout(3, unit_rows, dtype), commit)
    theirs = zarr.open(str(tmp_path / "hidden"))[unit_rows:]
    assert np.array_equal(ours[:rows], values) and ours.dtype == dtype
    assert np.array_equal(theirs[:rows], values)
    assert np.isnan(ours[rows:]).all() and np.isnan(theirs[rows:]).all()


@pytest.mark.parametrize("frames", [1, 255, 256, 512, 700])
def test_frames_are_the_same_to_zarr_python(tmp_path: Path, frames: int) -> None:
    form = layout(2, 64, "float16", frames=True)
    values = np.random.default_rng(0).standard_normal((frames, 2)).astype(np.float16)
    offsets = np.array([0, frames // 3, frames], np.int64)
    commit = write(tmp_path, form, Block(values, offsets))
    mapped = zarr_arrays.open_unit(tmp_path, form, commit)
    assert np.array_equal(np.concatenate([piece.rows for piece in mapped.pieces]), values)
    assert np.array_equal(mapped.offsets, offsets)
    group = zarr.open_group(str(tmp_path / "hidden"), mode="r")
    assert np.array_equal(group["000000/values"][:], values)
    assert np.array_equal(group["000000/offsets"][:], offsets)


def test_every_single_byte_of_a_unit_counts(tmp_path: Path) -> None:
    """One unit of vectors, two chunks and an index, and one of frames: their bytes one after another, of JSON some."""
    rng = np.random.default_rng(0)
    vectors, clips = layout(1, 512), layout(1, 64, "float16", frames=True)
    plain = write(tmp_path / "a", vectors, Block(rng.standard_normal((300, 1))))
    ragged = write(tmp_path / "b", clips, Block(rng.standard_normal((9, 1)), np.array([0, 4, 9], np.int64)))
    for folder, form, sizes in ((tmp_path / "a", vectors, plain), (tmp_path / "b", clips, ragged)):
        read(folder, form, sizes)
        for name in sizes.files:
            whole = (folder / name).read_bytes()
            for position in range(0, len(whole), 29 if name.endswith(".json") else 3):
                changed = whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
                (folder / name).write_bytes(changed)
                with pytest.raises(CacheError, match="damaged"):
                    read(folder, form, sizes)
            (folder / name).write_bytes(whole)


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:1028] + d[2056:], lambda d: b""]
)
def test_a_shard_of_another_size_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    form = layout(1, 512)
    commit = write(tmp_path, form, Block(np.ones((512, 1))))
    path = tmp_path / "hidden/c/0/0"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CacheError, match="damaged"):
        read(tmp_path, form, commit)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    form = layout(1, 64)
    commit = write(tmp_path, form, Block(np.ones((5, 1))))
    (tmp_path / "hidden/c/0/0").unlink()
    with pytest.raises(CacheError, match="c/0/0 is missing"):
        read(tmp_path, form, commit)
