"""Arrays as plain sharded Zarr v3: a unit is one shard, each chunk in it bears a CRC-32C.

A shard of uncompressed chunks that span all columns is a row-major file with an index at its end, so we lay it down
and map it ourselves; zarr-python, tensorstore and xarray read the same bytes (Zarr v3 specification, sharding codec
and crc32c codec).
"""

import hashlib
import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.files import write_file
from vbx.cache.layout import Block, Layout, checksum
from vbx.errors import CacheError

CHUNK_ROWS = 256
_EMPTY = 2**64 - 1
_CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def prepare(folder: Path, layout: Layout, rows: int) -> None:
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


def write_unit(folder: Path, layout: Layout, unit: int, block: Block) -> list[Path]:
    """Write the data of a unit; the commit record, written after it, makes it count.

    Returns:
        the files that hold the unit
    """
    home = folder / layout.output
    if block.offsets is None:
        path = home / "c" / str(unit) / "0"
        write_file(path, _encode(block.values, layout.unit_rows, layout.dtype))
        return [path]
    files = []
    for name, array in (("values", block.values), ("offsets", block.offsets)):
        where = home / f"{unit:06d}" / name
        shape = (max(len(array), 1), *array.shape[1:])
        dtype = layout.dtype if name == "values" else "int64"
        write_file(where / "zarr.json", _sealed_metadata(_metadata(array.shape, shape, dtype), {}))
        shard = where.joinpath("c", *("0" for _ in array.shape))
        write_file(shard, _encode(array, shape[0], dtype))
        files += [where / "zarr.json", shard]
    write_file(home / f"{unit:06d}" / "zarr.json", _sealed_metadata({"zarr_format": 3, "node_type": "group"}, {}))
    return [*files, home / f"{unit:06d}" / "zarr.json"]


def read_unit(folder: Path, layout: Layout, unit: int, sizes: dict[str, tuple[int, int]]) -> Block:
    """Read the data of a unit, every byte verified.

    Args:
        folder: folder of the spec
        layout: of the output
        unit: its number
        sizes: size and CRC-32C of each file of the unit, from its commit record

    Raises:
        CacheError: if a file is missing or differs from what was committed
    """
    home = folder / layout.output
    maps = {name: map_verified(folder / name, *known) for name, known in sizes.items()}

    def array(path: Path, rows: int, dim: int, dtype: str) -> NDArray[Any]:
        name = path.relative_to(folder).as_posix()
        return _decode(maps[name], rows, dim, dtype)

    if not layout.frames:
        return Block(array(home / "c" / str(unit) / "0", layout.unit_rows, layout.dim, layout.dtype))
    lengths = {}
    for name in ("values", "offsets"):
        meta = home / f"{unit:06d}" / name / "zarr.json"
        text = bytes(maps[meta.relative_to(folder).as_posix()])
        lengths[name] = int(unseal_metadata(text, meta)["shape"][0])
    frames, ends = home / f"{unit:06d}" / "values" / "c/0/0", home / f"{unit:06d}" / "offsets" / "c/0"
    values = array(frames, max(lengths["values"], 1), layout.dim, layout.dtype)
    offsets = array(ends, lengths["offsets"], 1, "int64")
    return Block(values[: lengths["values"]], offsets[: lengths["offsets"], 0])


def map_verified(path: Path, size: int, crc: int) -> memoryview:
    """Map a file into memory and verify it.

    Raises:
        CacheError: if it is missing, or its size or checksum differs
    """
    try:
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise CacheError(f"{path} is damaged: it is empty (`vbx cache check`)") from error
    if len(view) != size or checksum(view) != crc:
        raise CacheError(f"{path} is damaged: its bytes are not those that were committed (`vbx cache check`)")
    return view


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


def unseal_metadata(data: bytes, path: Path) -> dict[str, Any]:
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


def _encode(array: NDArray[Any], shard_rows: int, dtype: str) -> bytes:
    """One shard: chunks, each with its CRC-32C, then the index of (offset, size), then the CRC-32C of the index."""
    step = _chunk_rows(shard_rows)
    parts, index, at = [], [], 0
    for first in range(0, shard_rows, step):
        rows = array[first : first + step]
        if len(rows) == 0 and first > 0:
            index += [_EMPTY, _EMPTY]
            continue
        # The last chunk of a unit that is not full is filled up: chunks of a grid have one shape.
        fill = np.nan if dtype.startswith("float") else 0
        chunk = np.full((step, *array.shape[1:]), fill, dtype=np.dtype(dtype).newbyteorder("<"))
        chunk[: len(rows)] = rows
        data = chunk.tobytes()
        parts += [data, struct.pack("<I", checksum(data))]
        index += [at, len(data) + 4]
        at += len(data) + 4
    table = struct.pack(f"<{len(index)}Q", *index)
    return b"".join([*parts, table, struct.pack("<I", checksum(table))])


def _decode(shard: memoryview, shard_rows: int, dim: int, dtype: str) -> NDArray[Any]:
    """The rows of a shard up to its last chunk, `(n, dim)`, as a view of its bytes."""
    chunks = shard_rows // _chunk_rows(shard_rows)
    index = np.frombuffer(shard, "<u8", count=2 * chunks, offset=len(shard) - 16 * chunks - 4).reshape(chunks, 2)
    kept = index[index[:, 0] != _EMPTY]
    rows = np.empty((len(kept) * _chunk_rows(shard_rows), dim), dtype=dtype)
    for i, (offset, size) in enumerate(kept.tolist()):
        chunk = np.frombuffer(shard[offset : offset + size - 4], np.dtype(dtype).newbyteorder("<")).reshape(-1, dim)
        rows[i * len(chunk) : (i + 1) * len(chunk)] = chunk
    return rows
