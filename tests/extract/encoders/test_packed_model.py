from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from vbx.extract.encoders import _packed_attention as attention
from vbx.extract.encoders import _packed_model as packed
from vbx.extract.encoders._packed_attention import Segments, attend_by_clip, attend_efficient, attend_flash
from vbx.extract.encoders._packed_layout import Clip, Shape, write_pack
from vbx.extract.encoders._packed_model import Wanted, run_pack
from vbx.extract.encoders._packed_weights import _convolution, _toeplitz, packable, packed_weights
from vbx.extract.encoders._speech_models import load_speech_model
from vbx.extract.encoders._windows import ConvStack

STACK = ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
SHAPE = Shape(frames=256, clips=64, longest=128)
Make = Callable[..., tuple[nn.Module, Path]]


def make_pack(samples: list[int], normalised: bool = False) -> tuple[list[Clip], torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(sum(samples))
    clips = [
        Clip(row, rng.normal(0.3, 0.1 + row, n).astype(np.float32), STACK.frames(n), 0, STACK.frames(n), normalised)
        for row, n in enumerate(samples)
    ]
    array, table = np.zeros(SHAPE.slots * 320 + 80, np.float32), np.zeros((5, SHAPE.clips), np.int32)
    write_pack(clips, STACK, array, table)
    return clips, torch.from_numpy(array), torch.from_numpy(table)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def test_clips_are_normalised_by_their_own_samples() -> None:
    clips, array, table = make_pack([400, 719, 16000, 5000, 1039])
    normal = packed._normalise(array, packed._find_places(table, SHAPE, STACK), STACK).numpy()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    start = 0
    for clip in clips:
        count = len(clip.samples)
        theirs = extractor(clip.samples.astype(np.float64), sampling_rate=16000).input_values[0]
        assert relative(torch.from_numpy(normal[start : start + count]), torch.from_numpy(theirs)) < 1e-6
        stop = start + -(-count // 320) * 320
        assert not normal[start + count : stop].any()
        start = stop
    assert not normal[start:].any()


def test_clips_that_are_normalised_already_are_left_alone() -> None:
    clips, array, table = make_pack([400, 719, 16000], normalised=True)
    assert torch.equal(packed._normalise(array, packed._find_places(table, SHAPE, STACK), STACK), array)


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(1, 10, 5), (16, 3, 2), (16, 2, 2), (8, 5, 2), (8, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_by_products_is_the_convolution(channels: int, kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Module()
    layer.conv, layer.layer_norm = nn.Conv1d(channels, 24, kernel, stride, bias=bias), nn.LayerNorm(24)
    rows = torch.randn(400, channels)
    with torch.inference_mode():
        ours = packed._convolve_rows(rows[7:], _convolution(layer, torch.float32))
        theirs = nn.functional.gelu(layer.layer_norm(layer.conv(rows[7:].T[None])[0].T))
    assert ours.shape == theirs.shape and relative(ours, theirs) < 1e-6


@pytest.mark.parametrize(("kernel", "lengths"), [(128, [1, 8, 9, 90, 128]), (16, [3] * 60), (19, [60, 2, 100])])
def test_positional_convolution_sees_zeros_around_each_clip(
    kernel: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "BLOCKS", 20)  # several slices
    torch.manual_seed(0)
    conv = nn.Conv1d(32, 32, kernel, padding=kernel // 2, groups=4)
    _, _, table = make_pack([400 + 320 * (length - 1) for length in lengths])
    frames = torch.randn(SHAPE.frames, 32)
    with torch.inference_mode():
        places = packed._find_places(table, SHAPE, STACK)
        ours = packed._positions(frames, places, _toeplitz(conv, torch.float32), SHAPE)
        start = 0
        for length in lengths:
            theirs = conv(frames[start : start + length].T[None])[0, :, :length].T
            assert relative(ours[start : start + length], theirs) < 1e-6
            start += length


def test_what_is_not_finite_stays_in_its_clip(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SLOTS", 100)
    _, folder = checkpoint("wav2vec2-large")
    weights = packed_weights(load_speech_model(folder, "cpu"), torch.float32)
    clips, array, table = make_pack([8000, 719, 16000, 5000])
    lengths = tuple(clip.frames for clip in clips)

    def run(samples: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return run_pack(weights, samples, Segments(table, lengths), SHAPE, Wanted(True), attend_by_clip).sums

    right = run(array)
    assert right.shape == (4, 64, 64) and not right[:, 4:].any()
    broken = array.clone()
    broken[25 * 320 + 100] = torch.inf  # of the second clip
    found = run(broken)
    assert found[:, 1].isnan().all()
    assert torch.equal(found[:, [0, 2, 3]], right[:, [0, 2, 3]])


@pytest.mark.parametrize(
    ("architecture", "options", "expected"),
    [
        ("wav2vec2-large", {}, True),
        ("hubert-large", {}, True),
        ("wav2vec2-base", {}, False),
        ("hubert-base", {}, False),
        ("wavlm-large", {}, False),
        ("hubert-large", {"conv_pos_batch_norm": True}, False),
        ("wav2vec2-large", {"hidden_act": "relu"}, False),
        ("wav2vec2-large", {"conv_kernel": (50, 3, 3, 3, 3, 2, 20)}, False),
    ],
)
def test_only_local_models_are_packed(
    architecture: str, options: dict[str, object], expected: bool, checkpoint: Make
) -> None:
    assert packable(load_speech_model(checkpoint(architecture, **options)[1], "cpu")) == expected


# ---------------------------------------------------------------- attention


def by_hand(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("qhd,khd->hqk", queries, keys) / queries.shape[-1] ** 0.5
    scores = scores.masked_fill(owner[:, None] != owner, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


def test_attention_stays_in_its_clip() -> None:
    torch.manual_seed(0)
    mixed = torch.randn(200, 3, 4, 16, dtype=torch.float64)
    segments = Segments(torch.zeros(0), (1, 90, 40, 69))
    ours = attend_by_clip(*mixed.unbind(1), segments)
    assert relative(ours, by_hand(*mixed.unbind(1), [1, 90, 40, 69])) < 1e-12


def test_kernel_that_is_wrong_or_missing_is_found_out() -> None:
    def right(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments) -> torch.Tensor:
        out = torch.full_like(queries, torch.nan)  # behind the last clip
        total = int(segments.bounds[-1])
        lengths = segments.bounds.diff().tolist()
        out[:total] = by_hand(queries[:total], keys[:total], values[:total], lengths)
        return out

    def leaking(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments) -> torch.Tensor:
        return by_hand(queries, keys, values, [len(queries)])

    assert attention.try_attention(right, "cpu", "float32", 4, 16) is None
    assert "relative error" in str(attention.try_attention(leaking, "cpu", "float32", 4, 16))
    nothing = attention.try_attention(lambda *_: torch.full((615, 4, 16), torch.nan), "cpu", "float32", 4, 16)
    assert "relative error of nan" in str(nothing)
    # The kernels for CUDA have none for a CPU: told, not raised.
    assert attention.try_attention(attend_efficient, "cpu", "float32", 4, 16) is not None
    assert attention.try_attention(attend_flash, "cpu", "float16", 4, 16) is not None


def test_without_a_kernel_attention_is_slow_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "try_attention", lambda *_: "no kernel")
    with pytest.warns(UserWarning, match="clip by clip"):
        assert attention.choose_attention("cuda:0", "float16", 4, 16) is attend_by_clip
    assert attention.choose_attention("cpu", "float32", 4, 16) is attend_by_clip
    monkeypatch.setattr(attention, "try_attention", lambda *_: None)
    assert attention.choose_attention("cuda:0", "float16", 4, 16) is attend_flash
    assert attention.choose_attention("cuda", "tf32", 4, 16) is attend_efficient


@pytest.mark.parametrize(
    ("dtype", "attend"),
    [
        (torch.float16, attend_flash),
        (torch.bfloat16, attend_flash),
        (torch.float16, attend_efficient),
        (torch.float32, attend_efficient),
    ],
)
def test_types_and_shapes_fit_the_kernels_of_cuda(
    dtype: torch.dtype, attend: attention.Attend, checkpoint: Make
) -> None:
    # On torch's "meta" device nothing is computed, but every operator checks what it is given.
    _, folder = checkpoint("wav2vec2-large")
    weights = packed_weights(load_speech_model(folder, "meta"), dtype)
    samples = torch.empty(SHAPE.slots * 320 + 80, device="meta")
    segments = Segments(torch.empty(5, SHAPE.clips, dtype=torch.int32, device="meta"), None)
    with torch.inference_mode():
        result = run_pack(weights, samples, segments, SHAPE, Wanted(True, True), attend)
    assert result.sums.shape == (4, 64, 64) and result.sums.dtype == torch.float64
    assert result.frames is not None and result.frames.shape == (256, 64)
