"""Reuse: vectors that another corpus of the cache has of the same audio, by the same encoder."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vbx.cache.layout import Layout, read_layouts
from vbx.cache.loading import map_all
from vbx.cache.remote import Place
from vbx.cache.rows import identify, read_rows
from vbx.cache.store import Store
from vbx.errors import CacheError
from vbx.extract.encoder import Encoded
from vbx.extract.plan import Job
from vbx.extract.units import read_presence

_AT_ONCE = 1024
"""Rows that are looked at together."""


@dataclass(frozen=True)
class Loan:
    """Where another corpus has the vectors of a row.

    Attributes:
        folder: of the same encoder spec, in the other corpus
        row: the row there
        silent: whether it is digital silence
    """

    folder: Place
    row: int
    silent: bool


def find_loans(store: Store, corpus: str, job: Job, outputs: Collection[str], rows: Iterable[int]) -> dict[int, Loan]:
    """Rows of which another corpus has all outputs.

    Args:
        store: the cache
        corpus: the corpus that lacks them
        job: the encoder
        outputs: what is wanted
        rows: rows that lack something
    """
    others = [c for c in store.corpora() if c != corpus and (store.folder(c) / job.spec.folder).exists()]
    if not others:
        return {}
    own = read_rows(store.folder(corpus))
    wanted = set(rows)
    lacking = {i: row for i, row in zip(identify(own), own["row"].tolist(), strict=True) if row in wanted}
    loans: dict[int, Loan] = {}
    for other in others:
        folder = store.folder(other) / job.spec.folder
        try:
            there = read_presence(folder)
            theirs = read_rows(store.folder(other))
        except CacheError:  # what is damaged there is that corpus's affair: here it is encoded
            continue
        if not set(outputs) <= set(there):
            continue
        present = frozenset.intersection(*(there[output].vectors for output in outputs))
        silent = frozenset.union(*(there[output].silent for output in outputs))
        found = {
            lacking[identity]: Loan(folder, row, row in silent)
            for identity, row in zip(identify(theirs), theirs["row"].tolist(), strict=True)
            if identity in lacking and row in present
        }
        if _is_sound(folder, outputs, [loan.row for loan in found.values()]):
            loans = {**found, **loans}
    return loans


def _is_sound(folder: Place, outputs: Collection[str], rows: Sequence[int]) -> bool:
    """Whether vectors are as they were committed. Read now: once a unit counts on them, it is too late."""
    layouts = read_layouts(folder)
    try:
        for output in outputs:
            mapped = map_all(folder, [output], np.array(rows, np.int64))
            for begin in range(0, len(rows), _AT_ONCE):
                numbers = np.arange(begin, min(begin + _AT_ONCE, len(rows)))
                if layouts[output].frames:
                    for number in numbers.tolist():
                        mapped.frames(number)
                else:
                    mapped.gather(numbers)
    except CacheError:
        return False
    return True


def borrow(loans: Mapping[int, Loan], layouts: Sequence[Layout]) -> tuple[dict[int, Encoded], set[int]]:
    """Vectors of rows that another corpus has, every byte verified, and which of them are digital silence.

    Raises:
        CacheError: if they are damaged there
    """
    found: dict[int, dict[str, np.ndarray]] = {row: {} for row in loans}
    for folder in {loan.folder for loan in loans.values()}:
        here = {row: loan.row for row, loan in loans.items() if loan.folder == folder}
        for layout in layouts:
            rows = np.array(list(here.values()), np.int64)
            mapped = map_all(folder, [layout.output], rows)
            if layout.frames:
                vectors = [mapped.frames(number) for number in range(len(rows))]
            else:
                vectors = list(mapped.load().astype(layout.dtype))
            for row, vector in zip(here, vectors, strict=True):
                found[row][layout.output] = vector
    return dict(found), {row for row, loan in loans.items() if loan.silent}
