"""Numbers of papers: found by what a setting is, as the recipes of vbx have them."""

import pytest

from vbx.errors import RecipeError
from vbx.heads.recipe import list_recipes, read_recipe
from vbx.heads.statistics.published import find_published


def test_every_key_of_a_recipe_can_be_read():
    keys = [(name, key) for name in list_recipes() for key in read_recipe(name).published]
    assert len(keys) > 40
    for name, key in keys:
        find_published({key: read_recipe(name).published[key]}, {"feature": key.partition(",")[0]}, [])


@pytest.mark.parametrize(
    "recipe, about, shown, expected",
    [
        ("exvo-atmaja", {"feature": "w2v2-R-vad", "fit.batch_size": 8}, [], ("score", 0.388)),  # Table II
        ("exvo-atmaja", {"feature": "w2v2-R-vad", "fit.batch_size": 8}, ["fit.batch_size"], ("score", 0.387)),  # III
        ("exvo-atmaja", {"feature": "w2v2-R-er", "seed": 106}, ["seed"], ("score", 0.3844)),  # Table I
        ("exvo-baird-mtl", {"feature": "compare", "trunk.hidden": "[64]"}, [], ("test.age.mae", 4.6695)),  # Table 3
        ("parry-2022", {"feature": "mel", "tasks": '["emotion"]'}, ["tasks"], ("in-domain", 59.32)),  # Section 5
    ],
)
def test_numbers_are_those_of_the_tables(recipe, about, shown, expected):
    name, number = expected
    assert find_published(read_recipe(recipe).published, about, shown)[name] == number


def test_a_condition_must_hold_and_be_toml():
    paper = {"a, fit.lr = 0.1, tasks = ['x', 'y']": {"score": 1}, "b": {"score": 2}}
    assert find_published(paper, {"feature": "a", "fit.lr": 0.1, "tasks": '["x", "y"]'}, []) == {"score": 1.0}
    assert find_published(paper, {"feature": "a", "fit.lr": 0.1, "tasks": '["y", "x"]'}, []) == {}
    assert find_published(paper, {"feature": "a"}, []) == {}
    with pytest.raises(RecipeError, match="FEATURE, KEY = VALUE"):
        find_published({"a, lr": {}}, {"feature": "a"}, [])
