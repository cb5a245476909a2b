"""ONNX models as graphs that can be joined: one opset, one name for the input, outputs side by side."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper

from vbx.cache.spec import EncoderSpec
from vbx.extract.encoders._graph import SIGNAL, Builder, add_peak, check_size, finish, raise_opset, rename
from vbx.extract.onnx_files import external_files


def make_onnx_graph(
    spec: EncoderSpec, path: Path, shape: Sequence[int], wanted: Mapping[str, int], odds: Collection[str], prefix: str
) -> onnx.ModelProto:
    """A model from `signal (1, T)` to outputs of an ONNX model, side by side as `PREFIXfeature (1, D)`.

    Args:
        spec: what it is
        path: its `.onnx` file
        shape: of its input, -1 for the length of the waveform
        wanted: names of its outputs, to how many values each has
        odds: those of them that become probabilities
        prefix: begins the name of every value but `signal`

    Raises:
        CheckpointError: if it is too large for one file, or its operators are not those of vbx's opset
    """
    check_size((file.stat().st_size for file in [path, *external_files(path)]), spec.model)
    graph = rename(raise_opset(onnx.load(str(path)), spec.model).graph, f"{prefix}model/")
    build = Builder(prefix)
    signal = add_peak(build, SIGNAL) if spec.normalise == "peak" else SIGNAL
    weights = {weight.name for weight in graph.initializer}
    (port,) = [port.name for port in graph.input if port.name not in weights]
    build.nodes.append(helper.make_node("Reshape", [signal, build.put(list(shape))], [port]))
    build.nodes.extend(graph.node)
    build.weights.extend(graph.initializer)
    pieces = []
    for name, width in wanted.items():
        piece = build.add("Reshape", f"{prefix}model/{name}", build.put([1, width]))
        pieces.append(build.add("Softmax", piece, axis=-1) if name in odds else piece)
    return finish(build, pieces, sum(wanted.values()))
