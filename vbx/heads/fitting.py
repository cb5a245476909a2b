"""Fitting: the epochs of one stack, from first weights to the ones that are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.model import Model
from vbx.heads.run import Run
from vbx.heads.stack import Stack, select_runs, start_stack
from vbx.heads.steps import train_epoch
from vbx.heads.watch import Watch, look


@dataclass(frozen=True)
class Fitted:
    """What fitting a stack gives.

    Attributes:
        numbers: weights that were kept `(R, P)`
        watches: how far each run came
    """

    numbers: Tensor
    watches: tuple[Watch, ...]


IDLE = {"cpu": 0.0, "cuda": 0.25}
"""Share of a stack that may have stopped and idle along: a smaller one has to be recorded anew."""

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
    idle, epoch = IDLE[train.x.device.type], 0
    while any(watch.status == "on" for watch in watches):
        epoch += 1
        (see_train or train_epoch)(model, stack, train, epoch)
        values = _values(stack, monitor)
        finite = torch.isfinite(stack.moving.numbers).all(1).tolist()
        counted = 0
        for i, (run, watch) in enumerate(zip(stack.runs, watches, strict=True)):
            if watch.status == "on":
                watches[i] = ended[watch.place] = look(watch, run.fit, values[i], finite[i])
                counted += 1 if watches[i].status == "on" else run.fit.epochs - epoch + 1
        _keep(kept, stack.moving.numbers, {w.place: i for i, w in enumerate(watches) if w.best_epoch == epoch})
        tell(counted)
        on = [i for i, watch in enumerate(watches) if watch.status == "on"]
        if 0 < len(on) < len(watches) and len(on) <= (1 - idle) * len(watches):
            stack, watches = select_runs(stack, on), [watches[i] for i in on]
    return Fitted(kept, tuple(ended))


def _keep(kept: Tensor, numbers: Tensor, places: dict[int, int]) -> None:
    """Keep the numbers of some runs: where to, and where from."""
    to, rows = (torch.tensor(list(p), dtype=torch.int64, device=kept.device) for p in (places, places.values()))
    kept.index_copy_(0, to, numbers.index_select(0, rows))


def _values(stack: Stack, monitor: Monitor | None) -> list[float | None]:
    """What is watched of each run, None of runs that need no watching."""
    needed = [run.fit.patience > 0 or run.fit.restore_best for run in stack.runs]
    if monitor is None or not any(needed):
        return [None] * len(stack.runs)
    found = monitor(stack)
    return [value if need else None for value, need in zip(found, needed, strict=True)]
