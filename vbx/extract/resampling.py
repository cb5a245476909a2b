"""From the blocks of an open file to one waveform: the segment, mono, checked, resampled."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from vbx.errors import AudioError
from vbx.extract.decoding import Source
from vbx.extract.encoder import Wave

TOLERANCE_S = 0.01
"""By how much a segment may end after its file does: tables round their times."""
LOWEST_HZ, HIGHEST_HZ = 1000, 10_000_000
"""No recorder has another sample rate; a damaged header that says 1 Hz would take 16,000 times the memory."""


@dataclass(frozen=True)
class Wanted:
    """What a caller of `read_wave` asked for.

    Attributes:
        path: the file, for errors
        sample_rate: rate of the result, in Hz
        start_s: begin of the segment, in seconds
        end_s: end of the segment, in seconds; None for the end of the file
        channel: `mix`, or the number of one
        quality: soxr's, `HQ` for one
    """

    path: Path
    sample_rate: int
    start_s: float
    end_s: float | None
    channel: str
    quality: str


def to_wave(source: Source, wanted: Wanted) -> Wave:
    """Read the samples of an open file as they were asked for.

    Args:
        source: the open file
        wanted: what of it, and how

    Returns:
        `(T,)` float32, mono, finite, never empty

    Raises:
        AudioError: if that is not in the file
    """
    name, rate, channel = str(wanted.path), source.sample_rate, wanted.channel
    if not LOWEST_HZ <= rate <= HIGHEST_HZ:
        raise AudioError(f"{name!r} has a sample rate of {rate} Hz: its header must be damaged")
    if channel != "mix" and int(channel) >= source.channels:
        raise AudioError(f"{name!r} has no channel {channel}: it has {source.channels}, counted from 0")
    chunks = _mono(_segment(source, wanted), wanted)
    if not source.finite:
        chunks = _finite(chunks, wanted, rate)
    seconds = source.frames / rate
    expected_s = (seconds if wanted.end_s is None else min(wanted.end_s, seconds)) - wanted.start_s
    if rate != wanted.sample_rate:
        chunks = _resampled(chunks, rate, wanted)
    wave = _collect(chunks, max(expected_s, 0.0) * wanted.sample_rate)
    if not len(wave):
        place = span(wanted.start_s, wanted.end_s)
        raise AudioError(f"segment {place} of {name!r} is shorter than a sample at {wanted.sample_rate} Hz")
    if not (source.finite or np.isfinite(wave).all()):
        raise AudioError(f"{name!r} has samples too large to be resampled: full scale is 1")
    return wave


def _segment(source: Source, wanted: Wanted) -> Iterator[NDArray[Any]]:
    """The blocks between two times."""
    name, start_s, end_s = str(wanted.path), wanted.start_s, wanted.end_s
    first = round(start_s * source.sample_rate)
    last = math.inf if end_s is None else round(end_s * source.sample_rate)
    at = source.first
    for block in source.blocks:
        begin, at = at, at + len(block)
        inside = begin >= first and at <= last
        yield block if inside else block[max(first - begin, 0) : int(min(max(last - begin, 0), len(block)))]
        if at >= last:
            return
    if at == 0:
        raise AudioError(f"{name!r} has no samples")
    if at <= first or (end_s is not None and at < last - TOLERANCE_S * source.sample_rate):
        raise AudioError(
            f"segment {span(start_s, end_s)} reaches beyond the end of {name!r}, which is "
            f"{at / source.sample_rate:.3f} s long"
        )


def _mono(blocks: Iterable[NDArray[Any]], wanted: Wanted) -> Iterator[Wave]:
    """One channel, or the mean of all; full scale 1."""
    mix, number = wanted.channel == "mix", 0 if wanted.channel == "mix" else int(wanted.channel)
    for block in blocks:
        if number >= block.shape[1]:  # a stream of packets may change on its way
            raise AudioError(f"{str(wanted.path)!r} has no channel {number} all along")
        columns = block if mix else block[:, number, None]
        count, full_scale = columns.shape[1], 32768 if block.dtype == np.int16 else 1
        # Column by column: numpy's mean over such short rows is twenty times slower.
        if count > 1:
            with np.errstate(invalid="ignore", over="ignore"):  # infinity is found later, and said in words
                wave = np.add(columns[:, 0], columns[:, 1], dtype=np.float32)
                for column in range(2, count):
                    wave += columns[:, column]
                wave /= np.float32(count * full_scale)
            yield wave
        elif full_scale > 1:
            yield np.multiply(columns[:, 0], np.float32(1 / full_scale), dtype=np.float32)
        else:
            yield np.ascontiguousarray(columns[:, 0])


def _finite(chunks: Iterable[Wave], wanted: Wanted, rate: int) -> Iterator[Wave]:
    """The same chunks; at their end an error if any sample was not finite."""
    count, at, place = 0, 0, 0
    for chunk in chunks:
        if not np.isfinite(chunk).all():
            bad = ~np.isfinite(chunk)
            place = place if count else at + int(bad.argmax())
            count += int(bad.sum())
        at += len(chunk)
        yield chunk
    if count:
        raise AudioError(
            f"{str(wanted.path)!r} has {count} samples that are not finite (NaN or infinite), the first at "
            f"{wanted.start_s + place / rate:.3f} s"
        )


def _resampled(chunks: Iterable[Wave], rate: int, wanted: Wanted) -> Iterator[Wave]:
    stream = soxr.ResampleStream(rate, wanted.sample_rate, 1, dtype="float32", quality=wanted.quality)
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _collect(chunks: Iterable[Wave], expected: float) -> Wave:
    """One array of all chunks, grown in place: a list joined at the end would take its memory twice."""
    wave = np.empty(int(min(expected + 2, 2**26)), np.float32)  # a header may say anything
    count = 0
    for chunk in chunks:
        if count + len(chunk) > len(wave):
            wave.resize(count + len(chunk) + len(wave) // 4, refcheck=False)
        wave[count : count + len(chunk)] = chunk
        count += len(chunk)
    wave.resize(count, refcheck=False)
    return wave


def span(start_s: float, end_s: float | None) -> str:
    """A segment, for errors."""
    return f"from {start_s:.3f} s to {'the end' if end_s is None else format(end_s, '.3f') + ' s'}"
