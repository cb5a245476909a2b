"""Small random checkpoints of the true architectures, saved as transformers and audEERING save them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

torch.set_num_threads(1)

LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
}
ARCHITECTURES = {
    "wav2vec2-large": (Wav2Vec2Config, Wav2Vec2Model, LARGE),
    "wav2vec2-base": (Wav2Vec2Config, Wav2Vec2Model, BASE),
    "hubert-large": (HubertConfig, HubertModel, LARGE),
    "hubert-base": (HubertConfig, HubertModel, {**BASE, "feat_proj_layer_norm": False}),
    "wavlm-large": (WavLMConfig, WavLMModel, LARGE),
    "wavlm-base": (WavLMConfig, WavLMModel, BASE),
}
"""The published models' settings, by family and size; only widths and depth are smaller here."""


def random_model(architecture: str, model_class: type | None = None, **options: Any) -> nn.Module:
    """A model with random weights, large enough that attention and padding matter."""
    config_class, base_class, settings = ARCHITECTURES[architecture]
    torch.manual_seed(sum(map(ord, architecture)))
    config = config_class(**{**SMALL, **settings, "attn_implementation": "eager", **options})
    model = (model_class or base_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
            elif "layer_norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))  # a norm that does nothing would hide its absence
    return model


def save(model: nn.Module, folder: Path, **preprocessor: Any) -> Path:
    """Save a model and the settings of its waveforms."""
    model.save_pretrained(folder)
    values = {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, **preprocessor}))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., tuple[nn.Module, Path]]:
    """Makes a random model and the folder it is saved in."""

    def make(architecture: str, model_class: type | None = None, **options: Any) -> tuple[nn.Module, Path]:
        model = random_model(architecture, model_class, **options)
        return model, save(model, tmp_path / architecture)

    return make


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray]:
    """Harmonic sounds of very different length and level, with an offset, the shortest that has one frame first."""
    rng = np.random.default_rng(0)
    sounds = []
    for length in (400, 719, 7999, 33333, 16000, 48000):
        time = np.arange(length) / 16000
        tone = sum(np.sin(2 * np.pi * rng.uniform(90, 260) * k * time + rng.uniform(0, 6)) / k for k in range(1, 8))
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 4) * time)
        sound = rng.uniform(0.02, 0.5) * (tone * envelope + 0.05 * rng.standard_normal(length)) + 0.01
        sounds.append(sound.astype(np.float32))
    return sounds
