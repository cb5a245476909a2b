"""Settings: results grouped by everything but the seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        values: `dev.score` and the like to one value per seed `(n,)`
        draws: the same to the mean over seeds in each bootstrap draw `(B,)`
    """

    about: Mapping[str, Any]
    seeds: int
    diverged: int
    values: Mapping[str, Floats]
    draws: Mapping[str, Floats]

    def mean(self, what: str) -> float:
        """Mean over seeds; nan if a value is."""
        return float(np.mean(self.values.get(what, _NOTHING)))

    def deviation(self, what: str) -> float:
        """Standard deviation over seeds with n - 1; nan for a single one."""
        values = self.values.get(what, _NOTHING)
        return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan

    def interval(self, what: str, less: "Setting | None" = None) -> tuple[float, float]:
        """95 % interval of the mean over seeds, or of the paired difference to another setting.

        Percentiles 2.5 and 97.5 of the bootstrap draws in which the metric is defined.
        """
        draws = self.draws.get(what, _NOTHING)
        if less is not None:
            draws = draws - less.draws.get(what, _NOTHING)
        defined = draws[~np.isnan(draws)]
        low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
        return float(low), float(high)


def group_settings(results: pd.DataFrame) -> list[Setting]:
    """Group runs by setting.

    Args:
        results: of `read_results`

    Returns:
        settings in the order in which they first appear. Of runs that differ only in what does not count (version of
        the trainer, name of the recipe) the latest counts.
    """
    frame = results[(results["column"] == "") & (results["metric"] != "")]
    frame = frame.assign(what=label_metrics(frame)).sort_values("time", kind="stable")
    frame = frame.drop_duplicates([*_SETTING, "seed", "what"], keep="last")
    return [_summarise(group) for _, group in frame.groupby(_SETTING, sort=False)]


def differing(settings: Sequence[Setting]) -> list[str]:
    """Names of what is not the same in all settings, `feature` first.

    A setting of a task that some settings leave out is not among them: `tasks` says so.
    """
    values: dict[str, set[Any]] = {}
    for setting in settings:
        for name, value in setting.about.items():
            values.setdefault(name, set()).add(value)
    # Each feature has vectors of its own: they tell settings apart only where one feature has several.
    if len(values["vectors"]) == len({(s.about["corpus"], s.about["feature"]) for s in settings}):
        del values["vectors"]
    return ["feature", *(name for name, seen in values.items() if len(seen) > 1 and name != "feature")]


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


def _summarise(group: pd.DataFrame) -> Setting:
    values: dict[str, list[float]] = {}
    draws: dict[str, list[Floats]] = {}
    columns = (group[name].tolist() for name in ("what", "status", "value", "replicates"))
    for what, status, value, replicates in zip(*columns, strict=True):
        values.setdefault(what, [])
        if status == "ok":
            values[what].append(value)
        if status == "ok" and replicates is not None:
            draws.setdefault(what, []).append(replicates)
    seeds = group.drop_duplicates("seed")["status"]
    return Setting(
        about=describe_run(group.iloc[-1]),
        seeds=int((seeds == "ok").sum()),
        diverged=int((seeds != "ok").sum()),
        values={what: np.array(of_seeds) if of_seeds else _NOTHING for what, of_seeds in values.items()},
        draws={what: np.stack(of_seeds).astype(np.float64).mean(axis=0) for what, of_seeds in draws.items()},
    )
