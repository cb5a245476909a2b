"""Table: a ranking as text: in words for people (Markdown, a terminal, a page), in full for programs (CSV, JSON)."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from vbx.errors import UnknownName

FORMATS = ("csv", "json", "md")


def list_settings(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that say what a setting is: `feature` and what else differs."""
    columns = list(ranking.columns)
    return columns[columns.index("rank") + 1 : columns.index("seeds")]


def list_metrics(ranking: pd.DataFrame) -> list[str]:
    """Names of the columns of a ranking that are means over seeds: `dev.score`, `test.score`, ..."""
    return [name.removesuffix(".sd") for name in ranking.columns if name.endswith(".sd")]


def format_ranking(ranking: pd.DataFrame, how: str) -> str:
    """A ranking as one text that ends with a line break.

    Args:
        ranking: of `rank_results`
        how: `csv` and `json` have every column and digit, JSON with null where there is no number; `md` has the words
            of `word_ranking`

    Raises:
        UnknownName: if there is no such format
    """
    if how == "csv":
        return ranking.to_csv(index=False)
    if how == "json":
        records = [{name: _plain(value) for name, value in row.items()} for row in ranking.to_dict("records")]
        return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if how != "md":
        raise UnknownName("format of a ranking", how, FORMATS)
    words = word_ranking(ranking)
    rows = [list(words.columns), ["---"] * len(words.columns), *words.to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def word_ranking(ranking: pd.DataFrame, digits: int = 4) -> pd.DataFrame:
    """A ranking in words to print: one column per metric and split.

    Args:
        ranking: of `rank_results`
        digits: decimals of scores

    Returns:
        texts: rank, settings, seeds, diverged (if any did), whether a setting is within the noise of the best and its
        corrected p, and for each metric `mean ± sd [low, high]`, what the best seed reached (if that was asked for) and
        what was published, with the difference of ours. What settings were selected on test by says so in its name.
    """
    columns = {"rank": [str(rank) for rank in ranking["rank"]]}
    for name in list_settings(ranking):
        columns[name] = [word(value) for value in ranking[name]]
    columns["seeds"] = [str(n) for n in ranking["seeds"]]
    if ranking["diverged"].any():
        columns["diverged"] = [str(n) for n in ranking["diverged"]]
    columns["within noise"] = [
        "best",
        *map(_within, *(ranking[name][1:] for name in ("within_noise", "p", "p_seeds"))),
    ]
    columns["p"] = [_chance(p) for p in ranking["p"]]
    for what in list_metrics(ranking):
        parts = ranking[[what, f"{what}.sd", f"{what}.low", f"{what}.high"]].astype(float).to_numpy().tolist()
        on_test = ranking["selected_on_test"].any() and what == ranking["ranked_by"].iloc[0]
        columns[f"{what} (selected on test)" if on_test else what] = [_score(*part, digits=digits) for part in parts]
        if f"{what}.best_seed" in ranking:
            values = ranking[f"{what}.best_seed"]
            columns[f"{what} best seed"] = ["–" if math.isnan(value) else f"{value:.{digits}f}" for value in values]
        if f"{what}.published" in ranking:
            pairs = zip(ranking[f"{what}.published"], ranking[f"{what}.minus_published"], strict=True)
            columns[f"{what} published"] = [_published(*pair, digits=digits) for pair in pairs]
    return pd.DataFrame(columns, dtype=object)


def _score(mean: float, sd: float, low: float, high: float, *, digits: int = 4) -> str:
    """Mean, deviation over seeds and interval over speakers, as far as they are known.

    Examples:
        >>> _score(0.39214, 0.00301, 0.381, 0.402), _score(0.5, math.nan, math.nan, math.nan)
        ('0.3921 ± 0.0030 [0.3810, 0.4020]', '0.5000')
    """
    if math.isnan(mean):
        return "–"
    text = f"{mean:.{digits}f}"
    text += "" if math.isnan(sd) else f" ± {sd:.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _within(within: bool, p: float, p_seeds: float) -> str:
    if math.isnan(p):
        return "untested"
    return "yes" if within else "no (one seed)" if math.isnan(p_seeds) else "no"


def _chance(p: float) -> str:
    """A p to print.

    Examples:
        >>> _chance(0.0123), _chance(0.00004), _chance(math.nan)
        ('0.012', '<0.001', '–')
    """
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _published(theirs: float, difference: float, digits: int) -> str:
    return "–" if math.isnan(theirs) else f"{theirs:g} ({difference:+.{digits}f})"


def word(value: Any) -> str:
    """A setting's value to print."""
    return "–" if _plain(value) is None else str(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it: Python's own types, None where there is no number."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
