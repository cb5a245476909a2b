"""Recipe: a whole experiment as one page of TOML, and the runs it stands for."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from vbx.errors import RecipeError, UnknownName
from vbx.heads.axes import CHOICES, SUBSETS, change_tasks, choose_tasks, list_subsets, name_attributes
from vbx.heads.pages import join_keys, list_recipes, read_page
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.protocol import Protocol, check_mapping, settle_protocol
from vbx.heads.ranges import ends, is_range, read_axis, refuse_ranges
from vbx.heads.roles import check_roles, settle
from vbx.heads.run import Run
from vbx.heads.targets import make_tasks
from vbx.heads.values import build, coerce, is_list

__all__ = [
    "Fit", "Recipe", "Run", "Score", "Task", "Trunk",
    "expand_runs", "list_recipes", "make_tasks", "read_recipe", "with_tasks",
]  # fmt: skip

_PARTS: Mapping[str, type] = MappingProxyType({"trunk": Trunk, "fit": Fit, "score": Score, "protocol": Protocol})
_PLAIN: Mapping[str, Any] = MappingProxyType({"feature": str, "corpus": str, "seed": int})
_CHOICE = tuple[str, ...]
_KEYS = ("title", "source", "notes", "corpus", "feature", "seed", "task", *_PARTS, "sweep", "published", "mapping")


@dataclass(frozen=True)
class Recipe:
    """A whole experiment.

    Attributes:
        title: what it is
        source: paper or code it follows
        corpus: name of the corpus; empty for any
        feature: name of the feature; empty for any
        seed: seed of its runs, where the sweep names none
        notes: what one should know before comparing numbers
        tasks: what is learnt; none where that comes from the labels (`with_tasks`)
        trunk: what the tasks share
        fit: how to train
        score: what to rank by
        protocol: what runs learn from, are chosen on and are tested on
        sweep: path of a key (`fit.lr`, `task.age.weight`, `feature`, `seed`) to the values it takes; `task.*.KEY` is
            a key of every attribute (a task that is not `main`). `tasks` takes lists of names of tasks that are learnt
            together, `attributes` lists of names of attributes, or "subsets" for all of them. A
            search samples ranges as well: `{low = 1e-5, high = 1e-2, log = true}`
        published: numbers of the paper, never ours: what they are of, to the numbers
        mapping: label column to what its classes become: `CLASS`, or `CORPUS:CLASS`, to a name; to an empty one, to
            leave them out
        name: name of the recipe
    """

    title: str = ""
    source: str = ""
    corpus: str = ""
    feature: str = ""
    seed: int = 1
    notes: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    trunk: Trunk = Trunk()
    fit: Fit = Fit()
    score: Score = Score()
    protocol: Protocol = Protocol()
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mapping: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    name: str = ""


def read_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: name of a recipe of vbx, or a TOML file
        overrides: path of a key to its value, as `--set` gives them: `fit.lr`, `task.age.weight`, `trunk.hidden`.
            Several values, or a path that begins with `sweep.`, make the key an axis of the sweep.

    Raises:
        UnknownName: if there is no such recipe, key, loss, metric, ...
        RecipeError: if a value has the wrong type or does not make sense

    Examples:
        >>> recipe = read_recipe("exvo-atmaja", {"feature": "egemaps", "fit.lr": [1e-3, 1e-4], "sweep.seed": [1, 2, 3]})
        >>> len(expand_runs(recipe))
        6
    """
    name, page = read_page(name_or_path)
    for key in page:
        if key not in _KEYS:
            raise UnknownName(f"key of recipe {name!r}:", key, _KEYS)
    for key in ("sweep", "published", "mapping"):
        if not isinstance(page.get(key, {}), dict):
            raise RecipeError(f"{key!r} of recipe {name!r} is {page[key]!r}; it must be a table")
    tasks, sweep, published = page.pop("task", []), page.pop("sweep", {}), page.pop("published", {})
    mapping = check_mapping(page.pop("mapping", {}), f"recipe {name!r}")
    recipe = build(Recipe, {**page, "tasks": tasks, "name": name}, f"recipe {name!r}")
    recipe = replace(recipe, published=published, mapping=mapping)
    for path, values in join_keys(sweep).items():
        recipe = _with_axis(recipe, path, values)
    for path, value in (overrides or {}).items():
        recipe = _override(recipe, path, value)
    return _checked(recipe)


def with_tasks(recipe: Recipe, tasks: Sequence[Task]) -> Recipe:
    """A recipe with other tasks, for one that names none.

    Raises:
        UnknownName: if its sweep or its score names a task or metric that is not there
        RecipeError: if two tasks have one name
    """
    return _checked(replace(recipe, tasks=tuple(tasks)))


def expand_runs(recipe: Recipe) -> list[Run]:
    """The runs of a recipe: every point of its sweep, the last axis fastest.

    Raises:
        RecipeError: if the recipe names no task, or its sweep has a range
    """
    if not recipe.tasks:
        raise RecipeError(f"recipe {recipe.name!r} names no task; give it targets (--target COLUMN, or with_tasks)")
    refuse_ranges(recipe.sweep, recipe.name)
    runs = []
    for values in itertools.product(*recipe.sweep.values()):
        point = _assign(recipe, dict(zip(recipe.sweep, values, strict=True)))
        check_roles(point.tasks)
        score = fit_score(point.score, point.tasks)
        tasks, fit = settle(point.tasks, point.fit)
        fixed = (point.feature, point.corpus, point.seed, tasks, point.trunk, fit)
        runs.append(Run(*fixed, score, recipe.name, settle_protocol(point.protocol)))
    return list(dict.fromkeys(runs))


def _override(recipe: Recipe, path: str, value: Any) -> Recipe:
    """Set a key, in place of its axis if it has one; several values become an axis."""
    if path.startswith("sweep."):
        return _with_axis(recipe, path.removeprefix("sweep."), value)
    if path.startswith("mapping."):
        column, _, name = path.removeprefix("mapping.").partition(".")
        more = check_mapping({column: {name: value}}, f"recipe {recipe.name!r}")
        both = {**recipe.mapping.get(column, {}), **more[column]}
        return replace(recipe, mapping={**recipe.mapping, column: both})
    if is_range(value):
        return _with_axis(recipe, path, value)
    several = isinstance(value, (list, tuple))
    if several and is_list(_hint(recipe, path)):
        several = any(isinstance(v, (list, tuple)) for v in value)
    if several:
        return _with_axis(recipe, path, value)
    if not recipe.tasks and path.startswith("task."):
        return _with_axis(recipe, path, [value])  # its task is not there yet
    if path in CHOICES:
        # A choice among tasks, not their loss.
        return _with_axis(recipe, path, value if value == SUBSETS else [value])
    recipe = replace(recipe, sweep={k: v for k, v in recipe.sweep.items() if k != path})
    return _assign(recipe, {path: value})


def _with_axis(recipe: Recipe, path: str, values: Any) -> Recipe:
    values = read_axis(values)
    if path == "attributes" and values == SUBSETS:
        values = (SUBSETS,)  # which they are is known once the tasks are
    if not isinstance(values, (list, tuple)) or not values:
        raise RecipeError(f"sweep of {path!r} in recipe {recipe.name!r} is {values!r}; it must be a list of values")
    _hint(recipe, path)
    return replace(recipe, sweep={**recipe.sweep, path: tuple(values)})


def _hint(recipe: Recipe, path: str) -> Any:
    """Type of what a path leads to."""
    if path in _PLAIN or path in CHOICES:
        return _PLAIN.get(path, _CHOICE)
    part, _, key = path.partition(".")
    cls = Task if part == "task" else _PARTS.get(part)
    hints = get_type_hints(cls) if cls else {}
    key = key.rpartition(".")[2] if cls is Task else key
    if key not in hints:
        known = [*_PLAIN, *CHOICES, *(f"{p}.{k}" for p, c in _PARTS.items() for k in get_type_hints(c))]
        known += [f"task.{t.name}.{k}" for t in recipe.tasks for k in get_type_hints(Task)]
        raise UnknownName(f"key in recipe {recipe.name!r}:", path, known)
    return hints[key]


def _assign(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with the values at some paths."""
    of, names = f"recipe {recipe.name!r}", [task.name for task in recipe.tasks]
    point, parts = recipe, {name: dict[str, Any]() for name in (*_PARTS, "task")}
    for path, value in settings.items():
        hint, (part, _, key) = _hint(recipe, path), path.partition(".")
        if part in parts:
            parts[part][key] = value
        elif path in _PLAIN:
            point = replace(point, **{path: coerce(value, hint, f"{path!r} of {of}")})
    tasks = change_tasks(point.tasks, parts.pop("task"), of)
    # Tasks are chosen last: other axes may name one that this point leaves out.
    for path in [path for path in CHOICES if path in settings]:
        among = name_attributes(recipe.tasks) if path == "attributes" else names
        tasks = choose_tasks(tasks, coerce(settings[path], _CHOICE, f"{path!r} of {of}"), among, f"{path!r} of {of}")
    for part, table in parts.items():
        if table:
            built: Any = build(_PARTS[part], {**asdict(getattr(recipe, part)), **table}, f"[{part}] of {of}")
            point = replace(point, **{part: built})
    return replace(point, tasks=tasks)


def _checked(recipe: Recipe) -> Recipe:
    """The recipe, once every task, part of the score and point of the sweep makes sense.

    Raises:
        UnknownName: if the score or the sweep names what is not there
        RecipeError: if two tasks have one name, or a value of the sweep is wrong
    """
    names = [task.name for task in recipe.tasks]
    if len(set(names)) < len(names):
        raise RecipeError(f"recipe {recipe.name!r} has two tasks of one name; names are {names}")
    if not names:
        return recipe
    recipe = _with_roles(recipe)
    for part in recipe.score.of:
        if part.rpartition(".")[0] not in names:
            raise UnknownName(f"task in the score of recipe {recipe.name!r}:", part.rpartition(".")[0], names)
    fit_score(recipe.score, recipe.tasks)
    # A value may need others that vary as well, so each is tried at a point of the sweep.
    axes = {path: ends(values) for path, values in recipe.sweep.items()}
    first = {path: values[0] for path, values in axes.items()}
    for settings in [first, *({**first, path: value} for path, values in axes.items() for value in values)]:
        check_roles(_assign(recipe, settings).tasks)
    return recipe


def _with_roles(recipe: Recipe) -> Recipe:
    """A recipe whose attributes are known: roles that do not vary are the tasks' own, subsets are lists of names."""
    sweep = dict(recipe.sweep)
    for task in recipe.tasks:
        if len(sweep.get(path := f"task.{task.name}.role", ())) == 1:
            recipe = _assign(recipe, {path: sweep.pop(path)[0]})
    if sweep.get("attributes") == (SUBSETS,):
        sweep["attributes"] = list_subsets(name_attributes(recipe.tasks))
    return replace(recipe, sweep=sweep)
