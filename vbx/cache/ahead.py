"""Reading ahead: objects of a store are fetched while those before them are still being used."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from vbx.cache.remote import Place, RemotePath

MOST_BYTES = 2**28
"""Bytes that may be under way or waiting to be used."""
MOST_OBJECTS = 16
_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """Objects under way, taken in about the order in which they were named.

    Args:
        fetch: fetches one, given its key
        threads: to fetch in
        wanted: key and size of each, in order
    """

    def __init__(self, fetch: Callable[[str], _T], threads: Executor, wanted: Iterable[tuple[str, int]]) -> None:
        self._fetch, self._threads = fetch, threads
        self._waiting = deque(wanted)
        self._started: dict[str, tuple[Future[_T], int]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        with self._lock:
            self._start()

    def take(self, key: str) -> Future[_T] | None:
        """The object, if it is under way."""
        with self._lock:
            future, size = self._started.pop(key, (None, 0))
            self._bytes -= size
            self._start()
        return future

    def stop(self) -> None:
        """Start no more."""
        with self._lock:
            self._waiting.clear()
            for future, _ in self._started.values():
                future.cancel()

    def _start(self) -> None:
        while self._waiting and len(self._started) < MOST_OBJECTS and (not self._started or self._bytes < MOST_BYTES):
            key, size = self._waiting.popleft()
            self._started[key] = self._threads.submit(self._fetch, key), size
            self._bytes += size


@contextmanager
def reading_ahead(files: Iterable[tuple[Place, int]]) -> Iterator[None]:
    """Fetch files of an object store ahead of their use; files on a disk are left to the kernel.

    Args:
        files: each with its size in bytes, in the order in which they will be read
    """
    wanted = list(files)
    first = wanted[0][0] if wanted else None
    if not isinstance(first, RemotePath):
        yield
        return
    with first.bucket.ahead([(path.key, size) for path, size in wanted if isinstance(path, RemotePath)]):
        yield
