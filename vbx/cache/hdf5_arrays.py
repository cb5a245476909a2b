"""Arrays as HDF5, one file a unit: written aside and renamed, for a live HDF5 file does not survive a kill."""

import io
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vbx.cache.files import write_file
from vbx.cache.layout import Block, Commit, Layout
from vbx.cache.mapping import MappedUnit, Piece, map_verified, view_rows
from vbx.cache.remote import Place


def prepare(folder: Place, layout: Layout, rows: int) -> None:
    """Nothing to prepare: each unit's file is complete in itself."""


def write_unit(folder: Place, layout: Layout, unit: int, block: Block) -> dict[Place, bytes]:
    """Write the data of a unit; see `zarr_arrays.write_unit`."""
    path = folder / layout.output / f"{unit:06d}.h5"
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("values", data=block.values.astype(layout.dtype))
        if block.offsets is not None:
            file.create_dataset("offsets", data=block.offsets)
        file.attrs["output"] = layout.output
        file.attrs["first_row"] = unit * layout.unit_rows
        file.create_dataset("columns", data=np.array(layout.columns, dtype=h5py.string_dtype()))
    write_file(path, buffer.getbuffer())
    return {path: b""}


def open_unit(folder: Place, layout: Layout, commit: Commit) -> MappedUnit:
    """Map the data of a unit; see `zarr_arrays.open_unit`.

    No part of the file bears a checksum of its own: all of it is verified here, and is one piece.
    """
    ((name, (size, crc)),) = commit.files.items()
    path = folder / name
    view = map_verified(path, size, crc)
    with h5py.File(_View(view), "r") as file:
        values = _rows(file["values"], view)
        offsets = file["offsets"][:] if layout.frames else None
    return MappedUnit((Piece(path, view[:0], 0, values),), offsets)


def check_output(folder: Place, output: str) -> None:
    """Nothing to verify: each unit's file is complete in itself."""


def piece_rows(layout: Layout) -> int:
    """Rows of a piece of a unit."""
    return layout.unit_rows


def _rows(dataset: h5py.Dataset, view: memoryview) -> NDArray[Any]:
    """The values of a dataset, in place where they lie in one stretch."""
    at = dataset.id.get_offset()
    if at is None or not dataset.size:  # chunked, or without a byte in the file
        return np.asarray(dataset[:])
    return view_rows(view[at : at + dataset.nbytes], dataset.dtype.str, dataset.shape[1])


class _View(io.RawIOBase):
    """Bytes as a file, without a copy of them."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def readinto(self, buffer: Any) -> int:
        """Copy the bytes that follow into a buffer; returns how many."""
        part = self._view[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at
