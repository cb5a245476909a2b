"""Board: what runs reached, on disk: one row per run, split, task, column and metric, with where it comes from."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

import vbx
from vbx.cache.spec import canonical
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName
from vbx.heads.folder import append_part, compact_parts, each_part, heads_of, part_keys, read_part
from vbx.heads.head import Head
from vbx.heads.result import Result, ScoreRow
from vbx.heads.run import Run
from vbx.heads.weights import read_head

_TEXT, _COUNT = pa.string(), pa.int64()
SCHEMA = pa.schema(
    [
        *[(name, _TEXT) for name in ("key", "recipe", "feature", "corpus", "settings")],
        ("seed", _COUNT),
        *[(name, _TEXT) for name in ("status", "split", "task", "column", "metric")],
        ("value", pa.float64()),
        *[(name, _COUNT) for name in ("n", "missing", "epochs", "best_epoch")],
        ("seconds", pa.float64()),
        *[(name, _TEXT) for name in ("vectors_key", "feature_key", "vbx", "torch", "device", "time", "notes")],
        ("replicates", pa.list_(pa.float32())),
        ("curve", pa.list_(pa.float32())),
    ]
)
"""Columns of the results.

`settings` is the run as JSON less its seed, feature, corpus and recipe. `n` counts the utterances of the split that are
labelled, `missing` those of the corpus that have no vector. `vectors_key` is the fingerprint of vectors and labels,
`feature_key` the digest of the encoder specs behind the vectors. `time` is UTC, `notes` a JSON list. `curve`, in the
first row of a run, is what was monitored on dev after each epoch; results of earlier versions have none.
"""


def append_results(out: str | Path, results: Sequence[Result], vectors: Vectors, *, device: str = "cpu") -> None:
    """Add results and their heads to a folder; several processes may do so at once.

    Args:
        out: folder of results; made if it is not there
        results: of runs on `vectors`
        vectors: what they learnt from
        device: where they were trained

    Raises:
        CacheError: if the folder cannot be written; what was there before is not touched
    """
    if results:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [row for result in results for row in _rows(result, vectors, {"device": device, "time": time})]
        heads = {result.key: result.head for result in results}
        append_part(Path(out), pa.Table.from_pylist(rows, SCHEMA), heads)


def read_results(out: str | Path) -> pd.DataFrame:
    """Read all results of a folder.

    Args:
        out: folder of results

    Returns:
        the columns of `SCHEMA`, one row per run, split, task, column and metric; a run that is there twice counts once

    Raises:
        CacheError: if there are none, or a file is damaged, half there or not of vbx
    """
    return _read(out, SCHEMA.names)


def pending(runs: Sequence[Run], vectors: Vectors, out: str | Path) -> list[Run]:
    """The runs that are not finished in a folder, in order; a run that diverged is finished.

    Args:
        runs: what is to be trained
        vectors: what they learn from
        out: folder of results; need not be there

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx
    """
    done = set().union(*each_part(Path(out), lambda part: part_keys(part, SCHEMA)))
    return [run for run in runs if run.key_on(vectors) not in done]


def compact(out: str | Path) -> None:
    """Merge the files of a folder into few, once they are more than a handful; a kill at any moment loses nothing.

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx, or the folder cannot be written
    """
    compact_parts(Path(out), SCHEMA)


def load_head(out: str | Path, name: str) -> Head:
    """Load the head of a run.

    Args:
        out: folder of results
        name: start of the run's key, or `best` for the run of the best score on dev (on test where there is no dev)

    Raises:
        UnknownName: if no key begins so
        CacheError: if several do, the run diverged, `best` would compare different scores, or a file is damaged
    """
    results = _read(out, ["key", "status", "corpus", "settings", "split", "task", "column", "metric", "value"])
    key = _best(results) if name == "best" else _find_key(results["key"].unique().tolist(), name)
    if "diverged" in set(results["status"][results["key"] == key]):
        raise CacheError(f"run {key[:12]!r} in {str(out)!r} diverged: its weights are of no use; choose another")
    found = each_part(
        Path(out), lambda part: read_head(heads_of(part), key) if key in part_keys(part, SCHEMA) else None
    )
    return next(head for head in found if head is not None)


def _rows(result: Result, vectors: Vectors, about: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of one run."""
    run, head = result.run, result.head
    settings = {k: v for k, v in run.to_json().items() if k not in ("seed", "feature", "corpus", "recipe")}
    common = {
        "key": result.key,
        "recipe": run.recipe,
        "feature": head.feature,
        "corpus": head.corpus,
        "settings": canonical(settings).decode(),
        "seed": run.seed,
        "status": result.status,
        "missing": vectors.missing,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "vectors_key": head.vectors_key,
        "feature_key": vectors.key,
        "vbx": vbx.__version__,
        "torch": torch.__version__,
        "notes": json.dumps(result.notes),
        **about,
    }
    # A run that could not be scored, without dev and test, leaves a row as well: it is finished.
    rows = result.rows or (ScoreRow("", "", "", "", math.nan, 0),)
    return [{**common, **vars(row), "curve": None if i else result.curve} for i, row in enumerate(rows)]


def _read(out: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    tables = each_part(Path(out), lambda part: read_part(part, SCHEMA, columns))
    if not tables:
        raise CacheError(f"there are no results in {str(out)!r}; `vbx heads train --out {out}` writes them there")
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame.drop_duplicates(["key", "split", "task", "column", "metric"], ignore_index=True)


def _find_key(keys: Sequence[str], start: str) -> str:
    """The one key that begins so."""
    matches = [key for key in keys if start and key.startswith(start)]
    if not matches:
        raise UnknownName("run", start, [key[: max(len(start), 12)] for key in keys], "(`vbx heads rank`)")
    if len(matches) > 1:
        some = ", ".join(key[: len(start) + 6] for key in matches[:4])
        raise CacheError(f"run {start!r} is ambiguous: {len(matches)} keys begin so ({some}); give more of the key")
    return matches[0]


def _best(results: pd.DataFrame) -> str:
    """Key of the run of the best score."""
    scores = results[(results["task"] == "score") & results["value"].notna()]
    dev = scores[scores["split"] == "dev"]
    scores = scores if dev.empty else dev
    of = [canonical(json.loads(text)["score"]) for text in scores["settings"].tolist()]
    kinds = set(zip(scores["corpus"].tolist(), of, strict=True))
    if len(kinds) != 1:
        what = f"scores of {len(kinds)} kinds (corpora: {', '.join(sorted({corpus for corpus, _ in kinds}))})"
        raise CacheError(f"'best' needs scores that can be compared, and there are {what}; name a run by its key")
    return str(scores["key"].iloc[int(scores["value"].argmax())])
