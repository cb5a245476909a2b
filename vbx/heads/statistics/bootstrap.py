"""Bootstrap and jackknife over speakers: how often each counts, the same for every run on the same utterances."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vbx.heads.draws import derive_seed
from vbx.heads.metrics import Floats

DRAWS = 1000
BLOCKS = 32
"""Most blocks that are left out in turn; a test gains little from more."""
FEWEST_SPEAKERS = 6
"""With fewer, utterances are drawn: no test of flipped signs over five could reach 0.05 (2 / 2^5 = 0.0625)."""
_DRAWS_AT_ONCE = 100


def group_utterances(
    ids: Sequence[str], speakers: Sequence[str | None] | None
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Put utterances into the groups that are drawn as a whole: speakers, or the utterance where there is none.

    Utterances of one speaker resemble each other: drawn one by one they would pretend to more evidence than there is.
    Where fewer than six speakers are there, nothing can be said of other speakers, and each utterance is a group.

    Args:
        ids: N ids
        speakers: their speakers; None, or None for some, where not known

    Returns:
        group of each utterance `(N,)` and the names of the G groups, sorted

    Examples:
        >>> group_utterances(list("tuvwxyz"), list("bacdefa"))[0]
        array([1, 0, 2, 3, 4, 5, 0])
    """
    known = speakers if speakers is not None else [None] * len(ids)
    names = [f"id:{i}" if pd.isna(speaker) else f"speaker:{speaker}" for i, speaker in zip(ids, known, strict=True)]
    if len(set(names)) < FEWEST_SPEAKERS:
        names = [f"id:{i}" for i in ids]
    groups, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
    return codes, tuple(groups)


@lru_cache(maxsize=4)
def draw_counts(groups: tuple[str, ...]) -> NDArray[np.float32]:
    """How often each group counts: in draws of G out of G with replacement (Efron 1979), then with a block left out.

    A block is a group or, where there are more than 32, neighbours in the order of their names.

    Args:
        groups: names of the G groups: the draws are a function of them alone

    Returns:
        `(1000 + B, G)`: 1,000 rows that each sum to G, then B rows of ones with zeros for one block
    """
    random = np.random.default_rng(derive_seed("bootstrap", *groups))
    size = len(groups)
    blocks = min(size, BLOCKS)
    counts = np.ones((DRAWS + blocks, size), dtype=np.float32)
    for draw in counts[:DRAWS]:
        draw[:] = np.bincount(random.integers(0, size, size), minlength=size)
    counts[DRAWS + np.arange(size) * blocks // size, np.arange(size)] = 0
    return counts


def resample(sums: Floats, counts: NDArray[np.float32]) -> Floats:
    """Statistics of each draw: a matrix product, because statistics add up.

    Args:
        sums: statistics of each group `(G, ...)`
        counts: `(R, G)`

    Returns:
        `(R, ...)`
    """
    flat = torch.from_numpy(np.ascontiguousarray(sums.reshape(len(sums), -1)))
    # In blocks: where every utterance is a group, all counts in float64 would be large.
    blocks = [block.double() @ flat for block in torch.split(torch.from_numpy(counts), _DRAWS_AT_ONCE)]
    return torch.cat(blocks).numpy().reshape(len(counts), *sums.shape[1:])


def resample_each(sums: Mapping[str, Floats], counts: NDArray[np.float32]) -> dict[str, Floats]:
    """What `resample` gives of several statistics of the same groups, at the price of one."""
    side_by_side = np.concatenate([part.reshape(len(part), -1) for part in sums.values()], axis=1)
    ends = np.cumsum([part[0].size for part in sums.values()])
    drawn = np.split(resample(side_by_side, counts), ends[:-1], axis=1)
    return {name: part.reshape(len(counts), *sums[name].shape[1:]) for name, part in zip(sums, drawn, strict=True)}
