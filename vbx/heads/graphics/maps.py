"""Maps: points of many numbers on a plane, coloured by what is known of them."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from vbx.errors import MissingExtra, UnknownName

MAPS = MappingProxyType(
    {
        "tsne": "t-SNE: distances between groups mean little",
        "umap": "UMAP: distances between groups mean little",
        "pca": "two principal components",
    }
)
"""Ways to put points on a plane, and what a reader should know of each."""
MOST_NAMED = 12
"""Values up to which numbers are shown as names, each with a colour of its own."""


def place(points: NDArray[np.floating[Any]], map_with: str) -> NDArray[np.float64]:
    """Places of N > 3 points `(N, H)` on a plane `(N, 2)`, the same in every call.

    Args:
        points: what is to be placed
        map_with: `tsne` (van der Maaten & Hinton 2008) or `umap` (McInnes et al. 2018), both of the first 50 principal
            components, or `pca`

    Raises:
        MissingExtra: if `umap` is not installed
    """
    check_map(map_with)
    wide = np.asarray(points, np.float64)
    wide = np.pad(wide, ((0, 0), (0, max(0, 2 - wide.shape[1]))))
    if map_with == "pca":
        return np.asarray(PCA(2, random_state=0).fit_transform(wide))
    with threadpool_limits(1):  # a thousand points are no work for threads that wait for each other
        narrow = PCA(min(50, *wide.shape), random_state=0).fit_transform(wide)
        if map_with == "umap":
            return _place_umap(narrow)
        tsne = TSNE(2, perplexity=min(30.0, (len(wide) - 1) / 3), init="random", random_state=0)
        return np.asarray(tsne.fit_transform(narrow), np.float64)


def check_map(map_with: str) -> None:
    """Refuse a map that is not there.

    Raises:
        UnknownName: if there is no such map
        MissingExtra: if its package is not installed
    """
    if map_with not in MAPS:
        raise UnknownName("map", map_with, MAPS)
    if map_with == "umap":
        _import_umap()


def _import_umap() -> Any:
    try:
        import umap
    except ImportError:
        raise MissingExtra("map 'umap'", "umap") from None
    return umap


def _place_umap(points: NDArray[np.float64]) -> NDArray[np.float64]:
    neighbours = min(15, len(points) - 1)
    # From random places, for the spectral layout fails on few points; with a seed it uses one thread.
    fitted = _import_umap().UMAP(n_neighbors=neighbours, init="random", random_state=0, n_jobs=1)
    return np.asarray(fitted.fit_transform(points.astype(np.float32)), np.float64)


def plot_map(places: NDArray[np.float64], labels: pd.DataFrame, columns: Sequence[str]) -> list[alt.LayerChart]:
    """One plot per label column: many numbers on a scale, all else by name; what has no label is grey.

    Args:
        places: of N points `(N, 2)`
        labels: of the same points
        columns: what colours them
    """
    return [_plot_column(places.round(3), labels[column], column) for column in columns]


def _plot_column(places: NDArray[np.float64], values: pd.Series, title: str) -> alt.LayerChart:
    table = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], "label": values.to_numpy()})
    there = table["label"].notna()
    known, unknown = table[there], table[~there].assign(label="no label")
    number = pd.api.types.is_numeric_dtype(values) and known["label"].nunique() > MOST_NAMED
    if not number:
        ordered = sorted(known["label"].unique().tolist(), key=lambda v: (isinstance(v, str), v))
        known = known.assign(label=[_name(value) for value in known["label"]])
        scale = alt.Scale(scheme="tableau20", domain=[_name(value) for value in ordered])
    else:
        scale = alt.Scale(scheme="viridis")
    legend = alt.Legend(title=None, symbolLimit=20, labelLimit=110)
    colour = alt.Color("label:Q" if number else "label:N", scale=scale, legend=legend)
    axis = alt.Axis(labels=False, ticks=False, grid=False, title=None)
    x, y = alt.X("x:Q", axis=axis), alt.Y("y:Q", axis=axis)
    layers = []
    if len(unknown):
        grey = alt.Chart(unknown).mark_circle(size=20, opacity=0.35, color="#9aa4af")
        layers.append(grey.encode(x=x, y=y, tooltip=["label:N"]))
    if len(known):  # a scale of nothing would upset the whole plot
        dots = alt.Chart(known).mark_circle(size=26, opacity=0.75)
        layers.append(dots.encode(x=x, y=y, color=colour, tooltip=["label"]))
    return alt.LayerChart(layer=layers, width=230, height=230, title=title)


def _name(value: Any) -> str:
    """A label in words.

    Examples:
        >>> _name(31.0), _name("happiness"), _name(True)
        ('31', 'happiness', 'True')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)
