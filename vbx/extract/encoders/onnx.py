"""ONNX models in audonnx's layout: a .onnx file that takes a waveform, perhaps with a YAML description beside it.

audonnx runs the graph; what it would do without a word is done or refused here. It is given one mono float32 clip of
the spec's sample rate at a time (it checks no rate, and lays the rows of a batch end to end), the description is read
as plain data (its own loader imports any class that a file names), and the device that was asked for is the one that
runs. The graph sees the whole clip, however long: there are no windows.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import audonnx
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError, CheckpointError, DeviceError, UnknownName
from vbx.extract.checkpoints import weights_digest
from vbx.extract.encoder import Encoded, Encoder, Output, Wave
from vbx.extract.onnx_files import OnnxFiles, find_onnx

NEEDS_CHECKPOINT = True
NAMES = {"hidden_states": "hidden", "logits_age": "age"}
"""Outputs of audEERING's releases that have another name in vbx."""
GENDER = "logits_gender"
"""Becomes `gender`, as probabilities, for the catalogue's age and gender models: their other release gives those."""
_ort = onnxruntime.capi.onnxruntime_pybind11_state
REFUSALS = (_ort.InvalidArgument, _ort.RuntimeException, _ort.Fail)
BROKEN = (*REFUSALS, _ort.InvalidGraph, _ort.InvalidProtobuf, _ort.NotImplemented, _ort.NoSuchFile)
"""What onnxruntime raises; its classes share no base but Exception."""


class OnnxEncoder(Encoder):
    """The outputs of an ONNX model that takes one waveform.

    Outputs of shape `(1, D)` are vectors; those of shape `(1, F, D)`, with F growing with the clip, are frames, which
    are optional. Which is which is found by trying two lengths: exported graphs often do not say.

    Args:
        spec: what it is
        model: the model, on its device
        labels: names of the columns of its outputs, as far as they are known; under `""` for the only output

    Attributes:
        nodes: names of its outputs to those of the graph
        shape: of the graph's input, -1 for its length
    """

    speed = 8.0

    def __init__(self, spec: EncoderSpec, model: audonnx.Model, labels: Mapping[str, tuple[str, ...]]) -> None:
        self.spec = spec
        self._model = model
        names = NAMES | ({GENDER: "gender"} if spec.model.endswith("-ft-age-gender") else {})
        self.nodes = {names.get(node, node): node for node in model.outputs}
        self.shape = next(iter(model.inputs.values())).shape
        short, long = (self._try(seconds) for seconds in (1, 2))
        self.outputs = tuple(
            _output(name, short[node].shape, long[node].shape, labels.get(node, labels.get("", ())))
            for name, node in self.nodes.items()
        )

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`; a clip that the graph does not take (too short for it) is an `AudioError`."""
        return [self._encode(wave, wanted) for wave in waves]

    def _encode(self, wave: Wave, wanted: Sequence[str]) -> Encoded:
        try:
            values = self._run(wave, [self.nodes[name] for name in wanted])
        except REFUSALS as error:
            if "allocate memory" in str(error):
                raise MemoryError(_first_line(error)) from error
            seconds = len(wave) / self.spec.sample_rate
            raise AudioError(
                f"the ONNX model does not take a clip of {seconds:.4f} s ({_first_line(error)})"
            ) from error
        dims = {output.name: len(output.columns) for output in self.outputs}
        frames = {output.name for output in self.outputs if output.frames}
        encoded = {}
        for name in wanted:
            value = values[self.nodes[name]].reshape(-1, dims[name]).astype(np.float32)
            if name == "gender":
                value = _softmax(value)
            encoded[name] = value if name in frames else value[0]
        return encoded

    def _try(self, seconds: int) -> dict[str, NDArray[np.float32]]:
        silence = np.zeros(seconds * self.spec.sample_rate, np.float32)
        try:
            return self._run(silence, list(self._model.outputs))
        except REFUSALS as error:
            raise CheckpointError(f"ONNX model {self.spec.model!r} does not run: {_first_line(error)}") from error

    def _run(self, wave: Wave, nodes: list[str]) -> dict[str, NDArray[np.float32]]:
        values: dict[str, NDArray[np.float32]] = self._model(
            np.ascontiguousarray(wave, np.float32), self.spec.sample_rate, outputs=nodes
        )
        return values


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """Digest of the model and its description.

    Raises:
        CheckpointError: if there is none
    """
    return weights_digest(_given(spec, checkpoint).main)


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Load the model; see `OnnxEncoder` for what it gives.

    Raises:
        CheckpointError: if there is no model, it asks for code, or it takes anything but one waveform
        DeviceError: if onnxruntime does not run it on the device
        UnknownName: if the spec asks for a precision that there is not
    """
    if spec.precision != "float32":
        raise UnknownName("precision", spec.precision, ["float32"])
    files = _given(spec, checkpoint)
    model = _open(files.model, device)
    shapes = [(node.dtype, node.shape) for node in model.inputs.values()]
    if len(shapes) != 1 or shapes[0][0] != "tensor(float)" or sorted(shapes[0][1]) not in ([-1], [-1, 1], [-1, 1, 1]):
        seen = ", ".join(f"{dtype} of shape {shape}" for dtype, shape in shapes)
        raise CheckpointError(f"{str(files.model)!r} takes {seen}; vbx gives one waveform, floats of shape [1, -1]")
    return OnnxEncoder(spec, model, files.labels)


def make_graph(spec: EncoderSpec, checkpoint: Path | None, outputs: Sequence[str], prefix: str) -> Any:
    """The model as others of vbx are: `signal (1, T)` to these outputs side by side, `PREFIXfeature (1, D)`.

    Raises:
        CheckpointError: if there is no model, or it cannot be joined to others
    """
    from vbx.extract.encoders._onnx_graph import make_onnx_graph  # late: nothing else needs the package onnx

    encoder = load(spec, checkpoint, "cpu")
    assert isinstance(encoder, OnnxEncoder)
    dims = {output.name: len(output.columns) for output in encoder.outputs}
    wanted = {encoder.nodes[name]: dims[name] for name in outputs}
    odds = [encoder.nodes[name] for name in outputs if name == "gender"]
    return make_onnx_graph(spec, _given(spec, checkpoint).model, encoder.shape, wanted, odds, prefix)


def _open(path: Path, device: str) -> audonnx.Model:
    if device == "cpu":
        wanted: str | tuple[str, dict[str, str]] = "CPUExecutionProvider"
    else:
        onnxruntime.preload_dlls()  # finds the CUDA libraries that came with torch
        wanted = ("CUDAExecutionProvider", {"device_id": device.partition(":")[2] or "0", "use_tf32": "0"})
    try:
        # audonnx's own default is one thread. Without a number onnxruntime takes all physical cores, whatever it may
        # use, and ties a thread to each, which is slow where others use them, too.
        model = audonnx.Model(str(path), device=[wanted], num_workers=_count_cores())
    except BROKEN as error:
        raise CheckpointError(
            f"{str(path)!r} is no ONNX model that onnxruntime can load: {_first_line(error)}"
        ) from error
    (name, *_), asked = model.sess.get_providers(), wanted if isinstance(wanted, str) else wanted[0]
    if name != asked:
        raise DeviceError(
            f"device {device!r} was asked for, but onnxruntime would run on {name}; install onnxruntime-gpu of version "
            f"{onnxruntime.__version__} over onnxruntime, or use --device cpu"
        )
    return model


def _count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _given(spec: EncoderSpec, checkpoint: Path | None) -> OnnxFiles:
    files = find_onnx(checkpoint) if checkpoint is not None else None
    if files is None:
        raise CheckpointError(f"no ONNX model {spec.model!r} at {str(checkpoint)!r}; use --checkpoint NAME=PATH")
    return files


def _output(name: str, short: tuple[int, ...], long: tuple[int, ...], labels: tuple[str, ...]) -> Output:
    """An output by its shapes for a short and a long clip."""
    frames = short != long
    rows = short[:-1] if not frames else short[:-2]
    if not short or any(size != 1 for size in rows) or short[-1] != long[-1]:
        raise CheckpointError(f"output {name!r} of the ONNX model has shape {short}; vbx takes (1, D) and (1, F, D)")
    dim = short[-1]
    if labels and len(labels) != dim:
        raise CheckpointError(
            f"the ONNX model's description gives {len(labels)} labels to the {dim} columns of {name!r}"
        )
    columns = labels or ((name,) if dim == 1 else tuple(f"{name}_{i:04d}" for i in range(dim)))
    return Output(name, columns, frames=frames, dtype="float16" if frames else "float32", optional=frames)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normal: NDArray[np.float32] = weights / weights.sum(axis=-1, keepdims=True)
    return normal


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
