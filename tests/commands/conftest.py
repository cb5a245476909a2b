"""A small corpus, checkpoints of true architectures with random weights, and heads that learnt from both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from vbx.cache.store import Store
from vbx.extract.corpus import read_corpus
from vbx.extract.pipeline import extract_vectors
from vbx.extract.plan import Settings
from vbx.heads.board import append_results
from vbx.heads.recipe import expand_runs, make_tasks, read_recipe, with_tasks
from vbx.heads.training import train_heads

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "large": (Wav2Vec2Config, Wav2Vec2Model, LARGE),
    "other": (Wav2Vec2Config, Wav2Vec2Model, LARGE),
    "base": (Wav2Vec2Config, Wav2Vec2Model, BASE),
    "wavlm": (WavLMConfig, WavLMModel, BASE),
    "emotion": (Wav2Vec2Config, Wav2Vec2Model, LARGE),
}
"""Checkpoints; `emotion` has audEERING's head."""
TrainHead = Callable[..., str]


def save_checkpoint(name: str, folder: Path) -> None:
    """Save a random model as transformers and audEERING do."""
    config_class, model_class, settings = MODELS[name]
    torch.manual_seed(len(name) + sum(map(ord, name)))
    model = model_class(config_class(**SMALL, **settings, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() == 2 else parameter.add_(0.2 * torch.randn_like(parameter))
    tensors = dict(model.state_dict())
    if name == "emotion":
        head = nn.ModuleDict({"dense": nn.Linear(32, 32), "out_proj": nn.Linear(32, 3)})
        tensors = {f"wav2vec2.{key}": value for key, value in tensors.items()}
        tensors |= {f"classifier.{key}": value for key, value in head.state_dict().items()}
        model.config.id2label = {0: "arousal", 1: "dominance", 2: "valence"}
    model.config.save_pretrained(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16000}))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tones` (32 clips of very different length), `long.wav` of more than a window, and checkpoints."""
    place, random = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    rows = []
    (place / "tones").mkdir()
    for i in range(33):
        size = int(random.integers(1200, 30000)) if i < 32 else 500_123
        pitch = (150 if i % 2 else 400) * (1 + 0.1 * random.standard_normal())
        wave = 0.4 * np.sin(2 * np.pi * pitch * np.arange(size) / 16000) + 0.05 * random.standard_normal(size) + 0.02
        soundfile.write(place / "tones" / f"{i:02d}.wav" if i < 32 else place / "long.wav", wave, 16000)
        split = "dev" if i % 4 == 3 or i == 8 else "train"
        row = {"file": f"{i:02d}.wav", "speaker": f"s{i % 8}", "emotion": "low" if i % 2 else "high"}
        rows.append({**row, "level": float(random.uniform()), "split": split})
    pd.DataFrame(rows[:32]).to_csv(place / "tones" / "labels.csv", index=False)
    for name in MODELS:
        save_checkpoint(name, place / name)
    return place


@pytest.fixture(scope="session")
def train_head(place: Path) -> TrainHead:
    """Extracts a feature of `tones` unless it is there, trains a head on it, and gives its key."""
    store, corpus = Store(place / "cache"), read_corpus(place / "tones")

    def train(feature: str, checkpoints: dict[str, str] | None = None, precision: str = "float32", **fit: Any) -> str:
        if "boaw" in feature:
            pytest.importorskip("opensmile")
        there = {name: str(place / path) for name, path in (checkpoints or {}).items()}
        settings = Settings(workers=0, precision=precision)
        extract_vectors(corpus, feature.split("+"), store, device="cpu", checkpoints=there, settings=settings)
        vectors = store.load_vectors("tones", feature)
        recipe = read_recipe("default", {"fit.epochs": 4, **{f"fit.{key}": value for key, value in fit.items()}})
        tasks = make_tasks(vectors.schema, ["emotion", "level"])
        run = expand_runs(with_tasks(recipe, tasks))[0]
        results = train_heads([run], vectors)
        append_results(place / "heads", results, vectors)
        return results[0].key

    return train
