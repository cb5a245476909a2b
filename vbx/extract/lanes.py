"""A lane: one encoder's way through the pass. Gathers the rows of a unit, and writes it when they are all there."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from vbx.cache.remote import Place
from vbx.cache.store import Store
from vbx.extract.encoder import Encoded, Encoder
from vbx.extract.plan import Job
from vbx.extract.reuse import Loan, borrow
from vbx.extract.units import GONE, Results, Unit, write_results
from vbx.progress import Progress

WRITES = 1
"""Units that may be on their way to the disk while the next one is encoded: what a kill can cost."""


@dataclass
class Times:
    """What one encoder's way through the pass was spent on, in seconds, processes added up.

    Attributes:
        reading: reading audio, for all encoders
        encoding: this encoder at work
        writing: writing its units
        audio: encoded, in seconds of audio
    """

    reading: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0
    audio: float = 0.0


@dataclass(eq=False)
class Lane:
    """One encoder's part in a pass.

    Attributes:
        job: what it is for
        folder: of its spec in the cache
        store: the cache
        units: what is to be done, by number
        loans: row to where another corpus has its vectors
        progress: told of the audio that is done
        audio_s: to be encoded, as the headers have it, in seconds
        encoder: for one that encodes here; None for one that encodes where audio is read
        times: what time went into
        notes: what a user should know
    """

    job: Job
    folder: Place
    store: Store
    units: Mapping[int, Unit]
    loans: Mapping[int, Loan]
    progress: Progress
    audio_s: float
    encoder: Encoder | None = None
    times: Times = field(default_factory=Times)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = next(iter(self.units.values())).layouts[0].unit_rows
        self._stored = {row: {x.output: x.dtype for x in u.layouts} for u in self.units.values() for row in u.rows}
        self._results: dict[int, Results] = {}
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1)
        if self.loans:
            corpora = sorted({loan.folder.parent.name for loan in self.loans.values()})
            self.notes.append(f"{self.name}: {len(self.loans)} vectors were taken from {', '.join(corpora)}")
        self._writes: deque[Future[None]] = deque()

    @property
    def name(self) -> str:
        """The features it serves, for people."""
        return " ".join(dict(self.job.parts))

    def stored(self, row: int) -> dict[str, str]:
        """Outputs that are wanted of a row, with the type each is stored in; none if nothing is."""
        return self._stored.get(row, {}) if row not in self.loans else {}

    def take_known(self, rows: Mapping[int, object]) -> None:
        """Take the rows that need no audio: those that the corpus has no more, and those that another corpus lends."""
        for row in self._stored:
            if row in self.loans:
                self.take(row, {})
            elif row not in rows:
                self.take(row, GONE)

    def take(self, row: int, outcome: Encoded | str, silent: bool = False, seconds: float = 0.0) -> None:
        """Take the outcome of a row; the last of a unit has it written.

        Raises:
            CacheError: if a unit could not be written
        """
        number = row // self._rows
        with self._lock:  # vectors come from the encoder's thread, files that cannot be read from the reader's
            results = self._results.setdefault(number, Results())
            if isinstance(outcome, str):
                results.failures[row] = outcome
            else:
                results.vectors[row] = outcome
                if silent:
                    results.silent.add(row)
            self.times.audio += seconds
            unit = self.units[number]
            if len(results.vectors) + len(results.failures) == len(unit.rows):
                del self._results[number]
                self._writes.append(self._writer.submit(self._write, unit, results))
                while len(self._writes) > WRITES:
                    self._writes.popleft().result()
        self.progress.advance(seconds / 3600, what=self.name)

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            CacheError: if a unit could not be written
        """
        while self._writes:
            self._writes.popleft().result()
        self._writer.shutdown()
        self.progress.finish(self.name)

    def _write(self, unit: Unit, results: Results) -> None:
        began = time.perf_counter()
        lent = {row: self.loans[row] for row in unit.rows if row in self.loans}
        if lent:
            vectors, silent = borrow(lent, unit.layouts)
            results.vectors.update(vectors)
            results.silent.update(silent)
        write_results(unit, results, self.store, self.folder)
        self.times.writing += time.perf_counter() - began
