"""Audio in: any file becomes a waveform, float32 mono at the rate an encoder wants, or an AudioError says why not."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from vbx.errors import AudioError, UnknownName
from vbx.extract.decoding import Source, count_frames, decode_sound, open_sound
from vbx.extract.encoder import Wave
from vbx.extract.ffmpeg import is_container, open_container
from vbx.extract.headers import find_cut

RESAMPLERS = ("soxr-QQ", "soxr-LQ", "soxr-MQ", "soxr-HQ", "soxr-VHQ")
NORMALISATIONS = ("none", "peak")
TOLERANCE_S = 0.01
"""By how much a segment may end after its file does: tables round their times."""


def read_wave(
    path: str | Path,
    sample_rate: int = 16000,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: str = "mix",
    resampler: str = "soxr-HQ",
) -> Wave:
    """Read a waveform.

    Its length is what decodes, whatever the header says. A segment is a slice of the whole decode, to the sample at
    the file's own rate, and is resampled by itself. Decoding and resampling go block by block (and give bit for bit
    what they would give at once), so an hour takes little more than the memory of its result, 230 MB at 16 kHz.

    Args:
        path: a file that libsndfile reads (WAV, FLAC, MP3, Ogg, Opus, AIFF, SPHERE, ...) or, with the extra `av`,
            one that FFmpeg reads (m4a, mp4, aac, wma, webm, ...)
        sample_rate: rate of the result, in Hz
        start_s: begin of the segment, in seconds
        end_s: end of the segment, in seconds; None for the end of the file
        channel: `mix` for the mean of all channels, or the number of one, from `0`
        resampler: `soxr-QQ`, `-LQ`, `-MQ`, `-HQ` or `-VHQ`

    Returns:
        `(T,)` float32, mono, finite, full scale 1, never empty

    Raises:
        AudioError: if the file is absent, empty, not audio, truncated or damaged, has no samples, has samples that
            are not finite, has no such channel, or ends more than 10 ms before the segment does
        UnknownName: if there is no such resampler, or `channel` is neither `mix` nor a number

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        ...     soundfile.write(file.name, np.zeros((48000, 2)), 48000)
        ...     read_wave(file.name, 16000, start_s=0.25).shape
        (12000,)
    """
    if resampler not in RESAMPLERS:
        raise UnknownName("resampler", resampler, RESAMPLERS)
    if channel != "mix" and not channel.isdecimal():
        raise UnknownName("channel", channel, ["mix", "0", "1"])
    path = Path(path)
    if not (start_s >= 0 and (end_s is None or end_s > start_s)):
        raise AudioError(f"segment {_span(start_s, end_s)} of {str(path)!r} is empty or begins before the file")
    with _open(path, start_s) as source:
        if channel != "mix" and int(channel) >= source.channels:
            raise AudioError(f"{str(path)!r} has no channel {channel}: it has {source.channels}, counted from 0")
        chunks = _finite(_mono(_segment(source, path, start_s, end_s), channel), path, start_s, source.sample_rate)
        if sample_rate != source.sample_rate:
            chunks = _resampled(chunks, source.sample_rate, sample_rate, resampler)
        seconds = source.frames / source.sample_rate
        wave = _collect(chunks, min(seconds if end_s is None else end_s, seconds) - start_s, sample_rate)
    if not len(wave):
        raise AudioError(
            f"segment {_span(start_s, end_s)} of {str(path)!r} is shorter than a sample at {sample_rate} Hz"
        )
    return wave


def normalise(wave: Wave, how: str) -> Wave:
    """Scale a waveform.

    Args:
        wave: `(T,)`
        how: `none`, or `peak`: divided by its largest magnitude, as `librosa.util.normalize` does it; silence (no
            magnitude above the smallest normal float32, 1.2e-38) stays as it is

    Returns:
        `(T,)` float32

    Raises:
        UnknownName: if `how` is neither

    Examples:
        >>> normalise(np.array([0.0, -0.5, 0.25], np.float32), "peak")
        array([ 0. , -1. ,  0.5], dtype=float32)
    """
    if how not in NORMALISATIONS:
        raise UnknownName("normalisation", how, NORMALISATIONS)
    peak = np.abs(wave).max(initial=0.0)
    if how == "none" or peak < np.finfo(np.float32).tiny:
        return wave
    return wave / np.float32(peak)


def header_seconds(path: str | Path) -> float | None:
    """Length of a file as its header has it, in seconds; None if libsndfile cannot tell.

    An estimate for planning: an MP3 without a Xing header, for one, is only guessed at.
    """
    try:
        with Path(path).open("rb", buffering=0) as file, open_sound(file, os.fstat(file.fileno()).st_size) as sound:
            return count_frames(sound) / float(sound.samplerate) or None
    except (OSError, ValueError, soundfile.SoundFileError):
        return None


@contextmanager
def _open(path: Path, start_s: float) -> Iterator[Source]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb", buffering=0))
        except FileNotFoundError:
            raise AudioError(f"there is no file {str(path)!r}") from None
        except IsADirectoryError:
            raise AudioError(f"{str(path)!r} is a folder, not an audio file") from None
        except OSError as error:
            raise AudioError(f"{str(path)!r} cannot be opened: {error.strerror}") from None
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise AudioError(f"{str(path)!r} is empty: it has 0 bytes")
        cut = find_cut(file, size)
        if cut:
            raise AudioError(f"{str(path)!r} is truncated: {cut}")
        try:
            sound = stack.enter_context(open_sound(file, size))
        except soundfile.LibsndfileError as error:
            file.seek(0)
            if not is_container(path, file.read(12)):
                reason = error.error_string.rstrip(".")
                raise AudioError(f"{str(path)!r} is not audio that libsndfile can read: {reason}") from None
            yield stack.enter_context(open_container(path))
            return
        yield decode_sound(sound, path, start_s)


def _segment(source: Source, path: Path, start_s: float, end_s: float | None) -> Iterator[NDArray[Any]]:
    """The blocks between two times."""
    first = round(start_s * source.sample_rate)
    last = math.inf if end_s is None else round(end_s * source.sample_rate)
    at = source.first
    for block in source.blocks:
        begin, at = at, at + len(block)
        yield block[max(first - begin, 0) : int(min(max(last - begin, 0), len(block)))]
        if at >= last:
            return
    if at == 0:
        raise AudioError(f"{str(path)!r} has no samples")
    if at <= first or (end_s is not None and at < last - TOLERANCE_S * source.sample_rate):
        raise AudioError(
            f"segment {_span(start_s, end_s)} reaches beyond the end of {str(path)!r}, which is "
            f"{at / source.sample_rate:.3f} s long"
        )


def _mono(blocks: Iterable[NDArray[Any]], channel: str) -> Iterator[Wave]:
    """One channel, or the mean of all; full scale 1."""
    for block in blocks:
        wanted = block if channel == "mix" else block[:, int(channel), None]
        # Column by column: numpy's mean over such short rows is twenty times slower.
        wave = wanted[:, 0].astype(np.float32)
        for column in range(1, wanted.shape[1]):
            wave += wanted[:, column]
        wave /= np.float32(wanted.shape[1] * (32768 if block.dtype == np.int16 else 1))
        yield wave


def _finite(chunks: Iterable[Wave], path: Path, start_s: float, rate: int) -> Iterator[Wave]:
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
            f"{str(path)!r} has {count} samples that are not finite (NaN or infinite), the first at "
            f"{start_s + place / rate:.3f} s"
        )


def _resampled(chunks: Iterable[Wave], rate: int, sample_rate: int, resampler: str) -> Iterator[Wave]:
    quality = resampler.removeprefix("soxr-")
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=quality)
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _collect(chunks: Iterable[Wave], expected_s: float, sample_rate: int) -> Wave:
    """One array of all chunks, grown in place: a list joined at the end would take its memory twice."""
    wave = np.empty(int(min(max(expected_s, 0.0) * sample_rate + 2, 2**28)), np.float32)  # a header may say anything
    count = 0
    for chunk in chunks:
        if count + len(chunk) > len(wave):
            wave.resize(count + len(chunk) + len(wave) // 4, refcheck=False)
        wave[count : count + len(chunk)] = chunk
        count += len(chunk)
    wave.resize(count, refcheck=False)
    return wave


def _span(start_s: float, end_s: float | None) -> str:
    return f"from {start_s:.3f} s to {'the end' if end_s is None else format(end_s, '.3f') + ' s'}"
