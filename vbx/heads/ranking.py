"""Ranking: one row per setting, the best on dev first: mean and deviation over seeds, 95 % intervals over speakers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbx.errors import UnknownName
from vbx.heads.board import read_results
from vbx.heads.metrics import METRICS
from vbx.heads.statistics.contrasts import tell_apart
from vbx.heads.statistics.published import find_published
from vbx.heads.statistics.settings import (
    SETTING,
    Difference,
    Setting,
    differing,
    group_settings,
    label_metrics,
    separate_seeds,
)
from vbx.heads.statistics.significance import LEVEL, correct_holm
from vbx.heads.table import format_ranking, list_metrics, list_settings

__all__ = ["format_ranking", "list_metrics", "list_settings", "rank_parts", "rank_results"]


def rank_results(
    results: str | Path | pd.DataFrame,
    *,
    by: str = "score",
    published: Mapping[str, Mapping[str, Any]] | None = None,
    best_seed: bool = False,
    each_seed: bool = False,
) -> pd.DataFrame:
    """Rank settings; a setting is everything of a run but its seed.

    Settings are ordered by their mean on dev, never on test unless nothing was scored on dev: then the best one's score
    is too good, and `selected_on_test` says so. Intervals are percentiles 2.5 and 97.5 of the bootstrap (Efron &
    Tibshirani 1993, ch. 13) over speakers of the mean over seeds: they say what other speakers would change, and `sd`
    says what other seeds would. Runs on the same utterances were scored on the same draws: differences are paired.

    A setting is told apart from the best if other speakers and other seeds would hardly bring it so close, even though
    the best was chosen from the same numbers (`contrasts.tell_apart`). With a single seed that speaks of two heads
    rather than of two settings. Of simulated tables of 10 or 40 settings that were all alike, 5 seeds and 20 speakers,
    1 to 6 % told one apart (`benchmarks/told_apart.py`).

    Args:
        results: folder of results, or what `read_results` gave
        by: `score`, or a metric as `TASK.METRIC`
        published: numbers of a paper, shown beside ours: `FEATURE` or `FEATURE, KEY = VALUE` to `METRIC` or
            `dev.METRIC`, or `test.METRIC`, nested or not, to the number; what was not measured here is left out
        best_seed: also show what the best seed of each setting reached, which is no estimate of anything; seeds are
            chosen, and settings ordered, as they are without
        each_seed: a setting is everything of a run, its seed too: what one seed does, which is no way to choose one

    Returns:
        `rank`, `feature` and the settings that differ, `seeds` (n, without the diverged), `diverged`; then for each
        metric and split, as in `dev.score`: mean, `.sd` (ddof 1), `.low` and `.high` (95 %), `.best_seed`,
        `.published` and `.minus_published`; `to_best` (difference to the best setting in what they are ranked by) with
        `.low`, `.high` and `.d_z` (Cohen's, over seeds); `p`, as above, and `within_noise`, whether it is 0.05 or more;
        for a pair that was named beforehand, `pairs` (speakers or blocks of them), `p_speakers` (signs of the
        differences flipped, speaker by speaker), `p_seeds` (paired t-test) and `p_holm` (the larger of the two,
        corrected after Holm for the table); `ranked_by`, `selected_on_test`, `run` (key of the run nearest to the
        mean) and `best_seed`

    Raises:
        UnknownName: if there is no such metric
        CacheError: if the folder holds no results, or a damaged file
    """
    frame = results if isinstance(results, pd.DataFrame) else read_results(results)
    settings = group_settings(separate_seeds(frame) if each_seed else frame)
    there = list(dict.fromkeys(what for setting in settings for what in setting.values))
    metrics = list(dict.fromkeys(what.partition(".")[2] for what in there))
    if by not in metrics:
        raise UnknownName("metric", by, metrics)
    ranked_by = f"dev.{by}" if f"dev.{by}" in there else f"test.{by}"
    settings = _sort(settings, ranked_by)
    metrics.sort(key=lambda name: (name != by, name != "score"))
    columns = [what for metric in metrics for what in (f"dev.{metric}", f"test.{metric}") if what in there]
    names = differing(settings)
    rows = [{"rank": i + 1, **dict.fromkeys(names), **_describe(s, columns)} for i, s in enumerate(settings)]
    table = pd.DataFrame(rows)
    for name in names:  # as they are: a missing one must not turn whole numbers into 32.0
        table[name] = pd.Series([setting.about.get(name) for setting in settings], dtype=object)
    table = _add_comparison(table, settings, ranked_by)
    if best_seed:
        _add_best_seed(table, settings, columns)
    return _add_published(table, settings, published or {}, columns)


def rank_parts(results: str | Path | pd.DataFrame, ranking: pd.DataFrame, most: int = 3) -> pd.DataFrame:
    """What the first settings of a ranking reached in each fold, or on each corpus, alone.

    Args:
        results: folder of results, or what `read_results` gave with `parts=True`
        ranking: of `rank_results`
        most: how many settings

    Returns:
        `rank`, `part`, `seeds`, `n` (utterances), then for each metric and split, as in `test.score`: mean over seeds,
        and `.sd`; no row for runs without parts
    """
    frame = results if isinstance(results, pd.DataFrame) else read_results(results, parts=True)
    frame = frame[(frame["column"] == "") & (frame["metric"] != "") & (frame["status"] == "ok")]
    frame = frame.assign(what=label_metrics(frame))
    rows = []
    for setting in ranking.head(most).to_dict("records"):
        one = frame[frame["key"] == setting["run"]].head(1)
        mine = frame[frame["part"] != ""].merge(one[SETTING], on=SETTING)
        for part, of_part in mine.groupby("part", sort=True):
            row = {"rank": setting["rank"], "part": part, "seeds": of_part["seed"].nunique(), "n": of_part["n"].max()}
            for what, values in of_part.groupby("what", sort=False)["value"]:
                row |= {str(what): values.mean(), f"{what}.sd": values.std()}
            rows.append(row)
    return pd.DataFrame(rows)


def _sort(settings: Sequence[Setting], ranked_by: str) -> list[Setting]:
    """Best first, settings without a value last."""
    sign = -1 if _maximises(ranked_by) else 1
    means = np.array([setting.mean(ranked_by) for setting in settings])
    return [settings[i] for i in np.argsort(sign * means, kind="stable")]  # nan sorts last


def _maximises(what: str) -> bool:
    metric = what.rpartition(".")[2]
    return metric == "score" or METRICS[metric].maximise


def _describe(setting: Setting, columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": setting.seeds, "diverged": setting.diverged}
    for what in columns:
        low, high = setting.interval(what)
        row |= {what: setting.mean(what), f"{what}.sd": setting.deviation(what)}
        row |= {f"{what}.low": low, f"{what}.high": high}
    return row


def _add_comparison(table: pd.DataFrame, settings: Sequence[Setting], ranked_by: str) -> pd.DataFrame:
    """Paired differences to the best; what cannot be told apart is within the noise."""
    best = settings[0]
    intervals = [setting.interval(ranked_by, less=best) for setting in settings]
    tests = [Difference(), *(setting.compare(ranked_by, best) for setting in settings[1:])]
    p_holm = correct_holm(np.array([test.p for test in tests]))
    p = tell_apart(settings, ranked_by)
    more = {
        "to_best": table[ranked_by] - table[ranked_by].iloc[0],
        "to_best.low": [low for low, _ in intervals],
        "to_best.high": [high for _, high in intervals],
        "to_best.d_z": [test.effect for test in tests],
        "pairs": [test.pairs for test in tests],
        "p_speakers": [test.p_speakers for test in tests],
        "p_seeds": [test.p_seeds for test in tests],
        "p_holm": p_holm,
        "p": p,
        "within_noise": ~(p < LEVEL),
        "ranked_by": ranked_by,
        "selected_on_test": ranked_by.startswith("test."),
        "run": [_typical(setting, ranked_by) for setting in settings],
    }
    return table.assign(**more)


def _typical(setting: Setting, ranked_by: str) -> str | None:
    """Key of the run whose value is nearest to the mean; None if all diverged."""
    distances = np.abs(setting.values.get(ranked_by, np.array([])) - setting.mean(ranked_by))
    known = len(distances) == setting.seeds > 0 and not np.isnan(distances).all()
    return list(setting.keys.values())[int(np.nanargmin(distances)) if known else 0] if setting.keys else None


def _add_best_seed(table: pd.DataFrame, settings: Sequence[Setting], columns: Sequence[str]) -> None:
    """What the seed that is best in what settings are ranked by reached, in everything."""
    ranked_by = str(table["ranked_by"].iloc[0])
    places = [setting.best(ranked_by, _maximises(ranked_by)) for setting in settings]
    pairs = list(zip(settings, places, strict=True))
    seeds = [None if place is None else list(setting.keys)[place] for setting, place in pairs]
    table["best_seed"] = pd.Series(seeds, dtype=object)
    for what in columns:
        values = [
            setting.values[what][at] if at is not None and what in setting.values else np.nan for setting, at in pairs
        ]
        table.insert(list(table.columns).index(f"{what}.high") + 1, f"{what}.best_seed", values)


def _add_published(
    table: pd.DataFrame,
    settings: Sequence[Setting],
    published: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
) -> pd.DataFrame:
    """Numbers of a paper beside ours, with the difference."""
    names = list_settings(table)
    numbers = [find_published(published, setting.about, names) for setting in settings]
    for what in columns:
        bare = what.removeprefix("dev.")
        beside = np.array([theirs.get(what, theirs.get(bare, np.nan)) for theirs in numbers])
        if not np.isnan(beside).all():
            place = list(table.columns).index(f"{what}.high") + 1
            table.insert(place, f"{what}.published", beside)
            table.insert(place + 1, f"{what}.minus_published", table[what] - beside)
    return table
