"""Where the files of a corpus may lie, and how they and the corpus may be called."""

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from vbx.errors import CorpusError

ODD = re.compile(r"\\|/[./]")
"""What a path may hold that is spelt in more ways than one."""
NO_NAME = re.compile("[\0\ud800-\udfff]")
"""What is in no name that a table can hold: a zero byte, or bytes that are not UTF-8."""
CORPUS_NAME = re.compile(r"(?![. ])[^/\\\x00-\x1f\x7f\ud800-\udfff]+(?<! )")
"""A corpus is called like its folder in the cache, and what begins with a point there is not of vbx."""
LONGEST_NAME = 200
"""Bytes; file systems take 255."""


def check_root(root: Path) -> None:
    """Make sure that a corpus is there, and its path such that the cache can hold it.

    Raises:
        CorpusError: if not
    """
    try:
        there = root.exists()
    except OSError:  # too long a name
        there = False
    if not there:
        raise CorpusError(f"no corpus at {str(root)[:500]!r}: there is no such folder or file")
    if NO_NAME.search(str(root.resolve())):
        raise CorpusError(f"the path of the corpus {str(root)!r} is not UTF-8, so the cache cannot hold it; rename it")


def check_name(name: str) -> str:
    """The name of a corpus, if it can be that of a folder in the cache.

    Raises:
        CorpusError: if not

    Examples:
        >>> check_name("emodb_4class")
        'emodb_4class'
    """
    if not CORPUS_NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
        raise CorpusError(
            f"{name[:100]!r} cannot be the name of a corpus, which is that of a folder in the cache: give it a --name "
            "that is short, without slashes and line breaks, and begins with neither a point nor a blank"
        )
    return name


def relative_path(file: str, spellings: tuple[str, ...]) -> str:
    """The one spelling of a file's path relative to the corpus folder.

    Args:
        file: as the corpus spells it
        spellings: of the corpus folder itself, each with a `/` at its end

    Raises:
        CorpusError: if it lies outside that folder, or no table can hold its name
    """
    # Most spellings are plain, and tens of thousands of them are read at once.
    plain = not file.startswith((".", "/")) and not file.endswith("/") and not ODD.search(file)
    path = file if plain else posixpath.normpath(file.replace("\\", "/"))
    for folder in spellings:
        path = path.removeprefix(folder)
    if path.startswith(("/", "../")) or path in ("..", ".") or (path[1:3] == ":/" and path[0].isalpha()):
        raise CorpusError(
            f"file {file!r} does not lie inside the corpus folder {spellings[0]!r}; paths must be relative to it"
        )
    if NO_NAME.search(path):
        raise CorpusError(f"file {file!r} has a name that is not UTF-8, so no table can hold it; rename it")
    return path


def links_out(folder: Path, files: Iterable[Path]) -> list[str]:
    """Those files that are reached through a link out of the corpus folder."""
    top = os.path.realpath(folder)
    places: dict[str, set[str]] = {}
    for place, _, name in {str(file).rpartition("/") for file in files}:
        places.setdefault(place, set()).add(name)
    away: list[str] = []
    for place, names in places.items():
        if not _is_inside(os.path.realpath(place), top):
            away += [os.path.join(place, name) for name in names]
        elif os.path.isdir(place):
            with os.scandir(place) as entries:  # tells links from files without a question for each
                links = [entry.path for entry in entries if entry.name in names and entry.is_symlink()]
            away += [link for link in links if not _is_inside(os.path.realpath(link), top)]
    return sorted(away)


def _is_inside(path: str, top: str) -> bool:
    return os.path.commonpath([path, top]) == top
