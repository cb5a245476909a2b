"""Axes: what the sweep of a recipe does to its tasks: sets keys of them, and chooses which are learnt together."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vbx.errors import RecipeError, UnknownName
from vbx.heads.parts import Task
from vbx.heads.values import build

Tasks = tuple[Task, ...]
CHOICES = ("attributes", "tasks")
"""Axes that choose among tasks, in the order in which they are applied: after all that set keys."""
SUBSETS = "subsets"
"""In place of lists of attributes: every subset, the empty one included."""
EVERY = "*"
"""In place of the name of a task: every attribute."""


def name_attributes(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Names of the tasks that are not main ones."""
    return tuple(task.name for task in tasks if task.role != "main")


def list_subsets(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every subset, small ones first.

    Examples:
        >>> list_subsets(["corpus", "gender"])
        ((), ('corpus',), ('gender',), ('corpus', 'gender'))
    """
    sizes = range(len(names) + 1)
    return tuple(itertools.chain.from_iterable(itertools.combinations(names, size) for size in sizes))


def change_tasks(tasks: Tasks, changes: Mapping[str, Any], where: str) -> Tasks:
    """Tasks with other values, each made once: a value may need another that changes with it.

    Args:
        tasks: before
        changes: `TASK.KEY` to a value; `*.KEY` sets the key of every attribute, but for those that name it themselves
        where: the place, for errors

    Raises:
        UnknownName: if there is no such task
        RecipeError: if a value is wrong, or there is no attribute to set a key of
    """
    attributes, tables = name_attributes(tasks), {task.name: dict[str, Any]() for task in tasks}
    for path in sorted(changes, key=lambda path: not path.startswith(f"{EVERY}.")):
        name, _, key = path.rpartition(".")
        if name == EVERY and not attributes:
            raise RecipeError(f"'task.{path}' in {where} sets a key of attributes, but every task has role = 'main'")
        if name != EVERY and name not in tables:
            raise UnknownName(f"task in 'task.{path}' of {where}:", name, tables)
        for one in attributes if name == EVERY else (name,):
            tables[one][key] = changes[path]
    return tuple(
        build(Task, {**asdict(task), **table}, f"task {task.name!r} in {where}") if table else task
        for task, table in zip(tasks, tables.values(), strict=True)
    )


def choose_tasks(tasks: Tasks, chosen: Sequence[str], among: Sequence[str], where: str) -> Tasks:
    """The tasks that are chosen, and those that there is no choice about.

    Args:
        tasks: before
        chosen: names
        among: names that may be chosen
        where: the place, for errors

    Raises:
        UnknownName: if a name is not among them
    """
    for name in chosen:
        if name not in among:
            raise UnknownName(f"name in {where}:", name, among)
    return tuple(task for task in tasks if task.name in chosen or task.name not in among)
