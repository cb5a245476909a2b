"""Figures of a head: what they show against scikit-learn and against the layers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from vbx.errors import UnknownName
from vbx.heads.graphics.figures import make_figures, shared_layer
from vbx.heads.parts import Trunk
from vbx.heads.predict import predict
from vbx.heads.protocol import Protocol
from vbx.heads.protocols.folds import make_folds


@pytest.fixture
def head(make_run, make_head):
    return make_head(make_run())


def frame(figure, panel=0, layer=None):
    """The data of a plot, or of one layer of it."""
    spec = figure.chart.to_dict()
    plot = spec["concat"][panel]
    parts = (plot if layer is None else plot["layer"][layer], plot, spec)  # what all layers share is lifted
    return spec["datasets"][next(part["data"]["name"] for part in parts if "data" in part)]


def test_a_confusion_matrix_is_that_of_scikit_learn(head, vectors):
    confusions = make_figures(head, vectors, "dev")[0]
    rows = vectors.labels["split"] == "dev"
    true, said = vectors.labels["Country"][rows], predict(head, vectors)["Country"][rows.to_numpy()]
    cells = {(cell["true"], cell["predicted"]): cell["count"] for cell in frame(confusions, layer=0)}
    classes = list(head.classes["country"])
    expected = confusion_matrix(true, said, labels=classes)
    assert [[cells[t, p] for p in classes] for t in classes] == expected.tolist() and expected.sum() == 6


def test_predicted_against_true_is_what_the_head_says(head, vectors):
    scatter = make_figures(head, vectors, "test")[1]
    rows = (vectors.labels["split"] == "test").to_numpy()
    said = predict(head, vectors)
    for panel, column in enumerate(("Awe", "Joy", "Age")):
        points = frame(scatter, panel, layer=1)
        np.testing.assert_allclose([p["true"] for p in points], vectors.labels[column][rows].to_numpy(float), atol=1e-5)
        np.testing.assert_allclose([p["predicted"] for p in points], said[column][rows], atol=1e-4)


def test_the_shared_layer_is_the_trunk(head, vectors):
    x = (vectors.x - head.centre) / head.spread
    for i in range(2):
        x = x @ head.state[f"trunk.{i}.weight"].T + head.state[f"trunk.{i}.bias"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = x * head.state[f"trunk.{i}.norm.weight"] + head.state[f"trunk.{i}.norm.bias"]
        x = np.where(x > 0, x, 0.01 * x)
    assert shared_layer(head, vectors.x).shape == (24, 6)
    np.testing.assert_allclose(shared_layer(head, vectors.x), x, atol=1e-4)


def test_without_a_trunk_the_map_is_of_the_scaled_features(make_run, make_head, vectors):
    head = make_head(make_run(trunk=Trunk(())))
    np.testing.assert_allclose(shared_layer(head, vectors.x), (vectors.x - head.centre) / head.spread, atol=1e-5)
    assert make_figures(head, vectors, "dev", map_with="pca")[-1].title == "Map of the scaled features"


def test_the_map_is_coloured_by_what_is_asked_for(head, vectors):
    figure = make_figures(head, vectors, "dev", colour_by=["speaker", "Age"], map_with="pca")[-1]
    titles = [panel["title"] for panel in figure.chart.to_dict()["concat"]]
    assert titles == ["speaker", "Age"]
    rows = vectors.labels["split"] == "dev"
    assert [point["label"] for point in frame(figure, 0, layer=0)] == vectors.labels["speaker"][rows].tolist()
    chosen = make_figures(head, vectors, "dev", map_with="pca")[-1].chart.to_dict()["concat"]
    assert [panel["title"] for panel in chosen] == ["Country", "Awe", "Joy", "Age", "speaker"]


def test_missing_labels_are_left_out(head, vectors):
    labels = vectors.labels.copy()
    dev = np.flatnonzero(labels["split"] == "dev")
    labels.loc[dev[:2], "Age"] = np.nan
    labels.loc[dev[:3], "Country"] = None
    confusions, scatter, _ = make_figures(head, replace(vectors, labels=labels), "dev", map_with="pca")
    assert sum(cell["count"] for cell in frame(confusions, layer=0)) == 3
    assert len(frame(scatter, 2, layer=1)) == 4 and len(frame(scatter, 0, layer=1)) == 6


def test_an_unknown_column_or_map_is_told(head, vectors):
    with pytest.raises(UnknownName, match="did you mean 'speaker'"):
        make_figures(head, vectors, "dev", colour_by=["speakr"])
    with pytest.raises(UnknownName, match="did you mean 'tsne'"):
        make_figures(head, vectors, "dev", map_with="tsn")


def test_a_large_split_is_thinned(head, vectors, monkeypatch):
    monkeypatch.setattr("vbx.heads.graphics.figures.MOST_POINTS", 4)
    confusions, scatter = make_figures(head, vectors, "dev", map_with="pca")  # three are too few for a map
    assert sum(cell["count"] for cell in frame(confusions, layer=0)) == 6  # a matrix has them all
    assert len(frame(scatter, 0, layer=1)) == 3


def test_a_split_without_utterances_has_no_figures(head, vectors):
    assert make_figures(head, vectors, "nowhere") == []


def test_of_folds_each_utterance_is_judged_by_the_head_that_never_saw_it(make_run, make_head, vectors):
    protocol = Protocol("kfold", folds=3)
    runs = [replace(make_run(seed), protocol=protocol) for seed in (1, 2, 3)]
    heads = {f"fold={k + 1}": make_head(run) for k, run in enumerate(runs)}
    folds = make_folds(runs[0], vectors)
    confusions, scatter, _ = make_figures(heads, vectors, "test", map_with="pca")
    assert sum(cell["count"] for cell in frame(confusions, layer=0)) == 24
    expected = []
    for name, split in zip(folds.names, folds.splits, strict=True):
        rows = np.flatnonzero(split == "test")
        expected += predict(heads[name], vectors)["Age"].iloc[rows].tolist()
    said = [point["predicted"] for point in frame(scatter, 2, layer=1)]
    np.testing.assert_allclose(said, expected, atol=1e-4)
    with pytest.raises(UnknownName, match="fold=3"):
        make_figures({"fold=1": heads["fold=1"], "fold=2": heads["fold=2"]}, vectors, "test", map_with="pca")
