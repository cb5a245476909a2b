"""Digests of large files, remembered between commands as long as nothing touches the file.

A checkpoint of 1.2 GB takes seconds to digest, and every command needs the digest. It is kept in the user's cache
folder under what the file system says of the file; where any of that differs, the file is read again. `VBX_REHASH=1`
reads every file again, and remembers nothing.
"""

import contextlib
import hashlib
import os
import time
from io import BufferedReader
from pathlib import Path
from typing import Any

from vbx.cache.files import read_sealed, seal, write_file
from vbx.errors import CacheError

REHASH = "VBX_REHASH"
"""Environment variable that switches the memory off."""
SMALLEST = 1 << 20
"""Bytes; a smaller file is read as fast as a note of it."""
SETTLED_S = 2.0
"""A file touched later than this before it was read is not remembered: clocks of file systems are coarse, and it could
change once more without its times changing."""


def remembered_digest(path: Path) -> str:
    """SHA-256 of a file, in hex; a file that was read before, and not touched since, is not read again.

    Safe among processes: a note is put in one piece, and one that is damaged counts as none.

    Args:
        path: the file; a link stands for what it leads to

    Raises:
        OSError: if it cannot be read
    """
    with path.open("rb") as file:
        place, folder = os.path.realpath(path), _folder()
        if _state(file)["size"] < SMALLEST or folder is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        note = folder / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
        return _known(note, _state(file)) or _read(file, place, note)


def _folder() -> Path | None:
    """Where notes are kept; None where there shall be none, or a user has no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")  # by its standard, a relative path counts as none
    base = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    switched_off = os.environ.get(REHASH, "0") not in ("", "0")
    return None if switched_off or not os.path.isabs(base) else Path(base, "vbx", "digests")


def _state(file: BufferedReader) -> dict[str, int]:
    """All that the file system tells of a file without reading it. The change time cannot be set back by a program."""
    stat = os.fstat(file.fileno())
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _known(note: Path, state: dict[str, int]) -> str | None:
    try:
        body: dict[str, Any] = read_sealed(note)
    except (CacheError, OSError):
        return None
    return str(body["sha256"]) if body.get("file") == state else None


def _read(file: BufferedReader, place: str, note: Path) -> str:
    """Digest a file, and make a note of it if it has come to rest."""
    state, began = _state(file), time.time_ns()
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    touched = max(state["mtime_ns"], state["ctime_ns"])
    if _state(file) == state and touched < began - SETTLED_S * 1e9:
        path = place.encode("utf-8", "replace").decode()
        with contextlib.suppress(CacheError):  # a home without room costs time, not results
            write_file(note, seal({"sha256": digest, "file": state, "path": path}))
    return digest
