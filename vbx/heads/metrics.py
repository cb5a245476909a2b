"""Metrics: how good predictions are, one function each, from statistics that add up over utterances.

Because the statistics of a split are the sum of those of its speakers, a bootstrap over speakers is a matrix product.
Nothing is rounded; what is not defined is nan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
"""Statistics and values. Of a regression: n and the sums of t, p, t², p², tp, |t - p|; else a confusion matrix."""


@dataclass(frozen=True)
class Metric:
    """A metric and what it is for.

    Attributes:
        kind: of the tasks it is for
        function: statistics `(..., 7)` or `(..., C, C)`, summed over the utterances at issue, to values `(...)`
        maximise: whether more is better
    """

    kind: Literal["regression", "classification"]
    function: Callable[[Floats], Floats]
    maximise: bool = True


def moments(
    prediction: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], groups: NDArray[np.intp]
) -> Floats:
    """Statistics of regressions, summed over each group of utterances.

    Every metric here is blind to a shift of prediction and truth alike: subtract the truth's mean from both first, and
    the squares lose no digits.

    Args:
        prediction: `(N, K)`
        truth: `(N, K)`, nan where missing, which adds nothing
        groups: group of each utterance `(N,)`, from 0, none empty

    Returns:
        `(G, K, 7)`
    """
    order = np.argsort(groups, kind="stable")
    begins = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    p, t = np.asarray(prediction, np.float64)[order], np.asarray(truth, np.float64)[order]
    missing = np.isnan(t)
    p, t = np.where(missing, 0.0, p), np.where(missing, 0.0, t)
    sums = [np.add.reduceat(x, begins, axis=0) for x in (~missing * 1.0, t, p, t * t, p * p, t * p, np.abs(t - p))]
    return np.stack(sums, axis=-1)


def confusions(
    prediction: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], classes: int, groups: NDArray[np.intp]
) -> Floats:
    """Statistics of classifications, summed over each group of utterances: its confusion matrix.

    Args:
        prediction: indices of classes `(N,)`
        truth: indices of classes `(N,)`, negative where missing, which adds nothing
        classes: how many there are
        groups: group of each utterance `(N,)`, from 0

    Returns:
        `(G, C, C)`: true class, predicted class

    Examples:
        >>> confusions(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, np.zeros(3, dtype=int))[0]
        array([[1., 1.],
               [0., 1.]])
    """
    rows = np.flatnonzero(truth >= 0)
    count = int(groups.max()) + 1
    cells = (groups[rows] * classes + truth[rows]) * classes + prediction[rows]
    return np.bincount(cells, minlength=count * classes**2).reshape(count, classes, classes).astype(np.float64)


def ccc(m: Floats) -> Floats:
    """Concordance correlation coefficient (Lin 1989) with population moments (divided by n).

    2 cov / (var t + var p + (mean t - mean p)²), in [-1, 1].

    Examples:
        >>> t = np.array([1.0, 2.0, 3.0])
        >>> ccc(moments(t[:, None] + 1, t[:, None], np.zeros(3, dtype=int)))[0].round(3)
        array([0.571])
    """
    mean_t, mean_p, var_t, var_p, cov = _central(m)
    return _divide(2 * cov, var_t + var_p + (mean_t - mean_p) ** 2)


def pearson(m: Floats) -> Floats:
    """Pearson's correlation, in [-1, 1]; nan if prediction or truth is constant."""
    _, _, var_t, var_p, cov = _central(m)
    return _divide(cov, np.sqrt(var_t * var_p))


def mae(m: Floats) -> Floats:
    """Mean absolute error, in units of the truth."""
    return _divide(m[..., 6], m[..., 0])


def rmse(m: Floats) -> Floats:
    """Root of the mean squared error, in units of the truth."""
    squares = m[..., 3] + m[..., 4] - 2 * m[..., 5]
    return np.sqrt(np.maximum(_divide(squares, m[..., 0]), 0.0))


def inverse_mae(m: Floats) -> Floats:
    """1 / MAE (ExVo 2022, arXiv:2205.01780; Atmaja et al. 2022, eq. 6): depends on the unit of the truth."""
    return _divide(m[..., 0], m[..., 6])


def uar(c: Floats) -> Floats:
    """Unweighted average recall: mean over classes of the share of their utterances that are found.

    As scikit-learn's `recall_score(average="macro")`: a class that only predictions have counts with recall 0, one
    that is in neither does not count. (`balanced_accuracy_score` leaves out the first kind too.)
    """
    return _macro(_recall(c), c)


def precision(c: Floats) -> Floats:
    """Mean over classes of the share of their predictions that are right; classes as in `uar`."""
    return _macro(_divide(_hits(c), c.sum(-2), empty=0.0), c)


def f1_macro(c: Floats) -> Floats:
    """Mean over classes of F1, the harmonic mean of precision and recall; classes as in `uar`."""
    return _macro(_f1(c), c)


def f1_weighted(c: Floats) -> Floats:
    """Mean of F1 over classes, each weighted by its utterances."""
    return _divide((_f1(c) * c.sum(-1)).sum(-1), c.sum((-2, -1)))


def accuracy(c: Floats) -> Floats:
    """Share of utterances that are right."""
    return _divide(_hits(c).sum(-1), c.sum((-2, -1)))


def combine_scores(parts: Floats, how: str) -> Floats:
    """One number from several metrics.

    Args:
        parts: `(..., P)`, more is better
        how: `hmean` (Atmaja et al. 2022, eq. 7: P / sum of 1 / x; 0 if a part is 0 or less, where the mean has no
            meaning and its limit is 0) or `mean`

    Returns:
        `(...)`, nan where a part is

    Examples:
        >>> float(combine_scores(np.array([0.534, 0.525, 0.253]), "hmean").round(3))
        0.388
    """
    if how == "mean":
        return np.asarray(parts.mean(-1))
    positive = (parts > 0).all(-1)
    means = parts.shape[-1] / (1 / np.where(parts > 0, parts, 1.0)).sum(-1)
    return np.where(np.isnan(parts).any(-1), np.nan, np.where(positive, means, 0.0))


def _central(m: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    n = np.where(m[..., 0] > 0, m[..., 0], np.nan)
    t, p = m[..., 1] / n, m[..., 2] / n
    return t, p, _variance(m[..., 3] / n, t), _variance(m[..., 4] / n, p), m[..., 5] / n - t * p


def _variance(square: Floats, mean: Floats) -> Floats:
    """Population variance; what rounding leaves of a constant's is 0."""
    variance = square - mean**2
    return np.where(variance > 1e-12 * square, variance, np.where(np.isnan(variance), np.nan, 0.0))


def _hits(c: Floats) -> Floats:
    return np.diagonal(c, axis1=-2, axis2=-1)


def _recall(c: Floats) -> Floats:
    return _divide(_hits(c), c.sum(-1), empty=0.0)


def _f1(c: Floats) -> Floats:
    return _divide(2 * _hits(c), c.sum(-1) + c.sum(-2), empty=0.0)


def _macro(values: Floats, c: Floats) -> Floats:
    there = (c.sum(-1) + c.sum(-2)) > 0
    return _divide((values * there).sum(-1), there.sum(-1))


def _divide(numerator: Floats, denominator: Floats, empty: float = np.nan) -> Floats:
    """A quotient, `empty` where the denominator is 0."""
    there = denominator != 0
    return np.where(there, numerator / np.where(there, denominator, 1.0), empty)


METRICS: dict[str, Metric] = {
    "ccc": Metric("regression", ccc),
    "pearson": Metric("regression", pearson),
    "mae": Metric("regression", mae, maximise=False),
    "rmse": Metric("regression", rmse, maximise=False),
    "inverse_mae": Metric("regression", inverse_mae),
    "uar": Metric("classification", uar),
    "recall": Metric("classification", uar),
    "precision": Metric("classification", precision),
    "f1_macro": Metric("classification", f1_macro),
    "f1_weighted": Metric("classification", f1_weighted),
    "accuracy": Metric("classification", accuracy),
}
"""A new metric is one function above and one line here."""
