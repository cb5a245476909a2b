"""Significance: whether paired differences could be chance, and how large they are."""

from functools import lru_cache

import numpy as np
from scipy import special, stats

from vbx.heads.draws import derive_seed
from vbx.heads.metrics import Floats

LEVEL = 0.05
EXACT = 14
"""Up to so many pairs every pattern of signs is tried."""
FLIPS = 49_999
"""Patterns of signs that are drawn where there are too many to try."""
_FLIPS_AT_ONCE = 5000
_NODES = 200
_GRID = np.linspace(-8.5, 8.5, 241)
_DENSITY = np.exp(-np.square(_GRID) / 2) / np.sqrt(2 * np.pi)
_LEAST_EXCESS = 1e-6


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


def exceed_range(errors: float, count: int, df: float) -> float:
    """How often, of some settings that are all alike, the best is so far from the worst (Tukey 1953).

    Args:
        errors: their difference in its standard errors; below 0 counts as 0
        count: how many settings there are; with 2 it is a two-sided t-test
        df: degrees of freedom of the standard error

    Examples:
        >>> [round(exceed_range(3.0, count, 20), 3) for count in (2, 10)]
        [0.007, 0.142]
    """
    if np.isnan(errors):
        return np.nan
    if errors <= 0:
        return 1.0
    # The range of `count` normal numbers, then the mean over what their deviation may be estimated as: small p come of
    # deviations that are estimated far too small, so there are more nodes there.
    nodes = (np.arange(_NODES) + 0.5) / _NODES
    spread = np.sqrt(2 * special.gammaincinv(df / 2, nodes**3) / df) if np.isfinite(df) else np.ones(_NODES)
    low = special.ndtr(_GRID - np.sqrt(2) * errors * spread[:, None])
    below = count * np.trapezoid(_DENSITY * (special.ndtr(_GRID) - low) ** (count - 1), _GRID, axis=1)
    return float(np.clip(np.mean((1 - below) * 3 * nodes**2), 0.0, 1.0))


def fit_prior(variances: Floats, df: float) -> tuple[float, float]:
    """What variances of one table have in common (Smyth 2004, section 6.2): a scaled inverse chi-square prior.

    Args:
        variances: positive, `(V,)`, V > 1
        df: degrees of freedom of each

    Returns:
        its scale and its degrees of freedom, infinite where the variances differ no more than chance has them differ
    """
    logs = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, df / 2))
    if excess <= _LEAST_EXCESS:
        return float(np.exp(logs.mean())), np.inf
    half = 0.5 + 1 / excess  # Newton's method for trigamma(half) = excess, from where it converges monotonically
    for _ in range(50):
        value = special.polygamma(1, half)
        half += value * (1 - value / excess) / special.polygamma(2, half)
    return float(np.exp(logs.mean() + special.digamma(half) - np.log(half))), float(2 * half)


@lru_cache(maxsize=2)
def _draw_signs(n: int) -> Floats:
    """Patterns of n signs: half of them all, for the other half mirrors it; or random ones."""
    if n <= EXACT:
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return np.asarray(1.0 - 2.0 * bits, np.float64)
    random = np.random.default_rng(derive_seed("signs", n))
    return np.asarray(1.0 - 2.0 * random.integers(0, 2, (FLIPS, n)), np.float64)
