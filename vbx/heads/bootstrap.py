"""Bootstrap over speakers: how often each is drawn, the same draws for every run on the same utterances."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vbx.heads.draws import derive_seed
from vbx.heads.metrics import Floats

DRAWS = 1000
_DRAWS_AT_ONCE = 100


def group_utterances(
    ids: Sequence[str], speakers: Sequence[str | None] | None
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Put utterances into the groups that are drawn as a whole: speakers, or the utterance where there is none.

    Utterances of one speaker resemble each other: drawn one by one they would pretend to more evidence than there is.

    Args:
        ids: N ids
        speakers: their speakers; None, or None for some, where not known

    Returns:
        group of each utterance `(N,)` and the names of the G groups, sorted

    Examples:
        >>> group_utterances(["x", "y", "z"], ["b", "a", "b"])[0]
        array([1, 0, 1])
    """
    known = speakers if speakers is not None else [None] * len(ids)
    names = [f"id:{i}" if pd.isna(speaker) else f"speaker:{speaker}" for i, speaker in zip(ids, known, strict=True)]
    groups, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
    return codes, tuple(groups)


@lru_cache(maxsize=4)
def draw_counts(groups: tuple[str, ...]) -> NDArray[np.float32]:
    """How often each group is in each draw of G out of G with replacement (Efron 1979).

    Args:
        groups: names of the G groups: the draws are a function of them alone

    Returns:
        `(1000, G)`, each row summing to G
    """
    random = np.random.default_rng(derive_seed("bootstrap", *groups))
    size = len(groups)
    counts = np.empty((DRAWS, size), dtype=np.float32)
    for draw in counts:
        draw[:] = np.bincount(random.integers(0, size, size), minlength=size)
    return counts


def resample(sums: Floats, counts: NDArray[np.float32]) -> Floats:
    """Statistics of each draw: a matrix product, because statistics add up.

    Args:
        sums: statistics of each group `(G, ...)`
        counts: `(1000, G)`

    Returns:
        `(1000, ...)`
    """
    flat = torch.from_numpy(sums.reshape(len(sums), -1))
    # In blocks: where every utterance is a group, all counts in float64 would be large.
    blocks = [block.double() @ flat for block in torch.split(torch.from_numpy(counts), _DRAWS_AT_ONCE)]
    return torch.cat(blocks).numpy().reshape(len(counts), *sums.shape[1:])
