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
from vbx.heads.data import Ready, Split
from vbx.heads.metrics import METRICS, Floats, combine_scores, confusions, moments
from vbx.heads.model import Model, view_weights
from vbx.heads.objective import main_loss, task_losses
from vbx.heads.parts import Task
from vbx.heads.result import ScoreRow
from vbx.heads.run import Run
from vbx.heads.stack import Stack
from vbx.heads.statistics.bootstrap import draw_counts, group_utterances, resample_each
from vbx.heads.sums import count_confusions, sum_moments

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


def make_truth(vectors: Vectors, labels: Mapping[str, NDArray[Any]], split: str, rows: NDArray[np.intp]) -> Truth:
    """What is true of some utterances.

    Args:
        vectors: what there is
        labels: of each task, as `read_labels` has them for all utterances
        split: name of the split
        rows: which utterances `(N,)`; one that several folds have in their dev counts each time
    """
    speakers = vectors.labels["speaker"].iloc[rows].tolist() if "speaker" in vectors.labels else None
    groups, names = group_utterances([vectors.ids[i] for i in rows], speakers)
    return Truth(split, {name: values[rows] for name, values in labels.items()}, groups, names)


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
    found: list[float] = main_loss(model, named, stack.task_weights, losses).tolist()
    places = [place for place, run in enumerate(stack.runs) if run.fit.monitor == "score"]
    if places:
        theirs = outputs if len(places) == len(found) else [output[places] for output in outputs]
        scores = score_runs([stack.runs[place] for place in places], ready, truth, theirs)
        for place, score in zip(places, scores, strict=True):
            found[place] = -score
    return found


def score_runs(runs: Sequence[Run], ready: Ready, truth: Truth, outputs: Sequence[Tensor]) -> list[float]:
    """The combined scores of runs of one shape on a split, from their outputs there; nan if a part is not defined."""
    sums = {}
    for task, output in zip(runs[0].tasks, outputs, strict=True):
        true = torch.from_numpy(truth.labels[task.name]).to(output.device)
        if task.kind == "classification":
            sums[task.name] = count_confusions(output, true).cpu().numpy()
        else:
            centre, spread = (torch.from_numpy(v).to(output.device) for v in ready.target_scale[task.name])
            mean = true.nanmean(0).nan_to_num()
            sums[task.name] = sum_moments(output, true - mean, (spread, centre - mean)).cpu().numpy()
    scores = {score: _score(run, sums) for score, run in {run.score: run for run in runs}.items()}
    return [float(scores[run.score][place]) for place, run in enumerate(runs)]


def score_rows(run: Run, predictions: Predictions, truth: Truth, part: str = "") -> list[ScoreRow]:
    """Every metric of a run on a split, and the combined score, with replicates of those that a ranking asks for.

    Args:
        run: the run
        predictions: what it says
        truth: of the same utterances
        part: part of a cross-validation that they are, which is never ranked and has no replicates; empty for all
    """
    by_group = {task.name: _sums(task, predictions, truth) for task in run.tasks}
    total = {name: sums.sum(0) for name, sums in by_group.items()}
    if part:
        bare = [
            row for task in run.tasks for metric in task.metrics for row in _metric_rows(task, metric, truth, total)
        ]
        score = ScoreRow(truth.split, "score", "", run.score.combine, float(_score(run, total)), len(truth.groups))
        return [replace(row, part=part) for row in (*bare, score)]
    counts = draw_counts(truth.names)
    drawn = resample_each(by_group, counts)
    rows = []
    for task in run.tasks:
        for metric in task.metrics:
            rows += _metric_rows(task, metric, truth, total, drawn)
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


def _metric_rows(
    task: Task, metric: str, truth: Truth, sums: Mapping[str, Floats], drawn: Mapping[str, Floats] | None = None
) -> list[ScoreRow]:
    """The mean over columns, with replicates if there are draws, and, where there are several, each column."""
    total = sums[task.name]
    true = truth.labels[task.name]
    there = true[:, None] >= 0 if task.kind == "classification" else ~np.isnan(true)
    mean = float(_values(task, metric, total))
    replicates = _values(task, metric, drawn[task.name]).astype(np.float32) if drawn else None
    rows = [ScoreRow(truth.split, task.name, "", metric, mean, int(there.any(1).sum()), replicates)]
    if len(task.columns) > 1:
        values, counts = METRICS[metric].function(total), there.sum(0)
        for column, value, n in zip(task.columns, values.tolist(), counts.tolist(), strict=True):
            rows.append(ScoreRow(truth.split, task.name, column, metric, value, n))
    return rows
