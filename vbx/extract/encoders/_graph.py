"""Graphs: pieces of ONNX that encoders are made of when they are exported."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.version_converter import ConvertError, convert_version

from vbx.errors import CheckpointError

SIGNAL = "signal"
"""Name of the input `(1, T)` of every encoder's graph; its output `(1, D)` is `feature`, behind a prefix of its own."""
OPSET, IR_VERSION = 20, 9
"""Those of the heads' graphs, which these are joined to."""
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
LARGEST = 1_900_000_000
"""Bytes of weights of one ONNX file, which may not be longer than 2 GiB."""


class Builder:
    """Nodes and constants, written down one after the other; every value is named by a number of its own.

    Args:
        prefix: begins the name of each value
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.prefix, self._count = prefix, 0

    def add(self, operator: str, *inputs: str, **options: Any) -> str:
        """Add a node of one output; returns the name of that."""
        name = self._name(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **options))
        return name

    def put(self, value: Any, dtype: Any = np.int64) -> str:
        """Add a constant; returns its name."""
        name = self._name("constant")
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self.prefix}{what}_{self._count}"


def add_peak(build: Builder, signal: str) -> str:
    """A waveform divided by its largest magnitude; silence stays as it is."""
    peak = build.add("ReduceMax", build.add("Abs", signal), keepdims=1)
    silent = build.add("Less", peak, build.put(np.finfo(np.float32).tiny, np.float32))
    return build.add("Div", signal, build.add("Where", silent, build.put(1, np.float32), peak))


def add_standardise(build: Builder, signal: str) -> str:
    """A waveform of mean 0 and variance 1, summed in float64: `(x - mean) / sqrt(variance + 1e-7)`."""
    double = build.add("Cast", signal, to=onnx.TensorProto.DOUBLE)
    centred = build.add("Sub", double, build.add("ReduceMean", double, keepdims=1))
    variance = build.add("ReduceMean", build.add("Mul", centred, centred), keepdims=1)
    spread = build.add("Sqrt", build.add("Add", variance, build.put(1e-7, np.float64)))
    return build.add("Cast", build.add("Div", centred, spread), to=onnx.TensorProto.FLOAT)


def finish(build: Builder, pieces: Sequence[str], width: int) -> onnx.ModelProto:
    """A model of what was built: `signal (1, T)` to pieces `(1, ...)` side by side as `PREFIXfeature (1, D)`."""
    name = f"{build.prefix}feature"
    build.nodes.append(helper.make_node("Concat", list(pieces), [name], axis=1))
    signal = helper.make_tensor_value_info(SIGNAL, onnx.TensorProto.FLOAT, [1, "time"])
    feature = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width])
    graph = helper.make_graph(build.nodes, "encoder", [signal], [feature], build.weights)
    opset = helper.make_operatorsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="vbx")


def rename(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """Put a prefix before the name of every value of a graph, in place, and of the graphs inside its nodes.

    `onnx.compose.add_prefix` forgets what inner graphs take from outside.
    """
    values: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in values:
        value.name = prefix + value.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = prefix + sparse.values.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [prefix + name if name else "" for name in names]
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.type in _GRAPHS else ():
                rename(inner, prefix)
    return graph


def raise_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A model in the opset of all graphs of vbx.

    Raises:
        CheckpointError: if it is newer, has operators that are not ONNX's own, or cannot be converted
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    others = sorted(set(opsets) - {"ai.onnx"})
    if others or opsets.get("ai.onnx", 0) > OPSET:
        reason = f"operators of {', '.join(others)}" if others else f"opset {opsets['ai.onnx']}, vbx writes {OPSET}"
        raise CheckpointError(f"ONNX model {name!r} cannot be joined to a head: it has {reason}; export the head alone")
    try:
        return convert_version(model, OPSET) if opsets["ai.onnx"] < OPSET else model
    except (ConvertError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"ONNX model {name!r} cannot be brought to opset {OPSET}: {reason}") from error


def check_size(sizes: Iterable[int], name: str) -> None:
    """Refuse weights that do not fit into one file.

    Raises:
        CheckpointError: if they do not
    """
    total = sum(sizes)
    if total > LARGEST:
        raise CheckpointError(
            f"{name!r} has {total / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB; export the head alone"
        )
