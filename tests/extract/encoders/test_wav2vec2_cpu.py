"""vbx's own arithmetic on a CPU; that it gives what transformers gives is tested in test_wav2vec2.py."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, DeviceError
from vbx.extract.encoder import encode_batch, load_encoder
from vbx.extract.encoders import _cpu_encoder, _onednn
from vbx.extract.encoders._cpu_encoder import CpuEncoder
from vbx.extract.encoders._cpu_model import CpuModel

SPEC = EncoderSpec("wav2vec2", "org/name", pooling="mean", window_s=30.0, overlap_s=2.0)
HALF = replace(SPEC, precision="bfloat16")
Make = Callable[..., tuple[nn.Module, Path]]
needs_bfloat16 = pytest.mark.skipif(not _onednn.has_bfloat16(), reason="this CPU has no bfloat16")


def distance(ours: Any, theirs: Any) -> float:
    """Relative L2 distance."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def by_transformers(model: nn.Module, wave: np.ndarray) -> np.ndarray:
    inputs = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        return model(inputs).last_hidden_state[0].float().mean(0).numpy()


def vectors(encoder: Any, waves: list[np.ndarray]) -> np.ndarray:
    return np.stack([encoded["hidden"] for encoded in encoder.encode(waves, ["hidden"])])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ["wav2vec2-large", "hubert-base"])
@pytest.mark.parametrize("frames", [24, 25, 26, 27, 99, 100, 101, 137, 301])
def test_every_number_of_frames_is_cut_into_tiles_and_rounded_up_without_a_trace(
    architecture: str, frames: int, checkpoint: Make
) -> None:
    model, folder = checkpoint(architecture, num_hidden_layers=1)
    encoder = load_encoder(SPEC, folder)
    assert isinstance(encoder, CpuEncoder)
    for more in (0, 319):  # samples that give no frame any more
        wave = np.random.default_rng(frames).standard_normal(80 + 320 * frames + more).astype(np.float32)
        encoded = encoder.encode([wave], ["hidden", "frames"])[0]
        assert len(encoded["frames"]) == frames
        assert distance(encoded["hidden"], by_transformers(model, wave)) < 1e-6


def test_threads_give_the_vectors_of_one_and_leave_torch_as_it_was(
    checkpoint: Make, waves: list[np.ndarray], two_threads: None
) -> None:
    model, folder = checkpoint("wav2vec2-base")
    encoder = load_encoder(replace(SPEC, window_s=1.0, overlap_s=0.2), folder)
    torch.set_num_threads(1)
    alone = load_encoder(replace(SPEC, window_s=1.0, overlap_s=0.2), folder)
    torch.set_num_threads(2)
    assert encoder.batch_s == 2 * alone.batch_s
    seen = set()
    states = encoder._engine.states

    def spy(*args: Any) -> Any:
        seen.add((threading.current_thread().name.split("_")[0], torch.get_num_threads()))
        return states(*args)

    encoder._engine.states = spy
    assert max(map(distance, vectors(encoder, waves * 3), vectors(alone, waves * 3))) < 1e-6
    assert seen == {("vbx-encode", 1)}
    counts = [torch.get_num_threads()]
    late = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert counts == [2, 2]


def test_without_onednn_the_vectors_are_the_same(
    checkpoint: Make, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for architecture in ("wav2vec2-large", "wavlm-base"):
        _, folder = checkpoint(architecture)
        fast = vectors(load_encoder(SPEC, folder), waves)
        with monkeypatch.context() as patch:
            patch.setattr(_onednn, "has_onednn", lambda: False)
            plain = load_encoder(SPEC, folder)
        assert isinstance(plain, CpuEncoder) and not plain._engine.projection.fast
        assert max(map(distance, vectors(plain, waves), fast)) < 1e-6


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_arithmetic_that_differs_is_not_used(
    wrong: float, checkpoint: Make, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = checkpoint("wav2vec2-large")
    states = CpuModel.states
    monkeypatch.setattr(
        CpuModel, "states", lambda self, *args: [[wrong * x for x in clip] for clip in states(self, *args)]
    )
    with pytest.warns(UserWarning, match="'org/name' runs on transformers' modules.*differs from transformers' by"):
        encoder = load_encoder(SPEC, folder)
    assert max(map(distance, vectors(encoder, waves), [by_transformers(model, wave) for wave in waves])) < 1e-6


def test_activation_that_is_not_known_is_left_to_transformers(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-large", hidden_act="relu")
    with pytest.warns(UserWarning, match="parts that vbx's own arithmetic lacks"):
        encoder = load_encoder(SPEC, folder)
    assert max(map(distance, vectors(encoder, waves), [by_transformers(model, wave) for wave in waves])) < 1e-6
    if _onednn.has_bfloat16():
        with pytest.raises(CheckpointError, match="cannot be run in bfloat16 on a CPU: it has parts"):
            load_encoder(HALF, folder)


def test_weights_are_not_kept_twice(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(SPEC, folder)
    assert not [
        p for module in vars(encoder._model).values() if isinstance(module, nn.Module) for p in module.parameters()
    ]


@pytest.mark.parametrize(
    "words",
    ["[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to", "could not create a memory object"],
)
def test_full_memory_halves_the_batch(
    words: str, checkpoint: Make, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(SPEC, folder)
    right = vectors(encoder, waves)
    states = encoder._engine.states

    def full(clips: Any, layers: bool) -> Any:
        if len(clips) > 1:
            raise RuntimeError(words)
        return states(clips, layers)

    monkeypatch.setattr(encoder._engine, "states", full)
    with pytest.raises(MemoryError, match="6 waveforms"):
        encoder.encode(waves, ["hidden"])
    halved = encode_batch(encoder, waves, ["hidden"])
    assert max(distance(x["hidden"], y) for x, y in zip(halved, right, strict=True)) < 1e-6
    monkeypatch.setattr(encoder._engine, "states", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder.encode(waves, ["hidden"])


# ---------------------------------------------------------------- bfloat16


@needs_bfloat16
@pytest.mark.parametrize("architecture", ["wav2vec2-large", "wav2vec2-base", "hubert-base", "wavlm-large"])
def test_bfloat16_is_as_near_float32_as_torch_gets(
    architecture: str, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    model, folder = checkpoint(architecture)
    full, half = (load_encoder(spec, folder) for spec in (SPEC, HALF))
    assert half.spec.precision == "bfloat16" and half.outputs == full.outputs
    wanted = ["hidden", "layers", "frames"]
    right, ours = (encoder.encode(waves, wanted) for encoder in (full, half))
    for wave, theirs, mine in zip(waves[2:], right[2:], ours[2:], strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            usual = distance(by_transformers(model, wave), theirs["hidden"])
        for name in wanted:
            assert mine[name].dtype == theirs[name].dtype
            assert 1e-3 < distance(mine[name], theirs[name]) < 4 * usual
        assert distance(mine["hidden"], theirs["hidden"]) < 1.5 * usual
    alone = np.concatenate([vectors(half, [wave]) for wave in waves])
    together = np.stack([encoded["hidden"] for encoded in ours])
    assert max(map(distance, together, alone)) < 5e-2


def test_bfloat16_is_refused_where_it_would_be_emulated(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = checkpoint("wav2vec2-large")
    monkeypatch.setattr(_cpu_encoder, "has_bfloat16", lambda: False)
    with pytest.raises(DeviceError, match="needs a CPU with AVX512-BF16 or AMX-BF16.*use float32"):
        load_encoder(HALF, folder)


def test_bfloat16_has_a_key_of_its_own() -> None:
    assert SPEC.key != HALF.key
