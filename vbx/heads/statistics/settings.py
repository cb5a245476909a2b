"""Settings: results grouped by everything but the seed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeAlias, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.heads.parts import Task
from vbx.heads.run import Run
from vbx.heads.statistics.bootstrap import DRAWS
from vbx.heads.statistics.significance import compare_seeds, flip_signs, pseudo_values
from vbx.heads.values import later_defaults

Floats: TypeAlias = NDArray[np.float64]
SETTING = ["corpus", "feature", "vectors_key", "settings"]
"""Columns of results that runs of one setting share."""
ABSENT = 0.01
"""Share of utterances that one of two settings may lack in a paired test."""
_NOTHING = np.array([np.nan])


@dataclass(frozen=True)
class Difference:
    """How two settings differ in a metric, over the same seeds and the same speakers.

    Attributes:
        effect: d_z of their paired seeds; nan with fewer than two
        p_speakers: of flipped signs over speakers; nan where runs do not say what each block of speakers adds
        p_seeds: of the paired t-test over seeds; nan with fewer than two
        pairs: blocks of speakers that were compared; 0 where none were
    """

    effect: float = np.nan
    p_speakers: float = np.nan
    p_seeds: float = np.nan
    pairs: int = 0

    @property
    def p(self) -> float:
        """The larger of the two: a difference must hold for other speakers and for other seeds."""
        return self.p_speakers if np.isnan(self.p_seeds) else float(np.maximum(self.p_speakers, self.p_seeds))


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed.

    Attributes:
        about: what they have in common, by name
        keys: seed of each of the n runs that did not diverge, ascending, to its key
        diverged: how many diverged
        values: `dev.score` and the like to one value per seed `(n,)`
        draws: the same to the mean over seeds in each bootstrap draw `(1000,)`
        parts: the same to what each block of speakers adds for each seed `(n, B)`
        counts: the same to the utterances that were scored
    """

    about: Mapping[str, Any]
    keys: Mapping[int, str]
    diverged: int
    values: Mapping[str, Floats]
    draws: Mapping[str, Floats]
    parts: Mapping[str, Floats]
    counts: Mapping[str, int]

    @property
    def seeds(self) -> int:
        """How many runs did not diverge."""
        return len(self.keys)

    def mean(self, what: str) -> float:
        """Mean over seeds; nan if a value is."""
        return float(np.mean(self.values.get(what, _NOTHING)))

    def deviation(self, what: str) -> float:
        """Standard deviation over seeds with n - 1; nan for a single one."""
        values = self.values.get(what, _NOTHING)
        return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan

    def best(self, what: str, maximise: bool) -> int | None:
        """Place of the best seed among the runs; None if there is none."""
        values = self.values.get(what, _NOTHING) * (1 if maximise else -1)
        return None if len(values) != self.seeds or np.isnan(values).all() else int(np.nanargmax(values))

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

    def compare(self, what: str, other: "Setting") -> Difference:
        """Effect size and tests of the difference to another setting, over the seeds that both have."""
        shared = [seed for seed in self.keys if seed in other.keys]
        places = [self.places(shared), other.places(shared)]
        ours, theirs = (s.values.get(what, _NOTHING) for s in (self, other))
        if not shared or len(ours) != self.seeds or len(theirs) != other.seeds:
            return Difference()
        effect, p_seeds = compare_seeds(ours[places[0]] - theirs[places[1]])
        if not self.pairs_with(what, other):
            return Difference(effect, np.nan, p_seeds)
        differences = self.parts[what][places[0]].mean(axis=0) - other.parts[what][places[1]].mean(axis=0)
        return Difference(effect, float(flip_signs(differences)), p_seeds, len(differences))

    def places(self, seeds: Iterable[int]) -> list[int]:
        """Where in `values` and `parts` some seeds are."""
        order = list(self.keys)
        return [order.index(seed) for seed in seeds]

    def pairs_with(self, what: str, other: "Setting") -> bool:
        """Whether both were scored on the same utterances, but for a few that one feature has no vector of."""
        if not self.keys.keys() & other.keys.keys():
            return False
        # Corpora that are tested on may have as many utterances each.
        where = [(setting.about["corpus"], setting.about.get("protocol.test")) for setting in (self, other)]
        if where[0] != where[1] or not {what} <= self.parts.keys() & other.parts.keys():
            return False
        fewer, more = sorted((self.counts[what], other.counts[what]))
        return self.parts[what].shape[1] == other.parts[what].shape[1] and more - fewer <= ABSENT * more


def group_settings(results: pd.DataFrame) -> list[Setting]:
    """Group runs by setting.

    Args:
        results: of `read_results`

    Returns:
        settings in the order in which they first appear. Of runs that differ only in what does not count (version of
        the trainer, name of the recipe) the latest counts.
    """
    frame = results[(results["column"] == "") & (results["metric"] != "")]
    if "part" in frame:  # folds and held-out corpora of a run are beside what the run reached
        frame = frame[frame["part"] == ""]
    frame = frame.assign(what=label_metrics(frame)).sort_values("time", kind="stable")
    frame = frame.drop_duplicates([*SETTING, "seed", "what"], keep="last")
    return [_summarise(group) for _, group in frame.groupby(SETTING, sort=False)]


def separate_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Results whose seed is one of their settings: each run is a setting of its own, to be compared with any other."""
    runs = results.drop_duplicates("key")
    pairs = zip(runs["key"], runs["settings"], runs["seed"].tolist(), strict=True)
    settings = {key: json.dumps({"seed": seed, **json.loads(text)}) for key, text, seed in pairs}
    return results.assign(settings=results["key"].map(settings), seed=0)


def differing(settings: Sequence[Setting]) -> list[str]:
    """Names of what is not the same in all settings, `feature` first.

    A setting of a task that some settings leave out is not among them: `tasks` says so.
    """
    values: dict[str, set[Any]] = {}
    for setting in settings:
        for name, value in setting.about.items():
            values.setdefault(name, set()).add(value)
    # What is scored follows from what is learnt, where nobody says otherwise.
    pairs = {(s.about["tasks"], s.about.get("score.of")) for s in settings}
    if len(pairs) == len(values["tasks"]):
        values.pop("score.of", None)
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
    flat |= {part: value for part, value in settings.items() if not isinstance(value, Mapping)}
    parts = {name: cls for name, cls in get_type_hints(Run).items() if isinstance(cls, type) and is_dataclass(cls)}
    named = {**{name: settings.get(name, {}) for name in sorted(parts)}, **{f"task.{n}": t for n, t in tasks.items()}}
    for name, fields in named.items():
        known = {**later_defaults(parts.get(name, Task)), **fields}
        flat |= {f"{name}.{key}": value for key, value in known.items() if key != "name"}
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in flat.items()}


def label_metrics(results: pd.DataFrame) -> pd.Series:
    """Name of what each row of results is, as in a ranking: `dev.score`, `test.emotion.ccc`."""
    metric = (results["task"] + "." + results["metric"]).where(results["task"] != "score", "score")
    return results["split"] + "." + metric


def _summarise(group: pd.DataFrame) -> Setting:
    runs = group.sort_values("seed", kind="stable")
    well = runs[runs["status"] == "ok"]
    values: dict[str, Floats] = dict.fromkeys(runs["what"], _NOTHING)
    draws: dict[str, Floats] = {}
    parts: dict[str, Floats] = {}
    for name, of_seeds in well.groupby("what", sort=False):
        what = str(name)
        values[what] = of_seeds["value"].to_numpy(np.float64)
        replicates = [r for r in of_seeds["replicates"] if r is not None]
        if not replicates:
            continue
        least = min(map(len, replicates))  # runs of earlier versions have draws alone
        numbers = np.stack([r[:least] for r in replicates]).astype(np.float64)
        draws[what] = numbers[:, :DRAWS].mean(axis=0)
        if least > DRAWS and len(replicates) == len(of_seeds):
            parts[what] = pseudo_values(values[what], numbers[:, DRAWS:])
    return Setting(
        about=describe_run(group.iloc[-1]),
        keys=dict(zip(well["seed"].tolist(), well["key"].tolist(), strict=True)),
        diverged=int(runs[runs["status"] != "ok"]["seed"].nunique()),
        values=values,
        draws=draws,
        parts=parts,
        counts=dict(zip(runs["what"], runs["n"].tolist(), strict=True)),
    )
