"""Maps: where points are put, and how labels of every kind colour them."""

import sys

import numpy as np
import pandas as pd
import pytest

from vbx.errors import MissingExtra, UnknownName
from vbx.heads.graphics.maps import MAPS, check_map, place, plot_map


@pytest.fixture
def groups():
    """Two groups of 30 points, far from each other."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal((30, 8)), 20 + rng.standard_normal((30, 8))])


def test_pca_is_the_svd(groups):
    u, s, _ = np.linalg.svd(groups - groups.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(place(groups, "pca")), np.abs(u[:, :2] * s[:2]), atol=1e-8)


@pytest.mark.parametrize("map_with", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_groups_stay_groups_in_the_same_places(groups, map_with):
    if map_with == "umap":
        pytest.importorskip("umap", reason="needs vbx[umap]")
    found = place(groups, map_with)
    np.testing.assert_array_equal(found, place(groups, map_with))
    apart = np.linalg.norm(found[:30].mean(0) - found[30:].mean(0))
    assert apart > 2 * np.linalg.norm(found[:30] - found[:30].mean(0), axis=1).mean()
    assert place(groups[:5, :1], map_with).shape == place(groups[:5, :1], "pca").shape == (5, 2)


def test_a_map_that_is_not_there_is_told(monkeypatch, groups):
    with pytest.raises(UnknownName, match="did you mean 'tsne'"):
        check_map("tsn")
    monkeypatch.setitem(sys.modules, "umap", None)
    for call in (lambda: check_map("umap"), lambda: place(groups, "umap")):
        with pytest.raises(MissingExtra, match=r"pip install 'vbx\[umap\]'"):
            call()
    assert set(MAPS) == {"tsne", "umap", "pca"}


def test_labels_of_every_kind_colour_the_map():
    rng = np.random.default_rng(0)
    labels = pd.DataFrame(
        {
            "age": [np.nan, *range(20, 39)],
            "few": [10.0, 9.0, np.nan, 31.5] * 5,
            "emotion": ["joy", "fear", None, "anger"] * 5,
            "none": pd.Series([None] * 20, dtype=object),
        }
    )
    charts = plot_map(rng.standard_normal((20, 2)), labels, list(labels))
    specs = [chart.to_dict() for chart in charts]
    names = [[layer.get("data", spec.get("data"))["name"] for layer in spec["layer"]] for spec in specs]
    counts = [[len(spec["datasets"][name]) for name in mine] for spec, mine in zip(specs, names, strict=True)]
    assert counts == [[1, 19], [5, 15], [5, 15], [20]]  # what has no label is grey, and still there
    age, few, emotion = [spec["layer"][1]["encoding"]["color"] for spec in specs[:3]]
    assert age["type"] == "quantitative" and few["type"] == emotion["type"] == "nominal"
    assert few["scale"]["domain"] == ["9", "10", "31.5"] and emotion["scale"]["domain"] == ["anger", "fear", "joy"]
