"""Prosody: mean and deviation of pitch and energy, and how much is voiced. No weights; pitch by YIN."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import UnknownName
from vbx.extract.encoder import Encoded, Encoder, Output, Wave

IN_WORKERS = True
COLUMNS = ("f0_mean", "f0_std", "energy_mean", "energy_std", "voiced_ratio")
LOWEST_HZ, HIGHEST_HZ = 55.0, 1000.0
"""Range of the pitch: laughter and screams go far above speech (the range of eGeMAPS)."""
FRAME_S, HOP_S = 0.064, 0.010
"""A frame holds the longest period, 18 ms, as lag and 2.5 of it to compare."""
APERIODICITY = 0.3
"""A frame is voiced if its normalised difference dips below. The 0.1 of the paper is for a choice among dips, not for
voicing: on clips of EmoDB and EmoGator 0.3 agrees with ComParE in 90 % of frames, 0.1 in 75 %; noise never does."""
MARGIN = 0.05
"""The first dip so close to the deepest is the period: its multiples come later, what dips less before is a formant."""
FLOOR_DB = -100.0
GATE_DB, SILENCE_DB = 40.0, -80.0
"""A frame this much below the loudest one, or below -80 dBFS, is not voiced."""
REFERENCE_HZ = 27.5
"""Zero semitones, as in eGeMAPS: A0."""
BLOCK = 64
"""Frames transformed at once: they fit into the processor's cache, and an hour into the memory."""


class Prosody(Encoder):
    """Five numbers about pitch and energy.

    - `f0_mean`, `f0_std`: over voiced frames, in semitones above 27.5 Hz; **both 0 where no frame is voiced**, which
      `voiced_ratio == 0` tells: mask them there if they are targets
    - `energy_mean`, `energy_std`: of the level of all frames, in dB of full scale (root mean square, after the mean of
      the waveform is removed), at least -100
    - `voiced_ratio`: voiced frames over all frames
    """

    speed = 500.0

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self.outputs = (Output("functionals", COLUMNS),)
        self.min_samples = round(FRAME_S * spec.sample_rate)

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`."""
        results: list[Encoded] = []
        for wave in waves:
            f0, level = track_pitch(wave, self.spec.sample_rate)
            voiced = f0[f0 > 0]
            pitch = 12 * np.log2(voiced / REFERENCE_HZ) if len(voiced) else np.zeros(1)
            numbers = [pitch.mean(), pitch.std(), level.mean(), level.std(), len(voiced) / len(f0)]
            results.append({name: np.array(numbers, np.float32) for name in wanted})
        return results


def track_pitch(wave: Wave, sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Track the fundamental frequency by YIN.

    de Cheveigné and Kawahara 2002, doi:10.1121/1.1458024: the difference function (eq. 6; its products through the
    Fourier transform), its cumulative mean normalisation (eq. 8), the first minimum below a threshold (section
    II D, here relative to the deepest), parabolic interpolation (section II E).

    Args:
        wave: `(T,)`, at least 64 ms
        sample_rate: in Hz

    Returns:
        `(F,)` fundamental frequency in Hz, 0 where a frame is not voiced, and `(F,)` level in dB of full scale, of
        frames of 64 ms each 10 ms

    Examples:
        >>> tone = np.sin(2 * np.pi * 220 * np.arange(8000) / 16000).astype(np.float32)
        >>> f0, level = track_pitch(tone, 16000)
        >>> bool(np.allclose(f0, 220, atol=0.5)), float(level.mean().round(1))
        (True, -3.0)
    """
    size, hop = round(FRAME_S * sample_rate), round(HOP_S * sample_rate)
    centred = (wave - wave.mean(dtype=np.float64)).astype(np.float32)
    frames = sliding_window_view(centred, size)[::hop]
    longest = int(np.ceil(sample_rate / LOWEST_HZ)) + 1
    window = size - longest
    power = np.concatenate([[0.0], np.cumsum(centred.astype(np.float64) ** 2)])
    # Rounding may leave a power of silence a hair below zero.
    mean_square = np.maximum((power[size:] - power[:-size])[::hop], 0.0) / size
    level = np.maximum(10 * np.log10(np.maximum(mean_square, 1e-30)), FLOOR_DB)
    powers = sliding_window_view(power[window:] - power[:-window], longest + 1)[::hop]
    f0 = np.concatenate(
        [
            _yin(frames[at : at + BLOCK], powers[at : at + BLOCK], window, sample_rate)
            for at in range(0, len(frames), BLOCK)
        ]
    )
    f0[level < max(level.max() - GATE_DB, SILENCE_DB)] = 0.0
    return f0, level


def _yin(
    frames: NDArray[np.float32], powers: NDArray[np.float64], window: int, sample_rate: int
) -> NDArray[np.float64]:
    """Fundamental frequency of frames `(F, size)`, 0 where there is no minimum below the threshold.

    `powers[f, lag]` is the power of the window at `lag`; the transform is as long as a frame, so no lag wraps round.
    """
    size, lags = frames.shape[1], powers.shape[1]
    head = np.fft.rfft(frames[:, :window], n=size)
    products = np.fft.irfft(np.fft.rfft(frames) * head.conj(), n=size)[:, :lags]
    difference = np.maximum(powers[:, :1] + powers - 2 * products, 0.0)
    difference[:, 0] = 0.0
    total = np.cumsum(difference, axis=1)
    normalised = np.ones_like(difference)
    np.divide(difference * np.arange(lags), total, out=normalised, where=total > 0)
    before, here, after = normalised[:, :-2], normalised[:, 1:-1], normalised[:, 2:]
    shortest = int(sample_rate / HIGHEST_HZ)
    dips = (here < before) & (here <= after)
    dips[:, : shortest - 1] = False
    deepest = np.where(dips, here, np.inf).min(axis=1)
    dips &= (here < deepest[:, None] + MARGIN) & (deepest[:, None] < APERIODICITY)
    lag = dips.argmax(axis=1)
    rows = np.arange(len(frames))
    left, low, right = before[rows, lag], here[rows, lag], after[rows, lag]
    curve = left - 2 * low + right
    shift = np.divide(left - right, 2 * curve, out=np.zeros(len(rows)), where=curve > 0)
    return np.where(dips.any(axis=1), sample_rate / (lag + 1 + shift), 0.0)


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """Prosody has no weights."""
    return None


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Make the encoder; it runs on the CPU whatever the device.

    Raises:
        UnknownName: if there is no such pitch tracker
    """
    if spec.model != "yin":
        raise UnknownName("pitch tracker", spec.model, ["yin"])
    return Prosody(spec)
