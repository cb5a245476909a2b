"""Report: a ranking as one HTML page that needs nothing else: no network, no other file."""

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

import pandas as pd
import vl_convert

from vbx.cache.files import write_file
from vbx.heads.graphics.plots import MOST_CURVES, MOST_PLOTTED, Figure, plot_curves, plot_scores
from vbx.heads.statistics.bootstrap import FEWEST_SPEAKERS
from vbx.heads.statistics.significance import LEVEL
from vbx.heads.table import word_ranking

_SPEAKERS = f"speakers (utterances, where the split has fewer than {FEWEST_SPEAKERS} speakers or names none)"
_SCORES = (
    f"Line: mean over seeds. Bar: 95 % interval of that mean, from bootstrap draws of {_SPEAKERS}. Dots: single seeds. "
    "Diamond: published."
)
_CURVES = (
    f"The best {MOST_CURVES} settings at most, a line per seed, of a cross-validated run the mean over its folds. "
    "Dot: the epoch whose weights were kept."
)


def write_report(
    ranking: pd.DataFrame,
    results: pd.DataFrame,
    path: str | Path,
    title: str,
    notes: Sequence[str] = (),
    figures: Sequence[Figure] = (),
) -> None:
    """Write a ranking as one self-contained HTML page, for light and dark screens.

    Args:
        ranking: of `rank_results`
        results: of `read_results`: what was ranked
        path: the page; written over if it is there
        title: its title
        notes: what else the reader should know: that vbx made the splits, ...
        figures: what else to show: `make_figures` of the best setting

    Raises:
        CacheError: if the page cannot be written
    """
    told = [*notes, *list_notes(ranking, results)]
    shown = [*list_figures(ranking, results), *figures]
    page = Template(resources.files("vbx.heads").joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        facts=html.escape(_facts(results)),
        how=html.escape(_how(ranking)),
        table=_table(ranking),
        figures="\n".join(_section(i, figure) for i, figure in enumerate(shown)),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in told or ["Nothing."]),
        bundle=_plotter(),
        specs="\n".join(_embed(i, figure) for i, figure in enumerate(shown)),
    )
    write_file(Path(path), page.encode())


def list_notes(ranking: pd.DataFrame, results: pd.DataFrame) -> list[str]:
    """What a reader of a ranking should know, in sentences.

    Args:
        ranking: of `rank_results`
        results: of `read_results`
    """
    runs = results.drop_duplicates("key")
    notes = list(dict.fromkeys(note for text in runs["notes"] for note in json.loads(text)))
    diverged = int(ranking["diverged"].sum())
    if diverged:
        notes.append(f"Runs that diverged: {diverged}; no mean has them in it.")
    for (corpus, feature), part in runs.groupby(["corpus", "feature"], sort=False):
        missing = int(part["missing"].max())
        if missing:
            notes.append(
                f"Utterances of corpus {corpus} without a vector of {feature}: {missing}; no score has them in it."
            )
    single = int((ranking["seeds"] == 1).sum())
    if single:
        notes.append(f"Settings with a single seed: {single}; what another seed would change is not known.")
    notes += _list_cautions(ranking)
    if len(ranking) > MOST_PLOTTED:
        notes.append(f"The plots show the best {MOST_PLOTTED} of {len(ranking)} settings.")
    return notes


def _list_cautions(ranking: pd.DataFrame) -> list[str]:
    """What keeps a ranking from saying more."""
    notes = []
    if ranking["selected_on_test"].any():
        notes.append(
            "Settings are ranked on test, because nothing was scored on dev: the best one's score is optimistic."
        )
    untested = int(ranking["p"].iloc[1:].isna().sum())
    if untested:
        notes.append(
            f"Settings that could not be tested against the best: {untested}; they diverged, share no seed or "
            "utterances with it, or were trained by an earlier version."
        )
    if "best_seed" in ranking:
        notes.append(
            "Best seeds are shown because that was asked for: the best of several draws is no estimate of one."
        )
    return notes


def list_figures(ranking: pd.DataFrame, results: pd.DataFrame) -> list[Figure]:
    """What there is to plot of results alone: scores, and learning curves where runs have them."""
    figures = [Figure("Scores", _SCORES, plot_scores(ranking, results))]
    curves = plot_curves(ranking, results)
    return [*figures, Figure("Learning curves", _CURVES, curves)] if curves is not None else figures


def _section(place: int, figure: Figure) -> str:
    title, caption = html.escape(figure.title), html.escape(figure.caption)
    label = html.escape(figure.title, quote=True)
    region = f'<div class="scroll plots" role="region" aria-label="{label}" tabindex="0">'
    return f'<h2>{title}</h2>\n<p>{caption}</p>\n{region}<div id="figure-{place}"></div></div>'


def _embed(place: int, figure: Figure) -> str:
    """What draws a figure; a label must not end the script."""
    spec = figure.chart.to_json(indent=None).replace("<", "\\u003c")
    return f'<script>vegaEmbed("#figure-{place}", {spec}, {{"actions": false, "renderer": "svg"}});</script>'


@cache
def _plotter() -> str:
    """The script that draws the plots; putting it together takes seconds."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _facts(results: pd.DataFrame) -> str:
    """What was run, where and when, in a line."""
    runs = results.drop_duplicates("key")
    corpora, features, devices, ours, torch = (
        ", ".join(sorted(runs[name].unique())) for name in ("corpus", "feature", "device", "vbx", "torch")
    )
    counts = results[results["split"] != ""].groupby("split")["n"].max()
    scored = " and ".join(f"{n} of {split}" for split, n in counts.items())
    days = " to ".join(sorted({runs["time"].min()[:10], runs["time"].max()[:10]}))
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    return (
        f"{count} on {corpora} ({features}), scored on {scored} utterances; trained {days} on {devices} with "
        f"vbx {ours} and torch {torch}; page written {datetime.now(UTC):%Y-%m-%d}."
    )


def _how(ranking: pd.DataFrame) -> str:
    """How to read the table."""
    return (
        f"Ranked by {ranking['ranked_by'].iloc[0]}. Scores are means ± standard deviation over seeds, with their 95 % "
        f"interval over {_SPEAKERS} in brackets. Within noise: not told apart from the best at p < {LEVEL}; p is how "
        "often, were all settings alike, other speakers and other seeds would have one so far behind whichever is best."
    )


def _table(ranking: pd.DataFrame) -> str:
    """Head and body of the table; what is within the noise of the best is shaded, and said."""
    words = word_ranking(ranking)
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in words.columns)
    rows = [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for cells, within in zip(words.to_numpy().tolist(), ranking["within_noise"], strict=True):
        first, *others = [_cell(text) for text in cells]
        rest = "".join(f"<td>{cell}</td>" for cell in others)
        mark = ' class="noise"' if within else ""
        rows.append(f'<tr{mark}><th scope="row">{first}</th>{rest}</tr>')
    return "\n".join([*rows, "</tbody>"])


def _cell(text: str) -> str:
    """A cell; the interval of a score is set smaller."""
    score, bracket, interval = html.escape(text).partition(" [")
    return f"{score} <small>[{interval}</small>" if bracket else score
