"""Export: a head as files that other programs read: safetensors with JSON, or ONNX for audonnx. Never a pickle."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import audonnx
import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

import vbx
from vbx.cache.files import write_file
from vbx.errors import CacheError, RecipeError
from vbx.heads.head import Head, Layer, count_outputs, list_layers
from vbx.heads.parts import Task
from vbx.heads.results.weights import put_together, take_apart
from vbx.heads.roles import told_tasks

INPUT = "feature"
"""Name of the input of an ONNX model; it takes vectors `(N, D)` as they come from the cache."""
OPSET, IR_VERSION = 20, 9
"""The first opset with Gelu, and the file format that came with it: onnxruntime reads both since 1.17."""
OPERATORS: dict[str, tuple[str, ...]] = {
    "elu": ("Elu",),
    "gelu": ("Gelu",),
    "leaky_relu": ("LeakyRelu",),
    "relu": ("Relu",),
    "silu": ("Sigmoid", "Mul"),
    "tanh": ("Tanh",),
}
"""Operators of each activation; their defaults are torch's, `Mul` is with what the activation was given."""
_HOW = (
    "vbx.heads.export.load_exported(folder) gives the head, vbx.heads.head.HeadModule(head) a torch module. "
    "Without vbx: x = (x - centre) / spread; each layer is x @ weight.T + bias, then layer normalisation "
    "(norm.weight, norm.bias, epsilon 1e-5) and the activation where it has them; the layers of a task follow the "
    "trunk and end with its output, logits for classes: divide those by the task's temperature in `calibration`, if it "
    "is there, then take the softmax; numbers are within `widths` of the output with 90 % confidence. Layers of "
    "discriminators take the outputs of the main tasks in place of the trunk's."
)


def export_torch(head: Head, folder: str | Path) -> None:
    """Write a head as `head.safetensors` (weights, scaling) and `head.json` (what it is, how to load it).

    Args:
        head: of `load_head`
        folder: made if it is not there

    Raises:
        CacheError: if it cannot be written
    """
    about, arrays = take_apart(head)
    about |= {"vbx": vbx.__version__, "layers": [asdict(layer) for layer in _layers(head)], "how_to_load": _HOW}
    write_file(Path(folder) / "head.safetensors", save(arrays))
    write_file(Path(folder) / "head.json", (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())


def load_exported(folder: str | Path) -> Head:
    """The inverse of `export_torch`.

    Raises:
        CacheError: if a file is missing or damaged
    """
    text, weights = Path(folder) / "head.json", Path(folder) / "head.safetensors"
    for path in (text, weights):
        if not path.is_file():
            raise CacheError(f"{path} is missing: export the head again")
    try:
        return put_together(json.loads(text.read_bytes()), load_file(weights))
    except (ValueError, KeyError, SafetensorError, CacheError) as error:
        raise CacheError(f"the head in {str(folder)!r} is damaged ({error}): export it again") from error


def export_onnx(head: Head, folder: str | Path) -> None:
    """Write a head as `model.onnx` and `model.yaml`, which `audonnx.load(folder)` reads.

    Scaling and the temperatures of a calibrated head are inside. The outputs bear the names of the tasks and hold what
    `apply_head` gives: probabilities labelled with the classes, values labelled with the label columns. Adversarial
    tasks and discriminators are left out. The same head gives the same bytes.

    Args:
        head: of `load_head`
        folder: made if it is not there

    Raises:
        RecipeError: if the head scales by speaker, or a task has the name of the input
        CacheError: if it cannot be written
    """
    write_onnx(head, make_onnx(head), folder)


def write_onnx(head: Head, model: onnx.ModelProto, folder: str | Path) -> None:
    """Write a model that ends with a head, with names for its outputs.

    Raises:
        CacheError: if it cannot be written
    """
    folder = Path(folder)
    write_file(folder / "model.onnx", model.SerializeToString(deterministic=True))
    tasks = told_tasks(head.run.tasks)
    labels = {task.name: list(head.classes.get(task.name, task.columns)) for task in tasks}
    audonnx.Model(str(folder / "model.onnx"), labels=labels).to_yaml(str(folder / "model.yaml"))


def make_onnx(head: Head, inputs: Sequence[str] = (INPUT,)) -> onnx.ModelProto:
    """A head as an ONNX graph: `feature (N, D)` to one output `(N, K)` per task.

    Args:
        head: of `load_head`
        inputs: names that no task may have: of this graph's input, and of what it will be joined to

    Raises:
        RecipeError: if the head scales by speaker, or a task has one of these names
    """
    _check_fit(head, inputs)
    layers = {layer.name: layer for layer in _layers(head)}
    nodes = [_node("Sub", [INPUT, "centre"], "/centred"), _node("Div", ["/centred", "spread"], "/scaled")]
    shared, outputs = "/scaled", []
    arrays: dict[str, Any] = {"centre": head.centre, "spread": head.spread}
    for i in range(len(head.run.trunk.hidden)):
        shared = _add_layer(nodes, shared, layers[f"trunk.{i}"], head)
    for task in told_tasks(head.run.tasks):
        last = shared
        for part in [*range(len(task.hidden)), "out"]:
            last = _add_layer(nodes, last, layers[f"{task.name}.{part}"], head)
        arrays |= _add_end(nodes, last, task, head)
        outputs.append(_port(task.name, count_outputs(task, head.classes)))
    used = {name for node in nodes for name in node.input}
    arrays |= {name: array for name, array in head.state.items() if name in used}
    weights = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "head", [_port(INPUT, len(head.centre))], outputs, weights)
    opset = helper.make_operatorsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="vbx")
    model.producer_version = vbx.__version__
    put_props(model, head)
    onnx.checker.check_model(model, full_check=True)
    return model


def put_props(model: onnx.ModelProto, head: Head) -> None:
    """Write into a model where its head comes from."""
    about = {"feature": head.feature, "corpus": head.corpus, "run": head.run.key, "vectors_key": head.vectors_key}
    if head.calibration:
        about["calibration"] = json.dumps(head.calibration.to_json())
    if head.parts:
        about["encoders"] = json.dumps([part.spec.to_json() for part in head.parts])
    helper.set_model_props(model, {**about, "columns": json.dumps(head.columns, ensure_ascii=False)})


def _check_fit(head: Head, inputs: Sequence[str]) -> None:
    if head.run.fit.scale_by_speaker:
        raise RecipeError(
            "the head scales the vectors of each speaker by all of that speaker's utterances (fit.scale_by_speaker), "
            "which a model of single vectors cannot do; export it with --to torch"
        )
    for task in told_tasks(head.run.tasks):
        if task.name in inputs:
            raise RecipeError(
                f"task {task.name!r} has the name of the model's input; rename it and train the head again"
            )


def _layers(head: Head) -> list[Layer]:
    outputs = {task.name: count_outputs(task, head.classes) for task in head.run.tasks}
    return list_layers(len(head.centre), head.run.trunk, head.run.tasks, outputs)


def _add_layer(nodes: list[onnx.NodeProto], x: str, layer: Layer, head: Head) -> str:
    """Add the nodes of a layer; returns the name of its output."""
    name = layer.name
    nodes.append(_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], f"/{name}", transB=1))
    x = f"/{name}"
    if layer.norm:
        inputs = [x, f"{name}.norm.weight", f"{name}.norm.bias"]
        nodes.append(_node("LayerNormalization", inputs, f"{x}/norm", axis=-1, epsilon=1e-5))
        x = f"{x}/norm"
    sums = x
    for operator in OPERATORS[head.run.trunk.activation] if layer.active else ():
        nodes.append(_node(operator, [x, sums] if operator == "Mul" else [x], f"{x}/{operator}"))
        x = f"{x}/{operator}"
    return x


def _add_end(nodes: list[onnx.NodeProto], x: str, task: Task, head: Head) -> dict[str, Any]:
    """Add what makes the output of a task of its last layer; returns the arrays that it needs."""
    if task.kind == "regression":
        nodes.append(_node("Sigmoid" if task.output == "sigmoid" else "Identity", [x], task.name))
        return {}
    temperature = head.calibration.temperatures.get(task.name, 1.0) if head.calibration else 1.0
    if temperature != 1:
        nodes.append(_node("Div", [x, f"/{task.name}/temperature"], f"{x}/tempered"))
        nodes.append(_node("Softmax", [f"{x}/tempered"], task.name, axis=-1))
        return {f"/{task.name}/temperature": temperature}
    nodes.append(_node("Softmax", [x], task.name, axis=-1))
    return {}


def _node(operator: str, inputs: list[str], output: str, **options: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **options)


def _port(name: str, width: int) -> onnx.ValueInfoProto:
    """An input or output of float32 vectors, any number of them."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["utterance", width])
