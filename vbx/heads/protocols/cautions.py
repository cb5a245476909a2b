"""Cautions: what keeps the scores of folds from meaning what they seem to, in sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.vectors import Vectors
from vbx.heads.protocol import CORPUS
from vbx.heads.run import Run

Splits = Sequence[NDArray[np.object_]]
NAMED = 6
"""Classes that a note names; of more it gives the number: as a class, each speaker of a test is one that is new."""


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
        *_unlike_ranges(run, vectors),
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
    _, number = np.unique(_digest_rows(vectors.x), return_inverse=True)
    if number.max() + 1 == len(number):
        return []
    again = 0
    for split in splits:
        again += int((np.isin(number, number[split == "train"]) & (split == "test")).sum())
    return [f"utterances in test whose very vector, and so perhaps audio, is in train too: {again}"] if again else []


def _digest_rows(x: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for each row `(N,)`: bits of its values times odd constants; equal for other rows once in 2^64."""
    odd = np.random.default_rng(0).integers(0, 2**63, x.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    blocks = [
        np.ascontiguousarray(x[i : i + 512]).view(np.uint32).astype(np.uint64) @ odd for i in range(0, len(x), 512)
    ]
    return np.concatenate(blocks)


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
            names = ", ".join(sorted(strange)[:NAMED]) + (
                f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
            )
            notes.append(
                f"classes of {column!r} that are tested but not in the train of that fold, which no head can find: "
                f"{names} ({count} utterances)"
            )
    return notes


def _unlike_ranges(run: Run, vectors: Vectors) -> list[str]:
    """Numbers of one name that are on different scales in different corpora, as far as their ranges show it."""
    if CORPUS not in vectors.labels:
        return []
    notes = []
    for column in dict.fromkeys(c for task in run.tasks if task.kind == "regression" for c in task.columns):
        ranges = vectors.labels.groupby(CORPUS)[column].agg(["min", "max"]).dropna()
        common, whole = ranges["max"].min() - ranges["min"].max(), ranges["max"].max() - ranges["min"].min()
        if len(ranges) > 1 and common < whole / 2:
            told = ", ".join(f"{low:g} to {high:g} in {name!r}" for name, low, high in ranges.itertuples())
            notes.append(f"numbers of {column!r} are {told}: a head predicts on the scale that it learnt")
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
