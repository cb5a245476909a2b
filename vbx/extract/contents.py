"""Contents: an utterance is known by the digest of its file, whatever the file is called."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vbx.progress import Progress, Quiet

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """What is known of a file before it is decoded.

    Attributes:
        digest: SHA-256 of its bytes, in hex; None where it could not be read
        problem: why it could not be read; empty otherwise
    """

    digest: str | None
    problem: str = ""


def digest_file(path: Path) -> Content:
    """Digest of one file, or the reason why there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError:
        return Content(None, "there is no such file")
    except OSError as error:
        return Content(None, f"cannot be read: {error.strerror or error}")
    return Content(digest.hexdigest())


def digest_files(paths: Iterable[Path], workers: int, progress: Progress | None = None) -> dict[Path, Content]:
    """Digests of many files, each read once.

    Args:
        paths: files; a file that stands there twice is read once
        workers: threads
        progress: told of each file
    """
    distinct = list(dict.fromkeys(paths))
    progress = progress or Quiet()
    progress.start("reading files", len(distinct), "files")
    found = {}
    with ThreadPoolExecutor(workers) as pool:
        for path, content in zip(distinct, pool.map(digest_file, distinct), strict=True):
            found[path] = content
            progress.advance()
    progress.finish()
    return found
