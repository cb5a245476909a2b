import json
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    HubertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
    WavLMForXVector,
)
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PreTrainedModel

from vbx.cache.feature import list_encoders
from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError, CheckpointError, UnknownName
from vbx.extract.encoder import load_encoder, resolve_spec
from vbx.extract.encoders import _speech_encoder
from vbx.extract.hub import cached_checkpoint

ARCHITECTURES = ("wav2vec2-large", "wav2vec2-base", "hubert-large", "hubert-base", "wavlm-large", "wavlm-base")
SPEC = EncoderSpec("wav2vec2", "org/name", pooling="mean", window_s=30.0, overlap_s=2.0)
Make = Callable[..., tuple[nn.Module, Path]]


def distance(ours: Any, theirs: Any) -> float:
    """Relative L2 distance."""
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def by_transformers(model: nn.Module, wave: np.ndarray) -> torch.Tensor:
    """Last hidden state `(F, D)` of one clip, through transformers' own feature extractor."""
    inputs = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        return model(inputs).last_hidden_state[0]


def vectors(encoder: Any, waves: Sequence[np.ndarray], name: str = "hidden") -> np.ndarray:
    return np.stack([encoded[name] for encoded in encoder.encode(waves, [name])])


# ---------------------------------------------------------------- the same alone, in a batch, and by transformers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_transformers_alone_and_in_any_batch(
    architecture: str, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    model, folder = checkpoint(architecture)
    encoder = load_encoder(SPEC, folder)
    reference = torch.stack([by_transformers(model, wave).mean(0) for wave in waves])
    alone = np.concatenate([vectors(encoder, [wave]) for wave in waves])
    assert max(map(distance, alone, reference)) < 1e-6
    encoder.batch_s = 60.0
    for order in (range(6), [5, 0, 3], [2, 2, 4], [1, 5]):
        batched = vectors(encoder, [waves[i] for i in order])
        assert max(distance(batched[row], alone[i]) for row, i in enumerate(order)) < 1e-6


@pytest.mark.parametrize("architecture", ["wav2vec2-large", "wav2vec2-base"])
def test_the_ways_that_go_wrong_would_be_seen(architecture: str, checkpoint: Make, waves: list[np.ndarray]) -> None:
    # Facts of batching: zeros without a mask, a mean over padded frames, normalisation of the padded row.
    model, folder = checkpoint(architecture)
    right = vectors(load_encoder(SPEC, folder), [waves[2]])[0]
    normal = (waves[2] - waves[2].mean()) / np.sqrt(waves[2].var() + 1e-7)
    padded = np.zeros((2, 48000), np.float32)
    padded[0, : len(normal)] = normal
    mask = torch.ones(2, 48000, dtype=torch.long)
    mask[0, len(normal) :] = 0
    raw = np.zeros((1, 48000), np.float32)
    raw[0, : len(normal)] = waves[2]
    raw = (raw - raw.mean()) / np.sqrt(raw.var() + 1e-7)
    with torch.no_grad():
        no_mask = model(torch.from_numpy(padded)).last_hidden_state[0]
        masked = model(torch.from_numpy(padded), attention_mask=mask).last_hidden_state[0]
        late = model(torch.from_numpy(raw), attention_mask=mask[:1]).last_hidden_state[0]
    wrong = [no_mask[:24].mean(0), masked.mean(0), late[:24].mean(0)]
    if architecture == "wav2vec2-base":
        wrong.append(masked[:24].mean(0))  # a mask alone does not save a model that normalises over time
    assert min(distance(vector, right) for vector in wrong) > 1e-3


def test_loud_neighbour_does_not_change_normalisation(checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(SPEC, folder)
    alone = vectors(encoder, [waves[3]])[0]
    assert distance(vectors(encoder, [waves[3], 300 * waves[4] + 5])[0], alone) < 1e-6
    assert distance(vectors(encoder, [10 * waves[3] + 0.1])[0], alone) < 1e-4


def test_clip_of_one_frame_beside_a_long_one(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wavlm-large")
    encoder = load_encoder(SPEC, folder)
    assert encoder.min_samples == 400
    assert distance(vectors(encoder, [waves[0], waves[5]])[0], by_transformers(model, waves[0])[0]) < 1e-6


def test_clip_without_a_frame_is_refused_and_not_encoded_as_padding(checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("wav2vec2-large")
    with pytest.raises(AudioError, match="399 samples"):
        load_encoder(SPEC, folder).encode([waves[5], waves[0][:399]], ["hidden"])


def test_model_that_cannot_be_padded_is_given_one_clip_at_a_time(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("hubert-base", conv_pos_batch_norm=True)
    with torch.no_grad():
        model.encoder.pos_conv_embed.batch_norm.running_mean.fill_(0.7)
    model.save_pretrained(folder)
    with pytest.warns(UserWarning, match="transformers' modules"):
        encoder = load_encoder(SPEC, folder)
    assert encoder.batch_s == 0
    reference = torch.stack([by_transformers(model, wave).mean(0) for wave in waves])
    assert max(map(distance, vectors(encoder, waves), reference)) < 1e-6


def test_waveforms_are_left_alone_where_the_preprocessor_says_so(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wavlm-base")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    with torch.no_grad():
        reference = model(torch.from_numpy(waves[4])[None]).last_hidden_state[0].mean(0)
    assert distance(vectors(load_encoder(SPEC, folder), [waves[4]])[0], reference) < 1e-6


def test_digital_silence_is_finite(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-base")
    assert np.isfinite(vectors(load_encoder(SPEC, folder), [np.zeros(16000, np.float32)])).all()


# ---------------------------------------------------------------- other outputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_input_blocks_and_last_hidden_state(
    architecture: str, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    model, folder = checkpoint(architecture)
    encoder = load_encoder(SPEC, folder)
    normal = (waves[4] - waves[4].mean()) / np.sqrt(waves[4].var() + 1e-7)
    block = model.encoder.layers[1]
    seen: list[Any] = []
    block.register_forward_hook(lambda _, args, output: seen.extend([args[0], output]))
    with torch.no_grad():
        out = model(torch.from_numpy(normal)[None], output_hidden_states=True)
    first, second = out.hidden_states[0], out.hidden_states[2]
    outcome = seen[1] if isinstance(seen[1], torch.Tensor) else seen[1][0]
    assert torch.equal(outcome, second)
    ours = encoder.encode([waves[2], waves[4]], ["layers", "hidden"])[1]
    layers = ours["layers"].reshape(4, 64)
    for row, state in zip(layers, [first, seen[0], outcome, out.last_hidden_state], strict=True):
        assert distance(row, state[0].mean(0)) < 1e-6
    assert np.array_equal(layers[3], ours["hidden"])
    output = next(o for o in encoder.outputs if o.name == "layers")
    assert output.optional and len(output.columns) == 256 and output.columns[64] == "layer01_0000"


def test_frames_are_the_last_hidden_state(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(SPEC, folder)
    for wave, encoded in zip(waves, encoder.encode(waves, ["frames"]), strict=True):
        assert encoded["frames"].dtype == np.float16
        assert encoded["frames"].shape == ((len(wave) - 400) // 320 + 1, 64)
        assert distance(encoded["frames"], by_transformers(model, wave)) < 1e-3


class CardHead(nn.Module):
    """The head of audEERING's model cards, with their names."""

    def __init__(self, config: Any, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, labels)


class EmotionCard(Wav2Vec2PreTrainedModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = CardHead(config, 3)
        self.post_init()


class AgeGenderCard(Wav2Vec2PreTrainedModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.age, self.gender = CardHead(config, 1), CardHead(config, 3)
        self.post_init()


PUBLISHED = {
    "architectures": ["Wav2Vec2ForSpeechClassification"],
    "finetuning_task": "wav2vec2_reg",
    "gradient_checkpointing": False,
    "hidden_dropout_prob": 0.1,
    "id2label": {"0": "arousal", "1": "dominance", "2": "valence"},
    "label2id": {"arousal": 0, "dominance": 1, "valence": 2},
    "layerdrop": 0.1,
    "model_type": "wav2vec2",
    "pooling_mode": "mean",
    "problem_type": "regression",
    "torch_dtype": "float32",
    "transformers_version": "4.17.0.dev0",
    "vocab_size": None,
}
"""Fields of the emotion model's config.json that no class of transformers writes today."""


def publish(model: nn.Module, folder: Path) -> None:
    """Rewrite a saved checkpoint as the emotion model was published: old config, old names of the weight norm."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **PUBLISHED}))
    new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = model.state_dict()
    for ours, theirs in new.items():
        weights = {key.replace(ours, theirs): value.clone() for key, value in weights.items()}
    assert any(key.endswith("weight_g") for key in weights)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_emotion_model_as_published(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-large", EmotionCard)
    publish(model, folder)
    encoder = load_encoder(SPEC, folder)
    columns = {output.name: output.columns for output in encoder.outputs if not output.optional}
    assert columns["logits"] == ("arousal", "dominance", "valence") and list(columns) == ["hidden", "logits"]
    for wave, encoded in zip(waves, encoder.encode(waves, ["hidden", "logits"]), strict=True):
        pooled = by_transformers(model.wav2vec2, wave).mean(0)
        with torch.no_grad():
            logits = model.classifier.out_proj(torch.tanh(model.classifier.dense(pooled)))
        assert distance(encoded["hidden"], pooled) < 1e-6
        assert distance(encoded["logits"], logits) < 1e-6


def test_age_and_gender_model(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-large", AgeGenderCard)
    encoder = load_encoder(SPEC, folder)
    columns = {output.name: output.columns for output in encoder.outputs if not output.optional}
    assert columns["age"] == ("age",) and columns["gender"] == ("female", "male", "child")
    encoded = encoder.encode(waves, ["age", "gender"])[3]
    pooled = by_transformers(model.wav2vec2, waves[3]).mean(0)
    with torch.no_grad():
        age, gender = (h.out_proj(torch.tanh(h.dense(pooled))) for h in (model.age, model.gender))
    assert encoded["age"] == pytest.approx(age.numpy(), abs=1e-6)
    assert encoded["gender"] == pytest.approx(gender.softmax(-1).numpy(), abs=1e-6)
    assert encoded["gender"].sum() == pytest.approx(1.0)


# ---------------------------------------------------------------- windows


def test_windows_count_every_frame_once_and_equal_the_whole_where_context_allows(
    checkpoint: Make, waves: list[np.ndarray]
) -> None:
    # Without attention a frame sees 64 frames to each side; half an overlap of 2.8 s is 70.
    model, folder = checkpoint("wav2vec2-large")
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.attention.out_proj.weight.zero_()
    model.save_pretrained(folder)
    long = np.concatenate([waves[5], waves[3], waves[4]] * 3)[:200_123]
    whole = load_encoder(replace(SPEC, window_s=None, overlap_s=None), folder)
    cut = load_encoder(replace(SPEC, window_s=5.0, overlap_s=2.8), folder)
    a, b = (encoder.encode([long], ["hidden", "frames", "layers"])[0] for encoder in (whole, cut))
    assert len(a["frames"]) == len(b["frames"]) == (200_123 - 400) // 320 + 1
    assert distance(b["frames"], a["frames"]) < 1e-3  # float16
    assert distance(b["hidden"], a["hidden"]) < 1e-6
    assert distance(b["layers"], a["layers"]) < 1e-6


def test_windowed_clip_beside_others_is_the_same_as_alone(checkpoint: Make, waves: list[np.ndarray]) -> None:
    _, folder = checkpoint("hubert-base")
    encoder = load_encoder(replace(SPEC, window_s=2.0, overlap_s=0.5), folder)
    encoder.batch_s = 7.0
    alone = np.concatenate([vectors(encoder, [wave]) for wave in waves])
    assert max(map(distance, vectors(encoder, waves), alone)) < 1e-6


def test_windowed_mean_is_that_of_transformers_on_each_window(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(replace(SPEC, window_s=1.0, overlap_s=0.2), folder)
    wave = waves[3]  # 103 frames: windows of 49 that start at 0, 39 and 54
    normal = torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))
    kept = []
    for start, first, last in ((0, 0, 44), (39, 44, 71), (54, 71, 103)):
        with torch.no_grad():
            states = model(normal[None, start * 320 : (start + 48) * 320 + 400]).last_hidden_state[0]
        kept.append(states[first - start : last - start])
    reference = torch.cat(kept)
    encoded = encoder.encode([wave], ["hidden", "frames"])[0]
    assert len(reference) == len(encoded["frames"]) == (len(wave) - 400) // 320 + 1
    assert distance(encoded["hidden"], reference.mean(0)) < 1e-6


def test_long_clip_is_encoded_a_few_windows_at_a_time(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, waves: list[np.ndarray]
) -> None:
    _, folder = checkpoint("wav2vec2-large", num_hidden_layers=1)
    encoder = load_encoder(replace(SPEC, window_s=3.0, overlap_s=1.0), folder)
    sizes = []
    states = encoder._states
    monkeypatch.setattr(encoder, "_states", lambda batch, **k: sizes.append(len(batch)) or states(batch, **k))
    encoder.encode([np.tile(waves[5], 20), waves[0]], ["hidden"])
    assert sizes == [2] * 14 + [3]  # 8 s at once are two windows of 3 s, and the short clip finds room beside the last


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("wav2vec2-large", Wav2Vec2ForCTC),
        ("wav2vec2-large", Wav2Vec2ForPreTraining),
        ("wav2vec2-base", Wav2Vec2ForSequenceClassification),
        ("hubert-large", HubertForCTC),
        ("wavlm-base", WavLMForXVector),
    ],
)
def test_checkpoint_of_another_task_gives_its_encoder(
    architecture: str, task: type, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    options = {"vocab_size": 12, "mask_time_prob": 0.05, "num_codevectors_per_group": 8, "tdnn_dim": [16] * 5}
    model, folder = checkpoint(architecture, task, **options)
    encoder = load_encoder(SPEC, folder)
    assert {output.name for output in encoder.outputs} == {"hidden", "layers", "frames"}
    reference = by_transformers(model.base_model, waves[2]).mean(0)
    assert distance(vectors(encoder, [waves[2]])[0], reference) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_float32(
    dtype: torch.dtype, checkpoint: Make, waves: list[np.ndarray]
) -> None:
    model, folder = checkpoint("wav2vec2-large")
    model.to(dtype).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    reference = by_transformers(model.to(torch.float32), waves[2]).mean(0)
    assert distance(vectors(load_encoder(SPEC, folder), [waves[2]])[0], reference) < 1e-6


def test_shards_are_read(checkpoint: Make, waves: list[np.ndarray]) -> None:
    model, folder = checkpoint("wav2vec2-base")
    before = vectors(load_encoder(SPEC, folder), [waves[2]])
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert np.array_equal(vectors(load_encoder(SPEC, folder), [waves[2]]), before)


@pytest.mark.parametrize(
    "key",
    [
        "feature_extractor.conv_layers.0.conv.weight",
        "feature_extractor.conv_layers.6.layer_norm.bias",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "encoder.layers.2.attention.k_proj.bias",
        "encoder.layer_norm.weight",
    ],
)
def test_missing_weight_is_an_error_and_never_random(key: str, checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks weights of its model: " + key.replace(".", r"\.")):
        load_encoder(SPEC, folder)


def test_missing_weight_of_a_head_is_an_error(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large", EmotionCard)
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.out_proj.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks weights of its model: out_proj\.bias"):
        load_encoder(SPEC, folder)


@pytest.mark.parametrize("key", ["encoder.layers.3.feed_forward.output_dense.bias", "surprise.weight"])
def test_weight_that_nothing_uses_is_an_error(key: str, checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, key: torch.zeros(64)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not know"):
        load_encoder(SPEC, folder)


def test_strange_weight_beside_a_head_is_an_error(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large", EmotionCard)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "adversary.weight": torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not know: adversary\.weight"):
        load_encoder(SPEC, folder)


def rewrite(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "whisper"}, "model_type 'whisper'; vbx knows wav2vec2, hubert, wavlm"),
        ({"hidden_size": 128}, "do not fit their config.json"),
        ({"num_hidden_layers": 4}, "lacks weights"),
        ({"add_adapter": True}, "adapter"),
        ({"conv_stride": [5, 2]}, "describes no wav2vec2 model"),
        ({"feat_extract_norm": "batch"}, "describes no wav2vec2 model"),
    ],
)
def test_config_that_does_not_fit(values: dict[str, Any], message: str, checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    rewrite(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(SPEC, folder)


def test_head_on_another_pooling_is_refused(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large", EmotionCard)
    rewrite(folder, pooling_mode="max")
    with pytest.raises(CheckpointError, match="pooling 'max'"):
        load_encoder(SPEC, folder)


def test_head_without_labels_has_numbered_columns(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large", EmotionCard)
    rewrite(folder, id2label={"0": "only one"})
    columns = {output.name: output.columns for output in load_encoder(SPEC, folder).outputs}
    assert columns["logits"] == ("logits_0000", "logits_0001", "logits_0002")


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("harm"),))


def test_pickle_with_code_is_refused(checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = checkpoint("wav2vec2-large")
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Harmful()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than hold tensors"):
        load_encoder(SPEC, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match="more than hold tensors"):
        load_encoder(SPEC, folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights(name: str, content: bytes, checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_encoder(SPEC, folder)


def test_truncated_weights(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_encoder(SPEC, folder)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(3, dtype=torch.int8)}, {"weight": 3}, [1, 2]])
def test_weights_that_are_not_floats(content: Any, checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not floating-point|no table"):
        load_encoder(SPEC, folder)


def test_spec_that_the_plugin_cannot_do(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    with pytest.raises(UnknownName, match="pooling 'max'"):
        load_encoder(replace(SPEC, pooling="max"), folder)
    with pytest.raises(UnknownName, match="precision 'float16'"):
        load_encoder(replace(SPEC, precision="float16"), folder)
    with pytest.raises(CheckpointError, match="16000 Hz.*8000 Hz"):
        load_encoder(replace(SPEC, sample_rate=8000), folder)
    for use in (load_encoder, resolve_spec):
        with pytest.raises(CheckpointError, match="needs weights"):
            use(SPEC, None)


def test_digest_of_the_weights_is_in_the_key(checkpoint: Make) -> None:
    _, folder = checkpoint("wav2vec2-large")
    spec = resolve_spec(SPEC, folder)
    assert spec.weights and len(spec.weights) == 64
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer_norm.bias"][0] += 1e-6
    save_file(weights, folder / "model.safetensors")
    assert resolve_spec(SPEC, folder).key != spec.key


# ---------------------------------------------------------------- arithmetic


def test_arithmetic_is_float32_whatever_the_process_has_set(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, waves: list[np.ndarray]
) -> None:
    _, folder = checkpoint("wav2vec2-base")
    encoder = load_encoder(SPEC, folder)
    seen = []
    states = encoder._states

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return states(*args, **kwargs)

    monkeypatch.setattr(encoder, "_states", spy)
    torch.set_float32_matmul_precision("high")
    try:
        encoder.encode(waves[:1], ["hidden"])
        assert seen == [("highest", False)]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_full_device_is_a_memory_error_so_that_the_batch_is_halved(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, waves: list[np.ndarray]
) -> None:
    _, folder = checkpoint("wav2vec2-large")
    encoder = load_encoder(SPEC, folder)

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "_states", full)
    with pytest.raises(MemoryError, match="2 waveforms"):
        encoder.encode(waves[:2], ["hidden"])


def test_batches_are_small_on_a_cpu_and_large_on_a_gpu() -> None:
    assert _speech_encoder.BATCH_S == {"cpu": 12.0, "cuda": 160.0}


# ---------------------------------------------------------------- true shapes and published weights


@pytest.mark.slow
@pytest.mark.parametrize("layers", [4, 24])
def test_true_shape_of_large_robust(layers: int, tmp_path: Path, waves: list[np.ndarray]) -> None:
    shape = {"num_hidden_layers": layers, "num_attention_heads": 16, "hidden_size": 1024, "intermediate_size": 4096}
    torch.manual_seed(0)
    model = Wav2Vec2Model(
        Wav2Vec2Config(**shape, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    ).eval()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(SPEC, tmp_path)
    alone = np.concatenate([vectors(encoder, [wave]) for wave in waves])
    reference = torch.stack([by_transformers(model, wave).mean(0) for wave in waves])
    encoder.batch_s = 60.0
    assert max(map(distance, vectors(encoder, waves), alone)) < 1e-6
    # Of a clip of one frame, ours and transformers' are both 1.5e-6 from the vector in float64 (24 layers, measured).
    assert max(map(distance, alone, reference)) < 3e-6
    assert max(map(distance, alone[2:], reference[2:])) < 1e-6


@pytest.fixture
def published() -> Callable[[str], Any]:
    """Loads a model of the catalogue: VBX_TEST_WEIGHTS has a folder for each, or the hub's cache has it."""
    root = os.environ.get("VBX_TEST_WEIGHTS")

    def find(name: str) -> Any:
        spec = list_encoders()[name]
        folder = Path(root or "", spec.model.rsplit("/", 1)[-1])
        found = folder if root and folder.is_dir() else cached_checkpoint(spec.model, spec.revision)
        if found is None:
            pytest.skip(f"neither VBX_TEST_WEIGHTS has a folder {folder.name!r}, nor the hub's cache the model")
        return load_encoder(resolve_spec(spec, found), found)

    return find


@pytest.mark.weights
def test_golden_values_of_the_emotion_model(published: Callable[[str], Any]) -> None:
    # Model card of the checkpoint: one second of zeros.
    encoded = published("w2v2-R-emotion").encode([np.zeros(16000, np.float32)], ["hidden", "logits"])[0]
    assert encoded["logits"] == pytest.approx([0.5460754, 0.6062266, 0.40431657], abs=1e-4)
    assert encoded["hidden"][:3] == pytest.approx([-0.00752167, 0.0065819, -0.00746342], abs=1e-5)
    assert encoded["hidden"][-3:] == pytest.approx([0.00663632, 0.00848748, 0.00599211], abs=1e-5)


@pytest.mark.weights
def test_golden_values_of_the_age_and_gender_model(published: Callable[[str], Any]) -> None:
    # Model card of the checkpoint: one second of zeros.
    encoded = published("age-gender").encode([np.zeros(16000, np.float32)], ["hidden", "age", "gender"])[0]
    assert encoded["age"] == pytest.approx([0.33793038], abs=1e-4)
    assert encoded["gender"] == pytest.approx([0.2715511, 0.2275236, 0.5009253], abs=1e-4)
    assert encoded["hidden"][:3] == pytest.approx([0.024444, 0.0508722, 0.04930823], abs=1e-5)


@pytest.mark.weights
def test_level_does_not_change_the_emotion_vector(published: Callable[[str], Any], waves: list[np.ndarray]) -> None:
    encoder = published("w2v2-R-emotion")
    plain, loud, shifted = (vectors(encoder, [w])[0] for w in (waves[4], 10 * waves[4], waves[4] + 0.1))
    assert distance(loud, plain) < 1e-4 and distance(shifted, plain) < 1e-4
