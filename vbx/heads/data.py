"""Data: vectors and labels of a split as the tensors that a stack learns from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbx.cache.schema import TEXT_COLUMNS
from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError, UnknownName
from vbx.heads.model import padded
from vbx.heads.parts import Task
from vbx.heads.run import Run
from vbx.heads.scaling import apply_scale, fit_scale, scale_by_speaker


@dataclass(frozen=True)
class Ready:
    """What is fitted on train, and what it is for.

    Attributes:
        x: `(N, D)`, not scaled but where each speaker's own statistics do it
        labels: of each task, indices of classes `(N,)`, -1 where missing, or numbers `(N, K)`, nan where missing
        centre: `(D,)`, to subtract
        spread: `(D,)`, to divide by
        classes: classes of each classification task
        target_scale: centre and spread `(K,)` of each regression task's numbers in training
        class_weights: `(C,)` of each classification task
        limits: least and largest label of each regression task in train `(2, K)`, in their unit
    """

    x: NDArray[np.floating[Any]]
    labels: Mapping[str, NDArray[Any]]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    classes: Mapping[str, tuple[str, ...]]
    target_scale: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    class_weights: Mapping[str, NDArray[np.float64]]
    limits: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Split:
    """One split: the utterances that have a label of any task.

    Attributes:
        name: `train`, `dev` or `test`
        rows: where they are among the vectors
        x: scaled vectors `(N, padded D)`
        truth: for each task, indices of classes `(N,)` or numbers `(N, K)` as trained on; any where missing
        weight: for each task, of the same shape, 0 where missing
        limits: for each task, least and largest number in train as trained on `(2, K)`; of classes `(2, 0)`
    """

    name: str
    rows: NDArray[np.intp]
    x: Tensor
    truth: tuple[Tensor, ...]
    weight: tuple[Tensor, ...]
    limits: tuple[Tensor, ...] = ()


def read_labels(vectors: Vectors, task: Task) -> NDArray[Any]:
    """Labels of a task.

    Args:
        vectors: with the label table
        task: the task

    Returns:
        indices of classes `(N,)`, -1 where missing; or numbers `(N, K)`, nan where missing

    Raises:
        UnknownName: if there is no such label column
        RecipeError: if a column holds something else than the task learns
    """
    wanted = "class" if task.kind == "classification" else "number"
    for column in task.columns:
        if column not in vectors.schema:
            raise UnknownName(f"label column of task {task.name!r}:", column, vectors.schema)
        kind = vectors.schema[column].kind
        if kind != wanted and not (wanted == "class" and column in TEXT_COLUMNS):
            raise RecipeError(
                f"task {task.name!r} has the loss {task.loss!r} and needs columns of kind {wanted!r}, but {column!r} "
                f"of corpus {vectors.corpus!r} is of kind {kind!r}; read the corpus with --label {column}:{wanted}"
            )
    if task.kind == "classification":
        classes = list_classes(vectors, task.columns[0])
        return pd.Categorical(vectors.labels[task.columns[0]], categories=list(classes)).codes.astype(np.int64)
    numbers = vectors.labels[list(task.columns)].to_numpy(np.float64)
    if task.loss == "bce" and ((numbers < 0) | (numbers > 1)).any():
        raise RecipeError(f"task {task.name!r} has the loss 'bce', but {list(task.columns)} leave the range 0 to 1")
    return numbers


def list_classes(vectors: Vectors, column: str) -> tuple[str, ...]:
    """Classes of a label column; of speakers, whose names are text, those that there are."""
    if column in TEXT_COLUMNS:
        return tuple(sorted(vectors.labels[column].dropna().unique()))
    return vectors.schema[column].classes


def labelled_rows(vectors: Vectors, labels: Mapping[str, NDArray[Any]], split: str) -> NDArray[np.intp]:
    """Utterances of a split that have a label of any task."""
    return np.flatnonzero(has_label(labels) & (vectors.labels["split"] == split).to_numpy())


def has_label(labels: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Whether each utterance has a label of any task `(N,)`."""
    known = [values >= 0 if values.ndim == 1 else ~np.isnan(values).all(axis=1) for values in labels.values()]
    there: NDArray[np.bool_] = np.logical_or.reduce(known)
    return there


def make_ready(run: Run, vectors: Vectors) -> Ready:
    """Fit on train what a run, and all of its shape, needs.

    Raises:
        UnknownName: if there is no such label column
        RecipeError: if there is no train split, or labels do not fit the tasks
    """
    labels = {task.name: read_labels(vectors, task) for task in run.tasks}
    rows = labelled_rows(vectors, labels, "train") if "split" in vectors.labels else ()
    if not len(rows):
        raise RecipeError(
            f"vectors of {vectors.feature!r} on {vectors.corpus!r} have no utterance in split 'train' with a label of "
            f"{[task.name for task in run.tasks]}; labels need a column 'split' (train, dev, test)"
        )
    x = vectors.x.astype(run.fit.dtype, copy=False)
    if run.fit.scale_by_speaker:
        speakers = vectors.labels["speaker"] if "speaker" in vectors.labels else [None] * len(x)
        x = scale_by_speaker(x, list(speakers), run.fit.scale)
    centre, spread = fit_scale(x[rows], "none" if run.fit.scale_by_speaker else run.fit.scale)
    classes, target_scale, class_weights, limits = {}, {}, {}, {}
    for task in run.tasks:
        truth = labels[task.name][rows]
        if task.kind == "classification":
            classes[task.name] = list_classes(vectors, task.columns[0])
            class_weights[task.name] = _class_weights(truth, task, len(classes[task.name]))
        else:
            target_scale[task.name] = _target_scale(truth, task, run.fit.scale_targets)
            limits[task.name] = _limits(truth)
    return Ready(x, labels, centre, spread, classes, target_scale, class_weights, limits)


def make_split(ready: Ready, run: Run, vectors: Vectors, name: str, device: torch.device) -> Split | None:
    """One split on a device; None if it has no utterance with a label.

    Outside of train that is a label of a main task: runs with other attributes are scored on the same utterances.
    """
    asked = [task.name for task in run.tasks if name == "train" or task.role == "main"]
    rows = labelled_rows(vectors, {task: ready.labels[task] for task in asked}, name)
    if not len(rows):
        return None
    x = np.zeros((len(rows), padded(ready.x.shape[1])), dtype=ready.x.dtype)
    x[:, : ready.x.shape[1]] = apply_scale(ready.x[rows], ready.centre, ready.spread)
    truths, weights, limits = [], [], []
    for task in run.tasks:
        limit = np.empty((2, 0))
        truth = ready.labels[task.name][rows]
        if task.kind == "classification":
            weight = np.where(truth >= 0, ready.class_weights[task.name][truth], 0.0)
            truth = np.maximum(truth, 0)
        else:
            centre, spread = ready.target_scale[task.name]
            weight = (~np.isnan(truth)).astype(np.float64)
            truth = np.nan_to_num((truth - centre) / spread).astype(run.fit.dtype)
            limit = (ready.limits[task.name] - centre) / spread
        truths.append(torch.from_numpy(truth).to(device))
        weights.append(torch.from_numpy(weight.astype(run.fit.dtype)).to(device))
        limits.append(torch.from_numpy(limit.astype(run.fit.dtype)).to(device))
    return Split(name, rows, torch.from_numpy(x).to(device), tuple(truths), tuple(weights), tuple(limits))


def _class_weights(truth: NDArray[np.int64], task: Task, classes: int) -> NDArray[np.float64]:
    """All ones, or n / (C n_c): weights that make every class count alike."""
    counts = np.bincount(truth[truth >= 0], minlength=classes)
    if task.class_weights == "none":
        return np.ones(classes)
    weights: NDArray[np.float64] = counts.sum() / (classes * np.maximum(counts, 1))
    return weights


def _target_scale(
    truth: NDArray[np.float64], task: Task, standardise: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column's labels, or 0 and 1."""
    centre, spread = np.zeros(truth.shape[1]), np.ones(truth.shape[1])
    if standardise and task.output == "linear":
        for k, column in enumerate(truth.T):
            present = column[~np.isnan(column)]
            if len(present) and present.std() > 0:
                centre[k], spread[k] = present.mean(), present.std()
    return centre, spread


def _limits(truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least and largest label of each column `(2, K)`; of one without labels none, so without end."""
    limits = np.array([[-np.inf], [np.inf]]).repeat(truth.shape[1], axis=1)
    for k, column in enumerate(truth.T):
        present = column[~np.isnan(column)]
        if len(present):
            limits[:, k] = present.min(), present.max()
    return limits
