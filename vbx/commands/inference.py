"""From audio files or the cache to the vectors that a head takes: the one place where both stages meet."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from vbx.cache.feature import Feature, Part
from vbx.cache.store import Store
from vbx.cache.vectors import Vectors
from vbx.devices import pick_device
from vbx.errors import CacheError, CorpusError, UnknownName, VbxError
from vbx.extract.files import encode_audio, match_jobs
from vbx.extract.plan import Job
from vbx.heads.head import Head


def find_jobs(head: Head, store: Store, checkpoints: Mapping[str, str]) -> list[Job]:
    """The encoders whose vectors a head learnt from, one for each of its parts.

    Raises:
        CheckpointError: if they are not there, or others are
        CacheError: if it is not known which they are
    """
    names = set(head.corpus.split("+")) & set(store.corpora())
    return match_jobs(known_parts(head, store), checkpoints, [store.folder(name) for name in sorted(names)])


def known_parts(head: Head, store: Store) -> tuple[Part, ...]:
    """What the vectors were made of that a head learnt from; of heads of earlier versions the cache says it.

    Raises:
        CacheError: if it does not
    """
    if head.parts:
        return head.parts
    reason = "its vectors came from an array"
    if "+" in head.corpus:
        reason = "its corpora were not encoded by the same"
    elif head.feature != "array":
        try:
            vectors = store.load_vectors(head.corpus, head.feature)
        except VbxError as error:
            reason = f"it is of an earlier version, and the cache does not tell ({error})"
        else:
            if vectors.fingerprint == head.vectors_key:
                return vectors.parts
            reason = "it is of an earlier version, and what the cache has is no longer what it learnt from"
    raise CacheError(f"which encoder the head learnt from is not known: {reason}; train it again")


def encode_files(
    paths: Sequence[Path], head: Head, store: Store, checkpoints: Mapping[str, str], device: str
) -> tuple[Vectors, dict[str, str]]:
    """Vectors of audio files as a head takes them.

    Returns:
        the vectors of the files that gave one, and the reason of each that did not

    Raises:
        CorpusError: if none gave a vector
        CheckpointError: if the encoder at hand is not the one that the head learnt from
    """
    jobs = find_jobs(head, store, checkpoints)
    rows, columns, failures = encode_audio(paths, jobs, pick_device(device))
    if not rows:
        raise CorpusError(f"none of {len(paths)} files gave a vector; {next(iter(failures.values()), '')}")
    vectors = Vectors(
        x=np.stack(list(rows.values())),
        ids=tuple(rows),
        labels=pd.DataFrame(index=range(len(rows))),
        schema={},
        feature=head.feature,
        columns=columns,
        parts=tuple(part for job in jobs for _, part in job.parts),
    )
    return vectors, failures


def load_corpus(head: Head, store: Store, corpus: str, split: str | None) -> Vectors:
    """Vectors of a corpus in the cache as a head takes them, by the weights that it learnt from if they are there.

    Raises:
        CacheError: if there are none
        UnknownName: if there is no such corpus or split
    """
    there = {spec.key for spec in store.specs(corpus).values()}
    feature: str | Feature = head.feature
    if head.parts and {part.spec.key for part in head.parts} <= there:
        feature = Feature(head.feature, tuple(replace(part, key=part.spec.key) for part in head.parts))
    return select_split(store.load_vectors(corpus, feature), split)


def select_split(vectors: Vectors, split: str | None) -> Vectors:
    """The vectors of one split, or all.

    Raises:
        UnknownName: if there is no such split
    """
    if split is None:
        return vectors
    there = sorted(set(vectors.labels["split"].dropna()))
    if split not in there:
        raise UnknownName("split", split, there)
    rows = np.flatnonzero((vectors.labels["split"] == split).to_numpy())
    ids, labels = tuple(vectors.ids[i] for i in rows), vectors.labels.iloc[rows].reset_index(drop=True)
    return replace(vectors, x=vectors.x[rows], ids=ids, labels=labels, missing=0)
