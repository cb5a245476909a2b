"""Damage: every region of every file of a cache, flipped, cut, lengthened or removed, is found and never read."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vbx
from vbx.cache.check import check_cache
from vbx.errors import VbxError

GOLDEN = Path(__file__).parent.parent / "golden" / "caches"
NOT_READ = {".lock"}
"""Files that hold nothing."""
OPTIONAL = {name + side for name in ("failures.parquet", "files.parquet") for side in ("", ".sha256")}
"""Files that may be absent: they are made again from what else is there."""


def mutations(data: bytes, step: int) -> Iterator[tuple[str, bytes | None]]:
    """What may happen to a file: name of the damage, and what is left of it (None for nothing)."""
    yield "removed", None
    yield "emptied", b""
    yield "lengthened", data + b"\0"
    for at in sorted({1, len(data) // 2, len(data) - 1}):
        yield f"cut at {at}", data[:at]
    for at in sorted({0, 1, len(data) - 1, *range(0, len(data), step)}):
        for bit in (1, 128):
            yield f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def load(store: vbx.Store) -> dict[str, np.ndarray]:
    vectors = store.load_vectors("toy", "noise")
    found = {f"noise {name}": row for name, row in zip(vectors.ids, vectors.x, strict=True)}
    found |= {f"frames {name}": np.asarray(f) for name, f in store.load_frames("toy", "noise@frames").items()}
    for column in vectors.labels:
        found[f"label {column}"] = vectors.labels[column].to_numpy()
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "files", "step"),
    [
        ("0.1-zarr", 9, 701),
        ("0.1-hdf5", 5, 3001),
        pytest.param("0.1-zarr", 1, 29, marks=pytest.mark.slow),
        pytest.param("0.1-hdf5", 1, 211, marks=pytest.mark.slow),
    ],
)
def test_no_damage_is_ever_read(tmp_path: Path, name: str, files: int, step: int) -> None:
    shutil.copytree(GOLDEN / name, tmp_path / "cache")
    store = vbx.Store(tmp_path / "cache")
    whole = load(store)
    paths = sorted(path for path in store.root.rglob("*") if path.is_file() and path.name not in NOT_READ)
    tried = 0
    for path in paths[::files]:
        data = path.read_bytes()
        for what, left in mutations(data, step):
            if left == data:
                continue
            if left is None:
                path.unlink()
            else:
                path.write_bytes(left)
            where = f"{path.relative_to(store.root)} {what}"
            tried += 1
            try:
                seen: dict[str, np.ndarray] | None = load(store)
            except VbxError:
                seen = None
            assert seen is None or same(seen, whole), f"{where}: wrong values were read"
            if left is not None or path.name not in OPTIONAL:
                assert check_cache(store), f"{where}: not found"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    assert check_cache(store) == [] and same(load(store), whole)
    assert tried > 30
