"""Cautions: what keeps the scores of folds from meaning what they seem to, in sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.vectors import Vectors
from vbx.heads.run import Run

Splits = Sequence[NDArray[np.object_]]


def list_cautions(run: Run, vectors: Vectors, splits: Splits) -> list[str]:
    """What one should know of the folds of a run.

    Args:
        run: the run
        vectors: what it learns from
        splits: `train`, `dev`, `test` or None of each utterance `(N,)`, for each fold
    """
    return [
        *_shared_speakers(vectors, splits),
        *_same_vectors(vectors, splits),
        *_strange_classes(run, vectors, splits),
        *_single_utterances(splits),
        *_learnt_codebooks(vectors),
    ]


def _shared_speakers(vectors: Vectors, splits: Splits) -> list[str]:
    if "speaker" not in vectors.labels or vectors.labels["speaker"].isna().all():
        return ["the corpus names no speakers: the same ones may be in train and in test"]
    speakers = vectors.labels["speaker"].to_numpy(object)
    known = ~vectors.labels["speaker"].isna().to_numpy()
    shared: set[Any] = set()
    for split in splits:
        train = set(speakers[known & (split == "train")])
        shared |= train & set(speakers[known & np.isin(split, ["dev", "test"])])
    return [f"speakers that are in train and in dev or test of one fold: {len(shared)}"] if shared else []


def _same_vectors(vectors: Vectors, splits: Splits) -> list[str]:
    """The same audio under two names has the same vector, in train and in test."""
    _, number = np.unique(
        np.ascontiguousarray(vectors.x).view(f"V{vectors.x.shape[1] * 4}").ravel(), return_inverse=True
    )
    if number.max() + 1 == len(number):
        return []
    again = 0
    for split in splits:
        again += int((np.isin(number, number[split == "train"]) & (split == "test")).sum())
    return [f"utterances in test whose very vector, and so perhaps audio, is in train too: {again}"] if again else []


def _strange_classes(run: Run, vectors: Vectors, splits: Splits) -> list[str]:
    notes = []
    for column in dict.fromkeys(task.columns[0] for task in run.tasks if task.kind == "classification"):
        classes = vectors.labels[column].to_numpy(object)
        there = ~vectors.labels[column].isna().to_numpy()
        strange: set[Any] = set()
        count = 0
        for split in splits:
            new = set(classes[there & (split == "test")]) - set(classes[there & (split == "train")])
            strange |= new
            count += int(np.isin(classes, list(new))[split == "test"].sum()) if new else 0
        if strange:
            names = ", ".join(sorted(strange))
            notes.append(
                f"classes of {column!r} that are tested but not in the train of that fold, which no head can find: "
                f"{names} ({count} utterances)"
            )
    return notes


def _single_utterances(splits: Splits) -> list[str]:
    single = sum(int((split == "dev").sum() == 1) for split in splits)
    return (
        [f"folds whose dev is a single utterance, by which an epoch can hardly be chosen: {single}"] if single else []
    )


def _learnt_codebooks(vectors: Vectors) -> list[str]:
    if any(part.strip().startswith("boaw") for part in vectors.feature.split("+")):
        return ["the codebook of the audio words was learnt, without labels, from utterances that are tested here"]
    return []
