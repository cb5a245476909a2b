"""Outbox: results on their way to a folder, written together every few seconds while training goes on."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from vbx.cache.vectors import Vectors
from vbx.heads.board import append_results, compact
from vbx.heads.result import Result

EVERY_S = 10.0
"""How long a result waits at most: what a kill costs, beside the runs that are under way."""
MOST_BYTES = 64 * 2**20
"""Weights and replicates that wait at most."""


class Outbox:
    """Results that wait to be written; a thread of its own writes them.

    Attributes:
        saved: how many runs are written
    """

    def __init__(self, out: Path, device: str, every_s: float) -> None:
        self.saved = 0
        self._out, self._device, self._every_s = out, device, every_s
        self._waiting: dict[int, tuple[Vectors, list[Result]]] = {}
        self._bytes, self._closing, self._ended = 0, False, False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(1, "vbx-outbox")
        self._thread: Future[None] = self._pool.submit(self._work)

    def put(self, results: list[Result], vectors: Vectors) -> None:
        """Have results written soon; waits while too many wait already.

        Raises:
            CacheError: if the folder could not be written
        """
        with self._changed:
            self._changed.wait_for(lambda: self._bytes <= MOST_BYTES or self._ended)
            if self._ended:
                self._thread.result()
            self._waiting.setdefault(id(vectors), (vectors, []))[1].extend(results)
            self._bytes += sum(_size(result) for result in results)
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits, and end.

        Raises:
            CacheError: if the folder could not be written
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._pool.shutdown()
        self._thread.result()

    def _work(self) -> None:
        try:
            while not self._closing:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._bytes > MOST_BYTES, self._every_s)
                self._write()
            self._write()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _write(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            self._bytes = 0
            self._changed.notify_all()
        for vectors, results in waiting.values():
            append_results(self._out, results, vectors, device=self._device)
            self.saved += len(results)
        if waiting:
            compact(self._out, on_the_way=True)


@contextlib.contextmanager
def open_outbox(out: Path, device: str) -> Iterator[Callable[[list[Result], Vectors], None]]:
    """Where to put results; whatever ends the block, what was put is written.

    Raises:
        CacheError: if the folder cannot be written
    """
    outbox = Outbox(out, device, EVERY_S)
    try:
        yield outbox.put
    finally:
        outbox.close()


def _size(result: Result) -> int:
    """Bytes that a result holds."""
    arrays = [array for head in result.heads.values() for array in head.state.values()]
    arrays += [row.replicates for row in result.rows if row.replicates is not None]
    return sum(array.nbytes for array in arrays)
