"""Optimisers as `torch.optim` defines them, with learning rate, weight decay and momentum for each run by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam; the defaults of `torch.optim`."""


@dataclass(frozen=True)
class Moving:
    """What an optimiser moves and by how much, one row a run.

    Attributes:
        numbers: weights `(R, P)`, changed in place
        first: moving mean of the gradient, or the momentum, `(R, P)`, changed in place
        second: moving mean of its square, `(R, P)`, changed in place
        spare: room for what comes up in between, `(R, P)`: fresh memory would cost more than the arithmetic
        lr: learning rates `(R, 1)`, or `(R, P)` where some weights have their own
        weight_decay: `(R, 1)`
        momentum: `(R, 1)`, of `sgd`
    """

    numbers: Tensor
    first: Tensor
    second: Tensor
    spare: Tensor
    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor


Step = int | Tensor
"""Number of a step, from 1; or its row of `list_factors`, for a step that is recorded may not hold a number."""


def list_factors(steps: Sequence[int], like: Tensor) -> Tensor:
    """What depends on the number of a step in Adam, the same for all runs.

    Args:
        steps: S numbers of steps, from 1
        like: a tensor of the type and on the device that are wanted

    Returns:
        `(S, 5)`: 1 - beta1, beta2, 1 - beta2, epsilon times c, and -c / (1 - beta1^step), with c² = 1 - beta2^step
    """
    rows = []
    for step in steps:
        correction = (1 - BETA2**step) ** 0.5
        rows.append([1 - BETA1, BETA2, 1 - BETA2, EPSILON * correction, -correction / (1 - BETA1**step)])
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def adam(moving: Moving, gradient: Tensor, step: Step) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), weight decay added to the gradient.

    Args:
        moving: changed in place
        gradient: `(R, P)`, changed in place
        step: which it is
    """
    _adapt(moving, gradient.addcmul_(moving.numbers, moving.weight_decay), step)


def adamw(moving: Moving, gradient: Tensor, step: Step) -> None:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2): Adam with weight decay apart; arguments as in `adam`."""
    moving.numbers.mul_(1 - moving.lr * moving.weight_decay)
    _adapt(moving, gradient, step)


def sgd(moving: Moving, gradient: Tensor, step: Step) -> None:
    """Gradient descent with momentum, weight decay added to the gradient; arguments as in `adam`."""
    moving.first.mul_(moving.momentum).add_(gradient.addcmul_(moving.numbers, moving.weight_decay))
    moving.numbers.addcmul_(moving.first, moving.lr, value=-1)


def _adapt(moving: Moving, gradient: Tensor, step: Step) -> None:
    moving.first.lerp_(gradient, 1 - BETA1)
    moving.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    # The corrections of both means are taken out of the quotient, which spares passes over all weights.
    epsilon, factor = (list_factors([step], gradient)[0] if isinstance(step, int) else step)[3:]
    denominator = torch.sqrt(moving.second, out=moving.spare).add_(epsilon)
    numerator = torch.mul(moving.first, moving.lr, out=gradient).mul_(factor)
    moving.numbers.addcdiv_(numerator, denominator)


OPTIMIZERS: dict[str, Callable[[Moving, Tensor, Step], None]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
