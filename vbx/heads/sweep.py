"""A sweep: all runs of a recipe over the corpora and features it names, each feature loaded once."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError
from vbx.heads.board import compact, pending, read_keys
from vbx.heads.data import read_labels
from vbx.heads.outbox import open_outbox
from vbx.heads.recipe import Recipe, expand_runs, make_tasks, with_tasks
from vbx.heads.result import Result
from vbx.heads.results.claims import Ahead, Claims, open_claims
from vbx.heads.run import Run, group_shapes
from vbx.heads.timing import count_work
from vbx.heads.training import each_stack
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
    sweeps = []
    for corpus, feature in places:
        vectors = load(corpus, feature)
        runs = plan_runs(recipe, vectors, (corpus, feature), targets)
        sweeps.append(Sweep(corpus, feature, tuple(runs), tuple(pending(runs, vectors, out)), vectors))
    return sweeps


def plan_runs(recipe: Recipe, vectors: Vectors, place: tuple[str, str], targets: Sequence[str] = ()) -> list[Run]:
    """All runs of a recipe on one feature of one corpus.

    Args:
        recipe: as for `plan_sweep`
        vectors: what they learn from
        place: corpus and feature
        targets: as for `plan_sweep`

    Raises:
        UnknownName: if the labels lack a column of a task
        RecipeError: if the recipe and the targets do not go together, or a column holds what a task cannot learn
    """
    if recipe.tasks and targets:
        raise RecipeError(f"recipe {recipe.name!r} names its own tasks; leave out --target, or use another recipe")
    names = list(targets) or ([] if recipe.tasks else choose_targets(vectors))
    axes = {path: values for path, values in recipe.sweep.items() if path not in ("feature", "corpus")}
    here = replace(recipe, corpus=place[0], feature=place[1], sweep=axes)
    runs = expand_runs(here if here.tasks else with_tasks(here, make_tasks(vectors.schema, names)))
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        read_labels(vectors, task)  # what does not fit is told before anything is trained
    return runs


def run_sweep(
    sweeps: Sequence[Sweep],
    out: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    claims: Claims | None = None,
) -> dict[str, int]:
    """Train what is to be trained; other processes may train the rest of it in the same folder at the same time.

    Results are saved every ten seconds and at the end, whatever ends it: a kill costs these and the runs under way.

    Args:
        sweeps: from `plan_sweep`
        out: folder of results
        device: torch device
        progress: told of runs, each a share of the work that all of them are
        claims: of this process in the folder, if this is a piece of something longer

    Returns:
        counts: `runs`; `finished` before; `trained` and, of these, `diverged`; `elsewhere`: trained by other processes
        meanwhile; `under_way`: being trained by `processes` others, which have not saved them yet

    Raises:
        CacheError: if the folder cannot be written, or a file in it is damaged; what was saved before stays
    """
    todo, seen = [], set[str]()
    for sweep in sweeps:
        keys = {run: run.key_on(sweep.vectors) for run in sweep.todo}
        todo.append({run: key for run, key in keys.items() if key not in seen})
        seen |= set(keys.values())
    runs = len({run.key_on(sweep.vectors) for sweep in sweeps for run in sweep.runs})
    counts = {"runs": runs, "finished": runs - len(seen)}
    counts |= dict.fromkeys(("trained", "diverged", "elsewhere", "under_way", "processes"), 0)
    if seen:
        hold = contextlib.nullcontext(claims) if claims else open_claims(out, read_keys)
        with hold as held, _whole(sweeps, progress or Quiet()) as told:
            shares = list(zip(sweeps, todo, told, strict=True))
            held.take(())
            # What another process had claimed is free once that process is gone.
            while any(held.is_free(key) for key in seen):
                with open_outbox(out, device) as put:
                    for sweep, keys, tell in shares:
                        for results in _train_free(sweep.vectors, keys, held, device, tell):
                            put(results, sweep.vectors)
                            counts["trained"] += len(results)
                            counts["diverged"] += sum(result.status == "diverged" for result in results)
                held.take(())
            counts["under_way"] = len(seen - held.finished)
            counts["elsewhere"] = len(seen) - counts["trained"] - counts["under_way"]
            counts["processes"] = len(held.living)
    if counts["trained"] and not claims:
        compact(out)
    return counts


def _train_free(
    vectors: Vectors, keys: Mapping[Run, str], claims: Claims, device: str, progress: "_Share"
) -> Generator[list[Result], None, None]:
    """Train those of some runs that nobody else trains."""
    shapes = group_shapes(run for run, key in keys.items() if claims.is_free(key))
    progress.skip([run for run, key in keys.items() if key in claims.others])
    # In the order in which they train: what is claimed ahead is what comes next.
    order = [run for group in shapes.values() for run in group]
    ahead = Ahead(claims, [keys[run] for run in order])
    progress.begin(order)

    def claim(stack: list[Run]) -> list[Run]:
        ours = ahead.ours([keys[run] for run in stack])
        progress.skip([run for run, own in zip(stack, ours, strict=True) if not own])
        return [run for run, own in zip(stack, ours, strict=True) if own]

    if order:
        with contextlib.closing(each_stack(order, vectors, device=device, progress=progress, claim=claim)) as stacks:
            for results in stacks:
                ahead.done += len(results)
                yield results


class _Share(Quiet):
    """Progress of one sweep, told as its share of the work that all sweeps are."""

    def __init__(self, whole: Progress, worth: float) -> None:
        self._whole, self._worth = whole, worth  # of all epochs of a run, divided by their number
        self._epochs = self._folds = 1.0
        self._skipped: set[Run] = set()

    def begin(self, runs: Sequence[Run]) -> None:
        """These are to be trained."""
        self._epochs = float(sum(run.fit.epochs for run in runs))

    def skip(self, runs: Sequence[Run]) -> None:
        """Others train these."""
        fresh = set(runs) - self._skipped
        self._skipped |= fresh
        self._whole.advance(sum(run.fit.epochs for run in fresh) * self._worth)

    def start(self, what: str, total: float, unit: str) -> None:
        self._folds = total / self._epochs

    def advance(self, amount: float = 1.0, note: str = "", what: str = "") -> None:
        self._whole.advance(amount / self._folds * self._worth, note)


@contextlib.contextmanager
def _whole(sweeps: Sequence[Sweep], progress: Progress) -> Iterator[list[_Share]]:
    """Progress of each sweep, for an ETA over all of them: in runs, each worth its share of the work."""
    runs = sum(len(sweep.todo) for sweep in sweeps)
    work = [_count_all(sweep) for sweep in sweeps]
    epochs = [sum(run.fit.epochs for run in sweep.todo) for sweep in sweeps]
    progress.start("training", runs, "runs")
    try:
        yield [_Share(progress, w * runs / sum(work) / max(n, 1)) for w, n in zip(work, epochs, strict=True)]
    finally:
        progress.finish()


def _count_all(sweep: Sweep) -> float:
    """Work of all runs of a sweep; of a shape it is counted once, for it goes through the labels."""
    work = 0.0
    for group in group_shapes(sweep.todo).values():
        epochs = sum(run.fit.epochs for run in group)
        work += count_work(group[0], sweep.vectors) / group[0].fit.epochs * epochs
    return work
