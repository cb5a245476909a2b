"""A run in the kernel: opened from its stack of one, trained epoch by epoch, asked for predictions."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbx.errors import DeviceError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.data import Split
from vbx.heads.draws import derive_seed, draw_order
from vbx.heads.losses import LOSSES
from vbx.heads.model import WEIGHERS, Model
from vbx.heads.native.family import KNOWN_ACTIVATIONS, KNOWN_LOSSES, KNOWN_RULES, KNOWN_WEIGHTINGS
from vbx.heads.native.library import CLayer, CRun, CShare, CSplit, CTask, Kernel
from vbx.heads.optim import OPTIMIZERS
from vbx.heads.roles import in_layer_order, list_shares
from vbx.heads.run import Run
from vbx.heads.stack import Stack

SAID = -2
"""Source of a discriminator's first layer: what the main tasks say."""


class NativeRun:
    """One run in the kernel, as an engine of `fit_stack`: close it, or use it in a `with`.

    Args:
        kernel: from `find_kernel`
        model: of the run's shape
        train: what it will learn from
    """

    def __init__(self, kernel: Kernel, model: Model, train: Split) -> None:
        self._kernel = kernel
        self._batch = min(model.run.fit.batch_size, len(train.rows))
        self._handle: int | None = None

    def train_epoch(self, model: Model, stack: Stack, train: Split, epoch: int) -> None:
        """What `fitting.train_epoch` does, for a stack of one; its moments stay in the kernel."""
        (run,) = stack.runs
        if self._handle is None:
            self._handle = _open(self._kernel, model, run, (stack.moving.numbers, self._batch))
        rows, size, layers = len(train.rows), run.fit.batch_size, len(model.layers)
        order = draw_order(run.seed, epoch, rows).numpy()
        steps = -(-rows // size)
        before = (epoch - 1) * steps
        words = draw_words((before + 1) * layers, steps * layers).ctypes.data if run.trunk.dropout else None
        library = self._kernel.library
        shares = (CShare * len(run.tasks))(
            *(CShare(share.loss, share.back) for share in list_shares(run.tasks, run.fit, epoch))
        )
        with _split(train) as split:
            library.vbx_train(self._handle, split, shares, order.ctypes.data, before, words)
        library.vbx_numbers(self._handle, stack.moving.numbers.data_ptr())

    def predict(self, model: Model, numbers: Tensor, split: Split) -> list[Tensor]:
        """What `fitting.predict_stack` does, for a stack of one."""
        return predict_native(self._kernel, model, numbers, split)

    def close(self) -> None:
        """Give its memory back."""
        if self._handle is not None:
            self._kernel.library.vbx_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def predict_native(kernel: Kernel, model: Model, numbers: Tensor, split: Split) -> list[Tensor]:
    """Outputs of each task `(1, N, K)` on a split, from the numbers `(1, P)` of one run."""
    widths = {layer.name: layer.width_out for layer in model.layers}
    outputs = [torch.empty(1, len(split.rows), widths[f"{t.name}.out"], dtype=split.x.dtype) for t in model.run.tasks]
    handle = _open(kernel, model, model.run, (numbers, 1))
    try:
        with _split(split) as given:
            kernel.library.vbx_predict(handle, given, _pointers(outputs))
    finally:
        kernel.library.vbx_close(handle)
    return outputs


@lru_cache(maxsize=256)
def draw_words(first: int, count: int) -> NDArray[np.uint32]:
    """What dropout is drawn from in `count` layers of steps, the same for all runs."""
    return np.array([derive_seed("dropout", when) & 0xFFFFFFFF for when in range(first, first + count)], np.uint32)


def _open(kernel: Kernel, model: Model, run: Run, start: tuple[Tensor, int]) -> int:
    numbers, batch = start
    numbers = numbers.contiguous()
    layers = (CLayer * len(model.layers))(*_layers(model))
    tasks = (CTask * len(run.tasks))(*_tasks(model, run))
    handle: int | None = kernel.library.vbx_open(_run(model, run, batch), layers, tasks, numbers.data_ptr())
    if handle is None:
        raise DeviceError(f"there is no memory for a head of {model.size} weights; train fewer runs at once")
    return handle


def _run(model: Model, run: Run, batch: int) -> CRun:
    fit, rule = run.fit, KNOWN_RULES[OPTIMIZERS[run.fit.optimizer]]
    start = {slot.name: slot.start for slot in model.slots}
    return CRun(
        size=model.size,
        batch=batch,
        weighers=start.get(WEIGHERS.get(fit.weighting, ""), -1),
        layers=len(model.layers),
        tasks=len(run.tasks),
        activation=KNOWN_ACTIVATIONS[ACTIVATIONS[run.trunk.activation]],
        rule=1 if fit.optimizer == "adam" and fit.weight_decay else rule,
        weighting=KNOWN_WEIGHTINGS[fit.weighting],
        is_double=fit.dtype == "float64",
        dropout_key=derive_seed("dropout", run.seed) & 0xFFFFFFFF,
        dropout=run.trunk.dropout,
        lr=fit.lr,
        uncertainty_lr=fit.lr if fit.uncertainty_lr is None else fit.uncertainty_lr,
        discriminator_lr=fit.lr if fit.discriminator_lr is None else fit.discriminator_lr,
        weight_decay=fit.weight_decay,
        momentum=fit.momentum,
    )


def _layers(model: Model) -> Iterator[CLayer]:
    """Layers in the order of the model, and what feeds each: the one before, the trunk's last, or the main tasks."""
    slots = {slot.name: slot for slot in model.slots}
    trunk, judges = len(model.run.trunk.hidden) - 1, _judges(model)
    firsts = set(_first_places(model).values())
    for place, layer in enumerate(model.layers):
        weight = slots[f"{layer.name}.weight"]
        source = place - 1
        if place in firsts:
            source = SAID if place in judges else trunk
        yield CLayer(
            width_in=layer.width_in,
            width_out=layer.width_out,
            weight=weight.start,
            bias=slots[f"{layer.name}.bias"].start,
            gain=slots[f"{layer.name}.norm.weight"].start if layer.norm else -1,
            shift=slots[f"{layer.name}.norm.bias"].start if layer.norm else -1,
            stride=weight.padded[1],
            source=source,
            active=layer.active,
            judges=place in judges,
        )


def _first_places(model: Model) -> dict[str, int]:
    """Where the first layer of each task is."""
    firsts, place = {}, len(model.run.trunk.hidden)
    for task in in_layer_order(model.run.tasks):
        firsts[task.name] = place
        place += len(task.hidden) + 1
    return firsts


def _judges(model: Model) -> range:
    """Layers of discriminators: the last ones."""
    ends = [len(task.hidden) + 1 for task in model.run.tasks if task.role == "discriminator"]
    return range(len(model.layers) - sum(ends), len(model.layers))


def _tasks(model: Model, run: Run) -> Iterator[CTask]:
    places, firsts = {layer.name: place for place, layer in enumerate(model.layers)}, _first_places(model)
    for task in run.tasks:
        yield CTask(
            first=firsts[task.name],
            layer=places[f"{task.name}.out"],
            loss=KNOWN_LOSSES[LOSSES[task.loss].function],
            sigmoid=task.output == "sigmoid",
            columns=len(task.columns),
            main=task.role == "main",
            replace=task.missing == "replace",
            gamma=task.gamma,
            factor=len(task.columns) if task.reduce == "sum" else 1,
        )


@contextmanager
def _split(split: Split) -> Iterator[CSplit]:
    """A split as the kernel sees it, whose tensors live as long as it does."""
    assert split.x.is_contiguous() and all(t.is_contiguous() for t in (*split.truth, *split.weight, *split.limits))
    yield CSplit(
        x=split.x.data_ptr(),
        rows=len(split.rows),
        stride=split.x.shape[1],
        truth=_pointers(split.truth),
        weight=_pointers(split.weight),
        limits=_pointers(split.limits),
    )


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
