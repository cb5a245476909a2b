"""Targets: tasks made from the label columns that a user names."""

from collections.abc import Mapping, Sequence

from vbx.cache.schema import TEXT_COLUMNS, Column
from vbx.errors import RecipeError, UnknownName
from vbx.heads.parts import Task

NUMBER_WEIGHT = 0.1
"""Weight of a number's loss beside a class's.

CCC loss stays near 1 where a number cannot be learnt, cross-entropy sinks far below; at equal weights the trunk would
follow the former. Where numbers alone are learnt the weight changes nothing under Adam.
"""


def make_tasks(schema: Mapping[str, Column], targets: Sequence[str]) -> tuple[Task, ...]:
    """Tasks from the label schema: classes by cross-entropy and UAR, numbers by CCC, with MAE beside it.

    Classes weigh in inverse proportion to their counts, as UAR does.

    Args:
        schema: what each label column holds
        targets: label columns

    Raises:
        UnknownName: if there is no such column
        RecipeError: if a column holds text

    Examples:
        >>> [task.loss for task in make_tasks({"age": Column("number")}, ["age"])]
        ['ccc']
    """
    tasks = []
    for name in targets:
        if name not in schema:
            raise UnknownName("label column", name, schema)
        kind = "class" if name in TEXT_COLUMNS else schema[name].kind
        if kind == "text":
            raise RecipeError(f"label column {name!r} holds text; if it is one of classes, say --label {name}:class")
        if kind == "class":
            tasks.append(Task(name, (name,), "cross_entropy", ("uar",), class_weights="inverse"))
        else:
            tasks.append(Task(name, (name,), "ccc", ("ccc", "mae"), weight=NUMBER_WEIGHT))
    return tuple(tasks)
