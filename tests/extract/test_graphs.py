"""Encoders side by side as one ONNX model."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from vbx.cache.feature import Part
from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError
from vbx.extract import graphs
from vbx.extract.encoders._graph import Builder, finish, rename
from vbx.extract.graphs import make_encoder_graph
from vbx.extract.plan import Job


def make_job(encoder: str, **fields: int) -> Job:
    spec = replace(EncoderSpec(encoder, "m"), **fields)
    return Job(spec, None, (), (("name", Part(spec, ("hidden",), "name")),))


class Plugin:
    """Its encoder gives the mean of a waveform, and that times a number of its own."""

    factor = 1.0

    @classmethod
    def make_graph(cls, spec: EncoderSpec, checkpoint: None, outputs: tuple[str, ...], prefix: str) -> onnx.ModelProto:
        build = Builder(prefix)
        cls.factor += 1
        mean = build.add("ReduceMean", "signal", build.put([1]), keepdims=1)
        return finish(build, [mean, build.add("Mul", mean, build.put(cls.factor, np.float32))], 2)


def test_models_share_a_waveform_and_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "encoder_plugin", lambda _: Plugin)
    model = make_encoder_graph([make_job("a"), make_job("b"), make_job("a")])
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (output,) = session.run(None, {"signal": np.full((1, 9), 0.5, np.float32)})
    np.testing.assert_allclose(output, [[0.5, 1.0, 0.5, 1.5, 0.5, 2.0]])
    assert session.get_outputs()[0].shape == [1, 6]


def test_what_cannot_be_one_graph_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'noise', which cannot be in an ONNX model; export the head alone"):
        make_encoder_graph([make_job("noise")])
    with pytest.raises(CheckpointError, match=r"waveforms at \[8000, 16000\] Hz"):
        make_encoder_graph([make_job("wav2vec2"), make_job("wav2vec2", sample_rate=8000)])


def test_inner_graphs_are_renamed_with_what_they_take_from_outside() -> None:
    value = helper.make_tensor_value_info
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "then", [], [value("t", TensorProto.FLOAT, [1])])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["o"])], "else", [], [value("o", TensorProto.FLOAT, [1])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    ports = [value("c", TensorProto.BOOL, [1]), value("x", TensorProto.FLOAT, [1])]
    graph = rename(helper.make_graph([node], "g", ports, [value("y", TensorProto.FLOAT, [1])]), "p/")
    model = helper.make_model(graph, opset_imports=[helper.make_operatorsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (output,) = session.run(None, {"p/c": np.array([True]), "p/x": np.array([2.0], np.float32)})
    assert output.tolist() == [-2.0]
