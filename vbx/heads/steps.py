"""Steps: how a stack sees train. A step reads nothing but tensors that stay where they are, so it can be recorded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.draws import draw_keep, draw_order, dropout_table, list_words
from vbx.heads.model import Drop, Model, forward, padded, view_weights
from vbx.heads.objective import make_shares, remember_losses, replace_missing, task_losses, total_loss
from vbx.heads.one_pass import move_in_one_pass, moves_in_one_pass, takes_products
from vbx.heads.optim import OPTIMIZERS, list_factors
from vbx.heads.run import Run
from vbx.heads.stack import Stack


@dataclass(frozen=True)
class Buffers:
    """What the S steps of an epoch read, filled once an epoch and changed in place; B utterances a step, fewer at last.

    Attributes:
        leaves: weights by name, views of the stack's numbers
        gradient: room for the gradients side by side `(R, P)`; empty where the optimiser does not need them so
        slope: room for the gradient of what the first layer gives `(R, B, width)`, of which the optimiser makes that of
            its weight; empty where it does not
        order: utterances of each run in the order in which it sees them `(R, S, B)`; zeros fill the last batch
        at: number of the step in its epoch, from 0 `(1,)`; a step counts it on
        factors: what depends on the number of the step in the optimiser `(S, 5)`
        shares: factors of the losses `(R, T)`
        back: factors of the gradients that first layers pass back `(R, T)`
        words: what dropout is drawn from `(S, layers)`; None if no run drops anything
        tables: numbers of the places of a batch `(B, width)`, for the dropout of each layer
    """

    leaves: dict[str, Tensor]
    gradient: Tensor
    slope: Tensor
    order: Tensor
    at: Tensor
    factors: Tensor
    shares: Tensor
    back: Tensor
    words: Tensor | None
    tables: tuple[Tensor, ...]


def draw_orders(model: Model, runs: Sequence[Run], rows: int, epoch: int, pinned: bool = False) -> Tensor:
    """`Buffers.order` of one epoch, on the host; in pinned memory a copy to a CUDA device need not wait."""
    size = model.run.fit.batch_size
    order = torch.zeros(len(runs), math.ceil(rows / size) * size, dtype=torch.int64, pin_memory=pinned)
    for row, run in zip(order, runs, strict=True):
        row[:rows] = draw_order(run.seed, epoch, rows)
    return order.view(len(runs), -1, size)


def make_buffers(model: Model, stack: Stack, order: Tensor) -> Buffers:
    """Buffers for a stack; all but the weights is to be filled.

    Args:
        model: of the runs
        stack: the runs
        order: from `draw_orders`
    """
    numbers, device, steps, size = stack.moving.numbers, stack.moving.numbers.device, *order.shape[1:]
    drops = any(run.trunk.dropout for run in stack.runs)
    tables = [dropout_table(size, padded(layer.width_out), device) for layer in model.layers] if drops else []
    one_pass = moves_in_one_pass(model.run.fit.optimizer, numbers)
    width = model.slots[0].padded[1] if one_pass and takes_products(model) else 0
    return Buffers(
        leaves={name: view.detach().requires_grad_() for name, view in view_weights(model, numbers).items()},
        gradient=torch.empty_like(numbers[:0] if one_pass else numbers),
        slope=numbers.new_empty(len(numbers), size, width),
        order=torch.empty_like(order, device=device),
        at=torch.zeros(1, dtype=torch.int64, device=device),
        factors=torch.empty(steps, 5, dtype=numbers.dtype, device=device),
        shares=torch.empty_like(stack.task_weights),
        back=torch.empty_like(stack.task_weights),
        words=torch.empty(steps, len(model.layers), dtype=torch.int64, device=device) if drops else None,
        tables=tuple(tables),
    )


def fill_buffers(model: Model, stack: Stack, buffers: Buffers, order: Tensor, epoch: int) -> None:
    """Put what an epoch needs into its buffers.

    Args:
        model: of the runs
        stack: the runs
        buffers: theirs
        order: from `draw_orders`
        epoch: from 1
    """
    steps = order.shape[1]
    before = (epoch - 1) * steps
    buffers.order.copy_(order, non_blocking=True)
    buffers.at.zero_()
    buffers.factors.copy_(list_factors(range(before + 1, before + steps + 1), buffers.factors))
    shares, back = make_shares(stack.runs, epoch, buffers.shares)
    buffers.shares.copy_(shares)
    buffers.back.copy_(back)
    if buffers.words is not None:
        layers = len(model.layers)
        words = list_words((before + 1) * layers, steps * layers, buffers.words.device)
        buffers.words.copy_(words.view(steps, layers))


def train_step(model: Model, stack: Stack, train: Split, buffers: Buffers, rows: int) -> None:
    """The next step of an epoch, on the first rows of its batch; changes the weights, the stack's memory and `at`."""
    batch = buffers.order.index_select(1, buffers.at).squeeze(1)[:, :rows]
    x = train.x.index_select(0, batch.flatten()).view(*batch.shape, -1)
    weights, wanted = buffers.leaves, list(buffers.leaves.values())
    slope = buffers.slope[:, :rows]
    if slope.numel():
        weights, wanted = weights | {f"{model.layers[0].name}.slope": slope}, wanted[1:]
    outputs = forward(model, weights, x, _dropper(stack, buffers, rows), buffers.back)
    truth, weight = [t[batch] for t in train.truth], [w[batch] for w in train.weight]
    if any(task.missing == "replace" for task in model.run.tasks):
        truth, weight = replace_missing(model, train, outputs, (truth, weight))
    losses = task_losses(model, outputs, truth, weight)
    loss = total_loss(model, buffers.leaves, buffers.shares, losses, stack.previous)
    remember_losses(model, stack.previous, losses)
    gradients = torch.autograd.grad(loss.sum(), wanted)
    factors = buffers.factors.index_select(0, buffers.at)[0]
    rule, flat = model.run.fit.optimizer, [g.flatten(1) for g in gradients]
    if buffers.gradient.numel():
        OPTIMIZERS[rule](stack.moving, torch.cat(flat, dim=1, out=buffers.gradient), factors)
    else:
        move_in_one_pass(rule, stack.moving, flat, factors, (x, slope) if slope.numel() else None)
    buffers.at.add_(1)


def train_epoch(model: Model, stack: Stack, train: Split, epoch: int) -> None:
    """One pass over train, each run in its own order; the last batch may be smaller. Changes weights in place."""
    rows = len(train.rows)
    order = draw_orders(model, stack.runs, rows, epoch)
    buffers = make_buffers(model, stack, order)
    fill_buffers(model, stack, buffers, order, epoch)
    for count in count_rows(rows, model.run.fit.batch_size):
        train_step(model, stack, train, buffers, count)


def count_rows(rows: int, size: int) -> list[int]:
    """Utterances of each step of an epoch.

    Examples:
        >>> count_rows(10, 4)
        [4, 4, 2]
    """
    return [min(size, rows - begin) for begin in range(0, rows, size)]


def _dropper(stack: Stack, buffers: Buffers, rows: int) -> Drop | None:
    """Dropout of one step; None if no run drops anything."""
    if buffers.words is None:
        return None
    words = buffers.words.index_select(0, buffers.at)[0]

    def drop(h: Tensor, place: int) -> Tensor:
        keep = draw_keep(buffers.tables[place][:rows], stack.dropout_keys, stack.dropout, words[place])
        return h * (keep / (1 - stack.dropout))

    return drop
