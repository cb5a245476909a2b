"""Sums: the statistics of metrics for all runs of a stack at once, on the device where their predictions are.

They are those of `metrics.moments` and `metrics.confusions` over a whole split, added up in float64. Each sum runs over
the last, contiguous axis, so that a run's do not depend on its neighbours.
"""

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 1 << 24
"""Predictions that are looked at together: 128 MB in float64, some of them at a time."""


def sum_moments(prediction: Tensor, truth: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Statistics of regressions; as in `metrics.moments`, the truth's mean is best subtracted from both first.

    Args:
        prediction: `(R, N, K)`
        truth: `(N, K)` in float64, nan where missing, which adds nothing
        scale: `(K,)` each, in float64: what predictions are multiplied by, and what is then added

    Returns:
        `(R, K, 7)` in float64
    """
    there = ~truth.t().isnan()
    t = torch.where(there, truth.t(), 0.0).contiguous()
    fixed = torch.stack([there.double().sum(-1), t.sum(-1), t.square().sum(-1)], dim=-1)
    spread, centre = (part.unsqueeze(1) for part in scale)
    blocks = []
    for block in torch.split(prediction, max(1, NUMBERS_AT_ONCE // t.numel())):
        p = block.transpose(1, 2).contiguous().double().mul_(spread).add_(centre).masked_fill_(~there, 0.0)
        sums = [p.sum(-1), p.square().sum(-1), (t * p).sum(-1), p.sub_(t).abs_().sum(-1)]
        n, first, square = fixed.expand(len(block), -1, -1).unbind(-1)
        blocks.append(torch.stack([n, first, sums[0], square, *sums[1:]], dim=-1))
    return torch.cat(blocks)


def count_confusions(prediction: Tensor, truth: Tensor) -> Tensor:
    """Statistics of classifications.

    Args:
        prediction: logits `(R, N, C)`
        truth: indices of classes `(N,)`, negative where missing, which adds nothing

    Returns:
        `(R, C, C)` in float64: true class, predicted class
    """
    runs, _, classes = prediction.shape
    cells = truth.clamp_min(0) * classes + prediction.argmax(-1)
    counted = (truth >= 0).double().expand(runs, -1)
    # Whole numbers, so that the order in which a GPU adds them up does not matter.
    empty = torch.zeros(runs, classes**2, dtype=torch.float64, device=prediction.device)
    return empty.scatter_add_(1, cells, counted).view(runs, classes, classes)
