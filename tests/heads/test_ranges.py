"""Ranges in recipes: read from TOML and --set, checked at both ends, refused by a grid."""

import pytest

from vbx.errors import RecipeError, UnknownName
from vbx.heads.parts import Task
from vbx.heads.ranges import Range, ends, is_range, read_axis
from vbx.heads.recipe import expand_runs, read_recipe, with_tasks

PAGE = """
title = "t"
[sweep]
seed = [1, 2]
"fit.lr" = {low = 1e-5, high = 1e-2, log = true}
fit.batch_size = {low = 2, high = 32}
trunk = {dropout = {low = 0.0, high = 0.5}, norm = ["layer", "none"]}
"""
AGE = Task("age", ("age",), "mse", ("ccc",))


@pytest.fixture
def page(tmp_path):
    def read(text=PAGE, overrides=None):
        (tmp_path / "page.toml").write_text(text)
        return read_recipe(tmp_path / "page.toml", overrides)

    return read


def test_ranges_are_read_however_they_are_nested(page):
    assert page().sweep == {
        "seed": (1, 2),
        "fit.lr": (Range(1e-5, 1e-2, True),),
        "fit.batch_size": (Range(2, 32),),
        "trunk.dropout": (Range(0.0, 0.5),),
        "trunk.norm": ("layer", "none"),
    }
    assert page().sweep["fit.batch_size"][0].whole and not page().sweep["fit.lr"][0].whole


def test_overrides_put_a_range_in_place_of_a_list_and_back(page):
    again = page(overrides={"fit.lr": [1e-3, 1e-4], "trunk.norm": "layer", "fit.momentum": {"low": 0.1, "high": 0.9}})
    assert again.sweep["fit.lr"] == (1e-3, 1e-4) and "trunk.norm" not in again.sweep
    assert again.sweep["fit.momentum"] == (Range(0.1, 0.9),)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("{low = 2, high = 1}", "low must be less than high"),
        ("{low = 0, high = 1, log = true}", "greater than 0 if log is true"),
        ('{low = "1", high = 2}', "both numbers"),
    ],
)
def test_what_is_no_range_is_told(page, table, sentence):
    with pytest.raises(RecipeError, match=sentence):
        page(f'[sweep]\n"fit.lr" = {table}\n')


def test_both_ends_must_make_sense(page):
    for low, high in ((-1.0, 0.5), (0.1, 1.5)):
        with pytest.raises(RecipeError, match="dropout"):
            with_tasks(page(f'[sweep]\n"trunk.dropout" = {{low = {low}, high = {high}}}\n'), [AGE])


def test_a_key_that_is_not_there_is_told(page):
    with pytest.raises(UnknownName, match="did you mean 'fit.lr'"):
        page('[sweep]\n"fit.rl" = {low = 0.1, high = 0.2}\n')


def test_a_grid_needs_lists(page):
    with pytest.raises(RecipeError, match=r"'fit.lr' in recipe 'page' is a range, 1e-05 to 0.01: a grid needs a list"):
        expand_runs(with_tasks(page(), [AGE]))


def test_tables_with_other_keys_are_no_ranges():
    assert not is_range({"low": 1}) and not is_range({"low": 1, "high": 2, "step": 1}) and not is_range([1, 2])
    assert read_axis([1, 2]) == [1, 2] and ends((1, 2)) == (1, 2)
