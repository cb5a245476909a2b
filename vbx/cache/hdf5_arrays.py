"""Arrays as HDF5, one file a unit: written aside and renamed, for a live HDF5 file does not survive a kill."""

import io
from pathlib import Path

import h5py
import numpy as np

from vbx.cache.files import write_file
from vbx.cache.layout import Block, Layout
from vbx.cache.zarr_arrays import map_verified


def prepare(folder: Path, layout: Layout, rows: int) -> None:
    """Nothing to prepare: each unit's file is complete in itself."""


def write_unit(folder: Path, layout: Layout, unit: int, block: Block) -> list[Path]:
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
    return [path]


def read_unit(folder: Path, layout: Layout, unit: int, sizes: dict[str, tuple[int, int]]) -> Block:
    """Read the data of a unit, every byte verified; see `zarr_arrays.read_unit`."""
    ((name, known),) = sizes.items()
    with h5py.File(io.BytesIO(map_verified(folder / name, *known)), "r") as file:
        offsets = file["offsets"][:] if layout.frames else None
        return Block(file["values"][:], offsets)
