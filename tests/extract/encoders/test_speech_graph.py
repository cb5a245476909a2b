"""Speech models as ONNX give what the encoder gives, for clips of any length and in windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError
from vbx.extract.audio import normalise
from vbx.extract.encoder import load_encoder
from vbx.extract.encoders import _graph
from vbx.extract.encoders.wav2vec2 import make_graph

ARCHITECTURES = ("wav2vec2-large", "wav2vec2-base", "hubert-large", "hubert-base", "wavlm-large", "wavlm-base")
LENGTHS = (400, 719, 1679, 16000, 16080, 16399, 16400, 29999, 33333, 80000)
"""One frame, a few, one window and its neighbours, several windows."""
Make = Callable[..., tuple[nn.Module, Path]]


def make_spec(normal: str = "none", window_s: float | None = 1.0) -> EncoderSpec:
    return EncoderSpec(
        "wav2vec2", "org/name", pooling="mean", normalise=normal, window_s=window_s, overlap_s=window_s and 0.3
    )


def make_wave(length: int) -> np.ndarray:
    random = np.random.default_rng(length)
    tone = np.sin(np.arange(length) * random.uniform(0.05, 0.3)) * np.linspace(0.1, 1, length)
    return (0.3 * tone + 0.05 * random.standard_normal(length) + 0.02).astype(np.float32)


def run(model: onnx.ModelProto, wave: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"signal": wave[None]})[0][0]


@pytest.mark.parametrize("outputs", [("hidden",), pytest.param(("layers",), marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_gives_what_the_encoder_gives(architecture: str, outputs: tuple[str, ...], checkpoint: Make) -> None:
    _, folder = checkpoint(architecture)
    spec = make_spec("peak" if outputs == ("hidden",) else "none")
    encoder, model = load_encoder(spec, folder), make_graph(spec, folder, outputs, "e/")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for length in LENGTHS:
        wave = make_wave(length)
        (expected,) = encoder.encode([normalise(wave, spec.normalise)], outputs)
        found = session.run(None, {"signal": wave[None]})[0]
        assert found.shape == (1, len(expected[outputs[0]]))
        np.testing.assert_allclose(found[0], expected[outputs[0]], rtol=1e-5, atol=1e-5)


def test_windows_matter_and_may_be_absent(checkpoint: Make) -> None:
    """Else the test above would not see whether there are any."""
    _, folder = checkpoint("wav2vec2-large")
    wave = make_wave(80000)
    whole, cut = (run(make_graph(make_spec(window_s=w), folder, ("hidden",), "e/"), wave) for w in (None, 1.0))
    (expected,) = load_encoder(make_spec(window_s=None), folder).encode([wave], ["hidden"])
    np.testing.assert_allclose(whole, expected["hidden"], rtol=1e-5, atol=1e-5)
    assert np.abs(whole - cut).max() > 1e-3


def test_level_and_offset_go_where_they_go_in_vbx(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-base")
    spec = make_spec("peak")
    encoder, model = load_encoder(spec, folder), make_graph(spec, folder, ("hidden",), "e/")
    for wave in (np.zeros(8000, np.float32), np.full(8000, 1e-39, np.float32), 1e-4 * make_wave(8000) + 0.5):
        wave = wave.astype(np.float32)
        (expected,) = encoder.encode([normalise(wave, "peak")], ["hidden"])
        np.testing.assert_allclose(run(model, wave), expected["hidden"], rtol=1e-5, atol=2e-5)


def test_every_value_but_the_signal_bears_the_prefix(checkpoint: Make) -> None:
    _, folder = checkpoint("wavlm-base")
    graph = make_graph(make_spec(), folder, ("hidden",), "one/").graph

    def names(graph: Any) -> set[str]:
        found = {weight.name for weight in graph.initializer}
        for node in graph.node:
            found |= {name for name in [*node.input, *node.output] if name}
            found |= {name for a in node.attribute for g in [a.g, *a.graphs] for name in names(g)}
        return found

    assert {name for name in names(graph) if not name.startswith("one/")} == {"signal"}


def test_weights_beyond_one_file_are_refused(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = checkpoint("hubert-base")
    monkeypatch.setattr(_graph, "LARGEST", 100_000)
    with pytest.raises(CheckpointError, match="an ONNX file holds 2 GB; export the head alone"):
        make_graph(make_spec(), folder, ("hidden",), "e/")
