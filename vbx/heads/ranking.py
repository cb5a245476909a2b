"""Ranking: one row per setting, the best on dev first: mean and deviation over seeds, 95 % intervals over speakers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbx.errors import UnknownName
from vbx.heads.board import read_results
from vbx.heads.metrics import METRICS
from vbx.heads.settings import Setting, differing, group_settings
from vbx.heads.table import format_ranking, list_metrics, list_settings

__all__ = ["format_ranking", "list_metrics", "list_settings", "rank_results"]


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
        published: feature to numbers of a paper, shown beside ours: `METRIC` or `dev.METRIC`, or `test.METRIC`,
            nested or not, to the number; what was not measured here is left out

    Returns:
        `rank`, `feature` and the settings that differ, `seeds` (n, without the diverged), `diverged`; then for each
        metric and split, as in `dev.score`: mean, `.sd` (ddof 1), `.low` and `.high` (95 %), `.published` and
        `.minus_published`; `to_best` (difference to the best setting in what they are ranked by) with `.low` and
        `.high`, and `within_noise`, whether these have 0 between them; `ranked_by`

    Raises:
        UnknownName: if there is no such metric
        CacheError: if the folder holds no results, or a damaged file
    """
    settings = group_settings(results if isinstance(results, pd.DataFrame) else read_results(results))
    there = list(dict.fromkeys(what for setting in settings for what in setting.values))
    metrics = list(dict.fromkeys(what.partition(".")[2] for what in there))
    if by not in metrics:
        raise UnknownName("metric", by, metrics)
    ranked_by = f"dev.{by}" if f"dev.{by}" in there else f"test.{by}"
    settings = _sort(settings, ranked_by)
    metrics.sort(key=lambda name: (name != by, name != "score"))
    columns = [what for metric in metrics for what in (f"dev.{metric}", f"test.{metric}") if what in there]
    names, rows = differing(settings), []
    for i, setting in enumerate(settings):
        row = {"rank": i + 1, **dict.fromkeys(names), "seeds": setting.seeds, "diverged": setting.diverged}
        for what in columns:
            low, high = setting.interval(what)
            row |= {what: setting.mean(what), f"{what}.sd": setting.deviation(what)}
            row |= {f"{what}.low": low, f"{what}.high": high}
        rows.append(row | _compare(setting, settings[0], ranked_by) | {"ranked_by": ranked_by})
    table = pd.DataFrame(rows)
    for name in names:  # as they are: a missing one must not turn whole numbers into 32.0
        table[name] = pd.Series([setting.about.get(name) for setting in settings], dtype=object)
    return _add_published(table, settings, published or {}, columns)


def _sort(settings: Sequence[Setting], ranked_by: str) -> list[Setting]:
    """Best first, settings without a value last."""
    metric = ranked_by.rpartition(".")[2]
    sign = -1 if metric == "score" or METRICS[metric].maximise else 1
    means = np.array([setting.mean(ranked_by) for setting in settings])
    return [settings[i] for i in np.argsort(sign * means, kind="stable")]  # nan sorts last


def _compare(setting: Setting, best: Setting, ranked_by: str) -> dict[str, Any]:
    """Paired difference to the best; what cannot be told apart is within the noise."""
    low, high = setting.interval(ranked_by, less=best)
    difference = setting.mean(ranked_by) - best.mean(ranked_by)
    within = not (low > 0 or high < 0)
    return {"to_best": difference, "to_best.low": low, "to_best.high": high, "within_noise": within}


def _add_published(
    table: pd.DataFrame,
    settings: Sequence[Setting],
    published: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
) -> pd.DataFrame:
    """Numbers of a paper beside ours, with the difference."""
    numbers = {feature: _flat(theirs) for feature, theirs in published.items()}
    for what in columns:
        bare = what.removeprefix("dev.")
        of = [numbers.get(setting.about["feature"], {}) for setting in settings]
        beside = np.array([theirs.get(what, theirs.get(bare, np.nan)) for theirs in of])
        if not np.isnan(beside).all():
            place = list(table.columns).index(f"{what}.high") + 1
            table.insert(place, f"{what}.published", beside)
            table.insert(place + 1, f"{what}.minus_published", table[what] - beside)
    return table


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested tables, as TOML makes them of dotted keys, under dotted keys."""
    flat: dict[str, float] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            flat[prefix + key] = float(value)
    return flat
