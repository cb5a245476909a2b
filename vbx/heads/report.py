"""Report: a ranking as one HTML page that needs nothing else: no network, no other file."""

import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from vbx.cache.files import write_file
from vbx.heads.metrics import METRICS
from vbx.heads.settings import describe_run, label_metrics
from vbx.heads.table import list_metrics, list_settings, word, word_ranking

MOST_PLOTTED = 30
"""Settings in a plot; the table has all."""
ACROSS = 4
"""Plots side by side."""
_LEGEND = (
    "Line: mean over seeds. Bar: 95 % interval of that mean, from bootstrap draws of speakers (of utterances, where "
    "the corpus names no speakers). Dots: single seeds."
)
_PARTS = {"mean": "", "low": ".low", "high": ".high"}


def write_report(
    ranking: pd.DataFrame, results: pd.DataFrame, path: str | Path, title: str, notes: Sequence[str] = ()
) -> None:
    """Write a ranking as one self-contained HTML page, for light and dark screens.

    Args:
        ranking: of `rank_results`
        results: of `read_results`: what was ranked
        path: the page; written over if it is there
        title: its title
        notes: what else the reader should know: that vbx made the splits, ...

    Raises:
        CacheError: if the page cannot be written
    """
    told = [*notes, *list_notes(ranking, results)]
    spec = make_plots(ranking, results).to_json(indent=None)
    page = Template(resources.files("vbx.heads").joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        facts=html.escape(_facts(results)),
        how=html.escape(_how(ranking)),
        table=_table(ranking),
        legend=html.escape(_LEGEND),
        notes="\n".join(f"<li>{html.escape(note)}</li>" for note in told or ["Nothing."]),
        bundle=_plotter(),
        spec=spec.replace("<", "\\u003c"),  # a label must not end the script
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
    if str(ranking["ranked_by"].iloc[0]).startswith("test."):
        notes.append(
            "Settings are ranked on test, because nothing was scored on dev: the best one's score is optimistic."
        )
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
    if len(ranking) > MOST_PLOTTED:
        notes.append(f"The plots show the best {MOST_PLOTTED} of {len(ranking)} settings.")
    return notes


def make_plots(ranking: pd.DataFrame, results: pd.DataFrame) -> alt.ConcatChart:
    """One plot per metric and split: settings on y, mean with its interval and single seeds on x.

    Args:
        ranking: of `rank_results`
        results: of `read_results`
    """
    names = list_settings(ranking)
    top = ranking.head(MOST_PLOTTED)
    settings = [_name(row, names) for row in top.to_dict("records")]
    runs = results.drop_duplicates("key").set_index("key")
    setting_of = {key: _name(describe_run(row), names) for key, row in runs.iterrows()}
    scored = results[(results["column"] == "") & (results["status"] == "ok")]
    seeds = pd.DataFrame(
        {
            "setting": [setting_of[key] for key in scored["key"]],
            "what": label_metrics(scored).to_numpy(),
            "seed": scored["seed"].to_numpy(),
            "value": scored["value"].to_numpy(),
        }
    )
    panels = []
    for i, what in enumerate(list_metrics(ranking)):
        parts = {part: top[f"{what}{end}"].to_numpy() for part, end in _PARTS.items()}
        means = pd.DataFrame({"setting": settings, **parts})
        dots = seeds[(seeds["what"] == what) & seeds["setting"].isin(settings)].drop(columns="what")
        panels.append(_panel(means, dots, what, labelled=i % ACROSS == 0))
    description = f"Scores of {len(settings)} settings, best first; the table above has the same numbers."
    axis = alt.AxisConfig(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
    config = alt.Config(background="transparent", view=alt.ViewConfig(stroke=None), axis=axis)
    return alt.concat(*panels, columns=ACROSS, spacing=24, description=description, config=config)


def _panel(means: pd.DataFrame, dots: pd.DataFrame, what: str, labelled: bool) -> alt.LayerChart:
    split, _, metric = what.partition(".")
    less = metric != "score" and not METRICS[metric.rpartition(".")[2]].maximise
    title = f"{metric}, {split}{' (less is better)' if less else ''}"
    axis = alt.Axis(labelLimit=420, ticks=False, domain=False, labels=labelled, labelPadding=8)
    y = alt.Y("setting:N", sort=means["setting"].tolist(), title=None, axis=axis)
    scale = alt.Scale(zero=False, nice=True)
    x = alt.X("mean:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4))
    numbers = [alt.Tooltip(f"{part}:Q", format=".4f") for part in _PARTS]
    mean = alt.Chart(means).encode(y=y, tooltip=["setting:N", *numbers])
    seed = alt.Chart(dots).encode(y=y, tooltip=["setting:N", "seed:Q", alt.Tooltip("value:Q", format=".4f")])
    layers = (
        mean.mark_rule(size=6, opacity=0.3).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"),
        seed.mark_circle(size=26, opacity=0.55).encode(x="value:Q"),
        mean.mark_tick(thickness=3, size=16).encode(x=x),
    )
    return alt.LayerChart(layer=layers, width=190, height=alt.Step(24))


def _name(setting: Mapping[Any, Any], names: Sequence[str]) -> str:
    """A setting in one line: `egemaps · fit.lr 0.001`."""
    feature, *others = names
    return " · ".join([str(setting[feature]), *(f"{name} {word(setting.get(name))}" for name in others)])


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
        "interval over speakers in brackets. Within noise: the interval of the paired difference to the best holds 0."
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
