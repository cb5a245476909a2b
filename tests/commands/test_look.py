"""`vbx show feature`: licence, source, and where the weights are."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from vbx.cache.feature import list_features
from vbx.commands.look import show

COMMIT = "c" * 40


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What is shown of a feature, and in JSON."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run(name: str) -> tuple[str, list[dict[str, Any]]]:
        show("feature", name)
        text = capsys.readouterr().out
        show("feature", name, json=True)
        return text, json.loads(capsys.readouterr().out)

    return run


def test_every_feature_tells_licence_and_source(shown: Any) -> None:
    for entry in list_features():
        text, (facts,) = shown(entry["feature"])
        assert facts["licence"] == entry["licence"] and facts["source"] == entry["source"]
        assert facts["dim"] == entry["dim"] and f"licence: {entry['licence']}" in text


def test_layers_are_no_feature_of_the_same_width(shown: Any) -> None:
    _, (facts,) = shown("w2v2-R-vad@layers")
    assert "dim" not in facts and "CC BY-NC-SA" in facts["licence"]


@pytest.mark.parametrize(("name", "end"), [("hf:org/name", ""), ("hf:org/name@v1", "/tree/v1")])
def test_a_model_of_the_hub_tells_its_page_and_where_it_lies(name: str, end: str, shown: Any, tmp_path: Path) -> None:
    page = f"https://huggingface.co/org/name{end}"
    _, (facts,) = shown(name)
    assert facts["licence"] == f"see {page}" and facts["source"] == page
    assert facts["weights"] == f"{page}, fetched when needed; or --checkpoint NAME=FOLDER"
    place = tmp_path / "hub" / "models--org--name"
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / ("v1" if end else "main")).write_text(COMMIT)
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (snapshot / file).write_text("{}")
    assert shown(name)[1][0]["weights"] == f"{snapshot}, from {page}"


def test_each_part_is_shown(shown: Any) -> None:
    text, parts = shown("egemaps+onnx:models/age.onnx")
    assert [part["spec"]["encoder"] for part in parts] == ["opensmile", "onnx"]
    assert parts[1]["weights"] == "the file age.onnx" and "weights" not in parts[0] and text.count("licence:") == 2
