"""Pooling: what the trainings of one run say of their folds, put together and scored once."""

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vbx.heads.evaluation import Predictions, score_rows, undefined
from vbx.heads.jobs import Jobs, Trained
from vbx.heads.native import explain_outside
from vbx.heads.protocol import CORPUS
from vbx.heads.result import FoldResult, Result, ScoreRow
from vbx.heads.run import Run

NO_DEV = "there is no dev split: no early stopping, the last epoch's weights count"


class Gathered:
    """What is done of some runs; whoever brings the last training of one gets them all, in the order of the folds."""

    def __init__(self, folds: int) -> None:
        self._folds, self._lock = folds, threading.Lock()
        self._there: dict[Run, dict[int, Trained]] = {}

    def add(self, place: int, trained: Sequence[Trained]) -> list[list[Trained]]:
        """Bring the trainings of some runs on one fold."""
        whole = []
        with self._lock:
            for one in trained:
                there = self._there.setdefault(one.run, {})
                there[place] = one
                if len(there) == self._folds:
                    whole.append([there[k] for k in range(self._folds)])
                    del self._there[one.run]
        return whole


def pool_folds(jobs: Jobs, trained: Sequence[Trained]) -> Result:
    """The result of one run: predictions of all its folds are scored as one.

    Each utterance of the pool of test was predicted by a head that never saw it, so metrics, draws of speakers and
    paired tests mean what they mean on one split. A mean over folds would depend on how large they are, and a CCC or a
    UAR of a fold that lacks a class is of something else.

    Args:
        jobs: of its shape
        trained: one training for each fold, in order
    """
    run, folds, parts = trained[0].run, jobs.folds, len(trained) > 1
    rows = [row for split in ("dev", "test") for row in _score(jobs, trained, split)]
    for name, one in zip(folds.names, trained, strict=True):
        rows += _score(jobs, [one], "dev", name) if name else []
        rows += _score_parts(jobs, one)
    watches = [one.watch for one in trained]
    diverged = any(watch.status == "diverged" for watch in watches)
    return Result(
        run=run,
        key=run.key_on(jobs.vectors),
        status="diverged" if diverged else "ok",
        epochs=round(np.mean([watch.epochs for watch in watches])),
        best_epoch=round(np.mean([watch.best_epoch for watch in watches])),
        seconds=sum(one.seconds for one in trained),
        rows=tuple(rows),
        head=None if parts else trained[0].head,
        notes=tuple(_notes(jobs, trained)),
        curve=_mean_curve([watch.history for watch in watches]),
        folds={name: _fold_result(one) for name, one in zip(folds.names, trained, strict=True)} if parts else {},
    )


def _score(
    jobs: Jobs, trained: Sequence[Trained], split: str, part: str = "", of: NDArray[np.bool_] | None = None
) -> list[ScoreRow]:
    """Rows of one run on the pool of a split over trainings, or on some utterances of one of them."""
    there = [one for one in trained if split in one.rows]
    if not there:
        return []
    run = there[0].run
    rows = np.concatenate([one.rows[split] for one in there])
    tasks = there[0].said[split]
    said: Predictions = {task: np.concatenate([one.said[split][task] for one in there]) for task in tasks}
    if of is not None:
        rows, said = rows[of], {task: values[of] for task, values in said.items()}
    truth = jobs.truth(split, rows)
    if all(one.watch.status != "diverged" for one in there):
        return score_rows(run, said, truth, part)
    nothing = {task: np.zeros_like(values) for task, values in said.items()}
    return [undefined(row) for row in score_rows(run, nothing, truth, part)]


def _score_parts(jobs: Jobs, one: Trained) -> list[ScoreRow]:
    """Rows of one training on each part that it was tested on."""
    if "test" not in one.rows:
        return []
    parts = jobs.folds.parts[one.rows["test"]]
    names = sorted({name for name in parts if name is not None})
    return [row for name in names for row in _score(jobs, [one], "test", name, parts == name)]


def _fold_result(one: Trained) -> FoldResult:
    status: Literal["ok", "diverged"] = "diverged" if one.watch.status == "diverged" else "ok"
    return FoldResult(one.head, status, one.watch.epochs, one.watch.best_epoch, one.seconds, one.watch.history)


def _mean_curve(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Mean over folds of what was monitored, as far as all of them went."""
    if len(curves) == 1:
        return tuple(curves[0])
    return tuple(float(np.mean(values)) for values in zip(*curves, strict=False))


def _notes(jobs: Jobs, trained: Sequence[Trained]) -> list[str]:
    """What one should know of a run."""
    notes, names, run = list(jobs.folds.notes), jobs.folds.names, trained[0].run
    without = [name for name, one in zip(names, trained, strict=True) if "dev" not in one.rows]
    if len(without) == len(trained):
        notes.append(NO_DEV)
    elif without:
        notes.append(f"without a dev split, so that the last epoch's weights count: {', '.join(without)}")
    lost = [name for name, one in zip(names, trained, strict=True) if one.watch.status == "diverged"]
    if lost and len(trained) > 1:
        notes.append(f"folds that diverged, so that the run has no score: {', '.join(lost)}")
    outside = explain_outside(run) if jobs.device.type == "cpu" else ""
    notes += [f"torch trained it, the native kernel does not: {outside}"] if outside else []
    return [*notes, *_unlabelled(jobs)]


def _unlabelled(jobs: Jobs) -> list[str]:
    """How many utterances of each corpus of a joined one have no label that is learnt."""
    labels = jobs.vectors.labels
    if CORPUS not in labels:
        return []
    notes = []
    for column in dict.fromkeys(column for task in jobs.run.tasks for column in task.columns):
        counts = labels[column].isna().groupby(labels[CORPUS]).agg(["sum", "size"])
        some = [f"{name} {n} of {size}" for name, n, size in counts.itertuples() if n]
        notes += [f"utterances without a label of {column!r}: {', '.join(some)}"] if some else []
    return notes
