"""Rows: `utterances.parquet` gives each utterance its row once and for all. Content decides, not names."""

import numpy as np
import pandas as pd

from vbx.cache.layout import MAX_UNIT_ROWS
from vbx.cache.remote import Place
from vbx.cache.tables import read_table, swap_table

UTTERANCES = "utterances.parquet"
FILES = "files.parquet"
"""Size, times and digest of each file of a corpus, so that one that is known need not be read again. May be absent."""
COLUMNS = ("row", "content", "start_s", "end_s", "header_s", "path")


def read_rows(folder: Place) -> pd.DataFrame:
    """The rows of a corpus: row, content (SHA-256 of the file), start_s, end_s, header_s, path when first seen.

    `header_s` is the length that the file's header claims, in seconds. It orders rows and estimates cost, no more.
    """
    path = folder / UTTERANCES
    return read_table(path) if path.exists() else _no_rows()


def add_rows(folder: Place, wanted: pd.DataFrame) -> pd.DataFrame:
    """Give a row to each utterance that has none yet.

    New rows come in order of length, so that a unit holds clips of like length. They begin at a multiple of
    `MAX_UNIT_ROWS`: a unit that is there, or that another process is about to write, is never written again, so it must
    not get new rows.

    Args:
        folder: folder of the corpus
        wanted: content, start_s, end_s (NaN for the end of the file), header_s, path; one row per utterance

    Returns:
        `wanted` with its `row`
    """
    identities = identify(wanted)
    place: dict[str, int] = {}

    def grow(known: pd.DataFrame | None) -> pd.DataFrame | None:
        known = _no_rows() if known is None else known
        place.clear()
        place.update(zip(identify(known), known["row"], strict=True))
        fresh = wanted.assign(identity=identities)[[i not in place for i in identities]].drop_duplicates("identity")
        if not len(fresh):
            return None
        fresh = fresh.sort_values(["header_s", "identity"], kind="stable")
        first = -(-(int(known["row"].max()) + 1) // MAX_UNIT_ROWS) * MAX_UNIT_ROWS if len(known) else 0
        fresh = fresh.assign(row=np.arange(first, first + len(fresh), dtype=np.int64))
        place.update(zip(fresh["identity"], fresh["row"], strict=True))
        return pd.concat([part[list(COLUMNS)] for part in (known, fresh) if len(part)], ignore_index=True)

    swap_table(folder / UTTERANCES, grow)
    return wanted.assign(row=[place[i] for i in identities])


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in COLUMNS}).astype({"row": "int64"})


def identify(frame: pd.DataFrame) -> list[str]:
    """What an utterance is known by: the digest of its file, and its segment."""
    if not frame["start_s"].any() and frame["end_s"].isna().all():  # whole files, of which a corpus has many
        return [f"{content}#0.0-" for content in frame["content"]]
    ends = ["" if pd.isna(end) else repr(float(end)) for end in frame["end_s"]]
    return [f"{c}#{float(s)!r}-{e}" for c, s, e in zip(frame["content"], frame["start_s"], ends, strict=True)]
