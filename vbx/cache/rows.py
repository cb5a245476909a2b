"""Rows: `utterances.parquet` gives each utterance its row once and for all. Content decides, not names."""

from pathlib import Path

import numpy as np
import pandas as pd

from vbx.cache.files import read_table, write_table

UTTERANCES = "utterances.parquet"
COLUMNS = ("row", "content", "start_s", "end_s", "header_s", "path")


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of a corpus: row, content (SHA-256 of the file), start_s, end_s, header_s, path when first seen.

    `header_s` is the length that the file's header claims, in seconds. It orders rows and estimates cost, no more.
    """
    path = folder / UTTERANCES
    if not path.exists():
        return pd.DataFrame({name: [] for name in COLUMNS}).astype({"row": "int64"})
    return read_table(path)


def add_rows(folder: Path, wanted: pd.DataFrame, align: int) -> pd.DataFrame:
    """Give a row to each utterance that has none yet.

    New rows come in order of length, so that a unit holds clips of like length. They begin at a multiple of `align`:
    a unit that is there is never written again, so it must not get new rows.

    Args:
        folder: folder of the corpus
        wanted: content, start_s, end_s (NaN for the end of the file), header_s, path; one row per utterance
        align: rows of the largest unit of the corpus

    Returns:
        `wanted` with its `row`
    """
    known = read_rows(folder)
    place = {identity: row for identity, row in zip(identify(known), known["row"], strict=True)}
    identities = identify(wanted)
    fresh = wanted.assign(identity=identities)[[i not in place for i in identities]].drop_duplicates("identity")
    if len(fresh):
        fresh = fresh.sort_values(["header_s", "identity"], kind="stable")
        first = -(-(int(known["row"].max()) + 1) // align) * align if len(known) else 0
        fresh = fresh.assign(row=np.arange(first, first + len(fresh), dtype=np.int64))
        place.update(zip(fresh["identity"], fresh["row"], strict=True))
        both = [part[list(COLUMNS)] for part in (known, fresh) if len(part)]
        write_table(folder / UTTERANCES, pd.concat(both, ignore_index=True))
    return wanted.assign(row=[place[i] for i in identities])


def identify(frame: pd.DataFrame) -> list[str]:
    """What an utterance is known by: the digest of its file, and its segment."""
    ends = ["" if pd.isna(end) else repr(float(end)) for end in frame["end_s"]]
    return [f"{c}#{float(s)!r}-{e}" for c, s, e in zip(frame["content"], frame["start_s"], ends, strict=True)]
