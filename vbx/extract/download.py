"""One file from a hub: begun where it broke off, and compared with the digest that the hub states."""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # of the library underneath
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from vbx.errors import CheckpointError

TIMEOUT_S = 10.0
"""Longest wait for a hub to say anything, in seconds."""
TRIES = 5
"""Attempts in a row that bring nothing before a download is given up."""
WAIT_S = 1.0
"""Wait before the second attempt, in seconds; it doubles from one to the next."""
PASSING = (408, 416, 429, 500, 502, 503, 504)
"""Answers after which it is worth to ask again."""
PARTIAL = ".vbx.incomplete"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file as a hub lists it.

    Attributes:
        name: its name in the repository
        url: where it is
        size: in bytes
        digest: SHA-256 of a file that the hub keeps beside git (64 hex digits), or the id that git gives a small one
            (40): SHA-1 of `blob SIZE`, a zero byte and the content
    """

    name: str
    url: str
    size: int
    digest: str


def download(file: HubFile, folder: Path, tell: Callable[[int], None]) -> Path:
    """Have a file lie in a folder under its digest.

    What was received before an interruption is kept there and not asked for again; of two processes one waits for the
    other.

    Args:
        file: the file
        folder: where it goes
        tell: called with each number of bytes that is there

    Raises:
        HTTPError: if the hub refuses it
        CheckpointError: if the download breaks off, its content is not what the hub states, or it cannot be written
    """
    blob, aside = folder / file.digest, folder / f"{file.digest}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not blob.exists():
            with open(aside, "a+b") as part:
                fcntl.flock(part, fcntl.LOCK_EX)
                if aside.exists() and os.path.samestat(os.fstat(part.fileno()), aside.stat()):
                    _complete(file, part, aside, tell)
                    os.replace(aside, blob)
                    return blob
    except HTTPError:
        raise
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"cannot write {file.name} ({file.size / 1e6:.0f} MB) to {folder}: {error.strerror or error}; "
            "set HF_HOME to a folder with room for it"
        ) from error
    tell(file.size)
    return blob


def _complete(file: HubFile, part: BufferedRandom, aside: Path, tell: Callable[[int], None]) -> None:
    """Fetch what is missing of a file, and verify all of it."""
    resumed = part.seek(0, os.SEEK_END)
    tell(resumed)
    for fresh in (not resumed, True):
        _receive(file, part, tell)
        found = _digest(part, len(file.digest))
        if found == file.digest:
            os.fsync(part.fileno())
            return
        tell(-_empty(part))
        if fresh:
            break
    aside.unlink()
    raise CheckpointError(
        f"{file.name} arrived damaged: its digest is {found[:12]}…, the hub states {file.digest[:12]}… "
        f"({file.url}); it was deleted, so try again, or download it yourself and pass its folder with "
        "--checkpoint NAME=FOLDER"
    )


def _receive(file: HubFile, part: BufferedRandom, tell: Callable[[int], None]) -> None:
    """Append to a file until it is as long as the hub says, however often the connection breaks."""
    tries = TRIES
    while (before := part.seek(0, os.SEEK_END)) < file.size:
        reason = "the connection was closed"
        try:
            _append(file, part, tell)
        except HTTPError as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if status is not None and status not in PASSING:
                raise
            if status == 416:
                tell(-_empty(part))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        tries = TRIES if part.seek(0, os.SEEK_END) > before else tries - 1
        if not tries:
            raise CheckpointError(
                f"the download of {file.name} broke off after {before / 1e6:.1f} of {file.size / 1e6:.1f} MB "
                f"({reason}); what is there is kept, so type the command again to go on"
            )
        if part.tell() < file.size:
            time.sleep(WAIT_S * 2 ** (TRIES - tries))


def _append(file: HubFile, part: BufferedRandom, tell: Callable[[int], None]) -> None:
    """Ask once for what is missing, and append what comes."""
    have = part.tell()
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with get_session().stream("GET", file.url, headers=headers, timeout=TIMEOUT_S) as answer:
        hf_raise_for_status(answer)
        if have and answer.status_code != 206:
            tell(-_empty(part))
        for block in answer.iter_bytes():  # as they come: what waits for a full block would be lost
            part.write(block)
            tell(len(block))
            if part.tell() > file.size:
                return  # whatever this is, it is not the file


def _empty(part: BufferedRandom) -> int:
    """Throw away what was received; returns how much it was."""
    size = part.seek(0, os.SEEK_END)
    part.truncate(0)
    return size


def _digest(part: BufferedRandom, length: int) -> str:
    """The digest of a file on disk, of the kind that has this many hex digits."""
    digest = hashlib.sha256()
    if length == 40:
        digest = hashlib.sha1(f"blob {part.seek(0, os.SEEK_END)}\0".encode(), usedforsecurity=False)
    part.seek(0)
    while block := part.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
