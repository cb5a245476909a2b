"""Vectors: what stage 2 learns from: `x (N, D)` aligned with a label table."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.feature import Part
from vbx.cache.schema import Column, infer_columns
from vbx.cache.splits import normal_splits
from vbx.errors import CacheError


@dataclass(frozen=True)
class Vectors:
    """Vectors aligned with labels; row i of everything is the same utterance.

    Attributes:
        x: `(N, D)` float32, finite
        ids: N utterance ids
        labels: N rows; `split`, perhaps `speaker`, and the targets
        schema: what each label column holds
        feature: name of the feature
        corpus: name of the corpus
        columns: D names
        key: digest of the specs behind `x`: with the ids it says which vectors these are
        missing: utterances of the corpus that have no vector
        parts: outputs of the encoders that stand side by side in `x`, digests of weights included; none for arrays
    """

    x: NDArray[np.float32]
    ids: tuple[str, ...]
    labels: pd.DataFrame
    schema: dict[str, Column]
    feature: str = "array"
    corpus: str = "array"
    columns: tuple[str, ...] = ()
    key: str = ""
    missing: int = 0
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        x: NDArray[np.floating[Any]],
        labels: pd.DataFrame | Mapping[str, Any],
        *,
        feature: str = "array",
        corpus: str = "array",
        kinds: Mapping[str, str] | None = None,
    ) -> "Vectors":
        """Vectors from any array: stage 2 needs no cache of ours.

        Args:
            x: `(N, D)`, finite
            labels: N rows; the index becomes the ids
            feature: a name for the leaderboard
            corpus: a name for the leaderboard
            kinds: kind (`class`, `number`, `text`) of columns where the guess is wrong

        Raises:
            CacheError: if shapes do not fit or a vector is not finite

        Examples:
            >>> v = Vectors.from_arrays(np.eye(4), {"split": ["train"] * 4, "age": [20, 30, 40, 50]})
            >>> v.x.shape, v.schema["age"].kind
            ((4, 4), 'number')
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        frame = normal_splits(pd.DataFrame(labels))
        if x.ndim != 2 or len(x) != len(frame):
            raise CacheError(
                f"x has shape {x.shape}, labels have {len(frame)} rows: x must be (N, D) with N rows of labels"
            )
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
            raise CacheError(f"vector of {frame.index[row]!r} (row {row}) is not finite")
        frame, schema = infer_columns(frame, override=kinds)
        ids = tuple(str(i) for i in frame.index)
        digest = hashlib.sha256(x.tobytes()).hexdigest()
        columns = tuple(f"{feature}_{i}" for i in range(x.shape[1]))
        return cls(x, ids, frame.reset_index(drop=True), schema, feature, corpus, columns, digest)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that a training run can see here: which vectors, of which utterances, with which labels."""
        seen = hashlib.sha256(self.key.encode())
        seen.update("\n".join(self.ids).encode())
        seen.update(self.labels.to_csv(index=False).encode())
        return seen.hexdigest()


def join(vectors: "list[Vectors]", feature: str) -> Vectors:
    """Put the columns of several features side by side, for the utterances that have all of them.

    Args:
        vectors: of one corpus
        feature: name of the result
    """
    first = vectors[0]
    if len(vectors) == 1:
        return first
    common = set.intersection(*(set(v.ids) for v in vectors))
    keep = [i for i, name in enumerate(first.ids) if name in common]
    ids = tuple(first.ids[i] for i in keep)
    places = [{name: i for i, name in enumerate(v.ids)} for v in vectors]
    x = np.concatenate([v.x[[p[name] for name in ids]] for v, p in zip(vectors, places, strict=True)], axis=1)
    total = len(first.ids) + first.missing
    return Vectors(
        x=np.ascontiguousarray(x),
        ids=ids,
        labels=first.labels.iloc[keep].reset_index(drop=True),
        schema=first.schema,
        feature=feature,
        corpus=first.corpus,
        columns=tuple(c for v in vectors for c in v.columns),
        key=hashlib.sha256("".join(v.key for v in vectors).encode()).hexdigest(),
        missing=total - len(ids),
        parts=tuple(part for v in vectors for part in v.parts),
    )
