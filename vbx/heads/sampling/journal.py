"""Journal: Optuna's record of a search, one JSON value a line, which survives a kill at any moment."""

import fcntl
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from vbx.cache.files import make_folder
from vbx.errors import CacheError

NAME = "search.journal"
"""Name of the file, in the folder of results."""


class _Lock(JournalFileOpenLock):
    """A lock that goes with its process; Optuna's own stays behind after a kill, and is waited for.

    A line that a kill has cut off is removed before others are added behind it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        self._handle = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        with open(self._handle, "rb+", closefd=False) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(max(0, end - LINE_BYTES))
                tail = file.read()
                if not tail.endswith(b"\n"):
                    file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        os.close(self._handle)


LINE_BYTES = 2**20
"""More than the longest line."""


def make_sampler(seeds: Sequence[int]) -> optuna.samplers.BaseSampler:
    """What samples: trees of Parzen estimators.

    Trials that are under way count as bad ones, so that several at a time are not all alike.
    """
    (seed,) = np.random.SeedSequence(seeds).generate_state(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)


def open_study(out: Path, name: str) -> optuna.Study:
    """A study that lives in a folder of results; made if it is not there.

    Args:
        out: folder of results
        name: of the study; several may share a folder

    Raises:
        CacheError: if the folder cannot be written, or the journal is damaged
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = out / NAME
    try:
        make_folder(out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror or error}; nothing there is damaged") from error
    except (ValueError, KeyError) as error:
        raise CacheError(f"{path} is damaged ({error}); move it away: finished runs are kept without it") from error
