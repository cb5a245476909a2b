"""Jobs: what the trainings of runs of one shape share on one fold, and one such training."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbx.cache.vectors import Vectors
from vbx.heads.calibration import calibrate
from vbx.heads.data import Ready, Split, make_ready, make_split, read_labels
from vbx.heads.engine import Counted, open_engine, spread, trains_natively
from vbx.heads.evaluation import Predictions, Truth, make_truth, predictions_of, watch_dev
from vbx.heads.fitting import fit_stack
from vbx.heads.head import Head, fold_targets
from vbx.heads.model import WEIGHERS, Model, make_model, padded, unpack_weights
from vbx.heads.protocols.folds import Folds
from vbx.heads.run import Run
from vbx.heads.stack import ROWS_AT_ONCE, Stack
from vbx.heads.watch import Watch

CPU_RUNS, CUDA_RUNS = 16, 1024
"""Most runs in a stack: on a CPU a few share its cache, a GPU needs many to be busy."""
CPU_BYTES = 500_000_000
"""Most memory of a stack on a CPU, above the vectors; on a GPU half of what is free."""
KEPT_BYTES = 500_000_000
"""Most memory of the scaled vectors of folds that are kept for the next run."""

KEPT_TRUTHS = 128
"""Sets of utterances, whole splits and parts of them, of which it is kept what is true."""


@dataclass(frozen=True)
class Job:
    """What the stacks of one shape share on one fold.

    Attributes:
        vectors: what the runs learn from
        fold: the same, with the fold's own splits
        ready: what is fitted on its train
        model: of the shape
        train: what is learnt from
        dev: what epochs are chosen on; None if there is none
        truth: what is true of dev
        device: where
        native: whether the kernel trains
    """

    vectors: Vectors
    fold: Vectors
    ready: Ready
    model: Model
    train: Split
    dev: Split | None
    truth: Truth | None
    device: torch.device
    native: bool


@dataclass(frozen=True)
class Trained:
    """One training of one run.

    Attributes:
        run: the run
        watch: how far it came
        head: its weights
        said: what it says of `dev` and `test`, for those that are there
        rows: which utterances those are
        seconds: wall time of its stack, divided by the runs in it
    """

    run: Run
    watch: Watch
    head: Head
    said: Mapping[str, Predictions]
    rows: Mapping[str, NDArray[np.intp]]
    seconds: float


class Jobs:
    """The jobs of one shape, a job a fold, each made when it is first needed; those that fit into memory are kept.

    Args:
        run: any run of the shape
        vectors: what it learns from
        folds: of the shape
        device: where

    Attributes:
        labels: of each task, as `read_labels` has them
        native: whether the kernel trains
    """

    def __init__(self, run: Run, vectors: Vectors, folds: Folds, device: torch.device) -> None:
        self.run, self.vectors, self.folds, self.device = run, vectors, folds, device
        self.labels = {task.name: read_labels(vectors, task) for task in run.tasks}
        self.native = trains_natively(run, device)
        numbers = len(vectors.ids) * 2 * padded(vectors.x.shape[1])
        self._most = max(2, KEPT_BYTES // max(1, numbers * (8 if run.fit.dtype == "float64" else 4)))
        self._kept: OrderedDict[int, Job] = OrderedDict()
        self._truths: OrderedDict[tuple[str, bytes], Truth] = OrderedDict()
        self._lock, self._locks = threading.Lock(), [threading.Lock() for _ in folds.names]

    def get(self, place: int) -> Job:
        """The job of a fold; several threads may ask."""
        with self._locks[place]:
            with self._lock:
                job = self._kept.get(place)
            job = job or _prepare(self.run, self.vectors, self.folds.splits[place], self.device)
            with self._lock:
                self._kept[place] = job
                self._kept.move_to_end(place)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return job

    def truth(self, split: str, rows: NDArray[np.intp]) -> Truth:
        """What is true of some utterances of a split; kept, for every run is scored on the same ones."""
        key = (split, rows.tobytes())
        with self._lock:
            truth = self._truths.get(key)
        truth = truth or make_truth(self.vectors, self.labels, split, rows)
        with self._lock:
            self._truths[key] = truth
            if len(self._truths) > KEPT_TRUTHS:
                self._truths.popitem(last=False)
        return truth

    @property
    def stack_size(self) -> int:
        """How many runs are handed over together: a stack of torch, one run of the kernel.

        Some runs of the kernel where the folds of one do not fit into memory: then each fold is made for all of them.
        """
        if not self.native:
            return _stack_size(self.get(0))
        return 1 if len(self.folds.names) <= self._most else CPU_RUNS


def train_stack(job: Job, runs: list[Run], progress: Counted, threads: int = 1) -> list[Trained]:
    """Train runs of a job's shape on its fold; the kernel trains one at a time. Heads are calibrated in threads."""
    began = time.perf_counter()
    with open_engine(job.native, job.model, job.train) as engine:

        def watch(stack: Stack) -> list[float]:
            assert job.dev is not None and job.truth is not None
            outputs = engine.predict(job.model, stack.moving.numbers, job.dev)
            return watch_dev(job.model, job.ready, job.dev, job.truth, outputs, stack)

        monitor = watch if job.dev else None
        fitted = fit_stack(job.model, runs, job.train, monitor, progress.advance, engine.train_epoch)
        said: list[dict[str, Predictions]] = [{} for _ in runs]
        rows: dict[str, NDArray[np.intp]] = {}
        # The test split is made only now: nothing before could look at it.
        for split in (job.dev, make_split(job.ready, job.model.run, job.fold, "test", job.device)):
            if split:
                outputs = engine.predict(job.model, fitted.numbers, split)
                rows[split.name] = split.rows
                for place, says in enumerate(said):
                    says[split.name] = predictions_of(job.model, job.ready, outputs, place)
    seconds = (time.perf_counter() - began) / len(runs)
    numbers = fitted.numbers.cpu()

    def finish(place: int) -> Trained:
        run, seen, says = runs[place], fitted.watches[place], said[place]
        head = _head(job, run, numbers[place])
        if job.truth is not None and seen.status != "diverged":
            head = replace(head, calibration=calibrate(run.tasks, says["dev"], job.truth.labels))
        return Trained(run, seen, head, says, rows, seconds)

    return spread(finish, range(len(runs)), threads)


def _prepare(run: Run, vectors: Vectors, split: NDArray[np.object_], device: torch.device) -> Job:
    fold = vectors
    if run.protocol.kind != "splits":
        fold = replace(vectors, labels=vectors.labels.assign(split=split))
    ready = make_ready(run, fold)
    train = make_split(ready, run, fold, "train", device)
    dev = make_split(ready, run, fold, "dev", device)
    assert train is not None  # make_ready refuses labels without one
    truth = make_truth(vectors, ready.labels, "dev", dev.rows) if dev else None
    model = make_model(run, vectors.x.shape[1], ready.classes)
    return Job(vectors, fold, ready, model, train, dev, truth, device, trains_natively(run, device))


def _head(job: Job, run: Run, row: Tensor) -> Head:
    """The head of one run; what standardised its targets is folded into its last layers."""
    state = {name: weight.numpy().copy() for name, weight in unpack_weights(job.model, row).items()}
    for name in WEIGHERS.values():
        state.pop(name, None)
    fold_targets(state, run.tasks, job.ready.target_scale)
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
        parts=vectors.parts,
    )


def _stack_size(job: Job) -> int:
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
