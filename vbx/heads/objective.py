"""Objective: what a run minimises, from the outputs of its head to one number."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.losses import EPSILON, LOSSES
from vbx.heads.model import DEVIATION, LOG_VARIANCE, Model
from vbx.heads.roles import list_shares, main_places
from vbx.heads.run import Run

TEMPERATURE = 10
"""T of DRUW."""
TOTAL = 1
"""phi of DRUW and RRUW: what the deviations are held to add up to."""
SLACK = 1e-6
"""A sum of deviations as near to it as this is not pulled: they begin there but for rounding."""


def make_shares(runs: Sequence[Run], epoch: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of one epoch, `(R, T)` each: on the losses, and on the gradients that first layers pass back."""
    shares = [list_shares(run.tasks, run.fit, epoch) for run in runs]
    both = [[[share.loss for share in row] for row in shares], [[share.back for share in row] for row in shares]]
    loss, back = torch.tensor(both, dtype=like.dtype, device=like.device)
    return loss, back


def task_losses(model: Model, outputs: Sequence[Tensor], truth: Sequence[Tensor], weight: Sequence[Tensor]) -> Tensor:
    """Loss of each task `(R, T)`; a sum over K columns is K times their mean."""
    losses = []
    for task, output, t, w in zip(model.run.tasks, outputs, truth, weight, strict=True):
        loss = LOSSES[task.loss]
        value = loss.function(output, t, w, **{name: getattr(task, name) for name in loss.options})
        losses.append(value * len(task.columns) if task.reduce == "sum" else value)
    return torch.stack(losses, dim=1)


def replace_missing(
    model: Model, train: Split, outputs: Sequence[Tensor], labels: tuple[list[Tensor], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Labels of a batch where tasks with `missing = "replace"` lack none any more.

    A missing number becomes the prediction, clipped to the range of the labels in train (Kang et al. 2022, algorithm
    1). It is a label like others: no gradient passes through it.

    Args:
        model: of the runs
        train: with the ranges
        outputs: of each task `(R, B, K)`
        labels: truth and weight of each task, as `task_losses` takes them
    """
    truths, weights = [], []
    for task, output, t, w, (low, high) in zip(model.run.tasks, outputs, *labels, train.limits, strict=True):
        replaced = task.missing == "replace"
        truths.append(torch.where(w > 0, t, output.detach().clamp(low, high)) if replaced else t)
        weights.append(torch.ones_like(w) if replaced else w)
    return truths, weights


def total_loss(
    model: Model, weights: dict[str, Tensor], shares: Tensor, losses: Tensor, previous: Tensor | None = None
) -> Tensor:
    """What a run minimises in training `(R,)`: that of its main tasks, and each attribute's loss times its share.

    Args:
        model: of the runs
        weights: of R runs, by name
        shares: factors of the losses `(R, T)`, from `make_shares`
        losses: L `(R, T)`
        previous: losses of the main tasks in the two steps before `(R, 2, M)`, for DRUW
    """
    total = main_loss(model, weights, shares, losses, previous)
    others = [place for place, task in enumerate(model.run.tasks) if task.role != "main"]
    return total + (_columns(shares, others) * _columns(losses, others)).sum(1) if others else total


def main_loss(
    model: Model, weights: dict[str, Tensor], shares: Tensor, losses: Tensor, previous: Tensor | None = None
) -> Tensor:
    """What a run minimises of its main tasks `(R,)`, and what is watched on dev; arguments as in `total_loss`.

    - `fixed`, `equal`: sum of w L, with w the task's share
    - `uncertainty`: sum of L / (2 exp s) + s / 2 with a learnt s = ln sigma² of each task (Kendall et al. 2018, eq. 7;
      the form of the ExVo 2022 baseline for every loss)
    - `rruw`: sum of L / (M c²) + ln(1 + c²), plus |1 - sum of |c||, with a learnt c of each of M tasks, at first 1 / M
      (Song et al. 2022, arXiv:2206.11049)
    - `druw`: the same with lambda + 1 / (M c²) for the weight of L, lambda from `dynamic_weights` of the losses before;
      on dev, where nothing came before, it is 1

    On dev it is not multiplied by 1 - a: runs stop by what their main tasks lose, whatever their attributes do.
    """
    weighting = model.run.fit.weighting
    places = main_places(model.run.tasks)
    shares, losses = _columns(shares, places), _columns(losses, places)
    if weighting == "uncertainty":
        s = weights[LOG_VARIANCE][:, : len(places)]
        losses = losses / (2 * s.exp()) + s / 2
    if weighting not in ("druw", "rruw"):
        return (shares * losses).sum(1)
    c = weights[DEVIATION][:, : len(places)]
    weight = 1 / (len(places) * c.square())
    if weighting == "druw":
        weight = weight + (1 if previous is None else dynamic_weights(previous))
    gap = (TOTAL - c.abs().sum(1)).abs()
    restraint = torch.where(gap > SLACK, gap, torch.zeros_like(gap))
    return (shares * (weight * losses + c.square().log1p())).sum(1) + shares[:, 0] * restraint


def dynamic_weights(previous: Tensor) -> Tensor:
    """What DRUW calls lambda `(R, M)`: M softmax((L(t-1) / L(t-2)) / T), from losses `(R, 2, M)`, the earlier first.

    A ratio to no loss, as there is in the first two steps, is 1.
    """
    earlier, later = previous.unbind(1)
    ratio = torch.where(earlier > EPSILON, later / earlier.clamp_min(EPSILON), torch.ones_like(later))
    return previous.shape[2] * (ratio / TEMPERATURE).softmax(1)


def remember_losses(model: Model, previous: Tensor, losses: Tensor) -> None:
    """Put the main tasks' losses of a step `(R, T)` after those of the step before `(R, 2, M)`; DRUW needs both."""
    if model.run.fit.weighting == "druw":
        previous[:, 0] = previous[:, 1]
        previous[:, 1] = _columns(losses.detach(), main_places(model.run.tasks))


def _columns(values: Tensor, places: Sequence[int]) -> Tensor:
    """Some columns; not by an index, which would come from the host in the middle of a recorded step."""
    if len(places) == values.shape[1]:
        return values
    return torch.stack([values[:, place] for place in places], dim=1)
