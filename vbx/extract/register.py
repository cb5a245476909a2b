"""Registering a corpus: content of each utterance, its row in the cache, labels and splits. Extracts nothing."""

import numpy as np
import pandas as pd

from vbx.cache.files import read_sealed
from vbx.cache.rows import read_rows
from vbx.cache.schema import Column
from vbx.cache.splits import count_overlap, make_splits
from vbx.cache.store import CORPUS, LABELS, LabelTable, Store
from vbx.errors import CorpusError
from vbx.extract.audio import header_seconds
from vbx.extract.contents import Content, Known, digest_files, read_known, write_known
from vbx.extract.corpus import Corpus, Utterance
from vbx.extract.plan import Settings

MADE_SPLIT = "split made by vbx"


def register_corpus(
    corpus: Corpus, store: Store, settings: Settings
) -> tuple[LabelTable, tuple[str, ...], dict[str, Content]]:
    """Give each utterance of a corpus its row, and write its labels and splits.

    Args:
        corpus: from `read_corpus`
        store: the cache
        settings: threads and progress

    Returns:
        the corpus as the cache now knows it, what a user should know about it, and path to content of its files

    Raises:
        CorpusError: if the cache holds another corpus of that name
    """
    known = {} if settings.rehash else known_files(corpus, store)
    contents = digest_files([u.path for u in corpus.utterances], settings.readers, settings.progress, known)
    rows = known_rows(corpus, store)
    files = describe_files(corpus, contents, rows)
    refuse_other_corpus(corpus, files, rows, store)
    labels, split, notes = _with_split(corpus, files, store)
    unreadable = {u.id: contents[str(u.path)].problem for u in corpus.utterances if contents[str(u.path)].problem}
    about = {
        "root": str(corpus.root),
        "reader": corpus.reader,
        "split": split,
        "unreadable": unreadable,
        "notes": list(corpus.notes),
    }
    ids = tuple(u.id for u in corpus.utterances)
    schema = corpus.schema
    if "split" not in schema:
        schema = {"split": Column("class", tuple(sorted(set(labels["split"])))), **schema}
    table = LabelTable(corpus.name, ids, np.zeros(0, np.int64), labels, schema, about)
    repeated = int(files.dropna(subset=["content"]).duplicated(["content", "start_s", "end_s"]).sum())
    if repeated:
        notes.append(f"{repeated} utterances repeat the audio of another; each is encoded once")
    if unreadable:
        notes.append(f"{len(unreadable)} files could not be read, such as {next(iter(unreadable))!r}")
    table = store.put_corpus(table, files)
    write_known(store.folder(corpus.name), known, contents)
    return table, (*corpus.notes, *notes), contents


def known_files(corpus: Corpus, store: Store) -> dict[str, Known]:
    """Stamp and digest of the files of a corpus that need not be read again unless they have changed."""
    return read_known(store.folder(corpus.name)) if corpus.name in store.corpora() else {}


def describe_files(corpus: Corpus, contents: dict[str, Content], rows: pd.DataFrame) -> pd.DataFrame:
    """content, start_s, end_s, header_s, path of each utterance; headers are read of new files only.

    Args:
        corpus: from `read_corpus`
        contents: path to content
        rows: what the cache knows of the corpus, from `known_rows`
    """
    known: dict[str, float] = dict(zip(rows["content"], rows["header_s"], strict=True))
    digests = [contents[str(u.path)].digest for u in corpus.utterances]
    new = {u.path for u, digest in zip(corpus.utterances, digests, strict=True) if digest and digest not in known}
    whole = {path: header_seconds(path) or 0.0 for path in new}
    lengths = [
        known[digest] if digest in known else _stretch(u, whole.get(u.path, 0.0))
        for u, digest in zip(corpus.utterances, digests, strict=True)
    ]
    columns = {
        "content": pd.Series(digests, dtype=object),
        "start_s": [u.start_s for u in corpus.utterances],
        "end_s": pd.Series([u.end_s for u in corpus.utterances], dtype=float),
        "header_s": pd.Series(lengths, dtype=float),
        "path": pd.Series([u.id for u in corpus.utterances], dtype=object),
    }
    return pd.DataFrame(columns)


def _stretch(utterance: Utterance, whole_s: float) -> float:
    """Length of an utterance in a file of some length, in seconds."""
    return max(min(utterance.end_s or whole_s, whole_s) - utterance.start_s, 0.0)


def known_rows(corpus: Corpus, store: Store) -> pd.DataFrame:
    """What the cache knows of a corpus; no row if it does not know it."""
    return read_rows(store.root / corpus.name)


def refuse_other_corpus(corpus: Corpus, files: pd.DataFrame, rows: pd.DataFrame, store: Store) -> None:
    """Refuse to mix two corpora that happen to have one name.

    Raises:
        CorpusError: if the cache's corpus of that name lies elsewhere and has no file in common with this one
    """
    if corpus.name not in store.corpora():
        return
    root = read_sealed(store.folder(corpus.name) / CORPUS)["root"]
    known = set(rows["content"])
    if root != str(corpus.root) and known and not known & set(files["content"].dropna()):
        raise CorpusError(
            f"the cache has another corpus {corpus.name!r}, read from {root!r}, without a file in common with "
            f"{str(corpus.root)!r}; give this one a --name, or another --cache"
        )


def _with_split(corpus: Corpus, files: pd.DataFrame, store: Store) -> tuple[pd.DataFrame, str, list[str]]:
    """Labels with a split: the corpus's own, checked, or one made by vbx."""
    contents = [c or u.id for c, u in zip(files["content"], corpus.utterances, strict=True)]
    labels = corpus.labels
    if "split" in labels:
        overlap = {what: n for what, n in count_overlap(labels, contents).items() if n}
        notes = [
            f"the split that came with the corpus is not disjoint: {n} {what} in more than one split"
            for what, n in overlap.items()
        ]
        return labels, "given", notes
    speakers = list(labels["speaker"]) if "speaker" in labels else [None] * len(labels)
    earlier, how, count = _earlier_splits(corpus, store)
    if count == len(contents) and all(content in earlier for content in contents):
        splits = [earlier[content] for content in contents]
    else:
        splits, how = make_splits(speakers, contents, known=earlier)
    labels = labels.copy()
    labels.insert(0, "split", pd.Series(splits, index=labels.index, dtype=object))
    return labels, how, [how]


def _earlier_splits(corpus: Corpus, store: Store) -> tuple[dict[str, str], str, int]:
    """A split once made stays: content to split as vbx dealt it before, how it did, and to how many utterances."""
    # Labels that were cut out because they were damaged are written anew, and so is their split.
    if corpus.name not in store.corpora() or not (store.folder(corpus.name) / LABELS).exists():
        return {}, "", 0
    table = store.label_table(corpus.name)
    how = str(table.about.get("split", ""))
    if not how.startswith(MADE_SPLIT):
        return {}, "", 0
    rows = known_rows(corpus, store)  # after the labels: another writer may have added to both
    content = dict(zip(rows["row"].tolist(), rows["content"], strict=True))
    dealt = zip(table.rows.tolist(), table.labels["split"], strict=True)
    return {content[row]: split for row, split in dealt if row >= 0}, how, len(table.ids)
