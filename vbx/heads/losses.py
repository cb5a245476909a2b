"""Losses: what a task minimises, one function each. Every run of a stack gets its own mean over its own batch.

A missing label has weight 0, so a loss is a mean over what is labelled, and 0 for a batch where nothing is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

EPSILON = 1e-8
"""Keeps CCC finite where prediction and truth are one and the same constant."""


@dataclass(frozen=True)
class Loss:
    """A loss and what it is for.

    Attributes:
        kind: of the tasks it is for
        function: `(prediction, truth, weight)` to `(R,)`; further arguments are named by `options`
        options: fields of the task that it takes as well
    """

    kind: Literal["regression", "classification"]
    function: Callable[..., Tensor]
    options: tuple[str, ...] = ()


def mse(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error.

    Args:
        prediction: `(R, B, K)`
        truth: `(R, B, K)`, any finite number where missing
        weight: `(R, B, K)`, 0 where missing

    Returns:
        `(R,)`, in squared units of the truth
    """
    return _mean((prediction - truth).square(), weight)


def mae(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error; arguments as in `mse`."""
    return _mean((prediction - truth).abs(), weight)


def ccc(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """1 - CCC over the batch, mean over columns (Lin 1989; as a loss Atmaja & Akagi 2020, arXiv:2003.10724).

    Moments are those of the population (divided by n) and of the labelled rows alone: a missing label put equal to the
    prediction would enter means and variances. A column with fewer than two labels in the batch is left out.

    Args:
        prediction: `(R, B, K)`
        truth: `(R, B, K)`, any finite number where missing
        weight: `(R, B, K)`, 1 or 0 where missing

    Returns:
        `(R,)` in [0, 2]
    """
    # Columns before rows, so that every sum runs over the last, contiguous axis: a run's sums then have one order,
    # whatever the stack.
    p, t, w = (a.transpose(1, 2).contiguous() for a in (prediction, truth, weight))
    n = w.sum(-1)
    share = w / n.clamp_min(1).unsqueeze(-1)
    mean_p, mean_t = (share * p).sum(-1), (share * t).sum(-1)
    dp, dt = p - mean_p.unsqueeze(-1), t - mean_t.unsqueeze(-1)
    covariance = (share * dp * dt).sum(-1)
    spread = (share * dp.square()).sum(-1) + (share * dt.square()).sum(-1) + (mean_p - mean_t).square()
    return _mean(1 - 2 * covariance / (spread + EPSILON), (n >= 2).to(p.dtype))


def bce(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities (`output = "sigmoid"`); arguments as in `mse`, truth in [0, 1]."""
    return _mean(F.binary_cross_entropy(prediction, truth.expand_as(prediction), reduction="none"), weight)


def cross_entropy(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the true class.

    Args:
        prediction: logits `(R, B, C)`
        truth: indices of the classes `(R, B)`, any class where missing
        weight: `(R, B)`, weight of the true class, 0 where missing

    Returns:
        `(R,)`: the weighted mean, as `torch.nn.CrossEntropyLoss(weight)` defines it
    """
    return _mean(-_log_probability(prediction, truth), weight)


def focal(prediction: Tensor, truth: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """Focal loss -(1 - p)^gamma ln p (Lin et al. 2017, arXiv:1708.02002, eq. 4); arguments as in `cross_entropy`.

    With `gamma` 0 it is the cross-entropy; 2 is usual. At 10 gradients vanish as soon as p passes one half.
    """
    log_p = _log_probability(prediction, truth)
    # Kept from 0, where a power below 1 has no slope.
    return _mean(-(1 - log_p.exp()).clamp_min(EPSILON).pow(gamma) * log_p, weight)


def _log_probability(logits: Tensor, truth: Tensor) -> Tensor:
    truth = truth.unsqueeze(-1).expand(*logits.shape[:-1], 1)  # dev has one truth for all runs
    return logits.log_softmax(-1).gather(-1, truth).squeeze(-1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of each run's values; 0 where all weights are."""
    total = weight.flatten(1).sum(1)
    return (values * weight).flatten(1).sum(1) / torch.where(total > 0, total, torch.ones_like(total))


LOSSES: dict[str, Loss] = {
    "mse": Loss("regression", mse),
    "mae": Loss("regression", mae),
    "ccc": Loss("regression", ccc),
    "bce": Loss("regression", bce),
    "cross_entropy": Loss("classification", cross_entropy),
    "focal": Loss("classification", focal, ("gamma",)),
}
"""A new loss is one function above and one line here."""
