"""Every error a user can meet: one sentence with the bad value, its place, and the way out.

VbxError
├── UnknownName     (LookupError)   a name that is not in a list, with the nearest that is
├── CorpusError     (ValueError)    a corpus that cannot be read as it stands
├── AudioError      (ValueError)    one file or segment that gives no usable waveform
├── CheckpointError (OSError)       weights that are absent, refused, or not what they should be
├── DeviceError     (RuntimeError)  a device that was asked for and is not there
├── CacheError      (RuntimeError)  a cache that is damaged or lacks what was asked of it
├── StoreError      (RuntimeError)  an object store that cannot be reached, or refuses what was asked of it
├── RecipeError     (ValueError)    a recipe, or labels that do not fit it
└── MissingExtra    (ImportError)   an optional package is not installed
"""

import difflib
from collections.abc import Iterable
from typing import Any


class VbxError(Exception):
    """Something a user can put right. The command line prints it as one sentence, exit code 1."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again from its sentence, not from its arguments: an error of a worker process arrives as it was.
        return _with_sentence, (type(self), str(self))


def _with_sentence(kind: type[VbxError], sentence: str) -> VbxError:
    error = kind.__new__(kind)
    error.args = (sentence,)
    return error


class UnknownName(VbxError, LookupError):
    """A name that is not known.

    Args:
        kind: what was named, singular (`feature`, `recipe key`, ...)
        name: the name as it was typed
        known: the names that exist
        hint: where to look further

    Examples:
        >>> str(UnknownName("feature", "egemap", ["egemaps", "compare"]))
        "unknown feature 'egemap'; did you mean 'egemaps'?"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = [str(k) for k in known]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            tail = f"did you mean {near[0]!r}?"
        elif names:
            tail = f"known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
        else:
            tail = "there is none"
        super().__init__(f"unknown {kind} {name!r}; {tail}{' ' + hint if hint else ''}")


class CorpusError(VbxError, ValueError):
    """A corpus that cannot be read as it stands."""


class AudioError(VbxError, ValueError):
    """One file or segment that gives no usable waveform."""


class CheckpointError(VbxError, OSError):
    """Weights that are absent, refused, or not what they should be."""


class DeviceError(VbxError, RuntimeError):
    """A device that was asked for and is not there."""


class CacheError(VbxError, RuntimeError):
    """A cache that is damaged, or lacks what was asked of it."""


class StoreError(VbxError, RuntimeError):
    """An object store that cannot be reached, or refuses what was asked of it.

    No `CacheError`: what cannot be read now is not damaged, and must not be mended or cut out.
    """


class RecipeError(VbxError, ValueError):
    """A recipe that cannot be run, or labels that do not fit it."""


class MissingExtra(VbxError, ImportError):
    """An optional package is not installed.

    Args:
        what: what needs it
        extra: the extra of vbx that brings it
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'vbx[{extra}]'")
