"""Ranking: one row per setting, the best on dev first: mean and deviation over seeds, 95 % intervals over speakers."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.errors import UnknownName
from vbx.heads.board import read_results
from vbx.heads.metrics import METRICS


@dataclass(frozen=True)
class _Setting:
    """Runs that differ in nothing but the seed.

    Attributes:
        about: what they have in common, by name
        seeds: how many there are, without the diverged
        diverged: how many diverged
        values: `dev.score` and the like to the values, one per seed
        draws: the same to the bootstrap draws of the mean over seeds `(B,)`; empty where there are none
    """

    about: dict[str, Any]
    seeds: int
    diverged: int
    values: dict[str, NDArray[np.float64]]
    draws: dict[str, NDArray[np.float64]]


def rank_results(
    results: str | Path | pd.DataFrame,
    *,
    by: str = "score",
    published: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Rank settings; a setting is everything of a run but its seed.

    Settings are ordered by their mean on dev, never on test unless nothing was scored on dev; the column `ranked_by`
    says which it was. Intervals are percentiles 2.5 and 97.5 of the bootstrap (Efron & Tibshirani 1993, ch. 13) over
    speakers of the mean over seeds: they say what other speakers would change, and `sd` says what other seeds would.
    Runs on the same utterances were scored on the same draws, so that their differences are paired.

    Args:
        results: folder of results, or what `read_results` gave
        by: `score`, or a metric as `TASK.METRIC`
        published: feature to numbers of a paper, to be shown beside ours: `METRIC` (of dev), `dev.METRIC` or
            `test.METRIC`, nested or not, to the number

    Returns:
        `rank`, `feature` and the settings that differ, `seeds` (n, without the diverged), `diverged`; then for each
        split and metric, as in `dev.score`: mean, `.sd` (ddof 1), `.low` and `.high` (95 %), `.published` and
        `.minus_published`; `to_best` (difference to the best setting in what they are ranked by) with `.low` and
        `.high`, and `within_noise`, whether these have 0 between them; `ranked_by`

    Raises:
        UnknownName: if there is no such metric
        CacheError: if the folder holds no results, or a damaged file
    """
    frame = _prepare(results if isinstance(results, pd.DataFrame) else read_results(results))
    metrics = list(dict.fromkeys(what.partition(".")[2] for what in frame["what"]))
    if by not in metrics:
        raise UnknownName("metric", by, metrics)
    metrics.sort(key=lambda name: (name != by, name != "score"))
    split = "dev" if f"dev.{by}" in set(frame["what"]) else "test"
    ranked_by = f"{split}.{by}"
    groups = frame.groupby(["corpus", "feature", "vectors_key", "settings"], sort=False)
    settings = [_setting(group) for _, group in groups]
    settings.sort(key=_order(ranked_by, maximise=by == "score" or METRICS[by.rpartition(".")[2]].maximise))
    differing = _differing([s.about for s in settings])
    order = [f"{s}.{metric}" for metric in metrics for s in ("dev", "test")]
    rows = []
    for i, setting in enumerate(settings):
        row = {"rank": i + 1, **{name: setting.about.get(name) for name in differing}}
        row |= {"seeds": setting.seeds, "diverged": setting.diverged}
        numbers = _numbers((published or {}).get(setting.about["feature"], {}), metrics)
        for what in order:
            row |= _summary(setting, what, numbers.get(what)) if what in set(frame["what"]) else {}
        rows.append({**row, **_compare(setting, settings[0], ranked_by), "ranked_by": ranked_by})
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def list_settings(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that say what a setting is: `feature` and what else differs."""
    columns = list(ranking.columns)
    return columns[columns.index("rank") + 1 : columns.index("seeds")]


def list_metrics(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that are means over seeds: `dev.score`, `test.score`, ..."""
    return [c.removesuffix(".low") for c in ranking.columns if c.endswith(".low") and c != "to_best.low"]
