"""`vbx heads rank` and `report` on cross-validated results."""

import json

import numpy as np
import pytest

from vbx.cache.importing import import_vectors
from vbx.cache.store import Store
from vbx.cache.vectors import Vectors
from vbx.commands.leaderboard import load_best, rank, report
from vbx.errors import CacheError, UnknownName
from vbx.heads.ranking import rank_results
from vbx.heads.recipe import Recipe, make_tasks, read_recipe, with_tasks
from vbx.heads.sweep import plan_sweep, run_sweep


@pytest.fixture
def folded(tmp_path):
    """Results of two seeds, cross-validated in three folds, and the cache they learnt from."""
    store = Store(tmp_path / "cache")
    joy = np.arange(60) % 2
    labels = {"split": ["train", "test"] * 30, "speaker": [f"s{i // 5}" for i in range(60)]}
    labels["emotion"] = np.where(joy, "joy", "fear")
    x = np.random.default_rng(0).standard_normal((60, 4)) + 3 * joy[:, None]
    import_vectors(store, Vectors.from_arrays(x, labels, feature="array:a", corpus="toy"))
    schema = store.label_table("toy").schema
    settings = {"protocol.kind": "kfold", "protocol.folds": 3, "sweep.seed": [1, 2], "fit.epochs": 3, "fit.lr": 0.01}
    recipe = with_tasks(read_recipe("default", settings), make_tasks(schema, ["emotion"]))
    run_sweep(plan_sweep(recipe, store.load_vectors, [("toy", "array:a")], tmp_path / "out"), tmp_path / "out")
    return tmp_path / "out", store


def test_folds_are_listed_below_the_ranking(folded, capsys):
    rank(folded[0], parts=True, json=True)
    ranking, parts = json.loads(capsys.readouterr().out).values()
    assert len(ranking) == 1 and [row["part"] for row in parts] == ["fold=1", "fold=2", "fold=3"]
    assert all(row["seeds"] == 2 and 0 <= row["test.emotion.uar"] <= 1 for row in parts)
    assert sum(row["n"] for row in parts) == 60
    rank(folded[0])
    assert "fold=1" not in capsys.readouterr().out
    rank(folded[0], parts=True)
    assert capsys.readouterr().out.count("fold=") == 3


def test_a_report_of_folds_has_figures_of_all_of_them(folded, tmp_path, capsys):
    out, store = folded
    report(out, html=tmp_path / "page.html", cache=store.root, map_with="pca")
    page = (tmp_path / "page.html").read_text()
    assert "left out" not in capsys.readouterr().err and page.count('vegaEmbed("#figure-') == 4
    heads, vectors = load_best(out, store, rank_results(out), Recipe())
    assert list(heads) == ["fold=1", "fold=2", "fold=3"] and len(vectors.ids) == 60


def test_figures_of_other_vectors_are_refused(folded, tmp_path):
    out, store = folded
    elsewhere, vectors = Store(tmp_path / "elsewhere"), store.load_vectors("toy", "array:a")
    import_vectors(elsewhere, Vectors.from_arrays(vectors.x + 1, vectors.labels, feature="array:a", corpus="toy"))
    with pytest.raises(CacheError, match="are no longer those that run"):
        load_best(out, elsewhere, rank_results(out), Recipe())


def test_the_file_of_a_recipe_brings_its_numbers(folded, tmp_path, capsys):
    mine = tmp_path / "default.toml"
    mine.write_text('[published."array:a"]\ntest.score = 0.123\n')
    rank(folded[0], recipe=str(mine), published=True, json=True)
    assert json.loads(capsys.readouterr().out)[0]["test.score.published"] == 0.123
    (tmp_path / "other.toml").write_text("")
    with pytest.raises(UnknownName, match="known: default"):
        rank(folded[0], recipe=str(tmp_path / "other.toml"))
