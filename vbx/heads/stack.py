"""Stack: runs of one shape that train together in torch, their first weights and what they predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.draws import derive_seed, draw_weights
from vbx.heads.model import DEVIATION, LOG_VARIANCE, WEIGHERS, Model, forward, pack_weights, view_weights
from vbx.heads.optim import Moving
from vbx.heads.roles import main_places
from vbx.heads.run import Run

ROWS_AT_ONCE = 1024
"""Utterances that are predicted at once."""


@dataclass(frozen=True)
class Stack:
    """Runs that train together, one row each.

    Attributes:
        runs: R runs
        moving: their weights and what moves them
        task_weights: weights of the tasks' losses on dev `(R, T)`; those of attributes do not count there
        previous: losses of the M main tasks in the two steps before, the earlier first `(R, 2, M)`, changed in place
        dropout: share of values that are dropped `(R, 1, 1)`
        dropout_keys: what their dropout is drawn from `(R, 1, 1)`
    """

    runs: tuple[Run, ...]
    moving: Moving
    task_weights: Tensor
    previous: Tensor
    dropout: Tensor
    dropout_keys: Tensor


def start_stack(model: Model, runs: Sequence[Run], device: torch.device) -> Stack:
    """Runs with their first weights."""
    dtype = getattr(torch, runs[0].fit.dtype)
    rows = []
    for run in runs:
        weights = draw_weights(model.layers, run.seed, dtype)
        mains = [run.tasks[place] for place in main_places(run.tasks)]
        weights[LOG_VARIANCE] = torch.tensor([task.log_variance for task in mains], dtype=dtype)
        weights[DEVIATION] = torch.full((len(mains),), 1 / len(mains), dtype=dtype)
        rows.append(pack_weights(model, weights))
    numbers = torch.stack(rows).to(device)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    moving = Moving(
        numbers=numbers,
        first=torch.zeros_like(numbers),
        second=torch.zeros_like(numbers),
        spare=torch.empty_like(numbers),
        lr=_learning_rates(model, runs, column),
        weight_decay=column([run.fit.weight_decay for run in runs]),
        momentum=column([run.fit.momentum for run in runs]),
    )
    fixed = runs[0].fit.weighting == "fixed"
    task_weights = [[task.weight if fixed else 1.0 for task in run.tasks] for run in runs]
    keys = [derive_seed("dropout", run.seed) & 0xFFFFFFFF for run in runs]
    return Stack(
        runs=tuple(runs),
        moving=moving,
        task_weights=torch.tensor(task_weights, dtype=dtype, device=device),
        previous=torch.zeros(len(runs), 2, len(main_places(runs[0].tasks)), dtype=dtype, device=device),
        dropout=column([run.trunk.dropout for run in runs]).unsqueeze(2),
        dropout_keys=torch.tensor(keys, device=device).view(-1, 1, 1),
    )


def _learning_rates(model: Model, runs: Sequence[Run], column: Callable[[Sequence[float]], Tensor]) -> Tensor:
    """`(R, 1)`, or `(R, P)` where the weighting or discriminators have their own."""
    lr = column([run.fit.lr for run in runs])
    ends = [*map(str, range(len(model.layers))), "out"]
    hidden = {f"{task.name}.{end}" for task in model.run.tasks if task.role == "discriminator" for end in ends}
    groups = {
        "uncertainty_lr": [slot for slot in model.slots if slot.name in WEIGHERS.values()],
        "discriminator_lr": [slot for slot in model.slots if slot.name.rpartition(".")[0] in hidden],
    }
    for name, slots in groups.items():
        own = [getattr(run.fit, name) for run in runs]
        if slots and any(rate is not None for rate in own):
            lr = lr.repeat(1, model.size // lr.shape[1])
            rates = column([run.fit.lr if rate is None else rate for run, rate in zip(runs, own, strict=True)])
            for slot in slots:
                lr[:, slot.start : slot.stop] = rates
    return lr


def select_runs(stack: Stack, places: Sequence[int]) -> Stack:
    """A stack of some of its runs."""
    index = torch.tensor(places, dtype=torch.int64, device=stack.dropout.device)
    moving = Moving(**{f.name: getattr(stack.moving, f.name).index_select(0, index) for f in fields(Moving)})
    return replace(
        stack,
        runs=tuple(stack.runs[i] for i in places),
        moving=moving,
        task_weights=stack.task_weights.index_select(0, index),
        previous=stack.previous.index_select(0, index),
        dropout=stack.dropout.index_select(0, index),
        dropout_keys=stack.dropout_keys.index_select(0, index),
    )


@torch.no_grad()
def predict_stack(model: Model, numbers: Tensor, split: Split) -> list[Tensor]:
    """Outputs of each task `(R, N, K)` on a split, as `forward` gives them."""
    weights = view_weights(model, numbers)
    blocks = [forward(model, weights, x.expand(len(numbers), -1, -1)) for x in torch.split(split.x, ROWS_AT_ONCE)]
    return [torch.cat(outputs, dim=1) for outputs in zip(*blocks, strict=True)]
