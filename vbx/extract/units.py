"""Units: what is there of each, what is still to be done, and how a finished one is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vbx.cache.layout import Block, Commit, Layout, read_commits, read_layouts
from vbx.cache.remote import Place
from vbx.cache.store import Store
from vbx.extract.encoder import Encoded

GONE = "its file was no longer in the corpus when its turn came"


@dataclass(frozen=True)
class Presence:
    """What is there of one output.

    Attributes:
        vectors: rows with a vector
        failures: row to the reason why it has none
        silent: rows that are digital silence
        units: numbers of the units that are there
    """

    vectors: frozenset[int] = frozenset()
    failures: Mapping[int, str] = field(default_factory=dict)
    silent: frozenset[int] = frozenset()
    units: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Unit:
    """What is to be done at once.

    Attributes:
        number: number of the unit
        rows: of the utterances in it, those that the corpus has no more among them
        layouts: of the outputs that are wanted
    """

    number: int
    rows: tuple[int, ...]
    layouts: tuple[Layout, ...]


@dataclass
class Results:
    """What has come of a unit so far.

    Attributes:
        vectors: row to its outputs, as they are stored
        failures: row to the reason why it has none
        silent: rows that are digital silence
    """

    vectors: dict[int, Encoded] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)


def read_presence(folder: Place) -> dict[str, Presence]:
    """What is there of each output of an encoder spec; nothing if it has no folder."""
    found = {}
    for output in read_layouts(folder):
        commits = read_commits(folder, output)
        found[output] = Presence(
            vectors=frozenset(row for commit in commits.values() for row in commit.present),
            failures={row: reason for commit in commits.values() for row, reason in commit.failures.items()},
            silent=frozenset(row for commit in commits.values() for row in commit.silent),
            units=frozenset(commits),
        )
    return found


def list_units(there: Mapping[str, Presence], layouts: Sequence[Layout], rows: Sequence[int]) -> list[Unit]:
    """Units of which some output is not there yet, in order.

    Args:
        there: from `read_presence`
        layouts: of the outputs that are wanted
        rows: all rows of the corpus, in order
    """
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(row // layouts[0].unit_rows, []).append(row)
    units = []
    for number, inside in members.items():
        missing = tuple(x for x in layouts if number not in there.get(x.output, Presence()).units)
        if missing:
            units.append(Unit(number, tuple(inside), missing))
    return units


def write_results(unit: Unit, results: Results, store: Store, folder: Place) -> None:
    """Write a unit: the data of each output, then its record.

    Args:
        unit: which
        results: a vector or a reason for each of its rows
        store: the cache
        folder: of the encoder spec
    """
    for layout in unit.layouts:
        commit = Commit(
            output=layout.output,
            unit=unit.number,
            rows=tuple(sorted(unit.rows)),
            failures=dict(sorted(results.failures.items())),
            silent=tuple(sorted(results.silent & set(results.vectors))),
            files={},
        )
        store.write_unit(folder, layout, _block(layout, unit, results.vectors), commit)


def _block(layout: Layout, unit: Unit, vectors: Mapping[int, Encoded]) -> Block:
    first, last = unit.number * layout.unit_rows, max(unit.rows)
    if not layout.frames:
        values = np.full((last - first + 1, layout.dim), np.nan, dtype=layout.dtype)
        for row, outputs in vectors.items():
            values[row - first] = outputs[layout.output]
        return Block(values)
    sequences = [vectors[row][layout.output] if row in vectors else None for row in range(first, last + 1)]
    lengths = [0 if frames is None else len(frames) for frames in sequences]
    empty = np.zeros((0, layout.dim), dtype=layout.dtype)
    flat = np.concatenate([empty, *(frames for frames in sequences if frames is not None)])
    return Block(flat.astype(layout.dtype), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
