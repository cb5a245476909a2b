"""Nested choice: a setting chosen anew in each fold of a cross-validation, by that fold's own dev alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vbx.heads.metrics import METRICS
from vbx.heads.statistics.settings import SETTING, describe_run, label_metrics

COLUMNS = ("part", "rank", "n", "dev", "test", "best")


def choose_in_folds(results: pd.DataFrame, ranking: pd.DataFrame) -> pd.DataFrame:
    """In each fold the setting that is best on its dev, and what that reached on its test (Varma & Simon 2006).

    Over all folds, dev and test of a cross-validation are the same utterances, each in its turn: a setting that is best
    on the pool of dev was chosen with the labels of those that test it, and its test score is a little too good. Here a
    fold's test has no say in what is chosen for it.

    Args:
        results: of `read_results` with `parts=True`
        ranking: of `rank_results` over the same runs; what it ranks by decides

    Returns:
        a row per fold: `part`, `rank` of the chosen setting, `n` utterances of test, `dev` and `test` of the chosen
        one, means over seeds, and `best`, what the first setting of the ranking reached on test. Settings of other
        folds than those of the first are passed over; no row where there are fewer than two, or no folds
    """
    empty = pd.DataFrame(columns=list(COLUMNS))
    split, _, by = str(ranking["ranked_by"].iloc[0]).partition(".")
    metric = by.rpartition(".")[2]
    frame = results[(results["column"] == "") & (results["metric"] != "") & (results["status"] == "ok")]
    frame = frame.assign(what=label_metrics(frame))
    ranks = _rank_keys(frame, ranking)
    frame = frame[(frame["part"] != "") & frame["key"].isin(ranks)]
    first = frame[frame["key"].map(ranks) == 1].head(1)
    if split != "dev" or first.empty:
        return empty
    protocol = _protocol(first.iloc[0])
    alike = {key for key, group in frame.groupby("key") if _protocol(group.iloc[0]) == protocol}
    frame = frame[frame["key"].isin(alike)].assign(rank=frame["key"].map(ranks))
    if frame["rank"].nunique() < 2:
        return empty
    sign = 1 if metric == "score" or METRICS[metric].maximise else -1
    values = frame.pivot_table("value", ["part", "rank"], "what", "mean")
    counts = frame[frame["what"] == f"test.{by}"].groupby("part")["n"].max()
    rows = []
    for part in counts.index:
        here = values.loc[part]
        if f"dev.{by}" not in here or here[f"dev.{by}"].isna().all():
            continue
        chosen = int((sign * here[f"dev.{by}"]).idxmax())
        dev, test = (float(here[f"{name}.{by}"].get(chosen, np.nan)) for name in ("dev", "test"))
        rows.append((part, chosen, int(counts[part]), dev, test, float(here[f"test.{by}"].get(1, np.nan))))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def tell_nested(nested: pd.DataFrame, by: str) -> str:
    """The outcome of `choose_in_folds` in a sentence."""
    same = int((nested["rank"] == 1).sum())
    chosen, first = nested["test"].mean(), nested["best"].mean()
    return (
        f"with the setting chosen anew in each fold by its own dev, test.{by} is {chosen:.4f}, mean of {len(nested)} "
        f"folds; the first setting has {first:.4f} on the same mean, and was chosen in {same}"
    )


def _rank_keys(frame: pd.DataFrame, ranking: pd.DataFrame) -> dict[str, int]:
    """Key of every run of the settings of a ranking to the rank of its setting."""
    setting = {key: tuple(row) for key, *row in frame[["key", *SETTING]].drop_duplicates("key").itertuples(index=False)}
    ranks = {
        setting[run]: int(rank) for run, rank in zip(ranking["run"], ranking["rank"], strict=True) if run in setting
    }
    return {key: ranks[of] for key, of in setting.items() if of in ranks}


def _protocol(run: "Mapping[str, Any] | pd.Series[Any]") -> tuple[Any, ...]:
    about = describe_run(run)
    return about["corpus"], *(value for name, value in sorted(about.items()) if name.startswith("protocol."))
