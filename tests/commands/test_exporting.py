"""Exported models give what `vbx heads predict` gives, from a waveform and by audonnx."""

import json
import re
import runpy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import audonnx
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from vbx.cache.store import Store
from vbx.commands.apply import export
from vbx.commands.exporting import describe_corpus, export_with_encoder
from vbx.commands.inference import encode_files
from vbx.errors import CheckpointError, RecipeError, UnknownName
from vbx.extract.audio import read_wave
from vbx.extract.encoders._onednn import has_bfloat16
from vbx.heads.board import load_head
from vbx.heads.predict import predict as predict_with

FEATURES = {
    "hf:me/large": {"hf:me/large": "large"},
    "hf:me/base": {"hf:me/base": "base"},
    "hf:me/base@layers": {"hf:me/base": "base"},
    "hf:me/wavlm": {"hf:me/wavlm": "wavlm"},
    "w2v2-R-vad": {"w2v2-R-vad": "emotion"},
    "w2v2-R-vad-norm": {"w2v2-R-vad": "emotion"},
    "hf:me/wavlm+w2v2-R-vad+hf:me/base@layers": {
        "hf:me/wavlm": "wavlm", "w2v2-R-vad": "emotion", "hf:me/base": "base",
    },
    "age-gender": {"age-gender": "release"},
    "onnx:release/model.onnx": {"onnx:release/model.onnx": "release"},
}  # fmt: skip
"""Features with their checkpoints; `release` is an ONNX model as audEERING publishes them."""


class Release(nn.Module):
    """Normalisation, encoder, mean and two heads, all in the graph."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = Wav2Vec2Config.from_pretrained(folder, attn_implementation="eager")
        self.model = Wav2Vec2Model(config).eval()
        self.model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
        self.age, self.gender = nn.Linear(32, 1), nn.Linear(32, 3)

    def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, ...]:
        centred = signal - signal.mean(1, keepdim=True)
        hidden = self.model(centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-7)).last_hidden_state.mean(1)
        return hidden, self.age(hidden), 5 * self.gender(hidden)


@pytest.fixture(scope="module", autouse=True)
def release(place: Path) -> Path:
    """Opset 14 and one clip, as the published files are."""
    folder = place / "release"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Release(place / "large").eval(), (torch.randn(1, 16000),), str(folder / "model.onnx"),
            input_names=["signal"], output_names=["hidden_states", "logits_age", "logits_gender"],
            dynamic_axes={"signal": {1: "time"}}, opset_version=14, dynamo=False,
        )  # fmt: skip
    return folder


@pytest.fixture
def export_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exports a run; gives the folder."""
    monkeypatch.chdir(place)

    def run(key: str, checkpoints: dict[str, str] | None = None, **options: Any) -> Path:
        given = [f"{name}={place / path}" for name, path in (checkpoints or {}).items()]
        options = {"to": "onnx", "cache": place / "cache", "out": place / "heads", **options}
        export(key, folder=tmp_path / "made", checkpoint=given, **options)
        return tmp_path / "made"

    return run


QUICK = ("hf:me/base", "w2v2-R-vad-norm", "age-gender")


@pytest.mark.parametrize("feature", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FEATURES])
def test_encoder_and_head_give_what_predict_gives(
    feature: str, place: Path, train_head: Any, export_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    checkpoints = FEATURES[feature]
    key = train_head(feature, checkpoints)
    folder = export_run(key, checkpoints, with_encoder=True)
    model = audonnx.load(str(folder))
    head, store = load_head(place / "heads", key), Store(place / "cache")
    audio = [place / "tones" / f"{i:02d}.wav" for i in (0, 1, 2, 30)]
    audio += [] if feature in QUICK else [place / "long.wav"]
    given = {name: str(place / path) for name, path in checkpoints.items()}
    vectors, _ = encode_files(audio, head, store, given, "cpu")
    table = predict_with(head, vectors)
    classes = [f"emotion.{name}" for name in model.outputs["emotion"].labels]
    assert np.ptp(table["level"]) > 1e-3  # else anything would do
    for row, path in enumerate(audio):
        outputs = model(read_wave(path), 16000)
        np.testing.assert_allclose(outputs["emotion"][0], table.loc[row, classes].astype(float), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(outputs["level"][0], table.loc[row, ["level"]].astype(float), rtol=1e-5, atol=1e-5)
    assert list(model.inputs) == ["signal"] and model.inputs["signal"].shape == [1, -1]
    about = onnxruntime.InferenceSession(str(folder / "model.onnx")).get_modelmeta().custom_metadata_map
    assert json.loads(about["columns"]) == list(head.columns) and about["run"] == head.run.key
    assert json.loads(about["encoders"]) == [part.spec.to_json() for part in head.parts]


def test_silence_and_the_shortest_clip(place: Path, train_head: Any, export_run: Any) -> None:
    feature, checkpoints = "w2v2-R-vad-norm", {"w2v2-R-vad": "emotion"}
    model = audonnx.load(str(export_run(train_head(feature, checkpoints), checkpoints, with_encoder=True)))
    for wave in (np.zeros(16000, np.float32), np.full(400, 0.5, np.float32)):
        assert all(np.isfinite(values).all() for values in model(wave, 16000).values())
    with pytest.raises(Exception, match="InvalidArgument|Invalid"):
        model(np.zeros(399, np.float32), 16000)


def test_the_card_says_how_to_load_it_and_that_runs(
    place: Path, train_head: Any, export_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = train_head("w2v2-R-vad", FEATURES["w2v2-R-vad"])
    folder = export_run(key, FEATURES["w2v2-R-vad"], with_encoder=True)
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-nc-sa-4.0"
    assert "| train | 23 | 6 |" in card and "| dev | 9 | 3 |" in card and "resamples with soxr-HQ" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (tmp_path / "code.py").write_text(code)
    monkeypatch.chdir(folder)
    outputs = runpy.run_path(str(tmp_path / "code.py"))["outputs"]
    assert outputs["emotion"].shape == (1, 2) and outputs["level"].shape == (1, 1)


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_a_head_alone_needs_no_encoder(to: str, train_head: Any, export_run: Any, tmp_path: Path) -> None:
    folder = export_run(train_head("prosody"), to=to, cache=tmp_path / "nowhere")
    card = (folder / "README.md").read_text()
    assert "| train |" not in card and "label columns: `emotion` from emotion" in card
    assert {"torch": "head.safetensors", "onnx": "model.onnx"}[to] in {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("feature", ["prosody", "boaw-125", "hf:me/large+prosody"])
def test_what_is_no_network_is_refused(feature: str, train_head: Any, export_run: Any, tmp_path: Path) -> None:
    checkpoints = {"hf:me/large": "large"}
    key = train_head(feature, checkpoints)
    with pytest.raises(
        CheckpointError, match=r"'(boaw|prosody)', which cannot be in an ONNX model; export the head alone"
    ):
        export_run(key, checkpoints if "hf" in feature else {}, with_encoder=True)
    assert not (tmp_path / "made").exists()


def test_other_weights_are_refused(train_head: Any, export_run: Any) -> None:
    key = train_head("hf:me/large", FEATURES["hf:me/large"])
    with pytest.raises(CheckpointError, match="another encoder than the one at hand"):
        export_run(key, {"hf:me/large": "other"}, with_encoder=True)


def test_heads_that_do_not_fit_are_refused(place: Path, train_head: Any, export_run: Any, tmp_path: Path) -> None:
    head = load_head(place / "heads", train_head("prosody"))
    store = Store(place / "cache")
    tasks = tuple(replace(task, name="signal" if task.name == "level" else task.name) for task in head.run.tasks)
    state = {name.replace("level.", "signal."): array for name, array in head.state.items()}
    named = replace(head, run=replace(head.run, tasks=tasks), state=state)
    with pytest.raises(RecipeError, match="task 'signal' has the name of the model's input"):
        export_with_encoder(named, tmp_path / "made", store, {})
    fit = replace(head.run.fit, scale_by_speaker=True)
    with pytest.raises(RecipeError, match="--to torch"):
        export_with_encoder(replace(head, run=replace(head.run, fit=fit)), tmp_path / "made", store, {})
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        export_run("best", to="onx")
    with pytest.raises(RecipeError, match="as ONNX only"):
        export_run("best", to="torch", with_encoder=True)


def test_a_graph_in_float32_of_bfloat16_vectors_says_so(
    place: Path, train_head: Any, export_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if not has_bfloat16():
        pytest.skip("this CPU would have to emulate bfloat16")
    checkpoints = {"hf:me/half": "large"}
    folder = export_run(train_head("hf:me/half", checkpoints, precision="bfloat16"), checkpoints, with_encoder=True)
    assert "vectors in bfloat16; the graph computes in float32" in capsys.readouterr().err
    assert "learnt from vectors in bfloat16; the graph computes in float32" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m.opset_import.add(), "domain", "com.microsoft"), "operators of com.microsoft"),
        (lambda m: setattr(m.opset_import[0], "version", 21), "opset 21, vbx writes 20"),
    ],
)
def test_a_release_that_cannot_be_joined_is_refused(
    change: Any, words: str, place: Path, train_head: Any, export_run: Any, tmp_path: Path
) -> None:
    from vbx.extract.encoders._graph import raise_opset

    model = onnx.load(str(place / "release" / "model.onnx"))
    change(model)
    with pytest.raises(CheckpointError, match=words):
        raise_opset(model, "release")


def test_weights_that_are_too_large_are_refused(
    place: Path, train_head: Any, export_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vbx.extract.encoders._graph.LARGEST", 1000)
    for feature in ("hf:me/large", "age-gender"):
        with pytest.raises(CheckpointError, match="an ONNX file holds 2 GB; export the head alone"):
            export_run(train_head(feature, FEATURES[feature]), FEATURES[feature], with_encoder=True)


def test_what_the_cache_knows_of_a_corpus(place: Path, train_head: Any, tmp_path: Path) -> None:
    train_head("prosody")
    facts = describe_corpus(Store(place / "cache"), "tones")
    assert dict(facts.utterances) == {"train": 23, "dev": 9} and dict(facts.speakers) == {"train": 6, "dev": 3}
    assert describe_corpus(Store(tmp_path / "nowhere"), "tones").utterances == {}
    shutil.rmtree(tmp_path, ignore_errors=True)
