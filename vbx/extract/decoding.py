"""Decoding through libsndfile: a file becomes blocks of samples at its own rate, from a given time on."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from vbx.errors import AudioError

BLOCK = 16384
"""Frames that are decoded at once. Clips are taken in blocks too: what is larger than 128 KiB the allocator gets from
the system, zeroed, and gives back, which costs as much as decoding it."""
_EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
"""Subtypes for which libsndfile knows the length and seeks to the very sample."""
_ENDLESS = 2**62
"""libsndfile's length of a FLAC stream that was written to a pipe is of this order."""


@dataclass(frozen=True)
class Source:
    """An open file.

    Attributes:
        sample_rate: its own rate, in Hz
        channels: how many it has
        frames: its length as the header has it, an estimate; 0 where that does not say
        finite: whether its encoding has no NaN and no infinity
        first: the frame at which `blocks` begins
        blocks: `(frames, channels)` one after the other, int16 (full scale 32768) or float32 (full scale 1); each may
            be overwritten by the next
    """

    sample_rate: int
    channels: int
    frames: int
    finite: bool
    first: int
    blocks: Iterator[NDArray[Any]]


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that does not seek after every read: in a FLAC stream of unknown length that seek fails."""

    def seekable(self) -> bool:
        """No; an explicit `seek` works all the same."""
        return False


class _Unclosed(io.RawIOBase):
    """A WAV whose writer could not go back to fill in its size: reads as if it said "until the end"."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file, self._at = file, at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        begin = self._file.tell()
        count = self._file.readinto(buffer) or 0  # type: ignore[attr-defined]
        for place in range(max(begin, self._at), min(begin + count, self._at + 4)):
            memoryview(buffer)[place - begin : place - begin + 1] = b"\xff"
        return count


def open_sound(file: BinaryIO, unset: int | None) -> SequentialFile:
    """Open a file with libsndfile.

    Args:
        file: the open file
        unset: offset of a size that its writer left unset, if it has one

    Raises:
        soundfile.LibsndfileError: if libsndfile does not know what it is
    """
    file.seek(0)
    if unset is not None:
        return SequentialFile(_Unclosed(file, unset))
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # where a buffered file believes to be is not where it is
    # By descriptor, not by name: from a suffix (.au, .vox, .raw) libsndfile guesses a format and decodes any bytes.
    return SequentialFile(file.fileno(), closefd=False)


def count_frames(sound: SequentialFile) -> int:
    """Length of a file as its header has it, in frames; 0 where that does not say."""
    return int(sound.frames) if 0 < sound.frames < _ENDLESS else 0


def decode_sound(sound: SequentialFile, path: Path, start_s: float) -> Source:
    """Decode a file that libsndfile has opened.

    Args:
        sound: the open file
        path: its path, for errors
        start_s: time from which samples are wanted, in seconds. Formats in which libsndfile cannot seek to the very
            sample (MP3, Ogg, ADPCM, ...) are decoded from their begin, so `first` may be 0 all the same

    Raises:
        AudioError: while `blocks` is read, if the file is damaged or holds less than its header announces
    """
    frames, rate = count_frames(sound), sound.samplerate
    exact = frames > 0 and sound.subtype.startswith(_EXACT)
    first = min(round(start_s * rate), frames) if exact else 0
    # 16 bits are read as they are: the same values, four times as fast.
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"
    buffer = np.empty((BLOCK, sound.channels), dtype)

    def blocks() -> Iterator[NDArray[Any]]:
        at, count = first, BLOCK
        try:
            if first:
                sound.seek(first)
            while count == BLOCK:
                count = sound.buffer_read_into(buffer, dtype)
                at += count
                yield buffer[:count]
        except soundfile.LibsndfileError:
            raise AudioError(
                f"{str(path)!r} is truncated or damaged: it cannot be decoded beyond {at / rate:.3f} s"
            ) from None
        if exact and at < frames:
            raise AudioError(f"{str(path)!r} is truncated: its header announces {frames} samples, but {at} are there")

    return Source(rate, sound.channels, frames, sound.subtype.startswith("PCM_"), first, blocks())
