r"""Folders: audio in folders, labelled by the folder a file lies in or by a pattern over its path.

Without an argument, `label` is the innermost folder that is not the same for all files, if all files lie equally deep;
a level of folders called train, dev and test (or as corpora spell these) is the split: `train/angry/x.wav`.

`--reader 'folders:(?P<speaker>\d+)/(?P<emotion>\w+)_.*\.wav'` takes columns from a regular expression over the path
from the corpus folder, `/` between its parts. It must match every audio file from end to end, because a pattern that
misses files usually misreads others too. Files that are meant to be left out are named by an alternative that sets no
group: `PATTERN|noise/.*`.

No link is followed out of the corpus folder, and none to a folder: what lies inside is read where it lies.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vbx.cache.splits import SPELLINGS
from vbx.errors import CorpusError
from vbx.extract.corpus import AUDIO_SUFFIXES, Listing

order = 90
follows_links = False
"""Links out of the corpus are left out here, and need not be looked for again."""

AUDIO, OTHER = "audio files", "files that are no audio"
HIDDEN, LINK = "hidden files or folders", "links to folders or out of the corpus"


def recognises(root: Path) -> bool:
    """Whether there is an audio file anywhere below."""
    return root.is_dir() and any(kind == AUDIO for kind, _ in _walk(root))


def read(root: Path, argument: str | None) -> Listing:
    """List the audio below a folder.

    Args:
        root: the corpus folder
        argument: a regular expression with named groups, which become columns; None for a label from the folders

    Raises:
        CorpusError: if `root` is no folder, no audio is below it, or the pattern is faulty or misses a file
    """
    if not root.is_dir():
        raise CorpusError(f"reader 'folders' reads a folder, and {str(root)!r} is a file")
    passed: Counter[str] = Counter()
    files = []
    for kind, file in _walk(root):
        if kind == AUDIO:
            files.append(file)
        else:
            passed[kind] += 1
    if not files:
        raise CorpusError(f"no audio file below {str(root)!r} ({_counts(passed) or 'it is empty'})")
    frame, notes = _match(sorted(files), argument) if argument else _label(sorted(files))
    return Listing(frame, notes=(*notes, f"left out: {_counts(passed)}") if passed else tuple(notes))


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """What everything below a folder is (`AUDIO` or why it is passed over), with its path from there."""
    top = os.path.realpath(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(top, folder)))
        except PermissionError:
            raise CorpusError(f"folder {os.path.join(top, folder)!r} may not be read; see its permissions") from None
        except OSError as error:
            name = os.path.join(top, folder)
            raise CorpusError(f"folder {name[:200]!r} cannot be read: {error.strerror or error}") from None
        for entry in entries:
            file = f"{folder}/{entry.name}".lstrip("/")
            if entry.name.startswith("."):
                yield HIDDEN, file
            elif entry.is_dir(follow_symlinks=False):
                folders.append(file)
            elif entry.is_symlink() and _leads_away(entry.path, top):
                yield LINK, file
            elif not entry.is_symlink() and not entry.is_file():
                yield OTHER, file  # a pipe or a device, which may never come to an end
            else:
                yield AUDIO if _is_audio(entry.name) else OTHER, file


def _is_audio(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in AUDIO_SUFFIXES


def _leads_away(link: str, top: str) -> bool:
    """Whether a link leads to anything but a file, or out of the corpus."""
    target = os.path.realpath(link)
    return (os.path.exists(target) and not os.path.isfile(target)) or os.path.commonpath([target, top]) != top


def _counts(passed: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))


def _match(files: list[str], pattern: str) -> tuple[pd.DataFrame, list[str]]:
    """Columns from a pattern."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise CorpusError(f"the pattern {pattern!r} is no regular expression: {error}") from None
    if not expression.groupindex or "file" in expression.groupindex:
        raise CorpusError(f"the pattern {pattern!r} needs named groups, (?P<emotion>...), none of them called 'file'")
    matches = [expression.fullmatch(file) for file in files]
    strays = [file for file, match in zip(files, matches, strict=True) if match is None]
    if strays:
        raise CorpusError(
            f"the pattern {pattern!r} misses {len(strays)} of {len(files)} audio files, the first {strays[0]!r}; widen "
            f"it, or leave such files out by an alternative without groups: {pattern + '|' + re.escape(strays[0])!r}"
        )
    rows = [{"file": m.string, **m.groupdict()} for m in matches if m is not None and m.lastindex is not None]
    out = len(files) - len(rows)
    notes = [f"{out} audio files left out by an alternative of the pattern that sets no group"] if out else []
    return pd.DataFrame(rows, columns=["file", *expression.groupindex], dtype=object), notes


def _label(files: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Label and split from the folders."""
    frame = pd.DataFrame({"file": files}, dtype=object)
    parts = [file.split("/")[:-1] for file in files]
    if len({len(folders) for folders in parts}) > 1:
        how = "--reader 'folders:PATTERN'"
        return frame, [f"files lie at different depths, so no label was taken from the folders; name them by {how}"]
    levels = list(zip(*parts, strict=True))
    split = next((level for level in levels if all(name.lower() in SPELLINGS for name in set(level))), None)
    if split is not None:
        frame["split"] = pd.Series(split, dtype=object)
        levels.remove(split)
    telling = [level for level in levels if len(set(level)) > 1]
    if telling:
        frame["label"] = pd.Series(telling[-1], dtype=object)
    if len(telling) < 2:
        return frame, []
    example = "/".join(level[0] for level in telling[:-1])
    return frame, [f"outer folders, such as {example!r}, became no labels; name them by --reader 'folders:PATTERN'"]
