import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError, CheckpointError
from vbx.extract.encoders import _packed_encoder, _speech_models, wav2vec2
from vbx.extract.encoders._packed_attention import PRECISIONS
from vbx.extract.encoders._packed_encoder import PackedEncoder, open_gpu_encoder
from vbx.extract.encoders._packed_layout import Shape
from vbx.extract.encoders._packed_runner import PackRunner
from vbx.extract.encoders._speech_encoder import SpeechEncoder
from vbx.extract.encoders._speech_models import Head, load_speech_model

SPEC = EncoderSpec("wav2vec2", "org/name", pooling="mean", window_s=30.0, overlap_s=2.0)
SMALL = Shape(192, 64, 192)
Make = Callable[..., tuple[nn.Module, Path]]


def distance(ours: Any, theirs: Any) -> float:
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def centred(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest error of a row, over the distance of that row from the mean row."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    spread = np.linalg.norm(theirs - theirs.mean(0), axis=1)
    return float((np.linalg.norm(ours - theirs, axis=1) / spread).max())


def noises(lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.01, rng.uniform(0.01, 0.3), n).astype(np.float32) for n in lengths]


def assert_same(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float = 1e-6) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            assert one[name].shape == other[name].shape and one[name].dtype == other[name].dtype
            assert distance(one[name], other[name]) < (1e-3 if name == "frames" else tolerance), name


def pair(folder: Path, spec: EncoderSpec = SPEC, largest: Shape | None = SMALL) -> tuple[PackedEncoder, SpeechEncoder]:
    model = load_speech_model(folder, "cpu")
    model.heads.update({name: some_head(64, k) for name, k in (("logits", 3), ("gender", 3))})  # type: ignore[attr-defined]
    return PackedEncoder(spec, model, "cpu", largest), SpeechEncoder(replace(spec, precision="float32"), model, "cpu")


def some_head(dim: int, outputs: int) -> Head:
    torch.manual_seed(outputs)
    head = Head(dim, outputs).eval().requires_grad_(False)
    head.out_proj.bias += 0.5  # as of the published ones: outputs near 0 would have no digits left
    return head


EVERYTHING = ["hidden", "logits", "gender", "layers", "frames"]


# ---------------------------------------------------------------- the same as clip by clip


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("wav2vec2-large", {}),
        ("hubert-large", {}),
        ("hubert-large", {"feat_proj_layer_norm": False, "conv_bias": False}),
        ("wav2vec2-large", {"num_conv_pos_embeddings": 19, "num_conv_pos_embedding_groups": 4}),
    ],
)
def test_every_output_is_that_of_the_speech_encoder(
    architecture: str, options: dict[str, Any], checkpoint: Make, waves: list[np.ndarray]
) -> None:
    packed, reference = pair(checkpoint(architecture, **options)[1])
    waves = [*waves, *noises([1039, 1040, 5000, 720, 60000])]
    assert packed.outputs == reference.outputs and packed.min_samples == reference.min_samples
    assert_same(packed.encode(waves, EVERYTHING), reference.encode(waves, EVERYTHING))


@pytest.mark.parametrize("largest", [Shape(160, 64, 160), Shape(512, 64, 512), Shape(4096, 64, 4096)])
def test_clip_alone_is_the_clip_in_any_pack(largest: Shape, checkpoint: Make, waves: list[np.ndarray]) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1], largest=largest)
    alone = [packed.encode([wave], ["hidden", "layers"])[0] for wave in waves]
    rng = np.random.default_rng(largest.frames)
    for _ in range(4):
        order = rng.integers(len(waves), size=rng.integers(2, 30))
        assert_same(packed.encode([waves[i] for i in order], ["hidden", "layers"]), [alone[i] for i in order])


def test_loud_neighbour_changes_nothing(checkpoint: Make, waves: list[np.ndarray]) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    alone = packed.encode([waves[3]], ["hidden"])[0]["hidden"]
    beside = packed.encode([300 * waves[4] + 5, waves[3], -200 * waves[2]], ["hidden"])[1]["hidden"]
    assert distance(beside, alone) < 1e-6


@pytest.mark.parametrize("normalise", [True, False])
def test_windows_of_long_waveforms(normalise: bool, checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("wav2vec2-large")
    (folder / "preprocessor_config.json").write_text(f'{{"do_normalize": {str(normalise).lower()}}}')
    spec = replace(SPEC, window_s=1.0, overlap_s=0.2)
    packed, reference = pair(folder, spec)
    long = [waves[5] * np.linspace(0.1, 3, 48000, dtype=np.float32), waves[1], waves[3], waves[4]]
    assert_same(packed.encode(long, EVERYTHING), reference.encode(long, EVERYTHING))


def test_clip_longer_than_a_pack_has_one_of_its_own(checkpoint: Make, waves: list[np.ndarray]) -> None:
    packed, reference = pair(checkpoint("wav2vec2-large")[1], replace(SPEC, window_s=None, overlap_s=None))
    mixed = [waves[4], *noises([16000 * 12]), waves[2], waves[3]]
    assert_same(packed.encode(mixed, EVERYTHING), reference.encode(mixed, EVERYTHING))


def test_silence_is_finite(checkpoint: Make) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    assert np.isfinite(packed.encode([np.zeros(16000, np.float32)], ["hidden"])[0]["hidden"]).all()


@pytest.mark.parametrize(("precision", "plain", "about_mean"), [("float16", 3e-3, 1.5e-2), ("bfloat16", 2e-2, 8e-2)])
def test_halves_differ_by_their_rounding(
    precision: str, plain: float, about_mean: float, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    packed, reference = pair(checkpoint("wav2vec2-large")[1], replace(SPEC, precision=precision))
    waves = [*waves[1:], *noises([9000, 20000, 30000])]
    ours, theirs = (
        np.stack([x["hidden"] for x in encoder.encode(waves, ["hidden"])]) for encoder in (packed, reference)
    )
    assert 1e-5 < max(map(distance, ours, theirs)) < plain
    assert centred(ours, theirs) < about_mean
    in_two = np.stack([packed.encode([wave], ["hidden"])[0]["hidden"] for wave in waves])
    assert max(map(distance, in_two, ours)) < plain


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["wav2vec2-large", "hubert-large"])
def test_true_widths(architecture: str, checkpoint: Make, waves: list[np.ndarray]) -> None:
    widths = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "conv_dim": [512] * 7}
    model, folder = checkpoint(architecture, **widths, num_hidden_layers=2)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data /= 4  # as transformers draws them: else float32 itself is 1e-6 from the truth
    model.save_pretrained(folder)
    loaded = load_speech_model(folder, "cpu")
    packed = PackedEncoder(SPEC, loaded, "cpu", Shape(300, 64, 300))
    waves = [*waves, *noises([1040, 24000, 6000])]
    names = ["hidden", "layers", "frames"]
    found = packed.encode(waves, names)
    assert packed.tally.packs > 1
    assert_same(found, [packed.encode([wave], names)[0] for wave in waves])
    assert_same(found, SpeechEncoder(SPEC, loaded, "cpu").encode(waves, names))


# ---------------------------------------------------------------- which encoder a model gets


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_model_that_can_be_packed_is(precision: str, checkpoint: Make) -> None:
    spec = replace(SPEC, precision=precision)
    encoder = open_gpu_encoder(spec, load_speech_model(checkpoint("hubert-large")[1], "cpu"), "cpu")
    assert isinstance(encoder, PackedEncoder) and encoder.spec == spec and encoder.tally.packs == 0


@pytest.mark.parametrize("trouble", ["wrong", "nan", "raises"])
def test_packs_that_are_wrong_on_a_device_are_not_used(
    trouble: str, checkpoint: Make, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_speech_model(checkpoint("wav2vec2-large")[1], "cpu")
    collect = PackRunner.collect

    def spoil(self: PackRunner, ticket: Any) -> Any:
        if trouble == "raises":
            raise RuntimeError("no kernel image is available")
        sums, frames = collect(self, ticket)
        sums[:, -1, 0] *= np.nan if trouble == "nan" else 1.01
        return sums, frames

    monkeypatch.setattr(PackRunner, "collect", spoil)
    with pytest.warns(UserWarning, match="padded batches.*on this device"):
        encoder = open_gpu_encoder(SPEC, model, "cpu")
    assert type(encoder) is SpeechEncoder
    assert_same(encoder.encode(waves, ["hidden"]), SpeechEncoder(SPEC, model, "cpu").encode(waves, ["hidden"]))
    if trouble != "wrong":  # 1 % of one number is within what bfloat16 may
        with pytest.raises(CheckpointError, match="use float32"):
            open_gpu_encoder(replace(SPEC, precision="bfloat16"), model, "cpu")


@pytest.mark.filterwarnings("error")
def test_other_models_run_in_padded_batches(checkpoint: Make) -> None:
    model = load_speech_model(checkpoint("wav2vec2-base")[1], "cpu")
    assert type(open_gpu_encoder(SPEC, model, "cpu")) is SpeechEncoder
    with pytest.raises(CheckpointError, match="float16 on cpu: its clips cannot be packed; use float32"):
        open_gpu_encoder(replace(SPEC, precision="float16"), model, "cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_plugin_packs_on_a_gpu(device: str, checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = checkpoint("wav2vec2-large")
    given: list[Any] = []
    monkeypatch.setattr(_speech_models, "load_speech_model", lambda folder, _: load_speech_model(folder, "cpu"))
    monkeypatch.setattr(_packed_encoder, "open_gpu_encoder", lambda *args: given.append(args))
    for precision in PRECISIONS:
        wav2vec2.load(replace(SPEC, precision=precision), folder, device)
    assert [spec.precision for spec, *_ in given] == list(PRECISIONS) and {args[2] for args in given} == {device}


# ---------------------------------------------------------------- streams


def test_batches_share_packs_and_come_back_in_order(checkpoint: Make) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    rng = np.random.default_rng(5)
    batches = [noises(rng.integers(400, 30000, size=k), seed=k) for k in (3, 1, 7, 2, 5)]
    batches.insert(2, [])
    found = list(packed.encode_stream(batches, EVERYTHING))
    packs = packed.tally.packs
    assert [len(batch) for batch in found] == [3, 1, 0, 7, 2, 5]
    for outputs, batch in zip(found, batches, strict=True):
        assert_same(outputs, packed.encode(batch, EVERYTHING) if batch else [])
    assert packs < packed.tally.packs - packs  # batch by batch, fewer were full


def test_waveform_without_a_frame_is_told_and_costs_no_other(checkpoint: Make, waves: list[np.ndarray]) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    short = waves[0][:399]
    batches = [[short], [waves[2], short, waves[3]], [short, short]]
    first, second, third = packed.encode_stream(batches, ["hidden"])
    reason = "399 samples give no frame; the model needs 400"
    assert first == [reason] and third == [reason] * 2 and second[1] == reason
    assert_same([second[0], second[2]], packed.encode([waves[2], waves[3]], ["hidden"]))
    with pytest.raises(AudioError, match="399 samples"):
        packed.encode([waves[2], short], ["hidden"])


def test_stream_takes_no_more_than_it_needs_and_may_be_left(checkpoint: Make) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    taken = itertools.count()

    def endless() -> Iterator[list[np.ndarray]]:
        while next(taken) < 1000:
            yield noises([20000, 30000])

    stream = packed.encode_stream(endless(), ["hidden"])
    first = next(stream)
    assert next(taken) < 10
    stream.close()  # type: ignore[attr-defined]
    assert_same(packed.encode(noises([20000, 30000]), ["hidden"]), first)


# ---------------------------------------------------------------- memory


def scarce(packed: PackedEncoder, monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    submit = PackRunner.submit

    def refuse(self: PackRunner, pack: Any, wanted: Any) -> Any:
        if sum(clip.frames for clip in pack) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return submit(self, pack, wanted)

    monkeypatch.setattr(PackRunner, "submit", refuse)


def test_pack_that_does_not_fit_is_halved_once_with_a_word(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    waves = noises([16000] * 12)
    right = packed.encode(waves, EVERYTHING)
    scarce(packed, monkeypatch, 100)
    assert_same(packed.encode(waves, EVERYTHING), right)
    assert_same(packed.encode(waves, EVERYTHING), right)
    assert [str(w.message) for w in recwarn if "short" in str(w.message)] == [
        "memory of cpu is short: packs now have 96 frames"
    ]


def test_pack_that_never_fits_is_told(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = pair(checkpoint("wav2vec2-large")[1])
    batches = [noises([16000, 16000]), noises([500]), noises([16000] * 4)]
    scarce(packed, monkeypatch, 10)
    with pytest.warns(UserWarning, match="short"):
        found = list(packed.encode_stream(batches, ["hidden"]))
    assert all("does not fit into memory" in str(outputs) for outputs in [*found[0], *found[2]])
    with pytest.raises(MemoryError, match="a batch of 2 waveforms"):
        packed.encode(batches[0], ["hidden"])
