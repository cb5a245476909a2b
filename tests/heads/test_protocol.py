"""What a protocol may say, where it may be said, and whose key it changes."""

import json
from pathlib import Path

import pytest

from vbx.cache.schema import Column
from vbx.errors import RecipeError, UnknownName
from vbx.heads.protocol import USES, Protocol, check_mapping, settle_protocol
from vbx.heads.recipe import expand_runs, list_recipes, make_tasks, read_recipe, with_tasks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "run_keys.json").read_text())
SCHEMA = {"emotion": Column("class", ("a", "b")), "age": Column("number")}


def expand(overrides, name="default"):
    recipe = read_recipe(name, overrides)
    return expand_runs(recipe if recipe.tasks else with_tasks(recipe, make_tasks(SCHEMA, ["emotion", "age"])))


@pytest.mark.parametrize("name", GOLDEN)
def test_runs_of_the_first_recipes_keep_their_keys(name):
    # Written before there were protocols and roles: finished runs of theirs are found by these.
    assert [run.key for run in expand({}, name)] == GOLDEN[name]


def test_the_golden_keys_are_of_recipes_that_are_there():
    assert len(GOLDEN) >= 5 and set(GOLDEN) <= set(list_recipes())


def test_a_protocol_is_another_run_and_the_default_is_not():
    (plain,) = {run.key for run in expand({"seed": 1})}
    keys = {plain}
    for protocol in (
        {"kind": "kfold"},
        {"kind": "kfold", "folds": 10},
        {"kind": "kfold", "seed": 2},
        {"kind": "kfold", "stratify": "emotion"},
        {"kind": "leave_one_group_out"},
        {"kind": "leave_one_group_out", "group": "session"},
        {"kind": "cross_corpus", "train": ["a"], "test": ["b"]},
        {"kind": "cross_corpus", "train": ["b"], "test": ["a"]},
    ):
        keys |= {run.key for run in expand({"seed": 1} | {f"protocol.{k}": v for k, v in protocol.items()})}
    assert len(keys) == 9
    same = [{"folds": 10}, {"kind": "splits", "group": "session", "seed": 7, "train": ["a"]}]
    for protocol in same:
        assert {run.key for run in expand({"seed": 1} | {f"protocol.{k}": v for k, v in protocol.items()})} == {plain}


def test_what_a_kind_does_not_use_makes_no_other_run():
    assert settle_protocol(Protocol("leave_one_group_out", folds=9, seed=4)) == Protocol("leave_one_group_out")
    forward = settle_protocol(Protocol("cross_corpus", train=("b", "a", "a"), test=("c",), group="x"))
    assert forward == Protocol("cross_corpus", train=("a", "b"), test=("c",))
    assert set(USES) == {"splits", "kfold", "leave_one_group_out", "cross_corpus"}


def test_protocols_are_an_axis_and_a_run_survives_json():
    runs = expand({"seed": 1, "protocol.kind": ["splits", "kfold", "leave_one_group_out"], "protocol.folds": [3, 4]})
    kinds = [(run.protocol.kind, run.protocol.folds) for run in runs]
    assert kinds == [("splits", 5), ("kfold", 3), ("kfold", 4), ("leave_one_group_out", 5)]  # none of them twice
    assert [type(run).from_json(json.loads(json.dumps(run.to_json()))) for run in runs] == runs
    assert "protocol" not in runs[0].to_json()


def test_protocol_and_mapping_on_a_page(tmp_path):
    page = tmp_path / "mine.toml"
    page.write_text(
        '[protocol]\nkind = "cross_corpus"\ntrain = ["emodb"]\ntest = ["nemo"]\n'
        '[mapping.emotion]\nanger = "negative"\n"nemo:fear" = ""\n'
    )
    recipe = read_recipe(page)
    assert recipe.protocol == Protocol("cross_corpus", train=("emodb",), test=("nemo",))
    assert recipe.mapping == {"emotion": {"anger": "negative", "nemo:fear": ""}}
    more = read_recipe(page, {"mapping.emotion.joy": "positive", "mapping.emotion.anger": "", "mapping.gender.f": "w"})
    assert more.mapping["emotion"] == {"anger": "", "nemo:fear": "", "joy": "positive"}
    assert more.mapping["gender"] == {"f": "w"}


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        ({"protocol.kind": "kfolds"}, UnknownName, "kfold"),
        ({"protocol.fold": 3}, UnknownName, "protocol.folds"),
        ({"protocol.folds": 1}, RecipeError, "2 or more"),
        ({"protocol.folds": 2.5}, RecipeError, "whole number"),
        ({"protocol.kind": "leave_one_group_out", "protocol.group": ""}, RecipeError, "protocol.group"),
        ({"protocol.kind": "cross_corpus"}, RecipeError, "protocol.train"),
        ({"protocol.kind": "cross_corpus", "protocol.train": ["a"]}, RecipeError, "protocol.test"),
        ({"protocol.kind": "cross_corpus", "protocol.train": ["a", "b"], "protocol.test": ["b"]}, RecipeError, "'b'"),
        ({"protocol.kind": "cross_corpus", "protocol.train": "a"}, RecipeError, "list"),
        ({"mapping.emotion.joy": 3}, RecipeError, "'joy'"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, error, says):
    with pytest.raises(error, match=says):
        expand(overrides)


@pytest.mark.parametrize("table", [{"emotion": "joy"}, {"emotion": {"joy": 1}}, {"emotion": {"": "joy"}}])
def test_a_mapping_is_texts_to_texts(table):
    with pytest.raises(RecipeError, match=r"mapping"):
        check_mapping(table, "recipe 'mine'")
