"""The same on a GPU. Written without one at hand: not yet run."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.extract.encoders._packed_attention import PRECISIONS, attend_by_clip, choose_attention
from vbx.extract.encoders._packed_encoder import PackedEncoder
from vbx.extract.encoders._packed_layout import Shape
from vbx.extract.encoders._speech_encoder import SpeechEncoder
from vbx.extract.encoders._speech_models import load_speech_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SPEC = EncoderSpec("wav2vec2", "org/name", pooling="mean", window_s=3.0, overlap_s=0.5)
TOLERANCE = {"float32": 2e-6, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 4e-2}
NAMES = ["hidden", "layers", "frames"]
Make = Callable[..., tuple[nn.Module, Path]]


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_there_is_a_kernel_for_attention(precision: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_attention("cuda", precision, 16, 64) is not attend_by_clip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_packs_on_a_gpu_are_clips_on_a_cpu(precision: str, checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("wav2vec2-large")
    rng = np.random.default_rng(0)
    # Enough for several full packs, so that most are replayed from a recording.
    clips = [waves[i][: rng.integers(400, len(waves[i]) + 1)] for i in rng.integers(len(waves), size=200)]
    clips.append(np.tile(waves[5], 3))
    right = SpeechEncoder(SPEC, load_speech_model(folder, "cpu"), "cpu").encode(clips, NAMES)
    spec = replace(SPEC, precision=precision)
    encoder = PackedEncoder(spec, load_speech_model(folder, "cuda"), "cuda", Shape(1024, 64, 1024))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a computation that cannot be recorded is one
        batches = [clips[i : i + 7] for i in range(0, len(clips), 7)]
        found = [outputs for batch in encoder.encode_stream(batches, NAMES) for outputs in batch]
        again = encoder.encode(clips, NAMES)
    assert encoder.tally.packs > 10 and encoder.tally.busy_s > 0
    for results in (found, again):
        for ours, theirs in zip(results, right, strict=True):
            assert not isinstance(ours, str)
            for name in NAMES:
                tolerance = max(TOLERANCE[precision], 2e-3 if name == "frames" else 0)
                assert distance(ours[name], theirs[name]) < tolerance, name


def test_memory_that_is_short_gives_smaller_packs(checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("wav2vec2-large")
    encoder = PackedEncoder(SPEC, load_speech_model(folder, "cuda"), "cuda", Shape(4096, 256, 4096))
    right = encoder.encode(waves, ["hidden"])
    submit, refused = encoder._runner.submit, []

    def refuse(*args: object) -> object:
        if not refused:
            refused.append(True)
            torch.empty(1 << 50, device="cuda")
        return submit(*args)  # type: ignore[arg-type]

    encoder._runner.submit = refuse  # type: ignore[method-assign,assignment]
    with pytest.warns(UserWarning, match="packs now have 2048 frames"):
        found = encoder.encode(waves, ["hidden"])
    assert max(distance(a["hidden"], b["hidden"]) for a, b in zip(found, right, strict=True)) < 2e-6
