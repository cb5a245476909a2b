"""Training: runs and vectors to results, in a queue over the cores or one stack of runs after the other."""

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, DeviceError, RecipeError
from vbx.heads.data import Ready, Split, make_ready, make_split
from vbx.heads.engine import Counted, Engine, one_thread, open_engine, trains_natively, work_off
from vbx.heads.evaluation import Truth, make_truth, predictions_of, score_rows, undefined, watch_dev
from vbx.heads.fitting import Fitted, fit_stack
from vbx.heads.head import Head
from vbx.heads.model import LOG_VARIANCE, Model, make_model, padded, unpack_weights
from vbx.heads.native import explain_outside
from vbx.heads.result import Result, ScoreRow
from vbx.heads.run import Run
from vbx.heads.stack import ROWS_AT_ONCE, Stack
from vbx.progress import Progress, Quiet

__all__ = ["Result", "ScoreRow", "train_heads"]

CPU_RUNS, CUDA_RUNS = 16, 1024
"""Most runs in a stack: on a CPU a few share its cache, a GPU needs many to be busy."""
CPU_BYTES = 500_000_000
"""Most memory of a stack on a CPU, above the vectors; on a GPU half of what is free."""


@dataclass(frozen=True)
class _Job:
    """What the stacks of one shape share."""

    vectors: Vectors
    ready: Ready
    model: Model
    train: Split
    dev: Split | None
    device: torch.device
    native: bool


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

    Args:
        runs: runs on one corpus and one feature
        vectors: `x (N, D)` with `split` (train, perhaps dev and test) and the tasks' columns among its labels
        device: `cpu`, `cuda` or `cuda:i`
        max_stack: most runs in one stack; None for what fits: on a CPU into 0.5 GB and at most 16, on a GPU into half
            of its free memory and at most 1024. With the kernel: runs that are handed over at once; None for one
        progress: told of epochs done
        on_results: called with the results of each stack as soon as they are there

    Returns:
        one result per run, in the order of `runs`

    Raises:
        RecipeError: if there is no run, or labels do not fit the runs
        UnknownName: if the labels lack a column of a task
        CacheError: if `vectors` are of another feature than the runs ask for
        DeviceError: if there is no such device

    Examples:
        >>> x = np.random.default_rng(0).standard_normal((60, 4))
        >>> labels = {"split": ["train", "train", "dev"] * 20, "arousal": x[:, 0]}
        >>> vectors = Vectors.from_arrays(x, labels)
        >>> from vbx.heads.recipe import expand_runs, make_tasks, read_recipe, with_tasks
        >>> recipe = with_tasks(read_recipe("default", {"fit.epochs": 2}), make_tasks(vectors.schema, ["arousal"]))
        >>> [result.status for result in train_heads(expand_runs(recipe), vectors)]
        ['ok', 'ok', 'ok', 'ok', 'ok']
    """
    _check_runs(runs, vectors)
    target, progress = _device(device), progress or Quiet()
    places: dict[object, list[int]] = {}
    for place, run in enumerate(runs):
        places.setdefault(run.shape, []).append(place)
    results: dict[int, Result] = {}
    progress.start("training", sum(run.fit.epochs for run in runs), "epochs")
    try:
        for group in places.values():
            job = _prepare(runs[group[0]], vectors, target)
            size = max_stack or (1 if job.native else _stack_size(job))
            stacks = [group[i : i + size] for i in range(0, len(group), size)]
            told = Counted(progress)
            with contextlib.closing(_train_stacks(job, [[runs[i] for i in s] for s in stacks], told)) as trained:
                for stack, done in zip(stacks, trained, strict=True):
                    results |= zip(stack, done, strict=True)
                    if on_results:
                        on_results(done)
    finally:
        progress.finish()
    return [results[i] for i in range(len(runs))]


def _train_stacks(job: _Job, stacks: list[list[Run]], progress: Counted) -> Generator[list[Result], None, None]:
    """Results of each stack; where the kernel trains, a stack is runs that are handed over together."""
    with one_thread() as threads:
        if not job.native:
            yield from (_train_stack(job, stack, progress) for stack in stacks)
            return
        queue = [run for stack in stacks for run in stack]
        work = work_off(lambda run: _train_stack(job, [run], progress)[0], queue, threads, progress.stop)
        with contextlib.closing(work) as done:
            for stack in stacks:
                yield [next(done) for _ in stack]


def _train_stack(job: _Job, runs: list[Run], progress: Counted) -> list[Result]:
    began = time.perf_counter()
    with open_engine(job.native, job.model, job.train) as engine:
        dev = _truth(job, job.dev)

        def watch(stack: Stack) -> list[float]:
            assert job.dev is not None and dev is not None
            outputs = engine.predict(job.model, stack.moving.numbers, job.dev)
            return watch_dev(job.model, job.ready, job.dev, dev, outputs, stack)

        monitor = watch if job.dev else None
        fitted = fit_stack(job.model, runs, job.train, monitor, progress.advance, engine.train_epoch)
        rows: list[list[ScoreRow]] = [[] for _ in runs]
        # The test split is made only now: nothing before could look at it.
        for split in (job.dev, make_split(job.ready, job.model.run, job.vectors, "test", job.device)):
            for row, more in zip(rows, _score_stack(job, runs, fitted, (split, engine)), strict=True):
                row += more
    seconds = (time.perf_counter() - began) / len(runs)
    return [_result(job, run, fitted, place, (rows[place], seconds)) for place, run in enumerate(runs)]


def _prepare(run: Run, vectors: Vectors, device: torch.device) -> _Job:
    ready = make_ready(run, vectors)
    train = make_split(ready, run, vectors, "train", device)
    dev = make_split(ready, run, vectors, "dev", device)
    assert train is not None  # make_ready refuses labels without one
    model = make_model(run, vectors.x.shape[1], ready.classes)
    return _Job(vectors, ready, model, train, dev, device, trains_natively(run, device))


def _truth(job: _Job, split: Split | None) -> Truth | None:
    return make_truth(job.vectors, job.ready, split) if split else None


def _score_stack(job: _Job, runs: list[Run], fitted: Fitted, on: tuple[Split | None, Engine]) -> list[list[ScoreRow]]:
    """Rows of each run on one split."""
    split, engine = on
    truth = _truth(job, split)
    if split is None or truth is None:
        return [[] for _ in runs]
    outputs = engine.predict(job.model, fitted.numbers, split)
    found = []
    for place, (run, watch) in enumerate(zip(runs, fitted.watches, strict=True)):
        said = predictions_of(job.model, job.ready, outputs, place)
        if watch.status == "diverged":
            nothing = {name: np.zeros_like(values) for name, values in said.items()}
            found.append([undefined(row) for row in score_rows(run, nothing, truth)])
        else:
            found.append(score_rows(run, said, truth))
    return found


def _result(job: _Job, run: Run, fitted: Fitted, place: int, outcome: tuple[list[ScoreRow], float]) -> Result:
    rows, seconds = outcome
    watch = fitted.watches[place]
    notes = [] if job.dev else ["there is no dev split: no early stopping, the last epoch's weights count"]
    outside = explain_outside(run) if job.device.type == "cpu" else ""
    notes += [f"torch trained it, the native kernel does not: {outside}"] if outside else []
    return Result(
        run=run,
        key=run.key_on(job.vectors),
        status="diverged" if watch.status == "diverged" else "ok",
        epochs=watch.epochs,
        best_epoch=watch.best_epoch,
        seconds=seconds,
        rows=tuple(rows),
        head=_head(job, run, fitted.numbers[place].cpu()),
        notes=tuple(notes),
        curve=watch.history,
    )


def _head(job: _Job, run: Run, row: Tensor) -> Head:
    """The head of one run; what standardised its targets is folded into its last layers."""
    state = {name: weight.numpy().copy() for name, weight in unpack_weights(job.model, row).items()}
    state.pop(LOG_VARIANCE, None)
    for name, (centre, spread) in job.ready.target_scale.items():
        weight, bias = f"{name}.out.weight", f"{name}.out.bias"
        state[weight] = (state[weight] * spread[:, None]).astype(state[weight].dtype)
        state[bias] = (state[bias] * spread + centre).astype(state[bias].dtype)
    vectors = job.vectors
    return Head(
        run=run,
        columns=vectors.columns,
        classes=job.ready.classes,
        state=state,
        centre=job.ready.centre,
        spread=job.ready.spread,
        vectors_key=vectors.fingerprint,
        feature=vectors.feature,
        corpus=vectors.corpus,
    )


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


def _stack_size(job: _Job) -> int:
    """How many runs of a shape fit into one stack."""
    model, rows = job.model, len(job.dev.rows) if job.dev else 0
    widths = sum(padded(layer.width_out) for layer in model.layers)
    # Weights, gradients and moments, and what they pass through; activations of a batch or of a block of dev; outputs.
    numbers = 9 * model.size + 4 * (model.run.fit.batch_size + ROWS_AT_ONCE) * widths + 2 * rows * widths
    numbers += model.run.fit.batch_size * padded(model.dim)
    if job.device.type == "cpu":
        budget, most = CPU_BYTES, CPU_RUNS
    else:
        budget, most = torch.cuda.mem_get_info(job.device)[0] // 2, CUDA_RUNS
    return int(max(1, min(most, budget // (numbers * torch.finfo(job.train.x.dtype).bits // 8))))


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index == "" or index.isdigit()):
        raise DeviceError(f"unknown device {name!r}; use cpu, cuda or cuda:0")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
