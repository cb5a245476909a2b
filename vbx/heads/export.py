"""Export: a head as files that other programs read: safetensors with JSON, or ONNX for audonnx. Never a pickle."""

import json
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
from vbx.heads.weights import put_together, take_apart

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
    "trunk and end with its output."
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

    Scaling is inside. The outputs bear the names of the tasks and hold what `apply_head` gives: probabilities labelled
    with the classes, values labelled with the label columns. The same head gives the same bytes.

    Args:
        head: of `load_head`
        folder: made if it is not there

    Raises:
        RecipeError: if the head scales by speaker, or a task has the name of the input
        CacheError: if it cannot be written
    """
    if head.run.fit.scale_by_speaker:
        raise RecipeError(
            "the head scales the vectors of each speaker by all of that speaker's utterances (fit.scale_by_speaker), "
            "which a model of single vectors cannot do; export it with --to torch"
        )
    if INPUT in [task.name for task in head.run.tasks]:
        raise RecipeError(f"task {INPUT!r} has the name of the model's input; rename it and train the head again")
    folder = Path(folder)
    write_file(folder / "model.onnx", make_onnx(head).SerializeToString(deterministic=True))
    labels = {task.name: list(head.classes.get(task.name, task.columns)) for task in head.run.tasks}
    audonnx.Model(str(folder / "model.onnx"), labels=labels).to_yaml(str(folder / "model.yaml"))


def make_onnx(head: Head) -> onnx.ModelProto:
    """A head as an ONNX graph: `feature (N, D)` to one output `(N, K)` per task."""
    layers = iter(_layers(head))
    nodes = [_node("Sub", [INPUT, "centre"], "/centred"), _node("Div", ["/centred", "spread"], "/scaled")]
    shared, outputs = "/scaled", []
    for _ in head.run.trunk.hidden:
        shared = _add_layer(nodes, shared, next(layers), head)
    for task in head.run.tasks:
        last = shared
        for _ in range(len(task.hidden) + 1):
            last = _add_layer(nodes, last, next(layers), head)
        if task.kind == "classification":
            nodes.append(_node("Softmax", [last], task.name, axis=-1))
        else:
            nodes.append(_node("Sigmoid" if task.output == "sigmoid" else "Identity", [last], task.name))
        outputs.append(_port(task.name, count_outputs(task, head.classes)))
    arrays = {**head.state, "centre": head.centre, "spread": head.spread}
    weights = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "head", [_port(INPUT, len(head.centre))], outputs, weights)
    opset = helper.make_operatorsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="vbx")
    model.producer_version = vbx.__version__
    about = {"feature": head.feature, "corpus": head.corpus, "run": head.run.key, "vectors_key": head.vectors_key}
    helper.set_model_props(model, {**about, "columns": json.dumps(head.columns, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    return model


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


def _node(operator: str, inputs: list[str], output: str, **options: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **options)


def _port(name: str, width: int) -> onnx.ValueInfoProto:
    """An input or output of float32 vectors, any number of them."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["utterance", width])
