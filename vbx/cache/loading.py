"""Loading: from committed units to arrays, every byte verified on the way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache import hdf5_arrays, zarr_arrays
from vbx.cache.layout import Block, Commit, Layout, read_commits, read_layouts
from vbx.errors import CacheError

ARRAYS = {"zarr": zarr_arrays, "hdf5": hdf5_arrays}
"""The two formats: each a module with `prepare`, `write_unit`, `read_unit`."""


@dataclass(frozen=True)
class Matrix:
    """Vectors of some rows.

    Attributes:
        values: `(N, D)` float32, zero where there is no vector
        present: `(N,)` whether there is one
        columns: D names
    """

    values: NDArray[np.float32]
    present: NDArray[np.bool_]
    columns: tuple[str, ...]


def load_rows(folder: Path, outputs: Sequence[str], rows: NDArray[np.int64]) -> Matrix:
    """Load rows of some outputs of one encoder, side by side.

    Args:
        folder: folder of the spec
        outputs: outputs that are one vector an utterance
        rows: `(N,)` rows of the corpus; -1 for an utterance without one

    Raises:
        CacheError: if anything is damaged or missing, or an output is one of frames
    """
    layouts = [_layout(folder, output) for output in outputs]
    if any(layout.frames for layout in layouts):
        raise CacheError(f"{folder.name} holds frames under {list(outputs)}: use load_frames, or a pooled feature")
    columns = tuple(column for layout in layouts for column in layout.columns)
    values = np.zeros((len(rows), len(columns)), dtype=np.float32)
    present = np.zeros((len(rows), len(layouts)), dtype=bool)
    at = 0
    for i, layout in enumerate(layouts):
        for first, commit, block in _blocks(folder, layout):
            here = np.flatnonzero(np.isin(rows, commit.present))
            values[here, at : at + layout.dim] = block.values[rows[here] - first]
            present[here, i] = True
        at += layout.dim
    return Matrix(values, np.logical_and.reduce(present, axis=1), columns)


def load_frames(folder: Path, output: str, rows: Mapping[str, int]) -> dict[str, NDArray[np.floating[Any]]]:
    """Load frame sequences.

    Args:
        folder: folder of the spec
        output: an output of frames
        rows: utterance id to its row

    Returns:
        id to `(F, D)`

    Raises:
        CacheError: if anything is damaged or missing, or the output is not one of frames
    """
    layout = _layout(folder, output)
    if not layout.frames:
        raise CacheError(f"{folder.name}: output {output!r} is one vector an utterance: use load_vectors")
    found = {}
    for first, commit, block in _blocks(folder, layout):
        offsets = block.offsets if block.offsets is not None else np.zeros(1, np.int64)
        present = set(commit.present)
        for name, row in rows.items():
            if row in present:
                found[name] = block.values[offsets[row - first] : offsets[row - first + 1]]
    return found


def pooled_outputs(folder: Path) -> list[str]:
    """Outputs of a spec that are one vector an utterance."""
    return [name for name, layout in read_layouts(folder).items() if not layout.frames and name != "layers"]


def _layout(folder: Path, output: str) -> Layout:
    layouts = read_layouts(folder)
    if output not in layouts:
        raise CacheError(f"{folder.name} holds no output {output!r} yet ({', '.join(layouts)} are there): extract it")
    return layouts[output]


def _blocks(folder: Path, layout: Layout) -> Iterator[tuple[int, Commit, Block]]:
    """First row, record and verified data of each unit that is there."""
    if layout.format == "zarr":
        path = folder / layout.output / "zarr.json"
        zarr_arrays.unseal_metadata(path.read_bytes() if path.exists() else b"", path)
    for unit, commit in read_commits(folder, layout.output).items():
        yield unit * layout.unit_rows, commit, ARRAYS[layout.format].read_unit(folder, layout, unit, dict(commit.files))
