"""Objective: what a run minimises, from the outputs of its head to one number."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vbx.heads.losses import LOSSES
from vbx.heads.model import LOG_VARIANCE, Model


def task_losses(model: Model, outputs: Sequence[Tensor], truth: Sequence[Tensor], weight: Sequence[Tensor]) -> Tensor:
    """Loss of each task `(R, T)`; a sum over K columns is K times their mean."""
    losses = []
    for task, output, t, w in zip(model.run.tasks, outputs, truth, weight, strict=True):
        loss = LOSSES[task.loss]
        value = loss.function(output, t, w, **{name: getattr(task, name) for name in loss.options})
        losses.append(value * len(task.columns) if task.reduce == "sum" else value)
    return torch.stack(losses, dim=1)


def total_loss(model: Model, weights: dict[str, Tensor], task_weights: Tensor, losses: Tensor) -> Tensor:
    """What a run minimises `(R,)`.

    Sum of w L over tasks; with uncertainty weighting, sum of L / (2 exp s) + s / 2 with a learnt s = ln sigma² of each
    task (Kendall et al. 2018, eq. 7; the form of the ExVo 2022 baseline for every loss).

    Args:
        model: of the runs
        weights: of R runs, by name
        task_weights: w `(R, T)`
        losses: L `(R, T)`
    """
    if model.run.fit.weighting != "uncertainty":
        return (task_weights * losses).sum(1)
    s = weights[LOG_VARIANCE][:, : losses.shape[1]]
    return (losses / (2 * s.exp()) + s / 2).sum(1)
