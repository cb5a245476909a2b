"""Stack: runs of one shape that train together in torch, and one pass of theirs over train."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.draws import derive_seed, draw_keep, draw_order, draw_weights, dropout_table
from vbx.heads.model import LOG_VARIANCE, Drop, Model, forward, pack_weights, view_weights
from vbx.heads.objective import task_losses, total_loss
from vbx.heads.optim import OPTIMIZERS, Moving
from vbx.heads.run import Run

ROWS_AT_ONCE = 1024
"""Utterances that are predicted at once."""


@dataclass(frozen=True)
class Stack:
    """Runs that train together, one row each.

    Attributes:
        runs: R runs
        moving: their weights and what moves them
        task_weights: weights of the tasks' losses `(R, T)`
        dropout: share of values that are dropped `(R, 1, 1)`
        dropout_keys: what their dropout is drawn from `(R, 1, 1)`
    """

    runs: tuple[Run, ...]
    moving: Moving
    task_weights: Tensor
    dropout: Tensor
    dropout_keys: Tensor


def start_stack(model: Model, runs: Sequence[Run], device: torch.device) -> Stack:
    """Runs with their first weights."""
    dtype = getattr(torch, runs[0].fit.dtype)
    rows = []
    for run in runs:
        weights = draw_weights(model.layers, run.seed, dtype)
        weights[LOG_VARIANCE] = torch.tensor([task.log_variance for task in run.tasks], dtype=dtype)
        rows.append(pack_weights(model, weights))
    numbers = torch.stack(rows).to(device)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    lr = column([run.fit.lr for run in runs])
    if any(run.fit.uncertainty_lr is not None for run in runs) and model.slots[-1].name == LOG_VARIANCE:
        own = [run.fit.lr if run.fit.uncertainty_lr is None else run.fit.uncertainty_lr for run in runs]
        lr = lr.repeat(1, model.size)
        lr[:, model.slots[-1].start :] = column(own)
    moving = Moving(
        numbers=numbers,
        first=torch.zeros_like(numbers),
        second=torch.zeros_like(numbers),
        spare=torch.empty_like(numbers),
        lr=lr,
        weight_decay=column([run.fit.weight_decay for run in runs]),
        momentum=column([run.fit.momentum for run in runs]),
    )
    equal = runs[0].fit.weighting == "equal"
    task_weights = [[1.0 if equal else task.weight for task in run.tasks] for run in runs]
    keys = [derive_seed("dropout", run.seed) & 0xFFFFFFFF for run in runs]
    return Stack(
        runs=tuple(runs),
        moving=moving,
        task_weights=torch.tensor(task_weights, dtype=dtype, device=device),
        dropout=column([run.trunk.dropout for run in runs]).unsqueeze(2),
        dropout_keys=torch.tensor(keys, device=device).view(-1, 1, 1),
    )


def select_runs(stack: Stack, places: Sequence[int]) -> Stack:
    """A stack of some of its runs."""
    index = torch.tensor(places, dtype=torch.int64, device=stack.dropout.device)
    moving = Moving(**{f.name: getattr(stack.moving, f.name).index_select(0, index) for f in fields(Moving)})
    return replace(
        stack,
        runs=tuple(stack.runs[i] for i in places),
        moving=moving,
        task_weights=stack.task_weights.index_select(0, index),
        dropout=stack.dropout.index_select(0, index),
        dropout_keys=stack.dropout_keys.index_select(0, index),
    )


def train_epoch(model: Model, stack: Stack, train: Split, epoch: int) -> None:
    """One pass over train, each run in its own order; the last batch may be smaller. Changes weights in place."""
    rows, size = len(train.rows), model.run.fit.batch_size
    order = torch.stack([draw_order(run.seed, epoch, rows) for run in stack.runs]).to(train.x.device)
    leaves = {name: view.detach().requires_grad_() for name, view in view_weights(model, stack.moving.numbers).items()}
    gradient = torch.empty_like(stack.moving.numbers)
    optimise = OPTIMIZERS[model.run.fit.optimizer]
    step = (epoch - 1) * math.ceil(rows / size)
    for begin in range(0, rows, size):
        step += 1
        batch = order[:, begin : begin + size]
        x = train.x.index_select(0, batch.flatten()).view(*batch.shape, -1)
        outputs = forward(model, leaves, x, _dropper(model, stack, step, batch.shape[1]))
        truth, weight = [t[batch] for t in train.truth], [w[batch] for w in train.weight]
        loss = total_loss(model, leaves, stack.task_weights, task_losses(model, outputs, truth, weight))
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
        optimise(stack.moving, torch.cat([g.flatten(1) for g in gradients], dim=1, out=gradient), step)


@torch.no_grad()
def predict_stack(model: Model, numbers: Tensor, split: Split) -> list[Tensor]:
    """Outputs of each task `(R, N, K)` on a split, as `forward` gives them."""
    weights = view_weights(model, numbers)
    blocks = [forward(model, weights, x.expand(len(numbers), -1, -1)) for x in torch.split(split.x, ROWS_AT_ONCE)]
    return [torch.cat(outputs, dim=1) for outputs in zip(*blocks, strict=True)]


def _dropper(model: Model, stack: Stack, step: int, rows: int) -> Drop | None:
    """Dropout of one step; None if no run drops anything."""
    if not any(run.trunk.dropout for run in stack.runs):
        return None

    def drop(h: Tensor, place: int) -> Tensor:
        table = dropout_table(rows, h.shape[-1], h.device)
        keep = draw_keep(table, stack.dropout_keys, stack.dropout, step * len(model.layers) + place)
        return h * (keep / (1 - stack.dropout))

    return drop
