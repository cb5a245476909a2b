"""Predict: what a head says of the utterances of a corpus, as a table."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from vbx.cache.feature import Part
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError
from vbx.heads.head import Head, apply_head
from vbx.heads.parts import Task
from vbx.heads.roles import told_tasks
from vbx.heads.scaling import scale_by_speaker


def predict(head: Head, vectors: Vectors, *, raw: bool = False, every: bool = False) -> pd.DataFrame:
    """Apply a head to vectors.

    Args:
        head: of `load_head`
        vectors: of the same feature by the same weights, of any corpus; labels are not needed
        raw: leave the calibration out: probabilities as the softmax gives them, and no intervals
        every: also what adversarial tasks and discriminators say

    Returns:
        one row per utterance: `id`; for a classification the most probable class under the name of its label column,
        then the probability of each class as `COLUMN.CLASS`; for a regression the value of each label column in its
        own unit, and if the head is calibrated the ends of its 90 % interval as `COLUMN.low` and `COLUMN.high`,
        infinite where dev had too few labels. Where two tasks learn one column, names begin with the task:
        `TASK.COLUMN`.

    Raises:
        CacheError: if the vectors are not of the columns and the encoders that the head learnt from
        RecipeError: if the head scales by speaker and the speaker of an utterance is not known
    """
    _check_columns(head, vectors)
    check_parts(head, vectors.parts)
    head = replace(head, calibration=None) if raw else head
    x = vectors.x
    if head.run.fit.scale_by_speaker:
        if "speaker" not in vectors.labels:
            raise RecipeError(
                f"the head scales the vectors of each speaker (fit.scale_by_speaker), and corpus {vectors.corpus!r} "
                "has no 'speaker' column; add one, or use a head without"
            )
        x = scale_by_speaker(x, vectors.labels["speaker"].tolist(), head.run.fit.scale)
    outputs = apply_head(head, x)
    tasks = head.run.tasks if every else told_tasks(head.run.tasks)
    targets = [column for task in tasks for column in task.columns]
    table: dict[str, object] = {"id": list(vectors.ids)}
    for task in tasks:
        names = [c if targets.count(c) == 1 and c != "id" else f"{task.name}.{c}" for c in task.columns]
        table |= _tell(head, task, names, outputs[task.name])
    return pd.DataFrame(table)


def check_parts(head: Head, parts: Sequence[Part]) -> None:
    """Refuse vectors of other weights or another encoder than the head learnt from, where both are known.

    The channel of the audio may differ: it is part of a corpus rather than of an encoder.

    Raises:
        CacheError: if they are
    """
    if not head.parts or not parts:
        return
    if len(head.parts) != len(parts):
        raise CacheError(f"the head learnt from {len(head.parts)} encoders, the vectors are of {len(parts)}")
    for mine, theirs in zip(head.parts, parts, strict=True):
        told = mine.spec.tell_difference(theirs.spec, but=("channel", "revision"))
        if told:
            raise CacheError(
                f"the head learnt from {mine.typed!r} of another encoder than these vectors are of: {told}; use the "
                "same weights and settings, or train a head on these vectors"
            )


def _tell(head: Head, task: Task, names: Sequence[str], values: np.ndarray) -> dict[str, object]:
    """Columns of the table for one task."""
    if task.kind == "classification":
        classes = head.classes[task.name]
        table: dict[str, object] = {names[0]: [classes[i] for i in values.argmax(axis=1)]}
        return table | {f"{names[0]}.{name}": values[:, i] for i, name in enumerate(classes)}
    ends = head.calibration.interval(task, values) if head.calibration else None
    table = {}
    for i, name in enumerate(names):
        table[name] = values[:, i]
        if ends:
            table |= {f"{name}.low": ends[0][:, i], f"{name}.high": ends[1][:, i]}
    return table


def _check_columns(head: Head, vectors: Vectors) -> None:
    """Make sure that the vectors are of the kind that the head learnt from."""
    if vectors.columns == head.columns and vectors.x.shape[1] == len(head.centre):
        return
    ours, theirs = f"{head.feature!r} ({len(head.centre)} columns)", f"{vectors.feature!r} ({vectors.x.shape[1]})"
    pairs = [(i, a, b) for i, (a, b) in enumerate(zip(head.columns, vectors.columns, strict=False)) if a != b]
    where = f"; column {pairs[0][0]} is {pairs[0][2]!r}, not {pairs[0][1]!r}" if pairs else ""
    raise CacheError(f"the head learnt from {ours}, the vectors are {theirs}{where}; load the vectors of that feature")
