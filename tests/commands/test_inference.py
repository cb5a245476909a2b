"""Prediction from audio is prediction from the cache, by the same weights or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

from vbx.cache.store import Store
from vbx.commands.apply import predict
from vbx.commands.inference import encode_files, known_parts, load_corpus
from vbx.errors import CacheError, CheckpointError, CorpusError, DeviceError
from vbx.extract.encoders import _cpu_encoder
from vbx.extract.encoders._onednn import has_bfloat16
from vbx.heads.board import load_head
from vbx.heads.predict import predict as predict_with

FEATURES = {
    "prosody": {},
    "boaw-125": {},
    "hf:me/large": {"hf:me/large": "large"},
    "hf:me/base@layers": {"hf:me/base": "base"},
    "w2v2-R-vad": {"w2v2-R-vad": "emotion"},
    "w2v2-R-er-norm": {"w2v2-R-er": "emotion"},
    "prosody+boaw-125+hf:me/large+prosody": {"hf:me/large": "large"},
}
"""Features with their checkpoints."""


@pytest.fixture
def audio(place: Path) -> list[Path]:
    """Six clips."""
    return [place / "tones" / f"{i:02d}.wav" for i in (5, 0, 1, 2, 30, 31)]


@pytest.fixture
def ask(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    """What `vbx heads predict` prints, and what it says beside."""

    def run(key: str, audio: list[Path] | None = None, **options: Any) -> tuple[Any, str]:
        options = {"cache": place / "cache", "out": place / "heads", "device": "cpu", **options}
        capsys.readouterr()
        predict(key, audio, **options)
        printed = capsys.readouterr()
        return (json.loads(printed.out) if options.get("json") else pd.read_csv(StringIO(printed.out))), printed.err

    return run


def options(checkpoints: dict[str, str], place: Path) -> list[str]:
    return [f"{name}={place / path}" for name, path in checkpoints.items()]


@pytest.mark.parametrize("feature", FEATURES)
def test_audio_and_cache_give_the_same(
    feature: str, train_head: Any, place: Path, audio: list[Path], ask: Callable[..., tuple[Any, str]]
) -> None:
    key = train_head(feature, FEATURES[feature])
    from_audio, said = ask(key, audio, checkpoint=options(FEATURES[feature], place))
    assert said == ""
    from_cache, _ = ask(key, corpus="tones")
    from_cache = from_cache.set_index("id").loc[[path.name for path in audio]]
    assert from_audio["id"].tolist() == [str(path) for path in audio]
    numbers = ["emotion.high", "emotion.low", "level", "level.low", "level.high"]
    np.testing.assert_allclose(from_audio[numbers], from_cache[numbers], rtol=1e-5, atol=1e-5)
    assert from_audio["emotion"].tolist() == from_cache["emotion"].tolist()
    assert from_audio["level"].nunique() > 3


def test_the_vectors_themselves_are_those_of_the_cache(train_head: Any, place: Path, audio: list[Path]) -> None:
    feature = "prosody+boaw-125+hf:me/large+prosody"
    head, store = load_head(place / "heads", train_head(feature, FEATURES[feature])), Store(place / "cache")
    ours, _ = encode_files(audio, head, store, {"hf:me/large": str(place / "large")}, "cpu")
    theirs = store.load_vectors("tones", feature)
    rows = [theirs.ids.index(path.name) for path in audio]
    assert ours.columns == theirs.columns and ours.parts == theirs.parts
    np.testing.assert_allclose(ours.x, theirs.x[rows], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.x[:, :130], theirs.x[rows, :130])


def test_raw_is_without_calibration(train_head: Any, audio: list[Path], ask: Callable[..., tuple[Any, str]]) -> None:
    key = train_head("prosody")
    rows, _ = ask(key, audio, raw=True, json=True)
    assert rows[0].keys() == {"id", "emotion", "emotion.high", "emotion.low", "level"}
    calibrated, _ = ask(key, audio, json=True)
    assert calibrated[0]["emotion.high"] != rows[0]["emotion.high"] and calibrated[0]["level"] == rows[0]["level"]


def test_a_head_without_dev_says_that_it_is_not_calibrated(
    train_head: Any, place: Path, ask: Callable[..., tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = train_head("prosody")
    bare = replace(load_head(place / "heads", key), calibration=None)
    monkeypatch.setattr("vbx.heads.board.load_head", lambda *_: bare)
    frame, said = ask(key, corpus="tones")
    assert "level.low" not in frame and "not calibrated" in said
    assert "not calibrated" not in ask(key, corpus="tones", raw=True)[1]


def test_bad_audio_is_counted_and_told(
    train_head: Any, place: Path, audio: list[Path], ask: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    key = train_head("prosody")
    (tmp_path / "text.wav").write_text("no sound")
    bad = [tmp_path / "text.wav", tmp_path / "lost.wav"]
    frame, said = ask(key, [bad[0], audio[1], bad[1], audio[1]])
    assert frame["id"].tolist() == [str(audio[1])]
    assert "there is no file" in said and "2 of 3 files gave no prediction" in said
    with pytest.raises(typer.Exit) as stop:
        ask(key, [bad[0], audio[1]], strict=True)
    assert stop.value.exit_code == 1
    with pytest.raises(CorpusError, match="none of 2 files gave a vector"):
        ask(key, bad)


def test_other_weights_are_refused_from_audio_and_from_the_cache(
    train_head: Any, place: Path, audio: list[Path], ask: Callable[..., tuple[Any, str]]
) -> None:
    key = train_head("hf:me/large", {"hf:me/large": "large"})
    with pytest.raises(CheckpointError, match=r"'hf:me/large'.* weights '\w{12}…' rather than '\w{12}…'"):
        ask(key, audio, checkpoint=options({"hf:me/large": "other"}, place))
    head, store = load_head(place / "heads", key), Store(place / "cache")
    strange = replace(head, parts=(replace(head.parts[0], spec=head.parts[0].spec.resolved("f" * 64)),))
    with pytest.raises(CacheError, match="rather than 'ffffffffffff…'"):
        predict_with(strange, load_corpus(strange, store, "tones", None))


def test_of_several_weights_in_the_cache_those_of_the_head_are_taken(train_head: Any, place: Path) -> None:
    key = train_head("hf:me/several", {"hf:me/several": "large"})
    head, store = load_head(place / "heads", key), Store(place / "cache")
    expected = store.load_vectors("tones", "hf:me/several").x
    with pytest.raises(CacheError, match="say which"):
        train_head("hf:me/several", {"hf:me/several": "other"})
    np.testing.assert_array_equal(load_corpus(head, store, "tones", None).x, expected)


def test_codebooks_are_those_that_the_head_learnt_with(
    train_head: Any, place: Path, audio: list[Path], ask: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    key = train_head("boaw-125")
    with pytest.raises(CacheError, match="needs the codebook .* --cache"):
        ask(key, audio, cache=tmp_path / "nowhere")
    shutil.copytree(place / "cache", tmp_path / "cache")
    for book in (tmp_path / "cache" / "tones" / "codebooks").iterdir():
        book.unlink()
    with pytest.raises(CacheError, match="needs the codebook"):
        ask(key, audio, cache=tmp_path / "cache")


def test_precision_is_that_of_the_vectors(
    train_head: Any, place: Path, audio: list[Path], ask: Callable[..., tuple[Any, str]], monkeypatch: Any
) -> None:
    if not has_bfloat16():
        pytest.skip("this CPU would have to emulate bfloat16")
    checkpoints = {"hf:me/half": "large"}
    key = train_head("hf:me/half", checkpoints, precision="bfloat16")
    assert load_head(place / "heads", key).parts[0].spec.precision == "bfloat16"
    from_audio, _ = ask(key, audio, checkpoint=options(checkpoints, place))
    from_cache = ask(key, corpus="tones")[0].set_index("id").loc[[path.name for path in audio]]
    np.testing.assert_allclose(from_audio["level"], from_cache["level"], atol=0.02)  # neighbours change bfloat16
    monkeypatch.setattr(_cpu_encoder, "has_bfloat16", lambda: False)
    with pytest.raises(DeviceError, match="learnt from vectors in bfloat16, which 'cpu' cannot make"):
        ask(key, audio, checkpoint=options(checkpoints, place))


def test_heads_of_before_ask_the_cache_which_encoder_it_was(train_head: Any, place: Path, tmp_path: Path) -> None:
    head, store = load_head(place / "heads", train_head("prosody")), Store(place / "cache")
    old = replace(head, parts=())
    assert known_parts(old, store) == head.parts
    for strange, reason in (
        (replace(old, vectors_key="0" * 64), "no longer what it learnt from"),
        (replace(old, corpus="lost"), "the cache does not tell"),
        (replace(old, feature="array"), "came from an array"),
        (replace(old, corpus="tones+others"), "not encoded by the same"),
    ):
        with pytest.raises(CacheError, match=reason):
            known_parts(strange, store)


def test_another_version_of_an_encoder_is_refused(
    train_head: Any, audio: list[Path], ask: Callable[..., tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = train_head("boaw-125")
    monkeypatch.setattr("vbx.extract.encoders.opensmile.metadata.version", lambda _: "0.1")
    with pytest.raises(CheckpointError, match="by another version of its encoder than the one at hand .*opensmile-0.1"):
        ask(key, audio)
