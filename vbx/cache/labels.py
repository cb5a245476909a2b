"""LabelTable: a corpus as the cache knows it, in `labels.parquet` and `corpus.json`."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.files import locked, read_sealed, seal, unseal, write_file
from vbx.cache.remote import Place, RemotePath, Seen
from vbx.cache.rows import add_rows
from vbx.cache.schema import Column
from vbx.cache.tables import ROUNDS, crowded, read_table, replace_table, write_table
from vbx.errors import CacheError

SPEC, LABELS, CORPUS = "spec.json", "labels.parquet", "corpus.json"
MARK = "mark"
"""Key of `corpus.json` on an object store: random bytes, as tables bear them."""


@dataclass(frozen=True)
class LabelTable:
    """A corpus as the cache knows it.

    Attributes:
        corpus: its name
        ids: of all utterances, in the order of the corpus
        rows: row of each utterance; -1 where its file could not be read
        labels: one row per utterance, in the same order
        schema: what each label column holds
        about: what else `corpus.json` says: root, reader, split (`given` or how it was made), unreadable (id to reason)
    """

    corpus: str
    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: pd.DataFrame
    schema: dict[str, Column]
    about: Mapping[str, Any]


def read_labels(folder: Place) -> LabelTable:
    """Utterances and labels of the corpus in a folder."""
    about = read_sealed(folder / CORPUS)
    frame = read_table(folder / LABELS)
    about.pop(MARK, None)
    schema = {name: Column.from_json(fields) for name, fields in about.pop("schema").items()}
    labels = frame.drop(columns=["id", "row"])
    return LabelTable(folder.name, tuple(frame["id"]), frame["row"].to_numpy(np.int64), labels, schema, about)


def put_labels(folder: Place, table: LabelTable, files: pd.DataFrame) -> LabelTable:
    """Give each utterance its row, and write labels and schema; see `Store.put_corpus`."""
    with locked(folder):
        readable = files["content"].notna().to_numpy()
        rows = np.full(len(files), -1, dtype=np.int64)
        if readable.any():
            rows[readable] = add_rows(folder, files[readable])["row"]
        frame = table.labels.reset_index(drop=True).copy()
        frame.insert(0, "row", rows)
        frame.insert(0, "id", list(table.ids))
        schema = {name: column.to_json() for name, column in table.schema.items()}
        body = {**table.about, "corpus": table.corpus, "schema": schema}
        _put_both(folder / LABELS, frame, folder / CORPUS, body)
    return replace(table, rows=rows)


def _put_both(table: Place, frame: pd.DataFrame, sealed: Place, body: Mapping[str, Any]) -> None:
    """Put a table and the sealed JSON that goes with it, so that both are of one writer in the end.

    On an object store the JSON is seen before the table is put, and replaced on condition that it is as it was seen:
    of two writers the one whose table was put first may be the first to replace the JSON, never the last.
    """
    if not isinstance(sealed, RemotePath):
        write_table(table, frame)
        write_file(sealed, seal(body))
        return
    wanted = unseal(seal(body), sealed)
    for _ in range(ROUNDS):
        seen, there = _look(sealed)
        if not replace_table(table, lambda: frame) and there == wanted:
            return
        data = seal({**body, MARK: secrets.token_hex(8)})
        if sealed.bucket.replace(sealed.key, data, seen) is not None:
            return
    raise crowded(sealed)


def _look(path: RemotePath) -> tuple[Seen | None, dict[str, Any] | None]:
    try:
        data, seen = path.bucket.get(path.key)
    except FileNotFoundError:
        return None, None
    try:
        return seen, {key: value for key, value in unseal(data, path).items() if key != MARK}
    except CacheError:  # it will be replaced
        return seen, None
