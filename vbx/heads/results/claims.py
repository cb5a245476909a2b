"""Claims: which runs of a folder each living process trains, so that several processes share the work of one folder.

    OUT/.claims-ID    keys of runs that a process has taken and not yet saved; it locks the file for its life

A claim file whose lock can be had is of a process that is gone: the file is removed, its runs are free again. Claims
are read and written under the folder's lock, as results are, so a run is free, claimed or finished and never two of
these. Locks are those of `flock`, which go with the process however it ends; several machines may share a folder where
the file system carries them (NFS from version 4 on, Lustre mounted with `flock`).
"""

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vbx.cache.files import locked
from vbx.errors import CacheError
from vbx.heads.results.folder import list_parts

AHEAD_S = 2.0
"""Work that a process claims at once: so little that all end together, so much that they do not queue for the lock."""
_PREFIX = ".claims-"
_held: set[int] = set()


class Claims:
    """What this process has claimed in a folder, and what it saw there when it last looked.

    Attributes:
        mine: keys of runs that are ours to train, until they are saved
        others: keys of runs that other living processes have claimed
        finished: keys of runs whose results are in the folder
        living: names of the other processes
        name: of this process
    """

    def __init__(self, out: Path, read_keys: Callable[[Path], set[str]]) -> None:
        self.mine: set[str] = set()
        self.others: set[str] = set()
        self.finished: set[str] = set()
        self.living: set[str] = set()
        self._out, self._read_keys = out, read_keys
        self._read: set[Path] = set()
        self.name = uuid.uuid4().hex
        self._path = out / f"{_PREFIX}{self.name}"
        # Made and locked under the folder's lock: nobody sees it without its own.
        with _told(out), locked(out):
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            _held.add(self._handle)
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def take(self, keys: Iterable[str]) -> None:
        """Claim those of the runs that are free; without any: look what others have done meanwhile.

        Raises:
            CacheError: if the folder cannot be written, or a file of results in it is damaged
        """
        with self.looked():
            mine = (self.mine - self.finished) | {key for key in keys if self.is_free(key)}
            if mine != self.mine:
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, "".join(f"{key}\n" for key in sorted(mine)).encode(), 0)
                self.mine = mine

    @contextlib.contextmanager
    def looked(self) -> Iterator[None]:
        """Look what is finished, and what others have claimed; they wait while the block lasts.

        Raises:
            CacheError: as `take`
        """
        with _told(self._out), locked(self._out):
            for part in list_parts(self._out):
                if part not in self._read:  # a part never changes
                    self.finished |= self._read_keys(part)
                    self._read.add(part)
            self.others, self.living = set(), set()
            for path in self._out.glob(f"{_PREFIX}*"):
                if path != self._path:
                    self._look_at(path)
            yield

    def is_free(self, key: str) -> bool:
        """Whether nobody has trained or claimed a run, as far as is known since the last look."""
        return key not in self.finished and key not in self.others and key not in self.mine

    def close(self) -> None:
        """Give back what is not saved."""
        if self._handle in _held:  # else this is a forked child, and the claims are its parent's
            with contextlib.suppress(OSError):
                self._path.unlink()
            _held.discard(self._handle)
            os.close(self._handle)

    def _look_at(self, path: Path) -> None:
        """Read the claims of another process, or remove them if it is gone."""
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return  # it has ended
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            self.living.add(path.name.removeprefix(_PREFIX))
            with open(handle, closefd=False) as file:
                self.others |= set(file.read().split())
        finally:
            os.close(handle)


class Ahead:
    """Claims runs shortly before they begin, as many at once as are trained in some two seconds.

    Attributes:
        done: how many are trained, from which their pace is known
    """

    def __init__(self, claims: Claims, order: Sequence[str]) -> None:
        self.done = 0
        self._claims, self._order, self._began = claims, order, time.monotonic()
        self._places = {key: place for place, key in enumerate(order)}

    def ours(self, keys: Sequence[str]) -> list[bool]:
        """Which runs are ours to train, of some that are to begin; what comes after them may be claimed with them.

        Raises:
            CacheError: if the folder cannot be written
        """
        if any(self._claims.is_free(key) for key in keys):
            ahead = round(AHEAD_S * self.done / max(time.monotonic() - self._began, 1e-3))
            after = self._places[keys[-1]] + 1
            self._claims.take([*keys, *self._order[after : after + ahead]])
        return [key in self._claims.mine for key in keys]


@contextlib.contextmanager
def open_claims(out: Path, read_keys: Callable[[Path], set[str]]) -> Iterator[Claims]:
    """Claims of this process in a folder, given back at the end.

    Args:
        out: folder of results; made if it is not there
        read_keys: keys of the runs of a part

    Raises:
        CacheError: if the folder cannot be written
    """
    claims = Claims(out, read_keys)
    try:
        yield claims
    finally:
        claims.close()


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    """What the disk says, as one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CacheError(f"cannot share out runs in {out}: {reason}; what is there is not touched") from error


def _let_go() -> None:
    """A forked child holds no claims of its parent: else they would outlive it."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
