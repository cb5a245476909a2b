"""Loading: from committed units to arrays, every byte verified before a value of it is used."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbx.cache import hdf5_arrays, zarr_arrays
from vbx.cache.layout import Commit, Layout, read_commits, read_layouts
from vbx.cache.mapping import MappedUnit
from vbx.cache.remote import Place, RemotePath
from vbx.errors import CacheError

ARRAYS = {"zarr": zarr_arrays, "hdf5": hdf5_arrays}
"""The two formats: each a module with `prepare`, `write_unit`, `open_unit`, `piece_rows`."""
COPYING_THREADS, FETCHING_THREADS = 4, 16
"""Threads that load from a disk, where a few are as fast as memory is, and from an object store."""
FEW_BYTES = 2**24
"""Less than this is copied by one thread."""


@dataclass(frozen=True, eq=False)
class MappedOutput:
    """One output of an encoder as it lies on disk.

    Attributes:
        folder: folder of the spec
        layout: of the output
        commits: record of each unit
    """

    folder: Place
    layout: Layout
    commits: dict[int, Commit]
    _units: dict[int, MappedUnit] = field(default_factory=dict, repr=False)
    _verified: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """A map does not travel to another process; that one makes its own."""
        return MappedOutput, (self.folder, self.layout, self.commits)

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows have a vector, `(N,)`."""
        there = np.zeros(int(rows.max(initial=0)) + 1, dtype=bool)
        for commit in self.commits.values():
            done = np.array(commit.present if commit.failures else commit.rows, dtype=np.int64)
            there[done[done < len(there)]] = True
        return (rows >= 0) & there[rows]

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy some rows, which must be present, to `out` `(n, D)`, and keep their pieces mapped."""
        units, inside = np.divmod(rows, self.layout.unit_rows)
        numbers, inside = np.divmod(inside, ARRAYS[self.layout.format].piece_rows(self.layout))
        keys, verified = zip(units.tolist(), numbers.tolist(), strict=True), self._verified
        for place, (key, row) in enumerate(zip(keys, inside.tolist(), strict=True)):
            values = verified.get(key)
            out[place] = (self._piece(*key) if values is None else values)[row]

    def load(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy many rows, which must be present, to `out` `(N, D)`; no unit stays mapped."""
        step = ARRAYS[self.layout.format].piece_rows(self.layout)
        unit_pieces = self.layout.unit_rows // step
        order = np.argsort(rows, kind="stable")
        pieces, inside = np.divmod(rows[order], step)
        unique, straight = bool(np.diff(rows[order]).all()), bool((np.diff(order) == 1).all())
        cuts = np.flatnonzero(np.diff(pieces, prepend=-1, append=-1))
        spans = list(zip(pieces[cuts[:-1]].tolist(), cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))

        def copy(unit: int, spans: list[tuple[int, int, int]]) -> None:
            mapped = self._open(unit)
            for piece, first, end in spans:
                part = mapped.pieces[piece % unit_pieces]
                part.verify()  # then copied, while the processor still holds it
                source = inside[first:end]
                whole = unique and source[-1] - source[0] == end - first - 1
                values = part.rows[source[0] : source[-1] + 1] if whole else part.rows[source]
                out[slice(first, end) if straight else order[first:end]] = values

        units = [(unit, list(part)) for unit, part in groupby(spans, lambda span: span[0] // unit_pieces)]
        if isinstance(self.folder, RemotePath):
            threads = FETCHING_THREADS
        else:
            threads = min(COPYING_THREADS, len(os.sched_getaffinity(0))) if out.nbytes > FEW_BYTES else 1
        if threads == 1:
            for unit, part in units:
                copy(unit, part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(copy, *zip(*units, strict=True)))

    def frames(self, row: int) -> NDArray[np.floating[Any]]:
        """Frames of a row, which must be present, `(F, D)`: a read-only view where they lie in one piece."""
        unit, inside = divmod(row, self.layout.unit_rows)
        mapped = self._unit(unit)
        first, end = np.asarray(mapped.offsets)[inside : inside + 2].tolist()
        step = len(mapped.pieces[0].rows)
        numbers = range(first // step, max(end - 1, first) // step + 1)
        parts = [self._piece(unit, n)[max(first - n * step, 0) : end - n * step] for n in numbers]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _piece(self, unit: int, number: int) -> NDArray[Any]:
        if (unit, number) not in self._verified:
            piece = self._unit(unit).pieces[number]
            piece.verify()
            self._verified[unit, number] = piece.rows
        return self._verified[unit, number]

    def _unit(self, unit: int) -> MappedUnit:
        if unit not in self._units:
            self._units[unit] = self._open(unit)
        return self._units[unit]

    def _open(self, unit: int) -> MappedUnit:
        opened: MappedUnit = ARRAYS[self.layout.format].open_unit(self.folder, self.layout, self.commits[unit])
        return opened


@dataclass(frozen=True, eq=False)
class MappedRows:
    """A feature opened but not loaded: its rows by number, in the order of `Vectors`.

    A piece of the files (256 rows, or a unit) is verified when it is first touched; after that its rows are only
    copied. What was touched stays mapped as long as this lives. A copy sent to another process opens its own.

    Attributes:
        ids: N utterance ids: those that have a vector, in the order of the corpus
        columns: D names
        rows: `(N,)` row of each in the cache
        places: `(N,)` place of each among all utterances of the corpus
        outputs: where the columns come from, side by side
    """

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    outputs: tuple[MappedOutput, ...]

    def gather(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """Vectors of some utterances, `(n, D)`.

        Args:
            numbers: `(n,)` from 0 to N - 1, in any order, or a mask `(N,)`

        Raises:
            CacheError: if a vector is damaged, or these are frames
            IndexError: if a number is out of range
        """
        chosen = np.atleast_1d(numbers)
        return self._copy(self.rows[chosen if chosen.size else []], MappedOutput.gather)

    def load(self) -> NDArray[np.float32]:
        """All vectors, `(N, D)`; see `gather`."""
        return self._copy(self.rows, MappedOutput.load)

    def frames(self, number: int) -> NDArray[np.floating[Any]]:
        """Frames of one utterance, `(F, D)`: in place, so read-only.

        Raises:
            CacheError: if they are damaged, or these are vectors
            IndexError: if the number is out of range
        """
        if len(self.outputs) != 1 or not self.outputs[0].layout.frames:
            raise CacheError(f"{self._names()}: one vector an utterance, no frames: use load_vectors, or NAME@frames")
        return self.outputs[0].frames(int(self.rows[number]))

    def _copy(self, rows: NDArray[np.int64], how: Callable[..., None]) -> NDArray[np.float32]:
        if any(output.layout.frames for output in self.outputs):
            raise CacheError(f"{self._names()}: frames, not one vector an utterance: use load_frames")
        values = np.empty((len(rows), len(self.columns)), dtype=np.float32)
        at = 0
        for output in self.outputs:
            how(output, rows, values[:, at : at + output.layout.dim])
            at += output.layout.dim
        return values

    def _names(self) -> str:
        return ", ".join(f"{output.folder.name}/{output.layout.output}" for output in self.outputs)


def open_outputs(folder: Place, outputs: Sequence[str]) -> tuple[MappedOutput, ...]:
    """Open some outputs of one encoder.

    Args:
        folder: folder of the spec
        outputs: their names

    Raises:
        CacheError: if a record is damaged, or an output is not there
    """
    layouts = read_layouts(folder)
    opened = []
    for name in outputs:
        if name not in layouts:
            raise CacheError(f"{folder.name} holds no output {name!r} yet ({', '.join(layouts)} are there): extract it")
        ARRAYS[layouts[name].format].check_output(folder, name)
        opened.append(MappedOutput(folder, layouts[name], read_commits(folder, name)))
    return tuple(opened)


def map_rows(ids: Sequence[str], rows: NDArray[np.int64], outputs: Sequence[MappedOutput]) -> MappedRows:
    """The utterances that have a vector in all of some outputs.

    Args:
        ids: N utterance ids
        rows: `(N,)` row of each; -1 for an utterance without one
        outputs: of one corpus
    """
    places = np.flatnonzero(np.logical_and.reduce([output.present(rows) for output in outputs]))
    kept = tuple(ids) if len(places) == len(ids) else tuple(ids[place] for place in places.tolist())
    columns = tuple(column for output in outputs for column in output.layout.columns)
    return MappedRows(kept, columns, rows[places], places, tuple(outputs))


def map_all(folder: Place, outputs: Sequence[str], rows: NDArray[np.int64]) -> MappedRows:
    """Open rows that have a vector in all of some outputs of one encoder; their ids are the rows.

    Args:
        folder: folder of the spec
        outputs: their names
        rows: `(N,)` rows of the corpus

    Raises:
        CacheError: if a record is damaged, an output is not there, or a row has no vector
    """
    mapped = map_rows([str(row) for row in rows.tolist()], rows, open_outputs(folder, outputs))
    if len(mapped.ids) < len(rows):
        lost = min(set(rows.tolist()) - set(mapped.rows.tolist()))
        raise CacheError(f"{folder.name}: row {lost} has no vector under {', '.join(outputs)}")
    return mapped


def pooled_outputs(layouts: Mapping[str, Layout]) -> list[str]:
    """Outputs, of those of a spec, that are one vector an utterance."""
    return [name for name, layout in layouts.items() if not layout.frames and name != "layers"]
