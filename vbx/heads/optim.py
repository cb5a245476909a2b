"""Optimisers as `torch.optim` defines them, with learning rate, weight decay and momentum for each run by itself."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam; the defaults of `torch.optim`."""


@dataclass(frozen=True)
class Moving:
    """What an optimiser moves, one row a run; all but the rates change in place.

    Attributes:
        numbers: weights `(R, P)`
        first: moving mean of the gradient, or the momentum, `(R, P)`
        second: moving mean of its square, `(R, P)`; empty for `sgd`
        lr: learning rates `(R, 1)`, or `(R, P)` where some weights have their own
        weight_decay: `(R, 1)`
        momentum: `(R, 1)`, of `sgd`
    """

    numbers: Tensor
    first: Tensor
    second: Tensor
    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor


def adam(moving: Moving, gradient: Tensor, step: int) -> None:
    """Adam (Kingma & Ba 2015, algorithm 1), weight decay added to the gradient.

    Args:
        moving: changed in place
        gradient: `(R, P)`, may be changed
        step: number of the step, from 1
    """
    if moving.weight_decay.any():
        gradient = gradient.addcmul_(moving.numbers, moving.weight_decay)
    moving.first.lerp_(gradient, 1 - BETA1)
    moving.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    # The corrections of both means are taken out of the quotient: two passes over the weights fewer.
    correction = (1 - BETA2**step) ** 0.5
    denominator = moving.second.sqrt().add_(EPSILON * correction)
    moving.numbers.addcdiv_(moving.first * moving.lr, denominator, value=-correction / (1 - BETA1**step))


def adamw(moving: Moving, gradient: Tensor, step: int) -> None:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2): Adam with weight decay apart; arguments as in `adam`."""
    if moving.weight_decay.any():
        moving.numbers.mul_(1 - moving.lr * moving.weight_decay)
    adam(Moving(moving.numbers, moving.first, moving.second, moving.lr, moving.weight_decay * 0, moving.momentum),
         gradient, step)  # fmt: skip


def sgd(moving: Moving, gradient: Tensor, step: int) -> None:
    """Gradient descent with momentum, weight decay added to the gradient; arguments as in `adam`."""
    if moving.weight_decay.any():
        gradient = gradient.addcmul_(moving.numbers, moving.weight_decay)
    moving.first.mul_(moving.momentum).add_(gradient)
    moving.numbers.addcmul_(moving.first, moving.lr, value=-1)


OPTIMIZERS: dict[str, Callable[[Moving, Tensor, int], None]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
