"""Training: runs and vectors to results, in a queue over the cores or one stack of runs after the other."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, DeviceError, RecipeError
from vbx.heads.engine import Counted, one_thread, spread, work_off
from vbx.heads.jobs import Jobs, train_stack
from vbx.heads.pooling import Gathered, pool_folds
from vbx.heads.protocols.folds import Folds, make_folds
from vbx.heads.result import Result, ScoreRow
from vbx.heads.run import Run, group_shapes
from vbx.progress import Progress, Quiet

__all__ = ["Claim", "Result", "ScoreRow", "each_stack", "train_heads"]

Claim = Callable[[list[Run]], list[Run]]
"""Asked, just before a stack begins, which of its runs to train: others may share the work."""


def train_heads(
    runs: Sequence[Run],
    vectors: Vectors,
    *,
    device: str = "cpu",
    max_stack: int | None = None,
    progress: Progress | None = None,
    on_results: Callable[[list[Result]], None] | None = None,
) -> list[Result]:
    """Train one multitask head per run.

    On a CPU the native kernel trains one run a core, as many cores as torch would use (`torch.set_num_threads`). On a
    GPU, and where there is no kernel or it does not know a run's functions, runs of one shape (feature, tasks, trunk,
    batch size, ...) train together as a stack in torch. Either way a run gets what it would get alone: bit for bit on
    a CPU, within rounding on a GPU, whose matrix kernels may depend on the size of the stack. Its weights, its order
    of batches and its dropout are drawn from its own seed. Test labels are not looked at before its weights are final.

    A run whose protocol has folds is trained once on each of them, from the same first weights, and is one result: what
    its heads say of the utterances that they never saw is pooled, and scored as one.

    Args:
        runs: runs on one corpus and one feature
        vectors: `x (N, D)` with `split` (train, perhaps dev and test), or what the protocol asks for, and the tasks'
            columns among its labels
        device: `cpu`, `cuda` or `cuda:i`
        max_stack: most runs in one stack; None for what fits: on a CPU into 0.5 GB and at most 16, on a GPU into half
            of its free memory and at most 1024. The kernel has no stacks: its runs are handed over one by one
        progress: told of epochs done, of every fold
        on_results: called with the results of each stack as soon as they are there, whichever is done first

    Returns:
        one result per run, in the order of `runs`

    Raises:
        RecipeError: if there is no run, or labels do not fit the runs
        UnknownName: if the labels lack a column of a task
        CacheError: if `vectors` are of another feature than the runs ask for
        DeviceError: if there is no such device

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).standard_normal((60, 4))
        >>> labels = {"split": ["train", "train", "dev"] * 20, "arousal": x[:, 0]}
        >>> vectors = Vectors.from_arrays(x, labels)
        >>> from vbx.heads.recipe import expand_runs, make_tasks, read_recipe, with_tasks
        >>> recipe = with_tasks(read_recipe("default", {"fit.epochs": 2}), make_tasks(vectors.schema, ["arousal"]))
        >>> [result.status for result in train_heads(expand_runs(recipe), vectors)]
        ['ok', 'ok', 'ok', 'ok', 'ok']
    """
    results: dict[Run, Result] = {}
    stacks = each_stack(runs, vectors, device=device, max_stack=max_stack, progress=progress)
    with contextlib.closing(stacks):
        for done in stacks:
            results |= {result.run: result for result in done}
            if on_results:
                on_results(done)
    return [results[run] for run in runs]


def each_stack(
    runs: Sequence[Run],
    vectors: Vectors,
    *,
    device: str = "cpu",
    max_stack: int | None = None,
    progress: Progress | None = None,
    claim: Claim = list,
) -> Generator[list[Result], None, None]:
    """Train as `train_heads` does, and hand over the results of each stack, or run, as soon as they are there.

    Args:
        runs: as for `train_heads`, which says what else there is to know
        vectors: as there
        device: as there
        max_stack: as there
        progress: as there
        claim: asked, just before a stack begins, which of its runs to train; all, if left out

    Yields:
        the results of a stack; nothing of it is kept here
    """
    _check_runs(runs, vectors)
    target, progress = _device(device), progress or Quiet()
    groups = group_shapes(dict.fromkeys(runs))
    folds = _folds(groups, vectors)
    epochs = {shape: sum(run.fit.epochs for run in group) for shape, group in groups.items()}
    progress.start("training", sum(epochs[shape] * len(folds[shape].names) for shape in groups), "epochs")
    try:
        for shape, group in groups.items():
            jobs = Jobs(group[0], vectors, folds[shape], target)
            size = (max_stack if not jobs.native else None) or jobs.stack_size
            stacks = (claim(group[i : i + size]) for i in range(0, len(group), size))
            yield from _train_stacks(jobs, (stack for stack in stacks if stack), Counted(progress))
    finally:
        progress.finish()


def _folds(groups: Mapping[object, Sequence[Run]], vectors: Vectors) -> dict[object, Folds]:
    """Folds of each shape; made once for all shapes that learn the same."""
    made: dict[object, Folds] = {}
    folds = {}
    for shape, (run, *_) in groups.items():
        what = run.protocol, tuple((task.columns, task.loss, task.role) for task in run.tasks)
        folds[shape] = made[what] = made.get(what) or make_folds(run, vectors)
    return folds


def _train_stacks(jobs: Jobs, stacks: Iterable[list[Run]], progress: Counted) -> Generator[list[Result], None, None]:
    """Results of each stack, whichever is done first; one run is a stack where the kernel trains.

    The queue is of trainings: one stack on one fold each. Who finishes the last fold of a run scores it.
    """
    gathered = Gathered(len(jobs.folds.names))

    def train(piece: tuple[int, list[Run]], threads: int = 1) -> list[Result]:
        place, runs = piece
        done = gathered.add(place, train_stack(jobs.get(place), runs, progress, threads))
        return spread(partial(pool_folds, jobs), done, threads)

    with one_thread() as threads:
        pieces = _list_pieces(jobs, stacks)
        if not jobs.native:
            yield from (results for results in (train(piece, threads) for piece in pieces) if results)
            return
        work = work_off(train, pieces, threads, progress.stop)
        with contextlib.closing(work):
            yield from (results for results in work if results)


def _list_pieces(jobs: Jobs, stacks: Iterable[list[Run]]) -> Iterator[tuple[int, list[Run]]]:
    """Each stack on each fold; the kernel takes a run at a time."""
    for stack in stacks:
        for place in range(len(jobs.folds.names)):
            yield from ((place, [run]) for run in stack) if jobs.native else [(place, stack)]


def _check_runs(runs: Sequence[Run], vectors: Vectors) -> None:
    """Refuse runs on another feature than these vectors; arrays without a name are what all runs agree on."""
    if not runs:
        raise RecipeError("there is no run to train")
    asked = sorted({run.feature for run in runs} - {""})
    if len(asked) > 1 or (asked and vectors.feature not in (*asked, "array")):
        raise CacheError(
            f"the vectors are of feature {vectors.feature!r}, but the runs ask for {asked}; train the runs of each "
            f"feature on its own vectors, or override the recipe's feature: {{'feature': {vectors.feature!r}}}"
        )


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index == "" or index.isdigit()):
        raise DeviceError(f"unknown device {name!r}; use cpu, cuda or cuda:0")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
