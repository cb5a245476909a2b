"""One burst: each property of a voice is measured in the sound."""

from dataclasses import replace

import numpy as np
import pytest

from vbx.extract.encoders.prosody import track_pitch
from vbx.extract.voice import SAMPLE_RATE, Voice, synthesise_burst

PLAIN = Voice(
    seconds=1.5,
    calls=1,
    pause=0.05,
    f0_hz=150.0,
    contour="arch",
    contour_st=0.0,
    rise_st=0.0,
    formants_hz=(500.0, 1500.0, 2500.0, 3500.0, 4500.0, 5500.0, 6500.0),
    cutoff_hz=1200.0,
    level_db=-25.0,
    breath=0.02,
    jitter=0.002,
    roughness=0.0,
    tremor_st=0.0,
    laughter=0.0,
)


def burst(**changes: object) -> np.ndarray:
    return synthesise_burst(replace(PLAIN, **changes), np.random.default_rng(0))  # type: ignore[arg-type]


def semitones(wave: np.ndarray) -> np.ndarray:
    """Pitch of the voiced frames relative to that of the plain voice; its last formant may ring on, voiced."""
    f0, _ = track_pitch(wave[: int(0.9 * len(wave))], SAMPLE_RATE)
    return np.asarray(12 * np.log2(f0[f0 > 0] / PLAIN.f0_hz))


def modulation(wave: np.ndarray, rate: float) -> float:
    """Depth at which the amplitude, smoothed over 8 ms, is modulated at a rate, relative to its mean."""
    middle = np.abs(wave[4000:-8000])
    smooth = np.convolve(middle, np.ones(128) / 128, "same")
    t = np.arange(len(smooth)) / SAMPLE_RATE
    return float(2 * np.abs(np.mean(smooth * np.exp(-2j * np.pi * rate * t))) / smooth.mean())


def power(wave: np.ndarray, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    return float(10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].sum()))


def test_format() -> None:
    wave = burst()
    assert wave.dtype == np.float32 and wave.shape == (24000,) and np.abs(wave).max() < 1
    assert len(burst(seconds=0.4)) == 6400
    np.testing.assert_array_equal(wave, burst())
    assert np.abs(burst(level_db=20.0)).max() <= 1


@pytest.mark.parametrize("f0", [80.0, 150.0, 400.0])
def test_pitch(f0: float) -> None:
    found = semitones(burst(f0_hz=f0))
    assert np.median(found) == pytest.approx(12 * np.log2(f0 / 150), abs=0.1)
    assert len(found) > 115


@pytest.mark.parametrize(("contour", "begin", "middle"), [("rise", -4, 0), ("fall", 4, 0), ("arch", -4, 4)])
def test_contour(contour: str, begin: float, middle: float) -> None:
    found = semitones(burst(contour=contour, contour_st=8.0))
    assert found[3] == pytest.approx(begin, abs=1.2)
    assert found[70] == pytest.approx(middle, abs=0.6)


def test_dip_is_an_arch_upside_down() -> None:
    up, down = (semitones(burst(contour=kind, contour_st=6.0))[10:110] for kind in ("arch", "dip"))
    np.testing.assert_allclose(up, -down, atol=0.3)


def test_rise_and_tremor() -> None:
    found = semitones(burst(rise_st=10.0))
    assert np.polyfit(np.arange(len(found)) / 100, found, 1)[0] == pytest.approx(10 / 1.5, rel=0.1)
    assert semitones(burst(tremor_st=0.5)).std() > 3 * semitones(burst()).std()


def test_level() -> None:
    wave = burst(level_db=-20.0)
    assert 20 * np.log10(np.sqrt(np.mean(wave[3000:15000] ** 2))) == pytest.approx(-20, abs=1)
    louder = burst(level_db=-10.0)
    assert np.sqrt(np.mean(louder**2) / np.mean(wave**2)) == pytest.approx(10**0.5, rel=0.01)


def test_calls_and_pause() -> None:
    for calls in (1, 2, 4):
        smooth = np.convolve(np.abs(burst(calls=calls, pause=0.2)), np.ones(400) / 400, "same")
        loud = smooth > 0.1 * smooth.max()
        assert np.sum(loud[1:] & ~loud[:-1]) == calls
    assert np.abs(burst(pause=0.4)[int(0.65 * 24000) :]).max() < 0.02 * np.abs(burst()).max()


def test_laughter_and_roughness() -> None:
    assert modulation(burst(laughter=0.9), 5) > 0.5 > 3 * modulation(burst(), 5)
    assert modulation(burst(roughness=0.9), 70) > 0.3 > 3 * modulation(burst(), 70)


def test_timbre() -> None:
    assert power(burst(cutoff_hz=2400), 2000, 4000) > power(burst(), 2000, 4000) + 6
    assert power(burst(breath=0.4), 5000, 8000) > power(burst(), 5000, 8000) + 10
    low, high = (burst(formants_hz=(f, *PLAIN.formants_hz[1:])) for f in (300.0, 700.0))
    assert power(low, 225, 375) > power(high, 225, 375) + 3
    assert power(high, 600, 800) > power(low, 600, 800) + 3


def test_no_aliasing() -> None:
    # Between the harmonics of a steady voice there is nothing but breath and the noise of the room.
    steady = burst(f0_hz=200.0, jitter=0.0, breath=0.0, cutoff_hz=3000.0)[2000:18000]  # a second
    spectrum = np.abs(np.fft.rfft(steady * np.hanning(len(steady))))
    between = np.concatenate([spectrum[at + 60 : at + 140] for at in range(1000, 6000, 200)])
    assert between.max() < 0.01 * spectrum.max()


def test_jitter() -> None:
    assert semitones(burst(jitter=0.02)).std() > 2 * semitones(burst()).std()
