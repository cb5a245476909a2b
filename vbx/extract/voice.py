"""A made-up vocal burst: pulses and breath through the resonances of a vocal tract."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbx.extract.encoder import Wave

SAMPLE_RATE = 16000
HUM_DB = -70.0
"""Level of the noise of the room, dB of full scale."""


@dataclass(frozen=True)
class Voice:
    """Everything that is heard in one burst.

    Attributes:
        seconds: length
        calls: how many calls it consists of
        f0_hz: middle of the fundamental frequency
        pause: share of each call that is silent at its end
        contour: what the pitch does within each call: `arch`, `dip`, `fall` or `rise`
        contour_st: how far, in semitones
        rise_st: how far the pitch rises from the begin to the end of the burst, in semitones
        formants_hz: the resonances
        cutoff_hz: brightness: the spectrum of the pulses falls to 1/e there
        level_db: level while it sounds, dB of full scale
        breath: root mean square of the breath relative to that of the pulses
        jitter: deviation of the fundamental frequency from cycle to cycle, as a share; amplitudes deviate six times so
        roughness: depth of a modulation of the amplitude at 70 Hz, 0 to 1
        tremor_st: depth of a modulation of the pitch at 6.5 Hz, in semitones
        laughter: depth of a modulation of the amplitude at 5 Hz, 0 to 1
    """

    seconds: float
    calls: int
    pause: float
    f0_hz: float
    contour: str
    contour_st: float
    rise_st: float
    formants_hz: tuple[float, ...]
    cutoff_hz: float
    level_db: float
    breath: float
    jitter: float
    roughness: float
    tremor_st: float
    laughter: float


def synthesise_burst(voice: Voice, rng: np.random.Generator) -> Wave:
    """Synthesise one burst.

    Source and filter: the pulses are `exp(c (cos phase - 1))`, whose harmonics fall as `exp(-(f / cutoff)^2)` for
    `c = (cutoff / f0)^2 / 2` (asymptotics of the Bessel functions in their Fourier series), so they do not alias;
    the resonators are those of Klatt 1980, doi:10.1121/1.383940, equations 1 and 2.

    Args:
        voice: how it sounds
        rng: for jitter, breath and the noise of the room

    Returns:
        `(T,)` float32 at 16 kHz, within full scale
    """
    count = round(voice.seconds * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    place = time / voice.seconds * voice.calls % 1.0  # within the call, 0 to 1
    cycles = _slow_noise(count, rng)
    semitones = (
        voice.contour_st * _contour(voice.contour, place)
        + voice.rise_st * (time / voice.seconds - 0.5)
        + voice.tremor_st * np.sin(2 * np.pi * 6.5 * time)
    )
    f0 = voice.f0_hz * 2.0 ** (semitones / 12) * (1 + voice.jitter * cycles)
    pulses = np.exp((voice.cutoff_hz / f0) ** 2 / 2 * (np.cos(2 * np.pi * np.cumsum(f0) / SAMPLE_RATE) - 1))
    pulses -= pulses.mean()
    pulses /= pulses.std()
    pulses *= 1 + 6 * voice.jitter * _slow_noise(count, rng)
    pulses *= 1 - voice.roughness * (0.5 + 0.5 * np.sin(2 * np.pi * 70 * time))
    breath = voice.breath * rng.standard_normal(count)
    envelope = _envelope(place, voice.seconds / voice.calls, voice.pause)
    envelope *= 1 - voice.laughter * (0.5 - 0.5 * np.cos(2 * np.pi * 5 * time))
    sound = _resonate((pulses + breath) * envelope, voice.formants_hz)
    loudness = np.sqrt(np.mean(sound**2) / np.mean(envelope**2))
    sound *= 10 ** (voice.level_db / 20) / loudness
    sound += 10 ** (HUM_DB / 20) * rng.standard_normal(count)
    return np.clip(sound, -1.0, 32767 / 32768).astype(np.float32)


def _contour(kind: str, place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch within a call, from -0.5 to 0.5."""
    shapes = {
        "arch": np.sin(np.pi * place) - 0.5,
        "dip": 0.5 - np.sin(np.pi * place),
        "fall": 0.5 - place,
        "rise": place - 0.5,
    }
    return shapes[kind]


def _envelope(place: NDArray[np.float64], seconds: float, pause: float) -> NDArray[np.float64]:
    """Amplitude within a call: in within 20 ms, out over a quarter of the call, then silence."""
    attack = np.minimum(place * seconds / 0.02, 1.0)
    release = np.clip((1 - pause - place) / 0.25, 0.0, 1.0)
    return attack * np.sqrt(release)


def _slow_noise(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal noise that changes each 5 ms, about a cycle of a voice."""
    knots = rng.standard_normal(count // 80 + 2)
    return np.interp(np.arange(count) / 80, np.arange(len(knots)), knots)


def _resonate(source: NDArray[np.float64], formants_hz: tuple[float, ...]) -> NDArray[np.float64]:
    """Send a source through resonators one after the other, by the Fourier transform."""
    size = 2 ** int(np.ceil(np.log2(len(source) + 2048)))  # their ringing must not wrap round
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    spectrum = np.fft.rfft(source, size)
    for formant in formants_hz:
        bandwidth = 50 + 0.05 * formant  # Hz; of the order of Klatt's
        c = -np.exp(-2 * np.pi * bandwidth / SAMPLE_RATE)
        b = 2 * np.exp(-np.pi * bandwidth / SAMPLE_RATE) * np.cos(2 * np.pi * formant / SAMPLE_RATE)
        spectrum *= (1 - b - c) / (1 - b * z - c * z**2)
    return np.fft.irfft(spectrum, size)[: len(source)]
