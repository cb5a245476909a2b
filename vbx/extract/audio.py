"""Audio in: any file becomes a waveform, float32 mono at the rate an encoder wants, or an AudioError says why not."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from vbx.errors import AudioError, UnknownName
from vbx.extract.decoding import SHORT, Source, count_frames, decode_sound, open_sound
from vbx.extract.encoder import Wave
from vbx.extract.ffmpeg import is_container, open_container
from vbx.extract.headers import Header, read_header
from vbx.extract.plain import decode_plain

RESAMPLERS = ("soxr-QQ", "soxr-LQ", "soxr-MQ", "soxr-HQ", "soxr-VHQ")
NORMALISATIONS = ("none", "peak")
TOLERANCE_S = 0.01
"""By how much a segment may end after its file does: tables round their times."""
LOWEST_HZ, HIGHEST_HZ = 1000, 10_000_000
"""No recorder has another sample rate; a damaged header that says 1 Hz would take 16,000 times the memory."""


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
    wanted = _Wanted(path, sample_rate, start_s, end_s, channel, resampler.removeprefix("soxr-"))
    with _open_file(path) as file:
        header = _read_header(file, path)
        if header.plain:
            rate = header.plain.sample_rate
            last = math.inf if end_s is None else round(end_s * rate)
            return _to_wave(decode_plain(file, header.plain, path, (round(start_s * rate), last)), wanted)
        with _open_source(file, header, path, start_s) as source:
            return _to_wave(source, wanted)


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
        with Path(path).open("rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
            if header.plain:
                return header.plain.frames / header.plain.sample_rate
            with open_sound(file, header.unset) as sound:
                return count_frames(sound) / float(sound.samplerate) or None
    except (OSError, ValueError, soundfile.SoundFileError):
        return None


@dataclass(frozen=True)
class _Wanted:
    """What a caller of `read_wave` asked for."""

    path: Path
    sample_rate: int
    start_s: float
    end_s: float | None
    channel: str
    quality: str


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise AudioError(f"there is no file {str(path)!r}") from None
    except IsADirectoryError:
        raise AudioError(f"{str(path)!r} is a folder, not an audio file") from None
    except OSError as error:
        raise AudioError(f"{str(path)!r} cannot be opened: {error.strerror}") from None


def _read_header(file: BinaryIO, path: Path) -> Header:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise AudioError(f"{str(path)!r} is empty: it has 0 bytes")
    try:
        header = read_header(file, size)
    except OSError as error:
        raise AudioError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if header.cut:
        raise AudioError(f"{str(path)!r} is truncated: {header.cut}")
    return header


@contextmanager
def _open_source(file: BinaryIO, header: Header, path: Path, start_s: float) -> Iterator[Source]:
    with ExitStack() as stack:
        try:
            sound = stack.enter_context(open_sound(file, header.unset))
        except soundfile.LibsndfileError as error:
            file.seek(0)
            if not is_container(path, file.read(12)):
                reason = error.error_string.rstrip(".")
                raise AudioError(f"{str(path)!r} is not audio that libsndfile can read: {reason}") from None
            yield stack.enter_context(open_container(path))
            return
        yield decode_sound(sound, path, start_s)


def _to_wave(source: Source, wanted: _Wanted) -> Wave:
    """The samples of an open file as they were asked for."""
    name, rate, channel = str(wanted.path), source.sample_rate, wanted.channel
    if not LOWEST_HZ <= rate <= HIGHEST_HZ:
        raise AudioError(f"{name!r} has a sample rate of {rate} Hz: its header must be damaged")
    if channel != "mix" and int(channel) >= source.channels:
        raise AudioError(f"{name!r} has no channel {channel}: it has {source.channels}, counted from 0")
    chunks = _mono(_segment(source, wanted), channel)
    if not source.finite:
        chunks = _finite(chunks, wanted, rate)
    seconds = source.frames / rate
    expected_s = (seconds if wanted.end_s is None else min(wanted.end_s, seconds)) - wanted.start_s
    if 0 < expected_s * rate <= SHORT:
        wave = _resample_clip(list(chunks), rate, wanted)
    else:
        wave = _collect(_resampled(chunks, rate, wanted), max(expected_s, 0.0) * wanted.sample_rate)
    if not len(wave):
        span = _span(wanted.start_s, wanted.end_s)
        raise AudioError(f"segment {span} of {name!r} is shorter than a sample at {wanted.sample_rate} Hz")
    return wave


def _segment(source: Source, wanted: _Wanted) -> Iterator[NDArray[Any]]:
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
            f"segment {_span(start_s, end_s)} reaches beyond the end of {name!r}, which is "
            f"{at / source.sample_rate:.3f} s long"
        )


def _mono(blocks: Iterable[NDArray[Any]], channel: str) -> Iterator[Wave]:
    """One channel, or the mean of all; full scale 1."""
    for block in blocks:
        wanted = block if channel == "mix" else block[:, int(channel), None]
        count, full_scale = wanted.shape[1], 32768 if block.dtype == np.int16 else 1
        # Column by column: numpy's mean over such short rows is twenty times slower.
        if count > 1:
            wave = np.add(wanted[:, 0], wanted[:, 1], dtype=np.float32)
            for column in range(2, count):
                wave += wanted[:, column]
            wave /= np.float32(count * full_scale)
            yield wave
        elif full_scale > 1:
            yield np.multiply(wanted[:, 0], np.float32(1 / full_scale), dtype=np.float32)
        else:
            yield np.ascontiguousarray(wanted[:, 0])


def _finite(chunks: Iterable[Wave], wanted: _Wanted, rate: int) -> Iterator[Wave]:
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


def _resample_clip(chunks: list[Wave], rate: int, wanted: _Wanted) -> Wave:
    """A short clip in one piece: the same values, without the price of a stream."""
    wave = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    if rate != wanted.sample_rate:
        return soxr.resample(wave, rate, wanted.sample_rate, wanted.quality)  # type: ignore[no-any-return]
    # A view would keep all of what it was cut from.
    return wave if wave.base is None or wave.base.nbytes == wave.nbytes else wave.copy()


def _resampled(chunks: Iterable[Wave], rate: int, wanted: _Wanted) -> Iterator[Wave]:
    if rate == wanted.sample_rate:
        yield from chunks
        return
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


def _span(start_s: float, end_s: float | None) -> str:
    return f"from {start_s:.3f} s to {'the end' if end_s is None else format(end_s, '.3f') + ' s'}"
