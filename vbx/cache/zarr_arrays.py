"""Arrays as plain sharded Zarr v3: a unit is one shard, each chunk in it bears a CRC-32C.

A shard of uncompressed chunks that span all columns is a row-major file with an index at its end, so we lay it down
and map it ourselves; zarr-python, tensorstore and xarray read the same bytes (Zarr v3 specification, sharding codec
and crc32c codec).
"""

import hashlib
import json
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.files import write_file
from vbx.cache.layout import Block, Commit, Layout, checksum
from vbx.cache.mapping import MappedUnit, Piece, damaged, map_file, map_verified, view_rows
from vbx.cache.remote import Place
from vbx.errors import CacheError

CHUNK_ROWS = 256
_EMPTY = 2**64 - 1
_CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def prepare(folder: Place, layout: Layout, rows: int) -> None:
    """Make the array of an output, or make it longer.

    Args:
        folder: folder of the spec
        layout: of the output
        rows: number of rows in all
    """
    path = folder / layout.output / "zarr.json"
    if layout.frames:
        meta = {"zarr_format": 3, "node_type": "group"}
        attributes: dict[str, Any] = {"columns": list(layout.columns)}
    else:
        meta = _metadata((rows, layout.dim), (layout.unit_rows, layout.dim), layout.dtype)
        attributes = {"columns": list(layout.columns)}
    data = _sealed_metadata(meta, attributes)
    if not path.exists() or path.read_bytes() != data:
        write_file(path, data)


def write_unit(folder: Place, layout: Layout, unit: int, block: Block) -> dict[Place, bytes]:
    """Write the data of a unit; the commit record, written after it, makes it count.

    Returns:
        the files that hold the unit, each with the checksums of its chunks; none of one that has no chunks
    """
    home = folder / layout.output
    if block.offsets is None:
        path = home / "c" / str(unit) / "0"
        shard, crcs = _encode(block.values, layout.unit_rows, layout.dtype)
        write_file(path, shard)
        return {path: crcs}
    files: dict[Place, bytes] = {}
    for name, array in (("values", block.values), ("offsets", block.offsets)):
        where = home / f"{unit:06d}" / name
        shape = (max(len(array), 1), *array.shape[1:])
        dtype = layout.dtype if name == "values" else "int64"
        write_file(where / "zarr.json", _sealed_metadata(_metadata(array.shape, shape, dtype), {}))
        path = where.joinpath("c", *("0" for _ in array.shape))
        shard, crcs = _encode(array, shape[0], dtype)
        write_file(path, shard)
        files |= {where / "zarr.json": b"", path: crcs}
    write_file(home / f"{unit:06d}" / "zarr.json", _sealed_metadata({"zarr_format": 3, "node_type": "group"}, {}))
    return {**files, home / f"{unit:06d}" / "zarr.json": b""}


def open_unit(folder: Place, layout: Layout, commit: Commit) -> MappedUnit:
    """Map the data of a unit. What describes it is verified here, its values piece by piece when they are used.

    Args:
        folder: folder of the spec
        layout: of the output
        commit: record of the unit

    Raises:
        CacheError: if a file is missing, or differs in size or description from what was committed
    """
    if not layout.frames:
        name = f"{layout.output}/c/{commit.unit}/0"
        return MappedUnit(_map_shard(folder, name, commit, (layout.unit_rows, layout.dim), layout.dtype))
    home = f"{layout.output}/{commit.unit:06d}"
    map_verified(folder / home / "zarr.json", *commit.files[f"{home}/zarr.json"])
    lengths = {}
    for array in ("values", "offsets"):
        name = f"{home}/{array}/zarr.json"
        meta = unseal_metadata(bytes(map_verified(folder / name, *commit.files[name])), folder / name)
        lengths[array] = max(meta["shape"][0], 1)
    values = _map_shard(folder, f"{home}/values/c/0/0", commit, (lengths["values"], layout.dim), layout.dtype)
    offsets = _map_shard(folder, f"{home}/offsets/c/0", commit, (lengths["offsets"], 1), "int64")
    for piece in offsets:
        piece.verify()
    return MappedUnit(values, np.concatenate([piece.rows[:, 0] for piece in offsets]))


def check_output(folder: Place, output: str) -> None:
    """Verify what describes an output as a whole.

    Raises:
        CacheError: if a byte differs from what was written, or it is missing
    """
    path = folder / output / "zarr.json"
    unseal_metadata(path.read_bytes() if path.exists() else b"", path)


def piece_rows(layout: Layout) -> int:
    """Rows of a piece of a unit, of an output that is one vector an utterance."""
    return _chunk_rows(layout.unit_rows)


# ------------------------------------------------------------------ the format


def _metadata(shape: tuple[int, ...], shard: tuple[int, ...], dtype: str) -> dict[str, Any]:
    chunk = (_chunk_rows(shard[0]), *shard[1:])
    sharding = {"chunk_shape": list(chunk), "codecs": _CHECKED, "index_codecs": _CHECKED, "index_location": "end"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if dtype.startswith("float") else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def _sealed_metadata(meta: dict[str, Any], attributes: dict[str, Any]) -> bytes:
    """`zarr.json` with a seal among its attributes, where every Zarr reader lets it be."""
    digest = hashlib.sha256(json.dumps({**meta, "attributes": attributes}, sort_keys=True).encode()).hexdigest()
    sealed = {**meta, "attributes": {**attributes, "seal": digest}}
    return (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode()


def unseal_metadata(data: bytes | bytearray, path: Place) -> dict[str, Any]:
    """Parse `zarr.json` and verify its seal.

    Raises:
        CacheError: if a byte differs from what was written
    """
    try:
        meta: dict[str, Any] = json.loads(data)
        attributes = {k: v for k, v in meta.pop("attributes").items() if k != "seal"}
    except (ValueError, KeyError, AttributeError) as error:
        raise CacheError(f"{path} is damaged: it is not the JSON that vbx wrote (`vbx cache check`)") from error
    if _sealed_metadata(meta, attributes) != data:
        raise CacheError(f"{path} is damaged: its seal does not match (`vbx cache check`)")
    return meta


def _chunk_rows(shard_rows: int) -> int:
    """Rows of a chunk: at most 256 where that divides the shard, as the format demands."""
    return CHUNK_ROWS if shard_rows % CHUNK_ROWS == 0 else shard_rows


def _encode(array: NDArray[Any], shard_rows: int, dtype: str) -> tuple[memoryview, bytes]:
    """One shard: chunks, each with its CRC-32C, then the index of (offset, size), then the CRC-32C of the index.

    Returns:
        the shard, and the checksums of its chunks one after the other
    """
    step = _chunk_rows(shard_rows)
    kept = max(-(-len(array) // step), 1)
    row_bytes = int(np.prod(array.shape[1:], dtype=int)) * np.dtype(dtype).itemsize
    index = _index(kept, shard_rows // step, step * row_bytes + 4)
    shard, crcs = memoryview(bytearray(kept * (step * row_bytes + 4) + len(index))), b""
    for number in range(kept):
        rows = array[number * step : (number + 1) * step]
        first, end = number * (step * row_bytes + 4), number * (step * row_bytes + 4) + step * row_bytes
        chunk = np.frombuffer(shard[first:end], np.dtype(dtype).newbyteorder("<")).reshape(step, *array.shape[1:])
        chunk[: len(rows)] = rows
        # The last chunk of a unit that is not full is filled up: chunks of a grid have one shape.
        chunk[len(rows) :] = np.nan if dtype.startswith("float") else 0
        shard[end : end + 4] = struct.pack("<I", checksum(shard[first:end]))
        crcs += shard[end : end + 4]
    shard[len(shard) - len(index) :] = index
    return shard, crcs


@lru_cache(maxsize=64)
def _index(kept: int, count: int, size: int) -> bytes:
    """The index at the end of a shard of `count` chunks of `size` bytes each, the first `kept` of which are there."""
    pairs = [(i * size, size) if i < kept else (_EMPTY, _EMPTY) for i in range(count)]
    table = struct.pack(f"<{2 * count}Q", *(number for pair in pairs for number in pair))
    return table + struct.pack("<I", checksum(table))


def _map_shard(folder: Place, name: str, commit: Commit, shape: tuple[int, int], dtype: str) -> tuple[Piece, ...]:
    """The chunks of a shard of some `(rows, D)`, mapped; that they are its chunks is verified, not what they hold."""
    path, view = folder / name, map_file(folder / name)
    step = _chunk_rows(shape[0])
    chunk = step * shape[1] * np.dtype(dtype).itemsize + 4
    kept = (commit.files[name][0] - 16 * (shape[0] // step) - 4) // chunk
    crcs = b"".join(view[end - 4 : end] for end in range(chunk, kept * chunk + 1, chunk))
    strange = name in commit.chunks and checksum(crcs) != commit.chunks[name]
    if strange or view[kept * chunk :] != _index(kept, shape[0] // step, chunk):
        raise damaged(path)
    pieces = []
    for number, (crc,) in enumerate(struct.iter_unpack("<I", crcs)):
        data = view[number * chunk : (number + 1) * chunk - 4]
        pieces.append(Piece(path, data, crc, view_rows(data, dtype, shape[1])))
    return tuple(pieces)
