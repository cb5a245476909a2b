"""Files that survive a kill and show every flipped bit: written aside, synced, renamed; sealed by digests.

On an object store a put is whole or not at all by itself, and there are no locks: `tables.py`, `staging.py` do without.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vbx.cache.remote import Place, RemotePath
from vbx.errors import CacheError

_SEAL = re.compile(rb'^ "seal": "([0-9a-f]{64})"(,?)\n', re.MULTILINE)
PARTIAL = ".partial"
"""Suffix of a file that is being written; whatever bears it is no part of the cache."""
LOCK = ".lock"


def write_file(path: Place, data: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss.

    Raises:
        CacheError: if the disk is full or read-only, or permission is lacking; nothing is left half-written
    """
    if isinstance(path, RemotePath):
        path.bucket.put(path.key, data)
        return
    aside = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    try:
        make_folder(path.parent)
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CacheError(f"cannot write {path}: {error.strerror or error}; nothing in the cache is damaged") from error


def create_file(path: Place, data: bytes) -> bool:
    """Put a file if it is absent.

    Returns:
        whether it was put; False if there was one already, which is left as it is (on an object store: another one,
        for whether one's own put came through cannot be told from one of the same bytes)
    """
    if isinstance(path, RemotePath):
        return path.bucket.replace(path.key, data, None) is not None
    aside = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    write_file(aside, data)
    try:
        os.link(aside, path)  # unlike a rename, a link fails where the name is taken
        sync_folder(path.parent)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror or error}; nothing in the cache is damaged") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each one's name durable: what is in a folder is lost with its name."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Hold a folder against other processes on this machine; the lock goes with the process, however it ends.

    On an object store nothing is locked.
    """
    if isinstance(folder, RemotePath):
        yield
        return
    try:
        make_folder(folder)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CacheError(f"cannot write in {folder}: {error.strerror or error}; choose another folder") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # a network file system without locks
            raise CacheError(f"cannot lock {folder}: {error.strerror or error}; choose another folder") from error
        yield
    finally:
        os.close(handle)


def remove_tree(folder: Place) -> None:
    """Remove a folder with all that is in it; one that is not there is no matter."""
    if isinstance(folder, RemotePath):
        folder.bucket.delete(list(folder.bucket.walk(folder.key)))
    else:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ sealed JSON


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON that carries the digest of itself, in one byte string per value: every flipped bit shows."""
    plain = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False)
    return _render({**body, "seal": hashlib.sha256(plain.encode()).hexdigest()})


def unseal(data: bytes | bytearray, path: Place) -> dict[str, Any]:
    """The inverse of `seal`.

    Raises:
        CacheError: if a byte differs from what was written
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CacheError(f"{path} is damaged: it is not the JSON that vbx wrote (`vbx cache check`)") from error
    if not isinstance(value, dict) or "seal" not in value:
        raise CacheError(f"{path} is damaged or not of vbx: it bears no seal (`vbx cache check`)")
    body = {k: v for k, v in value.items() if k != "seal"}
    if not _is_sealed(data) and seal(body) != data:
        raise CacheError(f"{path} is damaged: its seal does not match (`vbx cache check`)")
    return body


def read_sealed(path: Place) -> dict[str, Any]:
    """Read a sealed JSON file.

    Raises:
        CacheError: if it is missing or damaged
    """
    try:
        return unseal(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error


def _is_sealed(data: bytes | bytearray) -> bool:
    """Whether the text without its seal has that digest: rendering it again would take six times as long."""
    line = _SEAL.search(data)
    if line is None:
        return False
    before = data[: line.start()] if line[2] else data[: line.start() - 2] + b"\n"  # the last line has no comma
    plain = before + data[line.end() :]
    return plain.endswith(b"\n") and hashlib.sha256(plain[:-1]).hexdigest().encode() == line[1]


def _render(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
