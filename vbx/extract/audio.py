"""Audio in: any file becomes a waveform, float32 mono at the rate an encoder wants, or an AudioError says why not."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from vbx.errors import AudioError, UnknownName
from vbx.extract.decoding import Source, count_frames, decode_sound, open_sound
from vbx.extract.encoder import Wave
from vbx.extract.ffmpeg import is_container, open_container
from vbx.extract.headers import Header, read_header
from vbx.extract.plain import decode_plain
from vbx.extract.resampling import Wanted, span, to_wave

RESAMPLERS = ("soxr-QQ", "soxr-LQ", "soxr-MQ", "soxr-HQ", "soxr-VHQ")
NORMALISATIONS = ("none", "peak")


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
            are not finite or become so, has no such channel, has a rate that no sound has, or ends more than 10 ms
            before the segment does
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
        raise AudioError(f"segment {span(start_s, end_s)} of {str(path)!r} is empty or begins before the file")
    wanted = Wanted(path, sample_rate, start_s, end_s, channel, resampler.removeprefix("soxr-"))
    with _open_file(path) as file:
        header = _read_header(file, path)
        if header.plain:
            rate = header.plain.sample_rate
            last = math.inf if end_s is None else round(end_s * rate)
            return to_wave(decode_plain(file, header.plain, path, (round(start_s * rate), last)), wanted)
        with _open_source(file, header, path, start_s) as source:
            return to_wave(source, wanted)


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
