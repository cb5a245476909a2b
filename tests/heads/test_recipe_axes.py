"""Axes over attributes and their roles: what a sweep makes of tasks, and which points of it are one run."""

import pytest

from vbx.cache.schema import Column
from vbx.errors import RecipeError, UnknownName
from vbx.heads.parts import Task
from vbx.heads.recipe import expand_runs, make_tasks, read_recipe, with_tasks

PAGE = """
title = "A page"
[[task]]
name = "emotion"
columns = ["emotion"]
loss = "cross_entropy"
metrics = ["uar"]
[[task]]
name = "corpus"
columns = ["corpus"]
loss = "cross_entropy"
metrics = ["uar"]
role = "auxiliary"
[[task]]
name = "gender"
columns = ["sex"]
loss = "cross_entropy"
metrics = ["uar"]
role = "auxiliary"
[sweep]
"""
ROLES = '"task.*.role" = ["auxiliary", "adversarial", "discriminator"]\n'


@pytest.fixture
def expand(tmp_path):
    def runs(sweep="", overrides=None, page=PAGE):
        path = tmp_path / "page.toml"
        path.write_text(page + sweep)
        return expand_runs(read_recipe(path, overrides))

    return runs


def names(run):
    return [task.name for task in run.tasks]


def roles(run):
    return [task.role for task in run.tasks]


def test_a_star_sets_a_key_of_every_attribute_and_of_no_main_task(expand):
    runs = expand('"task.*.alpha" = [0.2, 0.3]\n"task.*.weight" = [2.0]\n')
    assert [[task.alpha for task in run.tasks] for run in runs] == [[None, 0.2, 0.2], [None, 0.3, 0.3]]
    assert [[task.weight for task in run.tasks] for run in runs] == [[1.0, 2.0, 2.0]] * 2
    (run,) = expand(overrides={"task.*.hidden": [8], "task.gender.hidden": [4]})
    assert [task.hidden for task in run.tasks] == [(), (8,), (4,)]
    runs = expand('"task.gender.hidden" = [[4]]\n"task.*.hidden" = [[8], []]\n')  # whoever names it himself wins
    assert [[task.hidden for task in run.tasks[1:]] for run in runs] == [[(8,), (4,)], [(), (4,)]]


def test_all_subsets_under_all_roles_and_the_empty_one_once(expand):
    runs = expand('attributes = "subsets"\n' + ROLES + "seed = [1, 2]\n")
    chosen = [names(run)[1:] for run in runs]
    assert len(runs) == len({run.key for run in runs}) == 2 * (1 + 3 * 3)
    assert chosen[:2] == [[], []] and [run.seed for run in runs[:4]] == [1, 2, 1, 2]
    assert [roles(run)[1:] for run in runs if run.seed == 1 and len(run.tasks) == 3] == [
        ["auxiliary"] * 2, ["adversarial"] * 2, ["discriminator"] * 2,
    ]  # fmt: skip
    assert {run.score.of for run in runs} == {("emotion.uar",)}


def test_the_run_without_attributes_is_that_of_a_page_that_has_none(expand):
    more = '"task.*.alpha" = [0.2, 0.4]\nfit.discriminator_lr = [0.1, 0.2]\n'
    (run,) = expand("attributes = [[]]\n" + ROLES + more)
    (plain,) = expand(page=PAGE.partition('[[task]]\nname = "corpus"')[0])
    assert run.key == plain.key
    # Those with attributes do not depend on the learning rate of discriminators that are not there.
    assert len(expand(ROLES + more)) == 2 + 2 + 4


def test_settings_that_are_a_roles_own_are_the_same_run(expand):
    named = expand('"task.*.schedule" = ["linear"]\n"task.*.alpha" = [0.5]\n"task.*.role" = ["adversarial"]\n')
    assert [run.key for run in named] == [run.key for run in expand('"task.*.role" = ["adversarial"]\n')]


@pytest.mark.parametrize("path", ["attributes", "sweep.attributes"])
def test_attributes_as_an_override(expand, path):
    assert [names(r)[1:] for r in expand(overrides={path: "subsets"})] == [
        [],
        ["corpus"],
        ["gender"],
        ["corpus", "gender"],
    ]
    lists = [["gender"], ["gender", "corpus"], []]
    assert [names(r)[1:] for r in expand(overrides={path: lists})] == [["gender"], ["corpus", "gender"], []]


def test_one_choice_of_attributes_as_an_override(expand):
    assert [names(r)[1:] for r in expand(overrides={"attributes": ["gender"]})] == [["gender"]]
    assert [names(r)[1:] for r in expand(overrides={"attributes": []})] == [[]]


def test_a_value_may_need_another_axis(expand):
    # Alone neither would do: the page's attributes are auxiliary, and ganin needs adversarial ones.
    (run,) = expand('"task.*.schedule" = ["ganin"]\n"task.*.role" = ["adversarial"]\n')
    assert [task.schedule for task in run.tasks] == [None, "ganin", "ganin"]
    with pytest.raises(RecipeError, match="ganin"):
        expand('"task.*.schedule" = ["ganin"]\n' + ROLES)


def test_roles_of_tasks_that_come_from_labels():
    schema = {"emotion": Column("class", ("a", "b")), "sex": Column("class", ("f", "m")), "speaker": Column("text")}
    overrides = {"task.speaker.role": "adversarial", "task.sex.role": "auxiliary", "attributes": "subsets", "seed": 1}
    tasks = make_tasks(schema, ["emotion", "sex", "speaker"])
    runs = expand_runs(with_tasks(read_recipe("default", {**overrides, "task.*.weight": 0.5}), tasks))
    assert [roles(run)[1:] for run in runs] == [[], ["auxiliary"], ["adversarial"], ["auxiliary", "adversarial"]]
    assert {task.weight for run in runs for task in run.tasks[1:]} == {0.5}
    (run,) = expand_runs(with_tasks(read_recipe("default", {"task.sex.role": ["auxiliary"], "seed": 1}), tasks[:2]))
    assert roles(run) == ["main", "auxiliary"]


@pytest.mark.parametrize(
    ("sweep", "error", "said"),
    [
        ('attributes = "subset"', RecipeError, ["attributes", "'subset'", "list"]),
        ('attributes = ["corpus"]', RecipeError, ["attributes", "'corpus'", "list"]),
        ('attributes = [["corpsu"]]', UnknownName, ["attributes", "'corpsu'", "'corpus'"]),
        ('attributes = [["emotion"]]', UnknownName, ["attributes", "'emotion'"]),
        ('"task.*.rol" = ["main"]', UnknownName, ["'task.*.rol'", "page"]),
        ('"task.*.alpha" = [2]', RecipeError, ["alpha of task 'corpus'", "0 to 1"]),
        ('"task.*.role" = ["main"]\n"task.*.alpha" = [0.5]', RecipeError, ["only attributes"]),
        ('tasks = [["corpus"]]', RecipeError, ["no task is a main one", "corpus (auxiliary)"]),
        ('task.emotion.role = ["adversarial"]', RecipeError, ["no task is a main one"]),
    ],
)
def test_what_is_wrong_with_an_axis_is_said(expand, sweep, error, said):
    with pytest.raises(error) as caught:
        expand(sweep + "\n")
    for words in said:
        assert words in str(caught.value)


def test_a_star_without_attributes_is_refused(expand):
    page = PAGE.replace('role = "auxiliary"\n', "")
    with pytest.raises(RecipeError, match=r"'task\.\*\.alpha'.*every task has role = 'main'"):
        expand('"task.*.alpha" = [0.5]\n', page=page)


def test_attributes_of_a_task_that_was_named_twice_are_one():
    task = Task("sex", ("sex",), "cross_entropy", ("uar",), role="auxiliary")
    with pytest.raises(RecipeError, match="two tasks of one name"):
        with_tasks(read_recipe("default"), [task, task])
