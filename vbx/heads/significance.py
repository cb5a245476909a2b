"""Significance: whether paired differences could be chance, and how large they are."""

from functools import lru_cache

import numpy as np
from scipy import stats

from vbx.heads.draws import derive_seed
from vbx.heads.metrics import Floats

LEVEL = 0.05
EXACT = 14
"""Up to so many pairs every pattern of signs is tried."""
FLIPS = 49_999
"""Patterns of signs that are drawn where there are too many to try."""
_FLIPS_AT_ONCE = 5000


def pseudo_values(values: Floats, left_out: Floats) -> Floats:
    """What each block adds to a metric: B v - (B - 1) v without it (the jackknife; Efron & Tibshirani 1993, ch. 11).

    For a mean over blocks of one size they are the blocks' own values, for any other metric the linear part of it.

    Args:
        values: the metric on all blocks `(...)`
        left_out: the metric without each block `(..., B)`

    Examples:
        >>> blocks = np.array([1.0, 2.0, 6.0])
        >>> pseudo_values(blocks.mean(), np.array([4.0, 3.5, 1.5]))
        array([1., 2., 6.])
    """
    blocks = left_out.shape[-1]
    return np.asarray(blocks * np.asarray(values)[..., None] - (blocks - 1) * left_out)


def flip_signs(differences: Floats) -> Floats:
    """Permutation test of paired differences: how often random signs give a mean as far from 0 (Fisher 1935).

    If two settings are alike, either could have had either value of a pair, and a difference either sign. All 2^n
    patterns are tried up to n = 14, else 49,999 are drawn, the same ones for every call with this n.

    Args:
        differences: `(..., n)`

    Returns:
        two-sided p `(...)`, never 0; nan where a difference is

    Examples:
        >>> flip_signs(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.4])), 2 / 2**6
        (array(0.03125), 0.03125)
    """
    n = differences.shape[-1]
    if n == 0:
        return np.full(differences.shape[:-1], np.nan)
    rows = differences.reshape(-1, n).astype(np.float64)
    # A sum that is the observed one but for rounding counts as reached.
    least = np.abs(rows.sum(1)) - 1e-9 * np.abs(rows).sum(1)
    reached = np.zeros(len(rows))
    signs = _draw_signs(n)
    for begin in range(0, len(signs), _FLIPS_AT_ONCE):
        reached += (np.abs(signs[begin : begin + _FLIPS_AT_ONCE] @ rows.T) >= least).sum(0)
    p = reached / len(signs) if n <= EXACT else (reached + 1) / (len(signs) + 1)
    return np.where(np.isnan(rows).any(1), np.nan, p).reshape(differences.shape[:-1])


def compare_seeds(differences: Floats) -> tuple[float, float]:
    """Effect size and test of the differences between two settings, seed by seed.

    Args:
        differences: one per seed `(S,)`

    Returns:
        d_z, their mean by their standard deviation (Cohen 1988, §2.3), and the two-sided p of the paired t-test, for
        flipped signs could say nothing of five seeds. nan with fewer than two; d_z also where all are equal
    """
    if len(differences) < 2 or np.isnan(differences).any():
        return np.nan, np.nan
    mean, spread = differences.mean(), differences.std(ddof=1)
    if spread <= 1e-9 * np.abs(differences).max():
        return np.nan, float(mean == 0)
    p = 2 * stats.t.sf(abs(mean) / (spread / np.sqrt(len(differences))), len(differences) - 1)
    return float(mean / spread), float(p)


def correct_holm(p: Floats) -> Floats:
    """Holm's correction of several tests (Holm 1979): reject below 0.05, and one wrong rejection is as rare as that.

    Args:
        p: `(m,)`; nan is no test

    Returns:
        corrected p `(m,)`, nan where there was no test

    Examples:
        >>> correct_holm(np.array([0.03, 0.01, np.nan, 0.04]))
        array([0.06, 0.03,  nan, 0.06])
    """
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]  # nan sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


@lru_cache(maxsize=2)
def _draw_signs(n: int) -> Floats:
    """Patterns of n signs: half of them all, for the other half mirrors it; or random ones."""
    if n <= EXACT:
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return np.asarray(1.0 - 2.0 * bits, np.float64)
    random = np.random.default_rng(derive_seed("signs", n))
    return np.asarray(1.0 - 2.0 * random.integers(0, 2, (FLIPS, n)), np.float64)
