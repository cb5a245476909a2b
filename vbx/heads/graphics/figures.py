"""Figures of one head: what it confuses, how far off it is, and what its shared layer has made of the corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vbx.cache.vectors import Vectors
from vbx.errors import UnknownName
from vbx.heads.data import has_label, read_labels
from vbx.heads.graphics.maps import MAPS, check_map, place, plot_map
from vbx.heads.graphics.plots import COLOUR, Figure, arrange
from vbx.heads.head import Head, HeadModule, apply_head
from vbx.heads.parts import Task
from vbx.heads.protocols.folds import make_folds
from vbx.heads.scaling import scale_by_speaker

MOST_POINTS = 1000
"""Utterances in a map or a scatter; others are left out, every k-th one kept."""
MOST_WRITTEN = 12
"""Classes up to which a confusion matrix has its counts written into it."""


@dataclass(frozen=True)
class Judged:
    """Utterances and what heads say of them that did not learn from them.

    Attributes:
        rows: which utterances `(N,)`
        labels: of each task, what is true of them
        said: of each task, what a head says of them
        first: how many of them are judged by the first head, whose shared layer can be shown
    """

    rows: NDArray[np.intp]
    labels: Mapping[str, NDArray[Any]]
    said: Mapping[str, NDArray[Any]]
    first: int


def make_figures(
    heads: Head | Mapping[str, Head],
    vectors: Vectors,
    split: str,
    *,
    colour_by: Sequence[str] = (),
    map_with: str = "tsne",
) -> list[Figure]:
    """Confusion matrices, predicted against true, and a map of the shared layer.

    Args:
        heads: of a run; of a cross-validated one, its heads by fold: each utterance is judged by the one that did not
            learn from it, and the map is of the first fold
        vectors: what it learnt from
        split: whose utterances are shown
        colour_by: label columns that colour the map, a plot each; the tasks' own and the speaker if left out
        map_with: `tsne`, `umap` or `pca` (`vbx.heads.graphics.maps`)

    Returns:
        those that there is something to show in

    Raises:
        UnknownName: if there is no such label column or map, or a fold has no head
        MissingExtra: if the map needs a package that is not installed
    """
    check_map(map_with)
    heads = {"": heads} if isinstance(heads, Head) else heads
    head = next(iter(heads.values()))
    columns = _columns(head, vectors, colour_by)
    x = np.asarray(vectors.x)
    if head.run.fit.scale_by_speaker:
        x = scale_by_speaker(x, vectors.labels["speaker"].tolist(), head.run.fit.scale)
    judged = _judge(heads, vectors, x, split)
    if not len(judged.rows):
        return []
    confusion, scatter = _plot_tasks(head, judged)
    few = _thin(judged.rows[: judged.first])
    maps = []
    if len(few) > 3:
        maps = plot_map(place(shared_layer(head, x[few]), map_with), vectors.labels.iloc[few], columns)
    layer = "shared layer" if head.run.trunk.hidden else "scaled features"
    who = f"{head.feature}, seed {head.run.seed}, utterances of {split}"
    fold = f", {next(iter(heads))}" if len(heads) > 1 else ""
    near = (
        f"{who}{fold} ({len(few)} of {len(judged.rows)}), near each other where their vectors are ({MAPS[map_with]})."
    )
    drawn = (
        ("Confusions", f"{who}: true class by row, predicted by column, shaded by share of the row.", confusion),
        ("Predicted against true", f"{who}; on the line prediction and truth are one.", scatter),
        (f"Map of the {layer}", near, maps),
    )
    return [Figure(title, text, arrange(panels, text, across=3)) for title, text, panels in drawn if panels]


def _plot_tasks(head: Head, judged: Judged) -> tuple[list[alt.LayerChart], list[alt.LayerChart]]:
    """Confusion matrices of classifications, predicted against true of regressions."""
    confusion, scatter = [], []
    for task in head.run.tasks:
        true, said = judged.labels[task.name], judged.said[task.name]
        if task.kind == "classification":
            confusion += _confusion(task, true, said.argmax(1), head.classes[task.name])
        else:
            scatter += _scatter(task, true, said)
    return confusion, scatter


def _judge(heads: Mapping[str, Head], vectors: Vectors, x: NDArray[np.floating[Any]], split: str) -> Judged:
    """What heads say of the utterances of a split, fold by fold."""
    run = next(iter(heads.values())).run
    folds = make_folds(run, vectors)
    labels = {task.name: read_labels(vectors, task) for task in run.tasks}
    there, rows, said = has_label(labels), [], []
    for name, splits in zip(folds.names, folds.splits, strict=True):
        if name not in heads:
            raise UnknownName("fold", name, heads)
        rows.append(np.flatnonzero(there & (splits == split)))
        said.append(apply_head(heads[name], x[rows[-1]]))
    every = np.concatenate(rows)
    outputs = {name: np.concatenate([one[name] for one in said]) for name in labels}
    return Judged(every, {name: values[every] for name, values in labels.items()}, outputs, len(rows[0]))


def shared_layer(head: Head, x: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """What the tasks of a head share of vectors `(N, D)`: outputs of its trunk `(N, H)`, scaled vectors without one."""
    module = HeadModule(head).eval()
    with torch.inference_mode():
        scaled = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) - module.centre) / module.spread
        shared: NDArray[np.float32] = module.trunk(scaled).numpy()
    return shared


def _columns(head: Head, vectors: Vectors, colour_by: Sequence[str]) -> list[str]:
    """What colours the map: what was asked for, else the first targets and the speaker."""
    for column in colour_by:
        if column not in vectors.labels:
            raise UnknownName("label column", column, list(vectors.labels.columns))
    ordered = sorted(head.run.tasks, key=lambda task: task.kind)  # classes first
    targets = [column for task in ordered for column in task.columns][:6]
    return list(colour_by) or [name for name in dict.fromkeys([*targets, "speaker"]) if name in vectors.labels]


def _thin(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Every k-th row, so that few enough are left to draw."""
    return rows[:: max(1, -(-len(rows) // MOST_POINTS))]


def _confusion(task: Task, true: NDArray[Any], said: NDArray[Any], classes: Sequence[str]) -> list[alt.LayerChart]:
    """The plot; none where there is nothing to count."""
    there = true >= 0
    if not there.any():
        return []
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (true[there], said[there]), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = pd.DataFrame(
        {
            "true": np.repeat(classes, len(classes)),
            "predicted": np.tile(classes, len(classes)),
            "count": counts.ravel(),
            "share": share.ravel().round(4),
        }
    )
    axis = alt.Axis(labelLimit=140, ticks=False, domain=False)
    base = alt.Chart(cells).encode(
        x=alt.X("predicted:N", sort=list(classes), axis=axis, title="predicted"),
        y=alt.Y("true:N", sort=list(classes), axis=axis, title="true"),
        tooltip=["true:N", "predicted:N", "count:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    shade = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
    layers = [base.mark_rect(color=COLOUR).encode(opacity=shade)]
    if len(classes) <= MOST_WRITTEN:
        layers.append(base.mark_text(fontSize=11).encode(text="count:Q"))
    step = 34 if len(classes) <= MOST_WRITTEN else 14
    return [alt.LayerChart(layer=layers, width=alt.Step(step), height=alt.Step(step), title=task.name)]


def _scatter(task: Task, true: NDArray[Any], said: NDArray[Any]) -> list[alt.LayerChart]:
    """One plot per column."""
    panels = []
    for k, column in enumerate(task.columns):
        there = np.flatnonzero(~np.isnan(true[:, k]))
        few = _thin(there)
        points = pd.DataFrame({"true": true[few, k], "predicted": said[few, k].astype(np.float64)}).round(5)
        if points.empty:
            continue
        ends = [float(points.min().min()), float(points.max().max())]
        scale = alt.Scale(domain=ends, nice=True, zero=False)
        x, y = (alt.X("true:Q", scale=scale, axis=alt.Axis(tickCount=4)), alt.Y("predicted:Q", scale=scale))
        dots = alt.Chart(points).mark_circle(size=22, opacity=0.45, color=COLOUR).encode(x=x, y=y)
        line = alt.Chart(pd.DataFrame({"true": ends, "predicted": ends})).mark_line(
            strokeWidth=1, strokeDash=[4, 3], color="#888"
        )
        panels.append(
            alt.LayerChart(
                layer=[line.encode(x=x, y=y), dots],
                width=200,
                height=200,
                title=column if column == task.name else f"{task.name}: {column}",
            )
        )
    return panels
