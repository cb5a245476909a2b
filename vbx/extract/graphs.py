"""Graphs: the encoders of a feature as one ONNX model from a waveform to its vector."""

from collections.abc import Sequence
from typing import Any

from vbx.errors import CheckpointError
from vbx.extract.encoder import encoder_plugin
from vbx.extract.plan import Job


def make_encoder_graph(jobs: Sequence[Job]) -> Any:
    """One ONNX model for encoders side by side.

    Args:
        jobs: of `match_jobs`, each with the one part of the feature that it gives

    Returns:
        an `onnx.ModelProto` from `signal (1, T)`, float32 mono at the encoders' rate, to one output `(1, D)`

    Raises:
        CheckpointError: if an encoder cannot be a graph, or their waveforms differ
    """
    rates = sorted({job.spec.sample_rate for job in jobs})
    if len(rates) > 1:
        raise CheckpointError(f"encoders of waveforms at {rates} Hz cannot share one; export the head alone")
    makers = [getattr(encoder_plugin(job.spec.encoder), "make_graph", None) for job in jobs]
    for job, make in zip(jobs, makers, strict=True):
        if make is None:
            raise CheckpointError(
                f"{job.parts[0][0]!r} is computed by the encoder {job.spec.encoder!r}, which cannot be in an ONNX "
                "model; export the head alone (without --with-encoder) and give it vectors of vbx"
            )
    models = [
        make(job.spec, job.checkpoint, job.parts[0][1].outputs, f"encoder{i}/")
        for i, (job, make) in enumerate(zip(jobs, makers, strict=True))
        if make
    ]
    return models[0] if len(models) == 1 else _put_together(models)


def _put_together(models: Sequence[Any]) -> Any:
    """Models that share their input, as one that gives what they give, side by side."""
    from onnx import TensorProto, helper  # late, as in the plugins

    signal, feature, graphs = models[0].graph.input[0].name, "encoders/feature", [model.graph for model in models]
    nodes = [node for graph in graphs for node in graph.node]
    nodes.append(helper.make_node("Concat", [graph.output[0].name for graph in graphs], [feature], axis=1))
    width = sum(graph.output[0].type.tensor_type.shape.dim[1].dim_value for graph in graphs)
    source = helper.make_tensor_value_info(signal, TensorProto.FLOAT, [1, "time"])
    target = helper.make_tensor_value_info(feature, TensorProto.FLOAT, [1, width])
    weights = [weight for graph in graphs for weight in graph.initializer]
    graph = helper.make_graph(nodes, "encoders", [source], [target], weights)
    return helper.make_model(
        graph,
        opset_imports=list(models[0].opset_import),
        ir_version=models[0].ir_version,
        producer_name=models[0].producer_name,
    )
