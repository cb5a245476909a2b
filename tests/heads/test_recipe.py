"""Recipes: what a page may say, what it is refused for, and the runs it stands for."""

import json

import pytest

from vbx.cache.schema import Column
from vbx.errors import RecipeError, UnknownName, VbxError
from vbx.heads.parts import Task
from vbx.heads.recipe import expand_runs, list_recipes, make_tasks, read_recipe, with_tasks
from vbx.heads.run import Run
from vbx.heads.statistics.published import find_published

PAGE = """
title = "A page"
feature = "egemaps"
[[task]]
name = "emotion"
columns = ["Awe", "Fear"]
hidden = [32]
loss = "mse"
metrics = ["ccc", "mae"]
[[task]]
name = "country"
columns = ["Country"]
loss = "cross_entropy"
metrics = ["uar"]
[trunk]
hidden = [64, 32]
[fit]
lr = 1e-3
batch_size = 8
[sweep]
fit.lr = [1e-3, 1e-4]
seed = [1, 2, 3]
"""
EXVO = "Awe Excitement Amusement Awkwardness Fear Horror Distress Triumph Sadness Surprise".split()


@pytest.fixture
def page(tmp_path):
    def write(text=PAGE, **replaced):
        for old, new in replaced.items():
            text = text.replace(old, new)
        path = tmp_path / "page.toml"
        path.write_text(text)
        return path

    return write


def test_a_page_is_read_as_it_stands(page):
    recipe = read_recipe(page())
    assert (recipe.name, recipe.title, recipe.feature) == ("page", "A page", "egemaps")
    assert [t.name for t in recipe.tasks] == ["emotion", "country"]
    assert recipe.tasks[0].columns == ("Awe", "Fear") and recipe.tasks[0].hidden == (32,)
    assert [t.kind for t in recipe.tasks] == ["regression", "classification"]
    assert recipe.trunk.hidden == (64, 32) and recipe.fit.batch_size == 8
    assert dict(recipe.sweep) == {"fit.lr": (1e-3, 1e-4), "seed": (1, 2, 3)}


def test_runs_are_every_point_of_the_sweep_the_last_axis_fastest(page):
    runs = expand_runs(read_recipe(page()))
    assert [(r.fit.lr, r.seed) for r in runs] == [(lr, s) for lr in (1e-3, 1e-4) for s in (1, 2, 3)]
    assert len({r.key for r in runs}) == 6 and len({r.shape for r in runs}) == 1
    assert runs[0].score.of == ("emotion.ccc", "country.uar") and runs[0].recipe == "page"


def test_an_override_sets_a_key_in_place_of_its_axis(page):
    runs = expand_runs(read_recipe(page(), {"fit.lr": 0.5, "seed": 7}))
    assert [(r.fit.lr, r.seed) for r in runs] == [(0.5, 7)]


@pytest.mark.parametrize("path", ["trunk.dropout", "sweep.trunk.dropout"])
def test_several_values_make_an_axis(page, path):
    runs = expand_runs(read_recipe(page(), {path: [0.0, 0.5], "seed": 1, "fit.lr": 1}))
    assert [r.trunk.dropout for r in runs] == [0.0, 0.5]


def test_a_list_is_one_value_of_a_key_that_holds_a_list(page):
    one = expand_runs(read_recipe(page(), {"trunk.hidden": [8, 4], "seed": 1, "fit.lr": 1}))
    assert [r.trunk.hidden for r in one] == [(8, 4)]
    two = expand_runs(read_recipe(page(), {"trunk.hidden": [[8], [8, 4], []], "seed": 1, "fit.lr": 1}))
    assert [r.trunk.hidden for r in two] == [(8,), (8, 4), ()]


def test_a_task_is_reached_by_its_name(page):
    overrides = {"task.country.weight": [0.5, 2], "task.emotion.hidden": [], "seed": 1, "fit.lr": 1}
    runs = expand_runs(read_recipe(page(), overrides))
    assert [r.tasks[1].weight for r in runs] == [0.5, 2.0] and runs[0].tasks[0].hidden == ()


def test_a_sweep_over_tasks_chooses_among_them_and_the_score_follows(page):
    text = PAGE + '"task.country.weight" = [3.0]\ntasks = [["emotion"], ["country"], ["country", "emotion"]]\n'
    runs = expand_runs(read_recipe(page(text), {"seed": 1, "fit.lr": 1}))
    assert [[t.name for t in r.tasks] for r in runs] == [["emotion"], ["country"], ["emotion", "country"]]
    assert [r.score.of for r in runs] == [("emotion.ccc",), ("country.uar",), ("emotion.ccc", "country.uar")]
    assert [t.weight for t in runs[1].tasks] == [3.0]
    (run,) = expand_runs(read_recipe(page(), {"tasks": ["country"], "seed": 1, "fit.lr": 1}))
    assert [t.name for t in run.tasks] == ["country"]


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("title", "titel", UnknownName, ["'titel'", "'title'", "page"]),
        ("batch_size", "batchsize", UnknownName, ["'batchsize'", "'batch_size'", "fit", "page"]),
        ('loss = "mse"', 'loss = "msee"', UnknownName, ["'msee'", "'mse'", "emotion"]),
        ('["uar"]', '["ccc"]', UnknownName, ["'ccc'", "country"]),
        ('["uar"]', '["ua"]', UnknownName, ["'ua'", "'uar'"]),
        ("batch_size = 8", "batch_size = 8.5", RecipeError, ["8.5", "batch_size", "whole number", "page"]),
        ("batch_size = 8", "batch_size = 0", RecipeError, ["batch_size", "0", "positive"]),
        ("batch_size = 8", 'batch_size = "8"', RecipeError, ["'8'", "batch_size"]),
        ("batch_size = 8", "batch_size = true", RecipeError, ["True", "batch_size"]),
        ("lr = 1e-3", "lr = nan", RecipeError, ["nan", "lr"]),
        ("hidden = [64, 32]", "hidden = 64", RecipeError, ["64", "hidden", "list"]),
        ("hidden = [64, 32]", "hidden = [64, 0]", RecipeError, ["(64, 0)", "positive"]),
        ('name = "country"', 'name = "emotion"', RecipeError, ["two tasks", "emotion"]),
        ('name = "country"', 'name = "score"', RecipeError, ["'score'"]),
        ('name = "country"\n', "", RecipeError, ["'name'", "task"]),
        ('["Country"]', '["Country", "Age"]', RecipeError, ["country", "one column"]),
        ("seed = [1, 2, 3]", "seed = 3", RecipeError, ["seed", "3", "list"]),
        ("seed = [1, 2, 3]", "seed = []", RecipeError, ["seed", "list"]),
        ("seed = [1, 2, 3]", 'seed = [1, "b"]', RecipeError, ["seed", "'b'"]),
        ("fit.lr", "fit.rl", UnknownName, ["'fit.rl'", "'fit.lr'"]),
        ("fit.lr", "task.country.wait", UnknownName, ["'task.country.wait'", "'task.country.weight'"]),
        ("[sweep]\nfit.lr", "[sweep]\ntask.contry.weight", UnknownName, ["'contry'", "'country'"]),
        ("[sweep]", "[sweep]\ntasks = [['emotio']]", UnknownName, ["'emotio'", "'emotion'"]),
        ("[sweep]", "[score]\nof = ['emotion.uar']\n[sweep]", UnknownName, ["'uar'", "emotion"]),
        ("[sweep]", "[score]\nof = ['age.ccc']\n[sweep]", UnknownName, ["'age'", "score"]),
        ("[sweep]", "[score]\nof = ['emotion.mae']\n[sweep]", RecipeError, ["emotion.mae", "inverse_mae"]),
        ("[sweep]", "[sweep", RecipeError, ["page", "TOML"]),
        ('title = "A page"', "published = 3", RecipeError, ["'published'", "3", "table"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_the_way_out(page, old, new, error, said):
    with pytest.raises(error) as caught:
        expand_runs(read_recipe(page(**{old: new})))
    assert isinstance(caught.value, VbxError)
    for words in said:
        assert words in str(caught.value)


def test_recipes_are_found_by_name_or_path(tmp_path):
    with pytest.raises(UnknownName, match="'exvo-atmaja'"):
        read_recipe("exvo-atmaya")
    with pytest.raises(RecipeError, match="no recipe at"):
        read_recipe(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes('title = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match="'latin' is not TOML"):
        read_recipe(tmp_path / "latin.toml")


def test_tasks_come_from_the_label_schema():
    schema = {"emotion": Column("class", ("a", "b")), "age": Column("number"), "words": Column("text")}
    emotion, age = make_tasks(schema, ["emotion", "age"])
    assert (emotion.loss, emotion.metrics, emotion.columns) == ("cross_entropy", ("uar",), ("emotion",))
    assert emotion.class_weights == "inverse" and age.weight < emotion.weight
    assert (age.loss, age.metrics, age.kind) == ("ccc", ("ccc", "mae"), "regression")
    with pytest.raises(UnknownName, match="'emotion'"):
        make_tasks(schema, ["emotoin"])
    with pytest.raises(RecipeError, match="--label words:class"):
        make_tasks(schema, ["words"])


def test_the_default_recipe_waits_for_its_tasks():
    recipe = read_recipe("default", {"task.age.weight": 0.25, "seed": 1})
    with pytest.raises(RecipeError, match="--target"):
        expand_runs(recipe)
    tasks = make_tasks({"age": Column("number"), "sex": Column("class", ("f", "m"))}, ["age", "sex"])
    (run,) = expand_runs(with_tasks(recipe, tasks))
    assert run.tasks[0].weight == 0.25 and run.score.of == ("age.ccc", "sex.uar")
    with pytest.raises(UnknownName, match="'age'"):
        with_tasks(recipe, tasks[1:])


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_of_vbx_expand(name):
    recipe = read_recipe(name)
    assert recipe.title
    if recipe.tasks:
        runs = expand_runs(recipe)
        assert len({run.key for run in runs}) == len(runs) > 1
        assert recipe.source and recipe.notes and recipe.published
        if name.startswith("exvo"):
            assert {c for t in recipe.tasks for c in t.columns} == {*EXVO, "Country", "Age"}
            assert recipe.tasks[0].columns == tuple(EXVO)
        for run in runs:
            assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_exvo_atmaja_has_the_fixed_weights_of_equation_1():
    weights = [t.weight for t in read_recipe("exvo-atmaja").tasks]
    assert weights == pytest.approx([0.5 * 2.718281828459045**-a for a in (0.34, 0.33, 0.33)], abs=1e-8)


def test_published_numbers_fit_their_own_score():
    for theirs in read_recipe("exvo-atmaja").published.values():
        parts = theirs["emotion"]["ccc"], theirs["country"]["uar"], theirs["age"]["inverse_mae"]
        assert 3 / sum(1 / p for p in parts) == pytest.approx(theirs["score"], abs=2e-3)


def test_exvo_baird_sweeps_depth_and_width_in_the_order_given():
    widths = {run.trunk.hidden for run in expand_runs(read_recipe("exvo-baird-mtl"))}
    assert widths == {(64,), (128, 128), (256, 256, 256)}
    stl = expand_runs(read_recipe("exvo-baird-stl"))
    assert {tuple(t.name for t in run.tasks) for run in stl} == {("emotion",), ("country",), ("age",)}
    assert {run.score.of for run in stl} == {("emotion.ccc",), ("country.uar",), ("age.inverse_mae",)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"loss": "bce"}, "sigmoid"),
        ({"class_weights": "inverse"}, "classes"),
        ({"weight": -1.0}, "negative"),
        ({"hidden": (0,)}, "positive"),
        ({"columns": ()}, "column"),
        ({"metrics": ()}, "metric"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(more, said):
    with pytest.raises(RecipeError, match=said):
        Task(**{"name": "age", "columns": ("age",), "loss": "mse", "metrics": ("mae",), **more})


def test_parry_has_every_subset_of_four_attributes_in_three_roles():
    recipe = read_recipe("parry-2022", {"seed": 1})
    runs = expand_runs(recipe)
    assert len(runs) == 1 + 15 * 3 and len({run.key for run in runs}) == len(runs)
    assert {run.score.of for run in runs} == {("emotion.uar",)}
    # Each number of the paper belongs to one run, whose tasks and role its key names.
    found = set()
    for run in runs:
        about = {"feature": "mel", "tasks": json.dumps([task.name for task in run.tasks])}
        about |= {f"task.{task.name}.role": task.role for task in run.tasks}
        numbers = find_published(recipe.published, about, [])
        found |= {(run.key, where, value) for where, value in numbers.items()}
    assert len(found) == 2 * (1 + 10 * 3) + 4  # two corpora; ten of fifteen subsets are printed; four in-domain numbers
    sums = [sum(value for _, where, value in found if where == name) for name in ("tess", "crema-d")]
    assert sums == pytest.approx([1502.82, 1571.75])  # of all numbers in its tables
