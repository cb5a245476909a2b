"""Evaluation: predictions of one run on one split to its metrics, with their bootstrap replicates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbx.cache.vectors import Vectors
from vbx.heads.bootstrap import draw_counts, group_utterances, resample
from vbx.heads.data import Ready, Split
from vbx.heads.metrics import METRICS, Floats, combine_scores, confusions, moments
from vbx.heads.model import Model, view_weights
from vbx.heads.objective import task_losses, total_loss
from vbx.heads.parts import Task
from vbx.heads.result import ScoreRow
from vbx.heads.run import Run
from vbx.heads.stack import Stack

Predictions = Mapping[str, NDArray[np.floating[Any]]]
"""What a run says of N utterances: of each task, logits of classes `(N, C)` or values in their unit `(N, K)`."""


@dataclass(frozen=True)
class Truth:
    """What is true of the utterances of one split.

    Attributes:
        split: its name
        labels: of each task, indices of classes `(N,)` or numbers `(N, K)`; -1 or nan where missing
        groups: speaker of each utterance, as a number `(N,)`
        names: names of the speakers
    """

    split: str
    labels: Mapping[str, NDArray[Any]]
    groups: NDArray[np.intp]
    names: tuple[str, ...]


def make_truth(vectors: Vectors, ready: Ready, split: Split) -> Truth:
    """What is true of the utterances of a split."""
    speakers = vectors.labels["speaker"].iloc[split.rows].tolist() if "speaker" in vectors.labels else None
    groups, names = group_utterances([vectors.ids[i] for i in split.rows], speakers)
    return Truth(split.name, {name: values[split.rows] for name, values in ready.labels.items()}, groups, names)


def predictions_of(model: Model, ready: Ready, outputs: Sequence[Tensor], place: int) -> Predictions:
    """What one run says, from the outputs of its stack, numbers in their own unit again."""
    said = {}
    for task, output in zip(model.run.tasks, outputs, strict=True):
        centre, spread = ready.target_scale.get(task.name, (0.0, 1.0))
        said[task.name] = output[place].double().cpu().numpy() * spread + centre
    return said


@torch.no_grad()
def watch_dev(
    model: Model, ready: Ready, dev: Split, truth: Truth, outputs: Sequence[Tensor], stack: Stack
) -> list[float]:
    """What early stopping looks at: each run's loss on dev, weighted as in training, or its score there, negated.

    The loss is that of all of dev at once, not the mean over batches: CCC depends on what it is taken over.
    """
    truths, weights = [t.unsqueeze(0) for t in dev.truth], [w.unsqueeze(0) for w in dev.weight]
    losses = task_losses(model, outputs, truths, weights)
    named = view_weights(model, stack.moving.numbers)
    found: list[float] = total_loss(model, named, stack.task_weights, losses).tolist()
    for place, run in enumerate(stack.runs):
        if run.fit.monitor == "score":
            found[place] = -score_run(run, predictions_of(model, ready, outputs, place), truth)
    return found


def score_run(run: Run, predictions: Predictions, truth: Truth) -> float:
    """The combined score of a run on a split; nan if a part of it is not defined."""
    sums = {task.name: _sums(task, predictions, truth).sum(0) for task in run.tasks}
    return float(_score(run, sums))


def score_rows(run: Run, predictions: Predictions, truth: Truth) -> list[ScoreRow]:
    """Every metric of a run on a split, and the combined score, with replicates of those that a ranking asks for."""
    counts = draw_counts(truth.names)
    by_group = {task.name: _sums(task, predictions, truth) for task in run.tasks}
    total = {name: sums.sum(0) for name, sums in by_group.items()}
    drawn = {name: resample(sums, counts) for name, sums in by_group.items()}
    rows = []
    for task in run.tasks:
        for metric in task.metrics:
            rows += _metric_rows(task, metric, truth, (total[task.name], drawn[task.name]))
    replicates = _score(run, drawn).astype(np.float32)
    value = float(_score(run, total))
    return [*rows, ScoreRow(truth.split, "score", "", run.score.combine, value, len(truth.groups), replicates)]


def undefined(row: ScoreRow) -> ScoreRow:
    """The row of a run that diverged."""
    replicates = None if row.replicates is None else np.full_like(row.replicates, np.nan)
    return replace(row, value=math.nan, replicates=replicates)


def _sums(task: Task, predictions: Predictions, truth: Truth) -> Floats:
    """Statistics of each speaker: `(G, K, 7)`, or `(G, C, C)`."""
    said, true = predictions[task.name], truth.labels[task.name]
    if task.kind == "classification":
        return confusions(said.argmax(1), true, said.shape[1], truth.groups)
    there = ~np.isnan(true)
    centre = np.where(there, true, 0.0).sum(0) / np.maximum(there.sum(0), 1)
    return moments(said - centre, true - centre, truth.groups)


def _values(task: Task, metric: str, statistics: Floats) -> Floats:
    """A metric's mean over the columns of a task `(...)`."""
    values = METRICS[metric].function(statistics)
    return values if task.kind == "classification" else np.asarray(values.mean(-1))


def _score(run: Run, statistics: Mapping[str, Floats]) -> Floats:
    tasks, parts = {task.name: task for task in run.tasks}, []
    for part in run.score.of:
        name, _, metric = part.rpartition(".")
        parts.append(_values(tasks[name], metric, statistics[name]))
    return combine_scores(np.stack(parts, axis=-1), run.score.combine)


def _metric_rows(task: Task, metric: str, truth: Truth, statistics: tuple[Floats, Floats]) -> list[ScoreRow]:
    """The mean over columns and, where there are several, each column."""
    total, drawn = statistics
    true = truth.labels[task.name]
    there = true[:, None] >= 0 if task.kind == "classification" else ~np.isnan(true)
    mean, replicates = float(_values(task, metric, total)), _values(task, metric, drawn).astype(np.float32)
    rows = [ScoreRow(truth.split, task.name, "", metric, mean, int(there.any(1).sum()), replicates)]
    if len(task.columns) > 1:
        values, counts = METRICS[metric].function(total), there.sum(0)
        for column, value, n in zip(task.columns, values.tolist(), counts.tolist(), strict=True):
            rows.append(ScoreRow(truth.split, task.name, column, metric, value, n))
    return rows
