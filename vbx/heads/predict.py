"""Predict: what a head says of the utterances of a corpus, as a table."""

import pandas as pd

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError
from vbx.heads.head import Head, apply_head
from vbx.heads.scaling import scale_by_speaker


def predict(head: Head, vectors: Vectors) -> pd.DataFrame:
    """Apply a head to vectors.

    Args:
        head: of `load_head`
        vectors: of the same feature, of any corpus; labels are not needed

    Returns:
        one row per utterance: `id`; for a classification the most probable class under the name of its label column,
        then the probability of each class as `COLUMN.CLASS`; for a regression the value of each label column in its
        own unit. Where two tasks learn one column, names begin with the task: `TASK.COLUMN`.

    Raises:
        CacheError: if the vectors' columns are not those that the head learnt from
        RecipeError: if the head scales by speaker and the speaker of an utterance is not known
    """
    _check_columns(head, vectors)
    x = vectors.x
    if head.run.fit.scale_by_speaker:
        if "speaker" not in vectors.labels:
            raise RecipeError(
                f"the head scales the vectors of each speaker (fit.scale_by_speaker), and corpus {vectors.corpus!r} "
                "has no 'speaker' column; add one, or use a head without"
            )
        x = scale_by_speaker(x, vectors.labels["speaker"].tolist(), head.run.fit.scale)
    outputs = apply_head(head, x)
    targets = [column for task in head.run.tasks for column in task.columns]
    table: dict[str, object] = {"id": list(vectors.ids)}
    for task in head.run.tasks:
        values = outputs[task.name]
        names = [c if targets.count(c) == 1 and c != "id" else f"{task.name}.{c}" for c in task.columns]
        if task.kind == "regression":
            table |= {name: values[:, i] for i, name in enumerate(names)}
            continue
        classes = head.classes[task.name]
        table[names[0]] = [classes[i] for i in values.argmax(axis=1)]
        table |= {f"{names[0]}.{name}": values[:, i] for i, name in enumerate(classes)}
    return pd.DataFrame(table)


def _check_columns(head: Head, vectors: Vectors) -> None:
    """Make sure that the vectors are of the kind that the head learnt from."""
    if vectors.columns == head.columns and vectors.x.shape[1] == len(head.centre):
        return
    ours, theirs = f"{head.feature!r} ({len(head.centre)} columns)", f"{vectors.feature!r} ({vectors.x.shape[1]})"
    pairs = [(i, a, b) for i, (a, b) in enumerate(zip(head.columns, vectors.columns, strict=False)) if a != b]
    where = f"; column {pairs[0][0]} is {pairs[0][2]!r}, not {pairs[0][1]!r}" if pairs else ""
    raise CacheError(f"the head learnt from {ours}, the vectors are {theirs}{where}; load the vectors of that feature")
