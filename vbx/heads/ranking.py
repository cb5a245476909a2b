"""Ranking: one row per setting, the best on dev first: mean and deviation over seeds, 95 % intervals over speakers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.errors import UnknownName
from vbx.heads.board import read_results
from vbx.heads.metrics import METRICS

Floats: TypeAlias = NDArray[np.float64]
_SETTING = ["corpus", "feature", "vectors_key", "settings"]
_NOTHING = np.array([np.nan])


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed.

    Attributes:
        about: what they have in common, by name
        seeds: how many there are, without the diverged
        diverged: how many diverged
        values: `dev.score` and the like to one value per seed
        draws: the same to the mean over seeds in each bootstrap draw `(B,)`
    """

    about: Mapping[str, Any]
    seeds: int
    diverged: int
    values: Mapping[str, Floats]
    draws: Mapping[str, Floats]


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
        published: feature to numbers of a paper, to be shown beside ours: `METRIC` (of the split ranked on),
            `dev.METRIC` or `test.METRIC`, nested or not, to the number

    Returns:
        `rank`, `feature` and the settings that differ, `seeds` (n, without the diverged), `diverged`; then for each
        metric and split, as in `dev.score`: mean, `.sd` (ddof 1), `.low` and `.high` (95 %), `.published` and
        `.minus_published`; `to_best` (difference to the best setting in what they are ranked by) with `.low` and
        `.high`, and `within_noise`, whether these have 0 between them; `ranked_by`

    Raises:
        UnknownName: if there is no such metric, in `by` or in `published`
        CacheError: if the folder holds no results, or a damaged file
    """
    frame = _label(results if isinstance(results, pd.DataFrame) else read_results(results))
    there = set(frame["what"])
    metrics = sorted({what.partition(".")[2] for what in there}, key=lambda name: (name != by, name != "score", name))
    if by not in metrics:
        raise UnknownName("metric", by, metrics)
    ranked_by = f"dev.{by}" if f"dev.{by}" in there else f"test.{by}"
    settings = [_summarise(group) for _, group in frame.groupby(_SETTING, sort=False)]
    settings.sort(key=_order(ranked_by))
    names = _differing([setting.about for setting in settings])
    columns = [f"{split}.{metric}" for metric in metrics for split in ("dev", "test") if f"{split}.{metric}" in there]
    rows = []
    for i, setting in enumerate(settings):
        row = {"rank": i + 1, **{name: setting.about.get(name) for name in names}}
        row |= {"seeds": setting.seeds, "diverged": setting.diverged}
        for what in columns:
            row |= _describe(setting, what)
        rows.append(row | _compare(setting, settings[0], ranked_by) | {"ranked_by": ranked_by})
    table = pd.DataFrame(rows)
    features = [str(setting.about["feature"]) for setting in settings]
    return _add_published(table, features, published or {}, columns, ranked_by)


def list_settings(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that say what a setting is: `feature` and what else differs."""
    columns = list(ranking.columns)
    return columns[columns.index("rank") + 1 : columns.index("seeds")]


def list_metrics(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that are means over seeds: `dev.score`, `test.score`, ..."""
    return [name.removesuffix(".sd") for name in ranking.columns if name.endswith(".sd")]


def describe_run(run: "Mapping[str, Any] | pd.Series[Any]") -> dict[str, Any]:
    """A row of results as what its setting is: dotted keys, as `--set` and `[sweep]` have them.

    Examples:
        >>> describe_run({"feature": "noise", "corpus": "c", "recipe": "r", "vectors_key": "ab",
        ...               "settings": '{"tasks": [{"name": "age", "hidden": [8, 4]}], "fit": {"lr": 0.1}}'})["fit.lr"]
        0.1
    """
    settings = json.loads(run["settings"])
    tasks = {task["name"]: task for task in settings.pop("tasks")}
    flat = {"feature": run["feature"], "corpus": run["corpus"], "recipe": run["recipe"]}
    flat["vectors"] = run["vectors_key"][:12]
    flat["tasks"] = list(tasks)
    for part, fields in {**settings, **{f"task.{name}": task for name, task in tasks.items()}}.items():
        flat |= {f"{part}.{key}": value for key, value in fields.items() if key != "name"}
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in flat.items()}


def label_metrics(results: pd.DataFrame) -> pd.Series:
    """Name of what each row of results is, as in a ranking: `dev.score`, `test.emotion.ccc`."""
    metric = (results["task"] + "." + results["metric"]).where(results["task"] != "score", "score")
    return results["split"] + "." + metric


def _label(results: pd.DataFrame) -> pd.DataFrame:
    """Rows that are ranked: means over columns; of runs that differ only in version or name, the latest."""
    frame = results[results["column"] == ""]
    frame = frame.assign(what=label_metrics(frame)).sort_values("time", kind="stable")
    return frame.drop_duplicates([*_SETTING, "seed", "what"], keep="last")


def _summarise(group: pd.DataFrame) -> Setting:
    ok = group[group["status"] == "ok"]
    values: dict[str, Floats] = {}
    draws: dict[str, Floats] = {}
    for what, rows in ok.groupby("what", sort=False):
        values[str(what)] = rows["value"].to_numpy(np.float64)
        replicates = [r for r in rows["replicates"] if r is not None]
        draws[str(what)] = np.stack(replicates).astype(np.float64).mean(axis=0) if replicates else _NOTHING
    seeds = group.drop_duplicates("seed")["status"]
    return Setting(
        about=describe_run(group.iloc[-1]),
        seeds=int((seeds == "ok").sum()),
        diverged=int((seeds != "ok").sum()),
        values=values,
        draws=draws,
    )


def _order(ranked_by: str) -> Callable[[Setting], tuple[bool, float]]:
    """Best first, settings without a value last."""
    metric = ranked_by.rpartition(".")[2]
    sign = -1.0 if metric == "score" or METRICS[metric].maximise else 1.0

    def key(setting: Setting) -> tuple[bool, float]:
        mean = _mean(setting, ranked_by)
        return bool(np.isnan(mean)), 0.0 if np.isnan(mean) else sign * mean

    return key


def _mean(setting: Setting, what: str) -> float:
    return float(np.mean(setting.values.get(what, _NOTHING)))


def _interval(draws: Floats) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the draws in which the metric is defined."""
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def _describe(setting: Setting, what: str) -> dict[str, float]:
    values = setting.values.get(what, _NOTHING)
    low, high = _interval(setting.draws.get(what, _NOTHING))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return {what: _mean(setting, what), f"{what}.sd": sd, f"{what}.low": low, f"{what}.high": high}


def _compare(setting: Setting, best: Setting, ranked_by: str) -> dict[str, Any]:
    """Paired difference to the best; what cannot be told apart is within the noise."""
    low, high = _interval(setting.draws.get(ranked_by, _NOTHING) - best.draws.get(ranked_by, _NOTHING))
    apart = low > 0 or high < 0
    mean = _mean(setting, ranked_by) - _mean(best, ranked_by)
    return {"to_best": mean, "to_best.low": low, "to_best.high": high, "within_noise": not apart}


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what is not the same in all settings; a task that some do not have is told by `tasks` alone."""
    values: dict[str, set[Any]] = {}
    for about in settings:
        for name, value in about.items():
            values.setdefault(name, set()).add(value)
    # Each feature has vectors of its own: they tell settings apart only where one feature has several.
    if len(values["vectors"]) == len({(about["corpus"], about["feature"]) for about in settings}):
        values.pop("vectors")
    return ["feature", *(name for name, seen in values.items() if len(seen) > 1 and name != "feature")]


def _add_published(
    table: pd.DataFrame,
    features: Sequence[str],
    published: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    ranked_by: str,
) -> pd.DataFrame:
    """Numbers of a paper beside ours, with the difference."""
    split = ranked_by.partition(".")[0]
    numbers: dict[str, dict[str, float]] = {}
    for feature, theirs in published.items():
        for name, number in _flat(theirs).items():
            what = name if name in columns else f"{split}.{name}"
            if what not in columns:
                raise UnknownName(f"metric in the published numbers of {feature!r}:", name, columns)
            numbers.setdefault(what, {})[feature] = number
    for what, of_feature in numbers.items():
        place = list(table.columns).index(f"{what}.high") + 1
        beside = np.array([of_feature.get(feature, np.nan) for feature in features])
        table.insert(place, f"{what}.published", beside)
        table.insert(place + 1, f"{what}.minus_published", table[what] - beside)
    return table


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: float(value)}
    return flat
