"""Speech models as ONNX: the arithmetic of `SpeechEncoder`, windows included, for one waveform of any length."""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.extract.encoders._graph import (
    OPSET,
    SIGNAL,
    Builder,
    add_peak,
    add_standardise,
    check_size,
    finish,
    rename,
)
from vbx.extract.encoders._speech_models import Head, SpeechModel
from vbx.extract.encoders._windows import ConvStack

_TRACED_S = 1.0
"""Length of the waveform that is traced; the graph takes any."""
_DOUBLE, _BOOL = onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL


@dataclass(frozen=True)
class _Clip:
    """Names of what is known of a waveform before it is cut.

    Attributes:
        signal: the waveform, normalised
        time: how many samples it has
        frames: how many frames
        length: frames of a window
        step: frames from the start of a window to that of the next
        rest: frames behind the first window
        count: how many windows there are
    """

    signal: str
    time: str
    frames: str
    length: str
    step: str
    rest: str
    count: str


@dataclass(frozen=True)
class _Bounds:
    """Names of what a window is: its samples, the first of its frames that counts, and one past the last."""

    samples: str
    first: str
    last: str


def make_speech_graph(spec: EncoderSpec, model: SpeechModel, outputs: Sequence[str], prefix: str) -> onnx.ModelProto:
    """A model from `signal (1, T)` to outputs of `SpeechEncoder`, side by side as `PREFIXfeature (1, D)`.

    Waveforms longer than `spec.window_s` are cut into the same windows. Arithmetic is float32, sums are float64.

    Args:
        spec: what it is
        model: a checkpoint, on the CPU
        outputs: names of pooled outputs
        prefix: begins the name of every value but `signal`

    Raises:
        CheckpointError: if its weights do not fit into an ONNX file
    """
    check_size((p.numel() * 4 for p in _States(model, True).parameters()), spec.model)
    every = "layers" in outputs
    window = _trace(_States(model, every), spec.sample_rate, f"{prefix}window/")
    build = Builder(prefix)
    build.weights.extend(window.initializer)
    signal = add_peak(build, SIGNAL) if spec.normalise == "peak" else SIGNAL
    signal = add_standardise(build, signal) if model.standardise else build.add("Identity", signal)
    layers = len(model.blocks) + 1 if every else 1
    clip = _add_clip(build, signal, spec, model.stack)
    sums = _add_loop(build, window, clip, model.stack, (layers, model.dim))
    means = build.add("Div", sums, build.add("Cast", clip.frames, to=_DOUBLE))
    means = build.add("Cast", means, to=onnx.TensorProto.FLOAT)
    last = build.add("Gather", means, build.put([layers - 1]), axis=0)
    pieces, width = [], 0
    for name in outputs:
        if name == "hidden":
            pieces.append(last)
            width += model.dim
        elif name == "layers":
            pieces.append(build.add("Reshape", means, build.put([1, -1])))
            width += model.dim * layers
        else:
            pieces.append(_add_head(build, last, model.heads[name], name))
            width += len(model.columns[name])
    return finish(build, pieces, width)


class _States(nn.Module):
    """Hidden states `(1, L, F, D)` of a waveform `(1, T)`: the last, or the input of each block and then the last."""

    def __init__(self, model: SpeechModel, every: bool) -> None:
        super().__init__()
        self.convolutions, self.projection = model.convolutions, model.projection
        self.transformer = model.transformer
        self._blocks = list(model.blocks) if every else []  # a plain list: the transformer holds them already

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        projected = self.projection(self.convolutions(signal).transpose(1, 2))
        frames = projected if isinstance(projected, torch.Tensor) else projected[0]
        inputs: list[torch.Tensor] = []
        hooks = [block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for block in self._blocks]
        try:
            last = self.transformer(frames).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*inputs, last], dim=1)


def _trace(states: nn.Module, rate: int, prefix: str) -> onnx.GraphProto:
    """The graph of a module, its values under names of their own."""
    noise = torch.randn(1, round(_TRACED_S * rate), generator=torch.Generator().manual_seed(0))
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            # It warns of sizes that a trace fixes (tests run many lengths) and of its own age. The newer exporter
            # needs onnxscript, and gives a graph for each range of lengths.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                states.eval(),
                (noise,),
                path := f"{folder}/model.onnx",
                input_names=["samples"],
                output_names=["states"],
                dynamic_axes={"samples": {1: "time"}, "states": {2: "frames"}},
                opset_version=OPSET,
                dynamo=False,
            )
            model = onnx.load(path)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    return rename(model.graph, prefix)


def _add_clip(build: Builder, signal: str, spec: EncoderSpec, stack: ConvStack) -> _Clip:
    """Add the arithmetic of how a waveform is cut: that of `ConvStack.frames` and `cut_windows`."""
    time = build.add("Gather", build.add("Shape", signal), build.put([1]), axis=0)
    frames, one = time, build.put([1])
    for kernel, stride in zip(stack.kernels, stack.strides, strict=True):
        steps = build.add("Div", build.add("Sub", frames, build.put([kernel])), build.put([stride]))
        frames = build.add("Add", steps, one)
    if spec.window_s is None:
        length, step = frames, one
    else:
        most = stack.frames(round(spec.window_s * spec.sample_rate))
        overlap = round((spec.overlap_s or 0.0) * spec.sample_rate / stack.hop)
        length, step = build.add("Min", frames, build.put([most])), build.put([most - overlap])
    rest = build.add("Sub", frames, length)
    before = build.add("Div", build.add("Sub", build.add("Add", rest, step), one), step)
    return _Clip(signal, time, frames, length, step, rest, build.add("Add", before, one))


def _add_loop(build: Builder, window: onnx.GraphProto, clip: _Clip, stack: ConvStack, shape: tuple[int, int]) -> str:
    """Add the loop over windows; returns sums over the frames that count `(L, D)`."""
    body = Builder(f"{build.prefix}loop/")
    number, go, sums = (f"{body.prefix}{name}" for name in ("number", "go", "sums"))
    bounds = _add_bounds(body, body.add("Reshape", number, body.put([1])), clip, stack)
    body.nodes.append(helper.make_node("Identity", [bounds.samples], [window.input[0].name]))
    body.nodes.extend(window.node)
    states, axis = body.add("Cast", window.output[0].name, to=_DOUBLE), body.put([2])
    kept = body.add("Slice", states, bounds.first, bounds.last, axis)
    added = body.add("Add", sums, body.add("ReduceSum", kept, body.put([0, 2]), keepdims=0))
    body.nodes.append(helper.make_node("Identity", [go], [f"{go}_on"]))
    value = helper.make_tensor_value_info
    inputs = [value(number, onnx.TensorProto.INT64, []), value(go, _BOOL, []), value(sums, _DOUBLE, shape)]
    results = [value(f"{go}_on", _BOOL, []), value(added, _DOUBLE, shape)]
    graph = helper.make_graph(body.nodes, "window", inputs, results, body.weights)
    return build.add("Loop", build.add("Squeeze", clip.count), "", build.put(np.zeros(shape), np.float64), body=graph)


def _add_bounds(build: Builder, number: str, clip: _Clip, stack: ConvStack) -> _Bounds:
    """Add the arithmetic of one window, by its number from 0."""
    zero, one, two = build.put([0]), build.put([1]), build.put([2])

    def start_of(place: str) -> str:
        return build.add("Min", build.add("Mul", place, clip.step), clip.rest)

    def edge_of(left: str, right: str) -> str:
        """Where one window stops to count and the next begins: the middle of their overlap."""
        return build.add("Div", build.add("Add", build.add("Add", left, right), clip.length), two)

    start, following = start_of(number), build.add("Add", number, one)
    is_first, is_last = build.add("Equal", number, zero), build.add("Equal", following, clip.count)
    first = build.add("Where", is_first, zero, edge_of(start_of(build.add("Sub", number, one)), start))
    last = build.add("Where", is_last, clip.frames, edge_of(start, start_of(following)))
    hop = build.put([stack.hop])
    stop = build.add("Mul", build.add("Add", start, clip.length), hop)
    stop = build.add("Add", stop, build.put([stack.reach - stack.hop]))
    end = build.add("Where", build.add("Equal", clip.count, one), clip.time, stop)  # an only window is the whole clip
    samples = build.add("Slice", clip.signal, build.add("Mul", start, hop), end, one)
    return _Bounds(samples, build.add("Sub", first, start), build.add("Sub", last, start))


def _add_head(build: Builder, hidden: str, head: Head, name: str) -> str:
    """Add a head of audEERING's models."""
    for layer in (head.dense, head.out_proj):
        weight, bias = (build.put(p.detach().numpy(), "float32") for p in (layer.weight, layer.bias))
        hidden = build.add("Gemm", hidden, weight, bias, transB=1)
        hidden = build.add("Tanh", hidden) if layer is head.dense else hidden
    return build.add("Softmax", hidden, axis=-1) if name == "gender" else hidden
