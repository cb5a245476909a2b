"""Head: the weights of one run, and how they turn vectors into predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbx.cache.feature import Part
from vbx.errors import CacheError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.calibration import Calibration
from vbx.heads.parts import Task, Trunk
from vbx.heads.roles import in_layer_order, main_places
from vbx.heads.run import Run


@dataclass(frozen=True)
class Layer:
    """One linear layer of a head.

    Attributes:
        name: begins the names of its weights: `trunk.0`, `emotion.1`, `emotion.out`
        width_in: values it takes
        width_out: values it gives
        norm: whether layer normalisation follows
        active: whether the activation, and in training dropout, follows
    """

    name: str
    width_in: int
    width_out: int
    norm: bool
    active: bool


@dataclass(frozen=True)
class Head:
    """The weights of one run, with all that is needed to use them.

    Attributes:
        run: the run
        columns: names of the D columns of the vectors
        classes: classes of each classification task, in the order of its outputs
        state: weights by name: `trunk.0.weight (out, in)`, `trunk.0.bias`, `trunk.0.norm.weight`, `emotion.0.weight`,
            `emotion.out.weight`, ...
        centre: `(D,)`, subtracted from a vector; 0 where each speaker's own statistics scale it
        spread: `(D,)`, by which it is divided then; 1 likewise
        vectors_key: fingerprint of the vectors it learnt from
        feature: name of the feature it learnt from
        corpus: name of the corpus it learnt from
        calibration: fitted on dev; None for raw outputs
        parts: outputs of the encoders behind the vectors, digests of weights included; none where they are not known
    """

    run: Run
    columns: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    state: Mapping[str, NDArray[np.floating[Any]]]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    vectors_key: str
    feature: str
    corpus: str
    calibration: Calibration | None = None
    parts: tuple[Part, ...] = ()


def list_layers(dim: int, trunk: Trunk, tasks: Sequence[Task], outputs: Mapping[str, int]) -> list[Layer]:
    """The linear layers of a head in the order in which their weights are drawn: the trunk's, then each task's.

    Those of discriminators come last: they take what the main tasks say, side by side.

    Args:
        dim: D of the vectors
        trunk: what the tasks share
        tasks: what is learnt
        outputs: how many outputs each task has

    Examples:
        >>> task = Task("age", ("age",), "mse", ("mae",), hidden=(32, 16))
        >>> [(x.name, x.width_in, x.width_out) for x in list_layers(88, Trunk(hidden=(64,)), [task], {"age": 1})]
        [('trunk.0', 88, 64), ('age.0', 64, 32), ('age.1', 32, 16), ('age.out', 16, 1)]
    """
    layers, width = [], dim
    for i, wider in enumerate(trunk.hidden):
        layers.append(Layer(f"trunk.{i}", width, wider, trunk.norm == "layer", True))
        width = wider
    shared, said = width, sum(outputs[task.name] for task in tasks if task.role == "main")
    for task in in_layer_order(tasks):
        width = said if task.role == "discriminator" else shared
        for i, wider in enumerate(task.hidden):
            layers.append(Layer(f"{task.name}.{i}", width, wider, False, True))
            width = wider
        layers.append(Layer(f"{task.name}.out", width, outputs[task.name], False, False))
    return layers


def count_outputs(task: Task, classes: Mapping[str, Sequence[str]]) -> int:
    """How many outputs a task has: its classes, or its columns."""
    return len(classes[task.name]) if task.kind == "classification" else len(task.columns)


def fold_targets(
    state: dict[str, NDArray[np.floating[Any]]],
    tasks: Sequence[Task],
    target_scale: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    """Fold what standardised targets into weights, so that values come out in their own unit.

    Args:
        state: weights by name, changed in place
        tasks: what was learnt
        target_scale: centre and spread `(K,)` of each regression task's numbers
    """

    def put(layer: str, weight: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]]) -> None:
        for name, values in ((f"{layer}.weight", weight), (f"{layer}.bias", bias)):
            state[name] = values.astype(state[name].dtype)

    for name, (centre, spread) in target_scale.items():
        layer = f"{name}.out"
        put(layer, state[f"{layer}.weight"] * spread[:, None], state[f"{layer}.bias"] * spread + centre)
    # Discriminators go on seeing standardised values.
    for task in tasks:
        if task.role == "discriminator":
            layer, begin = f"{task.name}.{0 if task.hidden else 'out'}", 0
            for main in [tasks[place] for place in main_places(tasks)]:
                width = len(state[f"{main.name}.out.bias"])
                centre, spread = target_scale.get(main.name, (np.zeros(width), np.ones(width)))
                weight = state[f"{layer}.weight"].copy()
                weight[:, begin : begin + width] /= spread
                shift = weight[:, begin : begin + width] @ centre
                put(layer, weight, state[f"{layer}.bias"] - shift)
                begin += width


class HeadModule(nn.Module):
    """A head as a plain torch module: vectors `(N, D)` to one output `(N, K)` per task, in the order of the tasks.

    Scaling is inside (but for `scale_by_speaker`); classifications give probabilities, calibrated if the head is.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, head: Head) -> None:
        super().__init__()
        tasks = head.run.tasks
        outputs = {task.name: count_outputs(task, head.classes) for task in tasks}
        layers = [_Block(x, head) for x in list_layers(len(head.centre), head.run.trunk, tasks, outputs)]
        self.register_buffer("centre", torch.from_numpy(np.asarray(head.centre, np.float32)))
        self.register_buffer("spread", torch.from_numpy(np.asarray(head.spread, np.float32)))
        depth = len(head.run.trunk.hidden)
        self.trunk = nn.Sequential(*layers[:depth])
        branches: dict[str, nn.Module] = {}
        for task in in_layer_order(tasks):
            branches[task.name] = nn.Sequential(*layers[depth : depth + len(task.hidden) + 1])
            depth += len(task.hidden) + 1
        self.branches = nn.ModuleList([branches[task.name] for task in tasks])
        self.ends = nn.ModuleList([nn.Sequential(*_final(task, head.calibration)) for task in tasks])
        # What discriminators learnt to see is not calibrated.
        self.raw_ends = nn.ModuleList([nn.Sequential(*_final(task, None)) for task in tasks])
        self.mains = main_places(tasks)
        self.after = [task.role == "discriminator" for task in tasks]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of each task."""
        shared = self.trunk((x - self.centre) / self.spread)
        raw = [shared if after else branch(shared) for branch, after in zip(self.branches, self.after, strict=True)]
        if any(self.after):
            said = torch.cat([self.raw_ends[place](raw[place]) for place in self.mains], dim=-1)
            parts = zip(self.branches, raw, self.after, strict=True)
            raw = [branch(said) if after else h for branch, h, after in parts]
        return tuple(end(h) for end, h in zip(self.ends, raw, strict=True))


def apply_head(head: Head, x: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.float32]]:
    """What a head says of vectors.

    Args:
        head: weights of a run; `replace(head, calibration=None)` for probabilities as the softmax gives them
        x: `(N, D)`, not scaled; where the run has `scale_by_speaker`, scaled by `scale_by_speaker`

    Returns:
        for each task `(N, K)` float32: probabilities of the classes in the order of `head.classes`, or values of the
        columns in their own unit

    Raises:
        CacheError: if D is not the head's
    """
    if x.ndim != 2 or x.shape[1] != len(head.centre):
        raise CacheError(
            f"vectors have shape {x.shape}, the head of {head.feature!r} takes (N, {len(head.centre)}); "
            f"use vectors of that feature"
        )
    module = HeadModule(head).eval()
    with torch.inference_mode():
        outputs = module(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
    return {task.name: output.numpy() for task, output in zip(head.run.tasks, outputs, strict=True)}


class _Block(nn.Module):
    """A linear layer with what follows it."""

    def __init__(self, layer: Layer, head: Head) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.width_in, layer.width_out)
        self.norm = nn.LayerNorm(layer.width_out) if layer.norm else None
        self.activation = ACTIVATIONS[head.run.trunk.activation] if layer.active else None
        weights = {"": self.linear, "norm.": self.norm}
        for part, module in weights.items():
            for name, values in module.named_parameters() if module else ():
                source = head.state[f"{layer.name}.{part}{name}"]
                values.data = torch.from_numpy(np.asarray(source, np.float32).copy())

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        x = self.norm(x) if self.norm else x
        return self.activation(x) if self.activation else x


class _Tempered(nn.Module):
    """Logits divided by a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        return x / self.temperature


def _final(task: Task, calibration: Calibration | None) -> list[nn.Module]:
    if task.kind == "classification":
        temperature = calibration.temperatures.get(task.name, 1.0) if calibration else 1.0
        return [*([_Tempered(temperature)] if temperature != 1 else []), nn.Softmax(dim=-1)]
    return [nn.Sigmoid()] if task.output == "sigmoid" else []
