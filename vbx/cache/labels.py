"""LabelTable: a corpus as the cache knows it, in `labels.parquet` and `corpus.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.files import locked, read_sealed
from vbx.cache.layout import MAX_UNIT_ROWS, MIN_UNIT_ROWS, read_layouts
from vbx.cache.remote import Place, RemotePath
from vbx.cache.rows import add_rows
from vbx.cache.schema import Column
from vbx.cache.tables import MARK, read_table, replace_pair

SPEC, LABELS, CORPUS = "spec.json", "labels.parquet", "corpus.json"


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
            rows[readable] = add_rows(folder, files[readable], _align(folder))["row"]
        frame = table.labels.reset_index(drop=True).copy()
        frame.insert(0, "row", rows)
        frame.insert(0, "id", list(table.ids))
        schema = {name: column.to_json() for name, column in table.schema.items()}
        body = {**table.about, "corpus": table.corpus, "schema": schema}
        replace_pair(folder / LABELS, frame, folder / CORPUS, body)
    return replace(table, rows=rows)


def _align(folder: Place) -> int:
    """Rows of the largest unit of a corpus: where new rows may begin."""
    if isinstance(folder, RemotePath):  # another writer may open an encoder with larger units at this moment
        return MAX_UNIT_ROWS
    units = [x.unit_rows for spec in folder.glob(f"*/{SPEC}") for x in read_layouts(spec.parent).values()]
    return max(units, default=MIN_UNIT_ROWS)
