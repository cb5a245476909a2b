"""Contents: an utterance is known by the digest of its file, whatever the file is called."""

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pandas as pd

from vbx.cache.remote import Place
from vbx.cache.rows import FILES
from vbx.cache.tables import read_table, write_table
from vbx.errors import CacheError
from vbx.progress import Progress, Quiet

_BLOCK_BYTES = 1 << 20
_KNOWN = ("size", "mtime_ns", "ctime_ns", "content")
Known: TypeAlias = tuple[int, int, int, str]
"""Stamp and digest of a file, as they are kept."""
_FRESH_NS = 2_000_000_000
"""A file changed so shortly before it was digested may change again within one tick of its clock."""


class Stamp(NamedTuple):
    """By what a file is taken for unchanged without being read.

    A tuple, as a corpus has many.

    Attributes:
        size: in bytes
        mtime_ns: time of the last change of its bytes, in nanoseconds
        ctime_ns: time of the last change of anything about it; unlike `mtime_ns` nobody can set it
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Content(NamedTuple):
    """What is known of a file before it is decoded; a tuple, as a corpus has many.

    Attributes:
        digest: SHA-256 of its bytes, in hex; None where it could not be read
        problem: why it could not be read; empty otherwise
        stamp: its stamp before it was read; None where it could not be read
        settled: whether the stamp will show a later change
    """

    digest: str | None
    problem: str = ""
    stamp: Stamp | None = None
    settled: bool = False


def digest_file(path: str | Path) -> Content:
    """Digest of one file, or the reason why there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            now = time.time_ns()
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Content(None, "is no file but a pipe or a device")
            stamp = Stamp.of(status)
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError:
        return Content(None, "there is no such file")
    except OSError as error:
        return Content(None, f"cannot be read: {error.strerror or error}")
    settled = now - max(stamp.mtime_ns, stamp.ctime_ns) > _FRESH_NS
    return Content(digest.hexdigest(), stamp=stamp, settled=settled)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def digest_files(
    paths: Iterable[Path],
    workers: int,
    progress: Progress | None = None,
    known: Mapping[str, Known] | None = None,
) -> dict[str, Content]:
    """Digests of many files, each read once at most.

    Args:
        paths: files; a file that stands there twice is read once
        workers: threads
        progress: told of each file that is read
        known: from `read_known`; a file whose stamp is still the same is not read again

    Returns:
        path to what is known of the file
    """
    distinct = dict.fromkeys(str(path) for path in paths)
    before = known or {}
    found = {path: content for path in distinct if path in before and (content := _recall(path, before[path]))}
    unread = [path for path in distinct if path not in found]
    progress = progress or Quiet()
    if unread:
        progress.start("reading files", len(unread), "files")
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for path, content in zip(unread, pool.map(digest_file, unread), strict=True):
                found[path] = content
                progress.advance()
        progress.finish()
    return {path: found[path] for path in distinct} if unread else found


def read_known(folder: Place) -> dict[str, Known]:
    """Stamp and digest of the files of a corpus that were read before; nothing if there is no such record.

    Args:
        folder: of the corpus in the cache
    """
    try:
        frame = read_table(folder / FILES)
    except CacheError:  # missing or damaged: files are read again, and it is written anew
        return {}
    return dict(zip(frame["path"].tolist(), zip(*(frame[name].tolist() for name in _KNOWN), strict=True), strict=True))


def write_known(folder: Place, known: Mapping[str, Known], contents: Mapping[str, Content]) -> None:
    """Keep the stamps of files whose next change will show; a file is forgotten when the corpus has it no more."""
    kept = {path: (*c.stamp, c.digest) for path, c in contents.items() if c.settled and c.stamp and c.digest}
    if kept != known:
        lines = [(path, *known) for path, known in kept.items()]
        write_table(folder / FILES, pd.DataFrame(lines, columns=["path", *_KNOWN]))


def _recall(path: str, known: Known) -> Content | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Content(known[3], "", Stamp(*stamp), True) if stamp == known[:3] else None
