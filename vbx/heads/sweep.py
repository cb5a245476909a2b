"""A sweep: all runs of a recipe over the corpora and features it names, each feature loaded once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError
from vbx.heads.board import append_results, compact, pending
from vbx.heads.recipe import Recipe, expand_runs, make_tasks, with_tasks
from vbx.heads.result import Result
from vbx.heads.run import Run
from vbx.heads.training import train_heads
from vbx.progress import Progress, Quiet

TARGETS = ("emotion", "label", "arousal", "valence", "dominance", "intensity", "age", "gender", "country", "language")
"""Label columns that are learnt where nobody says which: the first of these that has something to learn."""


@dataclass(frozen=True)
class Sweep:
    """Runs on one feature of one corpus.

    Attributes:
        corpus: name of the corpus
        feature: name of the feature
        runs: all of them
        todo: those that are not finished yet
        vectors: what they learn from
    """

    corpus: str
    feature: str
    runs: tuple[Run, ...]
    todo: tuple[Run, ...]
    vectors: Vectors


def choose_targets(vectors: Vectors) -> list[str]:
    """A label column worth learning, where none is named.

    Raises:
        RecipeError: if no label column has something to learn
    """
    usable = [
        name
        for name, column in vectors.schema.items()
        if name != "split" and (len(column.classes) > 1 or (column.kind == "number" and column.low != column.high))
    ]
    for name in (*TARGETS, *(n for n in usable if vectors.schema[n].kind == "class")):
        if name in usable:
            return [name]
    raise RecipeError(f"no label column of corpus {vectors.corpus!r} has something to learn; name one with --target")


def plan_sweep(
    recipe: Recipe,
    load: Callable[[str, str], Vectors],
    places: Iterable[tuple[str, str]],
    out: Path,
    targets: Sequence[str] = (),
) -> list[Sweep]:
    """Find out which runs of a recipe are to be trained.

    Args:
        recipe: the experiment; its tasks come from `targets` where it names none
        load: corpus and feature to vectors
        places: corpora and features, which take the place of those axes of the recipe
        out: folder of results
        targets: label columns; chosen from the labels if the recipe names no task either

    Raises:
        RecipeError: if the recipe and the targets do not go together
    """
    if recipe.tasks and targets:
        raise RecipeError(f"recipe {recipe.name!r} names its own tasks; leave out --target, or use another recipe")
    sweeps = []
    for corpus, feature in places:
        vectors = load(corpus, feature)
        names = list(targets) or ([] if recipe.tasks else choose_targets(vectors))
        axes = {path: values for path, values in recipe.sweep.items() if path not in ("feature", "corpus")}
        here = replace(recipe, corpus=corpus, feature=feature, sweep=axes)
        runs = expand_runs(here if here.tasks else with_tasks(here, make_tasks(vectors.schema, names)))
        sweeps.append(Sweep(corpus, feature, tuple(runs), tuple(pending(runs, vectors, out)), vectors))
    return sweeps


def run_sweep(
    sweeps: Sequence[Sweep], out: Path, *, device: str = "cpu", progress: Progress | None = None
) -> Mapping[str, int]:
    """Train what is to be trained; results are saved stack by stack, so that a kill costs one stack.

    Args:
        sweeps: from `plan_sweep`
        out: folder of results
        device: torch device
        progress: told of each epoch

    Returns:
        `runs`, `trained`, `finished` (before), `diverged`: counts
    """
    counts = {"runs": 0, "trained": 0, "finished": 0, "diverged": 0}
    for sweep in sweeps:
        vectors = sweep.vectors

        def save(results: list[Result], vectors: Vectors = vectors) -> None:
            append_results(out, results, vectors, device=device)

        results: list[Result] = []
        if sweep.todo:
            results = train_heads(sweep.todo, vectors, device=device, progress=progress or Quiet(), on_results=save)
        counts["runs"] += len(sweep.runs)
        counts["trained"] += len(results)
        counts["finished"] += len(sweep.runs) - len(sweep.todo)
        counts["diverged"] += sum(result.status == "diverged" for result in results)
    if counts["trained"]:
        compact(out)
    return counts
