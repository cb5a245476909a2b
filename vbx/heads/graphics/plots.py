"""Plots of results: what settings reached, and how their runs came there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from vbx.heads.metrics import METRICS
from vbx.heads.statistics.settings import describe_run, label_metrics
from vbx.heads.table import list_metrics, list_settings, word

MOST_PLOTTED = 30
"""Settings in a plot of scores; the table has all."""
MOST_CURVES = 8
"""Settings whose learning curves are shown."""
ACROSS = 4
"""Plots side by side."""
COLOUR = "#3b82d6"
"""Seen on light paper and on dark."""
_WIDTH = 190
_PARTS = {"mean": "", "low": ".low", "high": ".high"}


@dataclass(frozen=True)
class Figure:
    """A plot with the words around it.

    Attributes:
        title: its heading
        caption: how to read it
        chart: the plot
    """

    title: str
    caption: str
    chart: alt.ConcatChart


def arrange(panels: Sequence[Any], description: str, across: int = ACROSS) -> alt.ConcatChart:
    """Plots side by side, their text and axes left to the page."""
    axis = alt.AxisConfig(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
    title = alt.TitleConfig(fontSize=12, fontWeight="normal", anchor="start")
    view = alt.ViewConfig(stroke=None)
    # The font of the page: text is measured in it.
    config = alt.Config(background="transparent", font="system-ui, sans-serif", view=view, axis=axis, title=title)
    chart = alt.concat(*panels, columns=across, spacing=24, description=description, config=config)
    arranged: alt.ConcatChart = chart.resolve_scale(color="independent", shape="independent")
    return arranged


def plot_scores(ranking: pd.DataFrame, results: pd.DataFrame) -> alt.ConcatChart:
    """One plot per metric and split: settings on y, mean with its interval, seeds and published number on x.

    Args:
        ranking: of `rank_results`
        results: of `read_results`
    """
    names = list_settings(ranking)
    top = ranking.head(MOST_PLOTTED)
    settings = [_name(row, names) for row in top.to_dict("records")]
    scored = results[(results["column"] == "") & (results["status"] == "ok")]
    dots = pd.DataFrame(
        {
            "setting": scored["key"].map(_names_of_runs(results, names)).to_numpy(),
            "what": label_metrics(scored).to_numpy(),
            "seed": scored["seed"].to_numpy(),
            "value": scored["value"].to_numpy(),
        }
    )
    dots = dots[dots["setting"].isin(settings)]
    panels = []
    for i, what in enumerate(list_metrics(ranking)):
        means = pd.DataFrame({"setting": settings, **{part: top[what + end] for part, end in _PARTS.items()}})
        if f"{what}.published" in top:
            means["published"] = top[f"{what}.published"]
        panels.append(_score_panel(means, dots[dots["what"] == what].drop(columns="what"), what, i % ACROSS == 0))
    return arrange(panels, f"Scores of {len(settings)} settings, best first; the table above has the same numbers.")


def plot_curves(ranking: pd.DataFrame, results: pd.DataFrame) -> alt.ConcatChart | None:
    """One plot per setting: what was monitored on dev after each epoch, a line per seed, a dot where it was best.

    Args:
        ranking: of `rank_results`
        results: of `read_results`

    Returns:
        None if no run has a curve
    """
    names = list_settings(ranking)
    settings = [_name(row, names) for row in ranking.head(MOST_CURVES).to_dict("records")]
    runs = results[results["curve"].map(lambda curve: curve is not None and len(curve) > 0)]
    setting = runs["key"].map(_names_of_runs(runs, names))
    panels = []
    for name in settings:
        curves = [_curve(run) for _, run in runs[setting == name].iterrows()]
        if curves:
            panels.append(_curve_panel(pd.concat(curves), name))
    return arrange(panels, "What was monitored on dev after each epoch, by setting.") if panels else None


def _score_panel(means: pd.DataFrame, dots: pd.DataFrame, what: str, labelled: bool) -> alt.LayerChart:
    split, _, metric = what.partition(".")
    less = metric != "score" and not METRICS[metric.rpartition(".")[2]].maximise
    title = f"{metric}, {split}{' (less is better)' if less else ''}"
    axis = alt.Axis(labelLimit=420, ticks=False, domain=False, labels=labelled, labelPadding=8)
    y = alt.Y("setting:N", sort=means["setting"].tolist(), title=None, axis=axis)
    scale = alt.Scale(zero=False, nice=True)
    x = alt.X("mean:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4))
    numbers = [alt.Tooltip(f"{part}:Q", format=".4f") for part in means.columns[1:]]
    mean = alt.Chart(means).encode(y=y, tooltip=["setting:N", *numbers])
    seed = alt.Chart(dots).encode(y=y, tooltip=["setting:N", "seed:Q", alt.Tooltip("value:Q", format=".4f")])
    layers = [
        mean.mark_rule(size=6, opacity=0.3, color=COLOUR).encode(
            x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"
        ),
        seed.mark_circle(size=26, opacity=0.55, color=COLOUR).encode(x="value:Q"),
        mean.mark_tick(thickness=3, size=16, color=COLOUR).encode(x=x),
    ]
    if "published" in means:
        layers.append(mean.mark_point(shape="diamond", size=60, color="#d97706").encode(x="published:Q"))
    return alt.LayerChart(layer=layers, width=_WIDTH, height=alt.Step(24))


def _curve(run: "pd.Series[Any]") -> pd.DataFrame:
    """One run's curve; a score is negated where it is monitored."""
    score = describe_run(run).get("fit.monitor") == "score"
    values = np.asarray(run["curve"], np.float64) * (-1 if score else 1)
    epochs = np.arange(1, len(values) + 1)
    return pd.DataFrame(
        {
            "epoch": epochs,
            "value": values,
            "seed": run["seed"],
            "best": epochs == run["best_epoch"],
            "monitored": "score on dev" if score else "loss on dev",
        }
    )


def _curve_panel(curves: pd.DataFrame, name: str) -> alt.LayerChart:
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, tickCount=4, format="d"), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=curves["monitored"].iloc[0], scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
    tooltip: list[Any] = ["seed:Q", "epoch:Q", alt.Tooltip("value:Q", format=".4f")]
    line = alt.Chart(curves.drop(columns="monitored")).encode(x=x, y=y, detail="seed:N", tooltip=tooltip)
    layers = (
        line.mark_line(strokeWidth=1.5, opacity=0.6, color=COLOUR),
        line.mark_circle(size=40, opacity=1, color=COLOUR).transform_filter("datum.best"),
    )
    title = alt.TitleParams(name, limit=_WIDTH + 40)
    return alt.LayerChart(layer=layers, width=_WIDTH, height=120, title=title)


def _names_of_runs(results: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Key of each run to its setting in one line."""
    runs = results.drop_duplicates("key").set_index("key")
    return {str(key): _name(describe_run(row), names) for key, row in runs.iterrows()}


def _name(setting: Mapping[Any, Any], names: Sequence[str]) -> str:
    """A setting in one line: `egemaps · fit.lr 0.001`."""
    feature, *others = names
    return " · ".join([str(setting[feature]), *(f"{name} {word(setting.get(name))}" for name in others)])
