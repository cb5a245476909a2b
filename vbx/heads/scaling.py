"""Scaling: bring columns of vectors to one scale, by statistics of train or of each speaker."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.errors import RecipeError


def fit_scale(x: NDArray[np.floating[Any]], scale: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and spread of each column, in float64.

    Args:
        x: `(N, D)`, from train alone
        scale: `standard` (mean, population standard deviation), `robust` (median, range between the quartiles),
            `minmax` (smallest, range) or `none` (0, 1)

    Returns:
        centre `(D,)` and spread `(D,)`; a column that does not vary has spread 1, so that it becomes 0

    Examples:
        >>> fit_scale(np.array([[1.0, 5.0], [3.0, 5.0]]), "standard")
        (array([2., 5.]), array([1., 1.]))
    """
    dim = x.shape[1]
    if scale == "none":
        return np.zeros(dim), np.ones(dim)
    if scale == "standard":
        centre = x.mean(axis=0, dtype=np.float64)
        spread = np.sqrt(_mean_square(x, centre))
    elif scale == "robust":
        low, centre, high = np.percentile(x, [25, 50, 75], axis=0).astype(np.float64)
        spread = high - low
    else:
        centre = x.min(axis=0).astype(np.float64)
        spread = x.max(axis=0).astype(np.float64) - centre
    # What rounding leaves of a constant column is no spread.
    flat = spread <= 1e-7 * np.abs(centre)
    return centre, np.where(flat | (spread == 0), 1.0, spread)


def scale_by_speaker(
    x: NDArray[np.floating[Any]], speakers: Sequence[str | None], scale: str
) -> NDArray[np.floating[Any]]:
    """Scale each speaker's vectors by the statistics of that speaker's own vectors.

    It uses no labels, but all of a speaker's utterances at once: a new speaker needs several before any can be judged.
    With one utterance alone, a speaker's vector becomes 0.

    Args:
        x: `(N, D)`
        speakers: speaker of each row
        scale: as in `fit_scale`

    Returns:
        `(N, D)` of the same type

    Raises:
        RecipeError: if the speaker of a row is not known
    """
    names = pd.Series(list(speakers), dtype=object)
    unknown = int(names.isna().sum())
    if unknown:
        raise RecipeError(f"fit.scale_by_speaker needs every utterance's speaker; {unknown} of {len(names)} have none")
    scaled = np.empty_like(x)
    for rows in names.groupby(names).indices.values():
        centre, spread = fit_scale(x[rows], scale)
        scaled[rows] = apply_scale(x[rows], centre, spread)
    return scaled


def apply_scale(
    x: NDArray[np.floating[Any]], centre: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.floating[Any]]:
    """`(x - centre) / spread` in the type of `x`, as a head does it."""
    scaled = x - centre.astype(x.dtype)
    scaled /= spread.astype(x.dtype)
    return scaled


def _mean_square(x: NDArray[np.floating[Any]], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of squared distances from the centre, in blocks of rows: a float64 copy of all of `x` may not fit."""
    total = np.zeros(x.shape[1])
    for begin in range(0, len(x), 4096):
        total += np.square(x[begin : begin + 4096] - centre).sum(axis=0)
    return total / len(x)
