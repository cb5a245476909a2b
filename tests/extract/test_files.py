"""Encoders are found again by what they are, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vbx.cache.feature import Part, read_feature
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError, CheckpointError, CorpusError
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import load_encoder, resolve_spec
from vbx.extract.files import encode_audio, match_jobs
from vbx.extract.work import prepare_wave


def resolved(name: str, **fields: str) -> Part:
    (part,) = read_feature(name).parts
    return replace(part, spec=resolve_spec(replace(part.spec, **fields), None))


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Two channels at 44.1 kHz."""
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.3 * np.random.default_rng(0).standard_normal((30000, 2)), 44100)
    return path


@pytest.mark.parametrize("fields", [{}, {"channel": "1"}, {"resampler": "soxr-QQ"}, {"channel": "0", "revision": "v9"}])
def test_channel_and_resampler_are_those_of_the_vectors(audio: Path, fields: dict[str, str]) -> None:
    part = resolved("noise", **fields)
    jobs = match_jobs([part], {})
    rows, columns, failures = encode_audio([audio], jobs, "cpu")
    (expected,) = load_encoder(part.spec).encode([prepare_wave(Utterance("a", audio), part.spec)], ["hidden"])
    np.testing.assert_array_equal(rows[str(audio)], expected["hidden"])  # the least change of a sample changes it all
    assert len(columns) == 16 and failures == {}


def test_encoders_side_by_side_in_their_order_each_run_once(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, counts = [resolved("noise"), resolved("prosody"), resolved("noise")], []
    from vbx.extract import files

    load = files.load_encoder
    monkeypatch.setattr(files, "load_encoder", lambda *given: counts.append(given[0].encoder) or load(*given))
    rows, columns, _ = encode_audio([audio, audio], match_jobs(parts, {}), "cpu")
    x = rows[str(audio)]
    assert len(x) == len(columns) == 37 and sorted(counts) == ["noise", "prosody"]
    np.testing.assert_array_equal(x[:16], x[21:])
    assert columns[16:21] == ("f0_mean", "f0_std", "energy_mean", "energy_std", "voiced_ratio")


def test_a_file_without_one_of_its_vectors_has_none(audio: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(200), 16000)
    rows, _, failures = encode_audio([short, audio], match_jobs([resolved("noise"), resolved("prosody")], {}), "cpu")
    assert list(rows) == [str(audio)] and "too short" in failures[str(short)]


def test_what_cannot_be_made_again_is_refused(audio: Path) -> None:
    with pytest.raises(CorpusError, match="'array:mine' were imported"):
        match_jobs([Part(EncoderSpec("array", "mine"), ("values",), "array:mine", name="array:mine")], {})
    noise = resolved("noise")
    for field, words in (({"code": 7}, "code 1 rather than 7"), ({"weights": "w" * 64}, "rather than 'wwwwwwwwwwww…'")):
        with pytest.raises(CheckpointError, match=words):
            match_jobs([replace(noise, spec=replace(noise.spec, **field))], {})
    boaw = read_feature("boaw-125").parts[0]
    with pytest.raises(CacheError, match="needs the codebook aaaaaaaaaaaa…"):
        match_jobs([replace(boaw, spec=boaw.spec.resolved("a" * 64))], {}, [audio.parent])
