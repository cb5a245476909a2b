"""Fitting: the epochs of one stack, from first weights to the ones that are kept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.draws import derive_seed, draw_keep, draw_order, draw_weights, dropout_table
from vbx.heads.losses import LOSSES
from vbx.heads.model import LOG_VARIANCE, Drop, Model, forward, pack_weights, view_weights
from vbx.heads.optim import OPTIMIZERS, Moving
from vbx.heads.run import Run
from vbx.heads.watch import Watch, look

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


@dataclass(frozen=True)
class Fitted:
    """What fitting a stack gives.

    Attributes:
        numbers: weights that were kept `(R, P)`
        watches: how far each run came
    """

    numbers: Tensor
    watches: tuple[Watch, ...]


Monitor = Callable[[Stack], list[float]]
"""What to watch: a number for each run of a stack, less is better."""
Epoch = Callable[[Model, Stack, Split, int], None]
"""One pass over train, as `train_epoch` makes it."""


def fit_stack(
    model: Model,
    runs: Sequence[Run],
    train: Split,
    monitor: Monitor | None,
    tell: Callable[[float], None],
    see_train: Epoch | None = None,
) -> Fitted:
    """Train runs of one shape until each is done.

    Args:
        model: of their shape
        runs: R runs
        train: what they learn from
        monitor: what to watch on dev; None if there is no dev split: then no run stops early, the last weights count
        tell: called with the number of epochs of runs that are done with
        see_train: passes over train; None for `train_epoch`

    Returns:
        the weights that count, and how far each run came
    """
    stack, watches = start_stack(model, runs, train.x.device), [Watch(i) for i in range(len(runs))]
    kept, ended = stack.moving.numbers.clone(), list(watches)
    epoch = 0
    while watches:
        epoch += 1
        (see_train or train_epoch)(model, stack, train, epoch)
        values = _values(stack, monitor)
        finite = torch.isfinite(stack.moving.numbers).all(1).tolist()
        for i, run in enumerate(stack.runs):
            watch = watches[i] = ended[watches[i].place] = look(watches[i], run.fit, values[i], finite[i])
            if watch.best_epoch == epoch:
                kept[watch.place] = stack.moving.numbers[i]
            tell(1 if watch.status == "on" else run.fit.epochs - epoch + 1)
        on = [i for i, watch in enumerate(watches) if watch.status == "on"]
        if len(on) < len(watches):
            stack, watches = select_runs(stack, on), [watches[i] for i in on]
    return Fitted(kept, tuple(ended))


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


@torch.no_grad()
def predict_stack(model: Model, numbers: Tensor, split: Split) -> list[Tensor]:
    """Outputs of each task `(R, N, K)` on a split, as `forward` gives them."""
    weights = view_weights(model, numbers)
    blocks = [forward(model, weights, x.expand(len(numbers), -1, -1)) for x in torch.split(split.x, ROWS_AT_ONCE)]
    return [torch.cat(outputs, dim=1) for outputs in zip(*blocks, strict=True)]


def _values(stack: Stack, monitor: Monitor | None) -> list[float | None]:
    """What is watched of each run, None of runs that need no watching."""
    needed = [run.fit.patience > 0 or run.fit.restore_best for run in stack.runs]
    if monitor is None or not any(needed):
        return [None] * len(stack.runs)
    found = monitor(stack)
    return [value if need else None for value, need in zip(found, needed, strict=True)]


def _dropper(model: Model, stack: Stack, step: int, rows: int) -> Drop | None:
    """Dropout of one step; None if no run drops anything."""
    if not any(run.trunk.dropout for run in stack.runs):
        return None

    def drop(h: Tensor, place: int) -> Tensor:
        table = dropout_table(rows, h.shape[-1], h.device)
        keep = draw_keep(table, stack.dropout_keys, stack.dropout, step * len(model.layers) + place)
        return h * (keep / (1 - stack.dropout))

    return drop
