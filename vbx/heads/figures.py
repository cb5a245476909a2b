"""Figures of one head: what it confuses, how far off it is, and what its shared layer has made of the corpus."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from vbx.cache.vectors import Vectors
from vbx.errors import UnknownName
from vbx.heads.data import labelled_rows, read_labels
from vbx.heads.head import Head, HeadModule, apply_head
from vbx.heads.parts import Task
from vbx.heads.plots import COLOUR, Figure, arrange
from vbx.heads.scaling import scale_by_speaker

MOST_POINTS = 1000
"""Utterances in a map or a scatter; others are left out, every k-th one kept."""
MOST_WRITTEN = 12
"""Classes up to which a confusion matrix has its counts written into it."""
MAPS = ("tsne", "pca")


def make_figures(
    head: Head, vectors: Vectors, split: str, *, colour_by: Sequence[str] = (), map_with: str = "tsne"
) -> list[Figure]:
    """Confusion matrices, predicted against true, and a map of the shared layer.

    Args:
        head: weights of a run
        vectors: what it learnt from
        split: whose utterances are shown
        colour_by: label columns that colour the map, a plot each; the tasks' own and the speaker if left out
        map_with: `tsne` (van der Maaten & Hinton 2008, of the first 50 principal components) or `pca`

    Returns:
        those that there is something to show in

    Raises:
        UnknownName: if there is no such label column or map
    """
    if map_with not in MAPS:
        raise UnknownName("map", map_with, MAPS)
    columns = _columns(head, vectors, colour_by)
    labels = {task.name: read_labels(vectors, task) for task in head.run.tasks}
    rows = labelled_rows(vectors, labels, split)
    x = np.asarray(vectors.x)
    if head.run.fit.scale_by_speaker:
        x = scale_by_speaker(x, vectors.labels["speaker"].tolist(), head.run.fit.scale)
    said = apply_head(head, x[rows])
    confusion, scatter = [], []
    for task in head.run.tasks:
        true = labels[task.name][rows]
        if task.kind == "classification":
            confusion += _confusion(task, true, said[task.name].argmax(1), head.classes[task.name])
        else:
            scatter += _scatter(task, true, said[task.name])
    few = _thin(rows)
    maps = _map(shared_layer(head, x[few]), vectors.labels.iloc[few], columns, map_with) if len(few) > 3 else []
    layer = "shared layer" if head.run.trunk.hidden else "scaled features"
    who = f"{head.feature}, seed {head.run.seed}, utterances of {split}"
    method = "t-SNE: distances between groups mean little" if map_with == "tsne" else "two principal components"
    near = f"{who} ({len(few)} of {len(rows)}), near each other where their vectors are ({method})."
    drawn = (
        ("Confusions", f"{who}: true class by row, predicted by column, shaded by share of the row.", confusion),
        ("Predicted against true", f"{who}; on the line prediction and truth are one.", scatter),
        (f"Map of the {layer}", near, maps),
    )
    return [Figure(title, text, arrange(panels, text, across=3)) for title, text, panels in drawn if panels]


def shared_layer(head: Head, x: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """What the tasks of a head share of vectors `(N, D)`: outputs of its trunk `(N, H)`, scaled vectors without one."""
    module = HeadModule(head).eval()
    with torch.inference_mode():
        scaled = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) - module.centre) / module.spread
        shared: NDArray[np.float32] = module.trunk(scaled).numpy()
    return shared


def place(points: NDArray[np.floating[Any]], map_with: str) -> NDArray[np.float64]:
    """Places of N > 3 points `(N, H)` on a plane `(N, 2)`, the same in every call."""
    wide = np.asarray(points, np.float64)
    wide = np.pad(wide, ((0, 0), (0, max(0, 2 - wide.shape[1]))))
    if map_with == "pca":
        return np.asarray(PCA(2, random_state=0).fit_transform(wide))
    with threadpool_limits(1):  # a thousand points are no work for threads that wait for each other
        narrow = PCA(min(50, *wide.shape), random_state=0).fit_transform(wide)
        tsne = TSNE(2, perplexity=min(30.0, (len(wide) - 1) / 3), init="random", random_state=0)
        return np.asarray(tsne.fit_transform(narrow), np.float64)


def _columns(head: Head, vectors: Vectors, colour_by: Sequence[str]) -> list[str]:
    """What colours the map: what was asked for, else the first targets and the speaker."""
    for column in colour_by:
        if column not in vectors.labels:
            raise UnknownName("label column", column, list(vectors.labels.columns))
    targets = [column for task in head.run.tasks for column in task.columns][:6]
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


def _map(points: NDArray[Any], labels: pd.DataFrame, columns: Sequence[str], map_with: str) -> list[alt.Chart]:
    """One plot per label column."""
    places = place(points, map_with).round(3)
    panels = []
    for column in columns:
        values = labels[column]
        number = pd.api.types.is_numeric_dtype(values) and values.nunique() > 12
        table = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], "label": values.to_numpy()})
        table = table.dropna() if number else table.astype({"label": object}).fillna({"label": "–"})
        shades = alt.Scale(scheme="viridis") if number else alt.Scale(scheme="tableau20")
        legend = alt.Legend(title=None, symbolLimit=20, labelLimit=110)
        colour = alt.Color("label:Q" if number else "label:N", scale=shades, legend=legend)
        axis = alt.Axis(labels=False, ticks=False, grid=False, title=None)
        panels.append(
            alt.Chart(table, width=230, height=230, title=column)
            .mark_circle(size=26, opacity=0.75)
            .encode(x=alt.X("x:Q", axis=axis), y=alt.Y("y:Q", axis=axis), color=colour, tooltip=["label"])
        )
    return panels
