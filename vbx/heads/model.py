"""Model: the heads of R runs as one stack of numbers, and their forward pass.

Every width is padded with zeros to a multiple of 32. Then each run's part of every tensor begins on a 64-byte boundary
and no vector loop has a remainder, and on one CPU thread a run's numbers come out bit for bit the same whichever runs
share its stack: matrix kernels choose their order of sums by alignment, elementwise ones treat remainders differently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from vbx.heads.activations import ACTIVATIONS
from vbx.heads.head import Layer, count_outputs, list_layers
from vbx.heads.parts import Task
from vbx.heads.roles import check_roles, in_layer_order, main_places
from vbx.heads.run import Run

PAD = 32
LOG_VARIANCE, DEVIATION = "log_variance", "deviation"
"""What is learnt for the weighting of the main tasks: s of `uncertainty`, c of `druw` and `rruw`."""
WEIGHERS = {"uncertainty": LOG_VARIANCE, "druw": DEVIATION, "rruw": DEVIATION}
Drop = Callable[[Tensor, int], Tensor]
"""Drops values of a hidden layer: its values `(R, B, width)` and its place among the layers."""


@dataclass(frozen=True)
class Slot:
    """Where one weight lies among the numbers of a run.

    Attributes:
        name: of the weight
        shape: it has in the stack but for padding: that of a linear layer is (in, out), so that its gradient comes out
            of one product as it lies
        padded: shape it has in the stack
        start: where it begins
    """

    name: str
    shape: tuple[int, ...]
    padded: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + torch.Size(self.padded).numel()


@dataclass(frozen=True)
class Model:
    """What the heads of one shape have in common.

    Attributes:
        run: any of the runs; only what they share is used
        layers: linear layers, the trunk's first, then each task's, those of discriminators last
        slots: where each weight lies; what is learnt for the weighting, one number a main task, last
        dim: D of the vectors
    """

    run: Run
    layers: tuple[Layer, ...]
    slots: tuple[Slot, ...]
    dim: int

    @property
    def size(self) -> int:
        """Numbers a run has."""
        return self.slots[-1].stop


def make_model(run: Run, dim: int, classes: Mapping[str, tuple[str, ...]]) -> Model:
    """The model of a run, and of all of its shape.

    Args:
        run: the run
        dim: D of the vectors
        classes: classes of each classification task

    Raises:
        RecipeError: if none of its tasks is a main one
    """
    check_roles(run.tasks)
    outputs = {task.name: count_outputs(task, classes) for task in run.tasks}
    layers = list_layers(dim, run.trunk, run.tasks, outputs)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[f"{layer.name}.weight"] = (layer.width_in, layer.width_out)
        shapes[f"{layer.name}.bias"] = (layer.width_out,)
        if layer.norm:
            shapes[f"{layer.name}.norm.weight"] = shapes[f"{layer.name}.norm.bias"] = (layer.width_out,)
    if run.fit.weighting in WEIGHERS:
        shapes[WEIGHERS[run.fit.weighting]] = (len(main_places(run.tasks)),)
    slots: list[Slot] = []
    for name, shape in shapes.items():
        slots.append(Slot(name, shape, tuple(padded(n) for n in shape), slots[-1].stop if slots else 0))
    return Model(run, tuple(layers), tuple(slots), dim)


def padded(width: int) -> int:
    """The next multiple of 32.

    Examples:
        >>> padded(1027)
        1056
    """
    return -(-width // PAD) * PAD


def view_weights(model: Model, numbers: Tensor) -> dict[str, Tensor]:
    """Weights `(R, ...)`, padded, by name, as views of the numbers `(R, P)`."""
    return {s.name: numbers[:, s.start : s.stop].view(len(numbers), *s.padded) for s in model.slots}


def pack_weights(model: Model, weights: Mapping[str, Tensor]) -> Tensor:
    """The numbers `(P,)` of one run from its weights by name, zeros between them."""
    row = torch.zeros(model.size, dtype=next(iter(weights.values())).dtype)
    for slot, view in zip(model.slots, view_weights(model, row.unsqueeze(0)).values(), strict=True):
        view[0][tuple(slice(n) for n in slot.shape)] = weights[slot.name].t()
    return row


def unpack_weights(model: Model, row: Tensor) -> dict[str, Tensor]:
    """The inverse of `pack_weights`."""
    views = view_weights(model, row.unsqueeze(0))
    return {s.name: views[s.name][0][tuple(slice(n) for n in s.shape)].t() for s in model.slots}


def forward(
    model: Model, weights: Mapping[str, Tensor], x: Tensor, drop: Drop | None = None, back: Tensor | None = None
) -> list[Tensor]:
    """Outputs of each task.

    Args:
        model: of the runs
        weights: of R runs, from `view_weights`; with `LAYER.slope` `(R, B, width)` the gradient of what the first layer
            gives is put there, and none is made of its weight
        x: scaled vectors `(R, B, padded D)`
        drop: drops values of hidden layers, in training
        back: factors `(R, T)` of the gradients that first layers pass back, in training (`make_shares`)

    Returns:
        for each task `(R, B, K)`: logits of classes, or values
    """
    trunk = model.run.trunk
    shared, place = x, 0
    for place, layer in enumerate(model.layers[: len(trunk.hidden)]):
        shared = _hidden(layer, weights, shared, ACTIVATIONS[trunk.activation])
        shared = drop(shared, place) if drop else shared
    outputs: dict[str, Tensor] = {}
    place = len(trunk.hidden)
    for task in in_layer_order(model.run.tasks):
        h = _said(model.run.tasks, outputs) if task.role == "discriminator" else shared
        if back is not None and task.role in ("adversarial", "discriminator"):
            factor = back[:, model.run.tasks.index(task)].view(-1, 1, 1)
            h = _Back.apply(h, factor)  # type: ignore[no-untyped-call]  # torch's
        if task.role == "discriminator":
            h = F.pad(h, (0, padded(h.shape[-1]) - h.shape[-1]))
        for _ in task.hidden:
            h = _hidden(model.layers[place], weights, h, ACTIVATIONS[trunk.activation])
            h = drop(h, place) if drop else h
            place += 1
        h = _linear(model.layers[place].name, weights, h)
        h = torch.sigmoid(h) if task.output == "sigmoid" else h
        outputs[task.name] = h[..., : model.layers[place].width_out]
        place += 1
    return [outputs[task.name] for task in model.run.tasks]


class _Back(torch.autograd.Function):
    """Values as they are, whose gradient is multiplied by a factor on its way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None


class _Apart(torch.autograd.Function):
    """A linear layer on what needs no gradient, whose weight's gradient is left to others: they find its factor."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, x: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return torch.baddbmm(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        slope.copy_(gradients[0])
        return gradients[0].sum(1, keepdim=True), None, None, None


def _said(tasks: Sequence[Task], outputs: Mapping[str, Tensor]) -> Tensor:
    """What discriminators see `(R, B, K)`: probabilities and values of the main tasks, side by side in their order."""
    mains = [task for task in tasks if task.role == "main"]
    said = [outputs[t.name].softmax(-1) if t.kind == "classification" else outputs[t.name] for t in mains]
    return torch.cat(said, dim=-1)


def _linear(name: str, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    bias, weight, slope = weights[f"{name}.bias"].unsqueeze(1), weights[f"{name}.weight"], weights.get(f"{name}.slope")
    if slope is None:
        return torch.baddbmm(bias, x, weight)
    told: Tensor = _Apart.apply(bias, x, weight, slope)  # type: ignore[no-untyped-call]
    return told


def _hidden(layer: Layer, weights: Mapping[str, Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    h = _linear(layer.name, weights, x)
    if layer.norm:
        spare = h.shape[-1] - layer.width_out
        h = F.layer_norm(h[..., : layer.width_out], (layer.width_out,))
        h = F.pad(h, (0, spare)) if spare else h
        gain, shift = weights[f"{layer.name}.norm.weight"], weights[f"{layer.name}.norm.bias"]
        h = h * gain.unsqueeze(1) + shift.unsqueeze(1)
    return activation(h)
