"""Corpus: a name, its utterances and its label table, read by a reader plugin."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.schema import Column, infer_columns
from vbx.cache.splits import normal_splits
from vbx.errors import CorpusError
from vbx.extract.paths import check_name, check_root, links_out, relative_path
from vbx.plugins import find_plugin, plugin_names

READERS = "vbx.extract.readers"
AUDIO_SUFFIXES = frozenset(
    (
        ".wav .wave .flac .mp3 .ogg .oga .opus .aiff .aif .aifc .sph .nist .au .snd .caf .w64 .rf64"
        " .m4a .mp4 .aac .wma .webm"
    ).split()
)
"""Suffixes that readers of folders take for audio, in lower case."""
RESERVED = ("id", "row")
"""Columns of the cache's own in its table of labels."""
MOST_COLUMNS = 16_384
"""Label columns of a corpus, as many as a spreadsheet has; each takes 0.3 ms to be understood."""


@dataclass(frozen=True)
class Utterance:
    """One stretch of audio.

    Attributes:
        id: unique and stable: the path relative to the corpus, with `#start-end` (s) for a segment
        path: the file
        start_s: begin of the segment, in seconds
        end_s: end of the segment, in seconds; None for the end of the file
    """

    id: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Corpus:
    """A name, its utterances and its label table.

    Attributes:
        name: name of the corpus, and of its folder in the cache
        root: its folder
        utterances: in the order of the corpus
        labels: one row per utterance, indexed by id; `split` (train, dev, test), `speaker`, targets
        schema: what each label column holds
        reader: name of the reader that read it
        notes: what the reader wants the user to know (rows left out, with their count)
    """

    name: str
    root: Path
    utterances: tuple[Utterance, ...]
    labels: pd.DataFrame
    schema: dict[str, Column]
    reader: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a reader plugin returns.

    Attributes:
        frame: one row per utterance: `file` (relative to the corpus folder, `/` between parts), optional `start` and
            `end` (seconds, missing for begin and end of the file), optional `split` and `speaker`, any label columns
        schema: schema of columns for which the corpus itself states one
        notes: what the user should know
    """

    frame: pd.DataFrame
    schema: dict[str, Column] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """A reader plugin: a module with these three names.

    `order` says who is asked first when no reader is named: the most particular has the smallest.
    """

    order: int

    def recognises(self, root: Path) -> bool:
        """Whether the folder (or file) is a corpus of this kind."""

    def read(self, root: Path, argument: str | None) -> Listing:
        """Read it; `argument` is what followed `NAME:` in `--reader NAME:ARGUMENT`."""


def read_corpus(
    root: str | Path,
    reader: str | None = None,
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Corpus:
    """Read a corpus.

    Args:
        root: its folder, or a table that names its files
        reader: `NAME` or `NAME:ARGUMENT`; None to find it from what lies in the folder
        name: name of the corpus; None for the name of the folder
        labels: kind (`class`, `number`, `text`) of label columns, where the guess is wrong

    Returns:
        the corpus; no audio has been opened

    Raises:
        CorpusError: if nothing there is a corpus, a file lies outside the folder, or an utterance is listed twice
        UnknownName: if there is no such reader, label column or kind
    """
    with without_collection():
        return _read(Path(root).expanduser(), reader, name, labels)


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for cycles while a million strings are made that have none; it took two fifths of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _read(root: Path, reader: str | None, name: str | None, labels: Mapping[str, str] | None) -> Corpus:
    check_root(root)
    plugin_name, plugin = _find_reader(root, reader)
    argument = reader.partition(":")[2] or None if reader else None
    listing = plugin.read(root, argument)
    folder = root if root.is_dir() else root.parent
    if listing.frame.empty:
        raise CorpusError(f"reader {plugin_name!r} found no utterance in {str(root)!r}")
    if listing.frame.shape[1] > MOST_COLUMNS:
        raise CorpusError(
            f"the corpus {str(root)!r} has {listing.frame.shape[1]:,} columns; vbx reads up to {MOST_COLUMNS:,}, so "
            "keep those that are labels"
        )
    utterances = _utterances(folder, listing.frame)
    frame = listing.frame.drop(columns=["file", "start", "end"], errors="ignore")
    frame.index = pd.Index([u.id for u in utterances], name="id", dtype=object)
    notes = list(listing.notes)
    if len(set(frame.index)) < len(frame):
        utterances, frame, note = _drop_repeated(utterances, frame)
        notes.append(note)
    # A folder is read without them; a table that names them means them.
    if getattr(plugin, "follows_links", True) and (away := links_out(folder, [u.path for u in utterances])):
        notes.append(f"{len(away)} files are reached through links out of the corpus, such as {away[0]!r}")
    frame, stated, renamed = _rename_reserved(frame, listing.schema)
    frame, schema = infer_columns(normal_splits(frame), stated, labels)
    notes += renamed
    return Corpus(
        check_name(name or folder.resolve().name),
        folder.resolve(),
        utterances,
        frame,
        schema,
        plugin_name,
        tuple(notes),
    )


def _find_reader(root: Path, reader: str | None) -> tuple[str, Reader]:
    if reader:
        plugin_name = reader.partition(":")[0]
        return plugin_name, find_plugin("reader", READERS, plugin_name)
    plugins = [(n, find_plugin("reader", READERS, n)) for n in plugin_names(READERS)]
    for plugin_name, plugin in sorted(plugins, key=lambda p: p[1].order):
        if plugin.recognises(root):
            return plugin_name, plugin
    raise CorpusError(
        f"nothing in {str(root)!r} looks like a corpus: vbx reads a table (labels.csv, metadata.csv, corpus.csv with a "
        "'file' column), an audformat database (db.yaml), the ExVo release (data_info.csv), or a folder of audio"
    )


def _utterances(folder: Path, frame: pd.DataFrame) -> tuple[Utterance, ...]:
    """Utterances of a listing, each inside the corpus folder."""
    inside = tuple(str(where).replace("\\", "/").rstrip("/") + "/" for where in (folder.absolute(), folder.resolve()))
    if frame["file"].isna().any():
        raise CorpusError(f"row {int(frame['file'].isna().argmax()) + 1} of the corpus {str(folder)!r} names no file")
    files = [relative_path(str(file), inside) for file in frame["file"]]
    begins, ends = _seconds(frame, "start"), _seconds(frame, "end")
    begins = np.where(np.isnan(begins), 0.0, begins)
    wrong = np.flatnonzero((begins < 0) | (ends <= begins))
    if len(wrong):
        row = wrong[0]
        raise CorpusError(
            f"segment of {files[row]!r} from {begins[row]} s to {ends[row]} s is empty or begins before the file"
        )
    found = []
    for relative, begin, end in zip(files, begins.tolist(), ends.tolist(), strict=True):
        stop = None if np.isnan(end) else end
        whole = begin == 0.0 and stop is None
        mark = "" if whole else f"#{begin:.3f}-{'' if stop is None else format(stop, '.3f')}"
        found.append(Utterance(relative + mark, folder / relative, begin, stop))
    return tuple(found)


def _seconds(frame: pd.DataFrame, what: str) -> NDArray[np.float64]:
    """A column of seconds, NaN where missing or where there is no such column."""
    if what not in frame:
        return np.full(len(frame), np.nan)
    given = frame[what].replace("", None)
    seconds = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.flatnonzero(given.notna().to_numpy() & ~np.isfinite(seconds))
    if len(wrong):
        file, value = frame["file"].iloc[wrong[0]], given.iloc[wrong[0]]
        raise CorpusError(f"{what} of {file!r} is {value!r}, which is not a finite number of seconds")
    return seconds


def _drop_repeated(
    utterances: tuple[Utterance, ...], frame: pd.DataFrame
) -> tuple[tuple[Utterance, ...], pd.DataFrame, str]:
    """Leave out rows that are repeated word for word; the same utterance with other labels is an error."""
    # Numbered, because a corpus may have a label column called `id` itself.
    numbered = frame.set_axis(range(frame.shape[1]), axis=1)
    again = numbered.assign(id=frame.index).duplicated().to_numpy()
    clash = frame.index[~again][frame.index[~again].duplicated()]
    if len(clash):
        raise CorpusError(
            f"utterance {clash[0]!r} is listed more than once with different labels ({len(clash)} such rows); "
            "give each utterance one row, for instance the mean or the majority of its raters"
        )
    kept = tuple(u for u, drop in zip(utterances, again, strict=True) if not drop)
    return kept, frame[~again], f"{int(again.sum())} rows repeat another row word for word and are left out"


def _rename_reserved(
    frame: pd.DataFrame, schema: dict[str, Column]
) -> tuple[pd.DataFrame, dict[str, Column], list[str]]:
    """Columns whose names the cache needs, or that have none, under others; and a note on each."""
    names: dict[str, str] = {}
    for place, name in enumerate(frame.columns, start=1):
        new = f"column_{place}" if not str(name).strip() else f"{name}_" if name in RESERVED else name
        while new != name and new in frame.columns:
            new += "_"
        if new != name:
            names[name] = new
    notes = [f"label column {name!r} is called {new!r}" for name, new in names.items()]
    return frame.rename(columns=names), {names.get(name, name): column for name, column in schema.items()}, notes
