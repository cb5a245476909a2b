"""Files that survive a kill and show every flipped bit: written aside, synced, renamed; sealed by digests."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vbx.errors import CacheError

PARTIAL = ".partial"
"""Suffix of a file that is being written; whatever bears it is no part of the cache."""
LOCK = ".lock"


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss.

    Raises:
        CacheError: if the disk is full or read-only, or permission is lacking; nothing is left half-written
    """
    aside = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def create_file(path: Path, data: bytes) -> bool:
    """Put a file if it is absent.

    Returns:
        whether it was put; False if there was one already, which is left as it is
    """
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


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes on this machine; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CacheError(f"cannot write in {folder}: {error.strerror or error}; choose another --cache") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# ------------------------------------------------------------------ sealed JSON


def seal(body: Mapping[str, Any]) -> bytes:
    """JSON that carries the digest of itself, in one byte string per value: every flipped bit shows."""
    plain = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False)
    return _render({**body, "seal": hashlib.sha256(plain.encode()).hexdigest()})


def unseal(data: bytes, path: Path) -> dict[str, Any]:
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
    if seal(body) != data:
        raise CacheError(f"{path} is damaged: its seal does not match (`vbx cache check`)")
    return body


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed JSON file.

    Raises:
        CacheError: if it is missing or damaged
    """
    try:
        return unseal(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error


def _render(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


# ------------------------------------------------------------------ sealed tables


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a Parquet file and, beside it, its digest in the form of `sha256sum`.

    While the file is being replaced the digest file names both the old and the new one, so that a kill at any moment
    leaves a table that is known.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
    data = buffer.getvalue()
    digests = [hashlib.sha256(data).hexdigest()]
    known = _digests(path)
    side = _side(path)
    if path.exists() and known:
        write_file(side, _lines([*digests, hashlib.sha256(path.read_bytes()).hexdigest()], path))
    else:
        write_file(side, _lines(digests, path))
    write_file(path, data)
    write_file(side, _lines(digests, path))


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file that `write_table` wrote.

    Raises:
        CacheError: if it is missing or a byte differs from what was written
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error
    side = _side(path)
    if not side.exists():
        raise CacheError(f"{side} is missing: {path.name} cannot be trusted (`vbx cache check`)")
    digests = _digests(path)
    if hashlib.sha256(data).hexdigest() not in digests or side.read_bytes() != _lines(digests, path):
        raise CacheError(f"{path} is damaged: it does not match {side.name} (`vbx cache check`)")
    frame: pd.DataFrame = pq.read_table(io.BytesIO(data)).to_pandas(types_mapper=None)
    return _object_text(frame)


def _object_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Text columns as Python strings with None where missing, whatever pandas makes of them."""
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            values = frame[name].astype(object)
            frame[name] = values.where(values.notna(), None)
    return frame


def _side(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _lines(digests: list[str], path: Path) -> bytes:
    return "".join(f"{digest}  {path.name}\n" for digest in digests).encode()


def _digests(path: Path) -> list[str]:
    side = _side(path)
    if not side.exists():
        return []
    text = side.read_bytes().decode("ascii", errors="replace")
    return [line.split("  ", 1)[0] for line in text.splitlines() if line]
