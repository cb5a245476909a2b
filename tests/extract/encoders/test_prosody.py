"""Prosody: tones of known pitch, duty and level; noise and silence; YIN written as plain loops."""

from pathlib import Path

import numpy as np
import pytest

from vbx.cache.feature import list_encoders
from vbx.cache.spec import EncoderSpec
from vbx.errors import UnknownName
from vbx.extract.audio import read_wave
from vbx.extract.encoder import load_encoder, resolve_spec
from vbx.extract.encoders import prosody
from vbx.extract.encoders.prosody import COLUMNS, track_pitch

RATE = 16000


def harmonic(f0: float, seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    partials = range(1, int(0.45 * rate / f0) + 1)
    tone = sum(np.sin(2 * np.pi * f0 * k * t + k) / k for k in partials)
    return (0.5 * tone / np.abs(tone).max()).astype(np.float32)


def functionals(wave: np.ndarray) -> dict[str, float]:
    encoder = load_encoder(resolve_spec(list_encoders()["prosody"], None))
    vector = encoder.encode([wave], ["functionals"])[0]["functionals"]
    assert vector.dtype == np.float32 and vector.shape == (5,)
    return dict(zip(COLUMNS, vector.tolist(), strict=True))


def semitones(f0: float) -> float:
    return float(12 * np.log2(f0 / 27.5))


@pytest.mark.parametrize("f0", [56.0, 82.4, 140.0, 220.0, 333.3, 500.0, 777.0, 990.0])
def test_pitch_of_a_steady_tone(f0: float) -> None:
    found = functionals(harmonic(f0))
    assert found["f0_mean"] == pytest.approx(semitones(f0), abs=0.1)
    assert found["f0_std"] < 0.05
    assert found["voiced_ratio"] == 1.0


def test_pitch_and_duty_of_bursts_in_noise() -> None:
    wave = harmonic(140, 5.0)
    t = np.arange(len(wave)) / RATE
    wave = wave * (t % 0.5 < 0.3) + 0.003 * np.random.default_rng(0).standard_normal(len(t)).astype(np.float32)
    found = functionals(wave.astype(np.float32))
    assert found["f0_mean"] == pytest.approx(semitones(140), abs=0.1)
    assert found["f0_std"] < 0.2
    assert found["voiced_ratio"] == pytest.approx(0.6, abs=0.06)


def test_deviation_of_a_vibrato() -> None:
    t = np.arange(4 * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(200 * 2 ** (2 * np.sin(2 * np.pi * 3 * t) / 12)) / RATE
    wave = (0.3 * sum(np.sin(k * phase) / k for k in range(1, 15))).astype(np.float32)
    found = functionals(wave)
    assert found["f0_mean"] == pytest.approx(semitones(200), abs=0.1)
    assert found["f0_std"] == pytest.approx(2 / np.sqrt(2), rel=0.05)  # of a sine of two semitones


@pytest.mark.parametrize("kind", ["white", "brown", "silence", "constant", "least bit"])
def test_no_voice(kind: str) -> None:
    noise = np.random.default_rng(1).standard_normal(2 * RATE)
    wave = {
        "white": 0.1 * noise,
        "brown": np.cumsum(noise) / 300,
        "silence": 0 * noise,
        "constant": 0 * noise + 0.5,
        "least bit": np.round(0.3 * noise) / 32768,
    }[kind]
    found = functionals(wave.astype(np.float32))
    assert found["voiced_ratio"] == 0.0
    assert found["f0_mean"] == 0.0 and found["f0_std"] == 0.0
    assert np.isfinite(list(found.values())).all()


def test_energy() -> None:
    sine = np.sin(2 * np.pi * 250 * np.arange(2 * RATE) / RATE).astype(np.float32)
    assert functionals(sine)["energy_mean"] == pytest.approx(-3.01, abs=0.01)
    assert functionals(sine / 10)["energy_mean"] == pytest.approx(-23.01, abs=0.01)
    assert functionals(sine / 10 + 0.2)["energy_mean"] == pytest.approx(-23.01, abs=0.01)
    assert functionals(sine)["energy_std"] == pytest.approx(0.0, abs=0.05)
    silence = functionals(np.zeros(RATE, np.float32))
    assert silence["energy_mean"] == -100.0 and silence["energy_std"] == 0.0
    half = functionals(np.concatenate([sine, 0 * sine]))
    assert half["energy_std"] == pytest.approx((100 - 3.01) / 2, rel=0.05)


def test_a_formant_is_not_the_pitch() -> None:
    t = np.arange(2 * RATE) / RATE
    wave = sum((8.0 if k == 4 else 1.0) * np.sin(2 * np.pi * 160 * k * t) for k in range(1, 12))  # at 640 Hz
    assert functionals((0.05 * wave).astype(np.float32))["f0_mean"] == pytest.approx(semitones(160), abs=0.1)


def test_a_quiet_hum_between_calls_is_not_voice() -> None:
    call, hum = harmonic(300, 1.0), harmonic(100, 1.0) / 300
    assert functionals(np.concatenate([call, hum]))["voiced_ratio"] == pytest.approx(0.5, abs=0.05)
    assert functionals(hum)["voiced_ratio"] == 1.0


def plain_yin(frame: np.ndarray, rate: int) -> float:
    """The difference function and its dips, lag by lag."""
    longest = int(np.ceil(rate / prosody.LOWEST_HZ)) + 1
    window = len(frame) - longest
    difference = [sum((frame[:window] - frame[lag : lag + window]) ** 2) for lag in range(longest + 1)]
    normalised = [1.0]
    for lag in range(1, longest + 1):
        normalised.append(difference[lag] * lag / sum(difference[1 : lag + 1]))
    lags = range(int(rate / prosody.HIGHEST_HZ), longest)
    dips = [lag for lag in lags if normalised[lag - 1] > normalised[lag] <= normalised[lag + 1]]
    deepest = min((normalised[lag] for lag in dips), default=1.0)
    if deepest >= prosody.APERIODICITY:
        return 0.0
    lag = next(lag for lag in dips if normalised[lag] < deepest + prosody.MARGIN)
    left, low, right = normalised[lag - 1 : lag + 2]
    return rate / (lag + (left - right) / (2 * (left - 2 * low + right)))


def test_against_plain_loops() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(3200) / RATE
    wave = sum(np.sin(2 * np.pi * k * (150 * t + 200 * t**2)) / k for k in range(1, 20))
    wave = (0.2 * wave + 0.05 * rng.standard_normal(len(t))).astype(np.float32)
    f0, level = track_pitch(wave, RATE)
    centred = (wave - wave.mean(dtype=float)).astype(float)
    frames = [centred[at : at + 1024] for at in range(0, len(wave) - 1023, 160)]
    np.testing.assert_allclose(f0, [plain_yin(frame, RATE) for frame in frames], rtol=1e-3)
    np.testing.assert_allclose(level, [10 * np.log10(np.mean(frame**2)) for frame in frames], atol=1e-3)
    assert (f0 > 0).sum() > 5


def test_real_speech_against_opensmile(corpora: Path) -> None:
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile("ComParE_2016", "lld")
    distances: list[float] = []
    for path in sorted((corpora / "emodb_4class" / "audio").rglob("*.wav"))[:8]:
        wave = read_wave(path)
        theirs = smile.process_signal(wave, RATE)["F0final_sma"].to_numpy()
        ours = track_pitch(wave, RATE)[0]
        rows = min(len(ours), len(theirs))
        both = (ours[:rows] > 0) & (theirs[:rows] > 0)
        assert both.sum() > 20
        distances += np.abs(12 * np.log2(ours[:rows][both] / theirs[:rows][both])).tolist()
    assert np.median(distances) < 0.1
    assert np.mean(np.array(distances) < 1) > 0.9


def test_other_sample_rates() -> None:
    f0, _ = track_pitch(harmonic(220, 1.0, 44100), 44100)
    np.testing.assert_allclose(f0, 220, rtol=1e-3)


def test_shortest_wave_and_batches() -> None:
    encoder = load_encoder(EncoderSpec("prosody", "yin"))
    assert encoder.min_samples == 1024
    waves = [harmonic(220)[:1024], harmonic(140, 7.0), np.zeros(1024, np.float32)]
    together = encoder.encode(waves, ["functionals"])
    for wave, outputs in zip(waves, together, strict=True):
        np.testing.assert_array_equal(outputs["functionals"], encoder.encode([wave], ["functionals"])[0]["functionals"])
    assert together[0]["functionals"][4] == 1.0


def test_spec() -> None:
    assert resolve_spec(EncoderSpec("prosody", "yin"), None).weights is None
    with pytest.raises(UnknownName, match="unknown pitch tracker 'pyin'; did you mean 'yin'"):
        load_encoder(EncoderSpec("prosody", "pyin"))
