"""Board: what runs reached, on disk: one row per run, split, task, column and metric, with where it comes from."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

import vbx
from vbx.cache.spec import canonical
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName
from vbx.heads.head import Head
from vbx.heads.result import Result, ScoreRow
from vbx.heads.results.folder import append_part, compact_parts, each_part, heads_of, part_keys, read_part
from vbx.heads.results.weights import read_head
from vbx.heads.run import Run

_TEXT, _COUNT = pa.string(), pa.int64()
_OF_FOLD = ("status", "epochs", "best_epoch", "seconds")
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
        ("part", _TEXT),
    ]
)
"""Columns of the results.

`settings` is the run as JSON less its seed, feature, corpus and recipe. `n` counts the utterances of the split that are
labelled, `missing` those of the corpus that have no vector. `vectors_key` is the fingerprint of vectors and labels,
`feature_key` the digest of the encoder specs behind the vectors. `time` is UTC, `notes` a JSON list. `curve`, in the
first row of a run, is what was monitored on dev after each epoch; results of earlier versions have none. `part` is
empty but for the fold of a cross-validation, or the corpus, whose utterances alone a row is of: such a row has no
replicates and is no evidence beside that of the pool, and its `epochs`, `best_epoch`, `seconds`, `status` and `curve`
are those of the fold.
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
        heads = {name: head for result in results for name, head in result.heads.items()}
        append_part(Path(out), pa.Table.from_pylist(rows, SCHEMA), heads)


def read_results(out: str | Path, *, parts: bool = False) -> pd.DataFrame:
    """Read all results of a folder.

    Args:
        out: folder of results
        parts: also of each fold of a cross-validation, or each corpus, alone (`part`); these are never ranked

    Returns:
        the columns of `SCHEMA`, one row per run, split, task, column and metric; a run that is there twice counts once

    Raises:
        CacheError: if there are none, or a file is damaged, half there or not of vbx
    """
    return _read(out, SCHEMA.names, parts)


def read_scores(out: str | Path, split: str) -> dict[str, float]:
    """Combined score of each run on a split; nan if it diverged.

    Args:
        out: folder of results
        split: `dev` or `test`; a run without it has no score

    Raises:
        CacheError: if there are no results, or a file is damaged, half there or not of vbx
    """
    rows = _read(out, ["key", "split", "task", "column", "metric", "value"])
    rows = rows[(rows["split"] == split) & (rows["task"] == "score")]
    return dict(zip(rows["key"].tolist(), rows["value"].tolist(), strict=True))


def pending(runs: Sequence[Run], vectors: Vectors, out: str | Path) -> list[Run]:
    """The runs that are not finished in a folder, in order; a run that diverged is finished.

    Args:
        runs: what is to be trained
        vectors: what they learn from
        out: folder of results; need not be there

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx
    """
    done = set().union(*each_part(Path(out), read_keys))
    return [run for run in runs if run.key_on(vectors) not in done]


def read_keys(part: Path) -> set[str]:
    """Keys of the runs of a part of a folder.

    Raises:
        CacheError: if it is damaged or not of vbx
    """
    return part_keys(part, SCHEMA)


def compact(out: str | Path, *, on_the_way: bool = False) -> None:
    """Merge the files of a folder into few, once they are more than a handful; a kill at any moment loses nothing.

    Args:
        out: folder of results
        on_the_way: merge only files of like size, for more are to come

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx, or the folder cannot be written
    """
    compact_parts(Path(out), SCHEMA, on_the_way=on_the_way)


def load_head(out: str | Path, name: str) -> Head:
    """Load the head of a run.

    Args:
        out: folder of results
        name: start of the run's key, or `best` for the run of the best score on dev (on test where there is no dev);
            of a cross-validated run followed by `/` and the fold: `3f9c0a/speaker=03`, `best/fold=2`

    Raises:
        UnknownName: if no key begins so, or the run has no such fold
        CacheError: if several do, the run has several heads and none is named, the run diverged, `best` would compare
            different scores, or a file is damaged
    """
    columns = ["key", "status", "corpus", "settings", "split", "task", "column", "metric", "value", "part"]
    rows = _read(out, columns, parts=True)
    results, (start, _, fold) = rows[rows["part"] == ""], name.partition("/")
    key = _best(results) if start == "best" else _find_key(results["key"].unique().tolist(), start)
    if "diverged" in set(results["status"][results["key"] == key]):
        raise CacheError(f"run {key[:12]!r} in {str(out)!r} diverged: its weights are of no use; choose another")
    kept = f"{key}/{fold}" if _check_fold(rows[rows["key"] == key], fold) else key
    found = each_part(
        Path(out), lambda part: read_head(heads_of(part), kept) if key in part_keys(part, SCHEMA) else None
    )
    return next(head for head in found if head is not None)


def _rows(result: Result, vectors: Vectors, about: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of one run."""
    run, head = result.run, next(iter(result.heads.values()))
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
    curves = {"": result.curve} | {name: fold.curve for name, fold in result.folds.items()}
    about_folds = {name: {k: getattr(fold, k) for k in _OF_FOLD} for name, fold in result.folds.items()}
    made = []
    for row in rows:
        of_fold = about_folds.get(row.part, {})
        made.append({**common, **vars(row), **of_fold, "curve": curves.pop(row.part, None)})
    return made


def _read(out: str | Path, columns: Sequence[str], parts: bool = False) -> pd.DataFrame:
    def read(part: Path) -> pa.Table:
        table = read_part(part, SCHEMA, list(dict.fromkeys([*columns, "part"])))
        whole = pc.fill_null(table["part"], "")  # results of earlier versions have no parts
        table = table.set_column(table.schema.get_field_index("part"), SCHEMA.field("part"), whole)
        return table if parts else table.filter(pc.equal(whole, ""))

    tables = each_part(Path(out), read)
    if not tables:
        raise CacheError(f"there are no results in {str(out)!r}; `vbx heads train --out {out}` writes them there")
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame.drop_duplicates(["key", "split", "task", "column", "metric", "part"], ignore_index=True)


def _check_fold(rows: pd.DataFrame, fold: str) -> bool:
    """Whether a run, of which these are the rows, has a head for each fold; then one of them must be named."""
    key = rows["key"].iloc[0][:12]
    protocol = json.loads(rows["settings"].iloc[0]).get("protocol", {})
    folds = sorted(set(rows["part"]) - {""}) if protocol.get("kind") in ("kfold", "leave_one_group_out") else []
    if folds and not fold:
        raise CacheError(
            f"run {key!r} is cross-validated and has {len(folds)} heads, one for each fold; name one, as "
            f"{key}/{folds[0]}: {', '.join(folds)}"
        )
    if fold not in ("", *folds):
        raise UnknownName(f"fold of run {key!r}:", fold, folds, "" if folds else "(it has a single head)")
    return bool(folds)


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
