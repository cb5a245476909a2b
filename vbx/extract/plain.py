"""WAV files whose samples lie there as plain numbers: read at once, several times as fast as through libsndfile."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vbx.errors import AudioError
from vbx.extract.decoding import BLOCK, Source

_ENCODINGS = {(1, 16): "int16", (1, 24): "int24", (1, 32): "int32", (3, 32): "float32"}
"""By format tag and bits a sample, of those that are quicker here; libsndfile reads the others."""
_EXTENSIBLE = 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""Of WAVEFORMATEXTENSIBLE's subformat, behind the two bytes that are a format tag."""
_CHANNELS = 1024
"""More than libsndfile takes."""


@dataclass(frozen=True)
class Plain:
    """Where and how the samples of a file lie.

    Attributes:
        sample_rate: in Hz
        channels: how many there are
        encoding: `int16`, `int24`, `int32` or `float32`, little endian
        begin: offset of the first sample
        frames: how many there are of each channel
    """

    sample_rate: int
    channels: int
    encoding: str
    begin: int
    frames: int


def find_plain(layout: bytes, begin: int, length: int) -> Plain | None:
    """How to read samples, or None if libsndfile had better do it.

    Args:
        layout: content of the chunk `fmt `
        begin: offset of the samples
        length: their size, in bytes
    """
    if len(layout) < 16:
        return None
    tag, channels, rate, _, align, bits = struct.unpack("<HHIIHH", layout[:16])
    if tag == _EXTENSIBLE and layout[26:40] == _GUID_TAIL:
        (tag,) = struct.unpack("<H", layout[24:26])
    encoding = _ENCODINGS.get((tag, bits))
    ordinary = 1 <= channels <= _CHANNELS and 0 < rate < 2**31 and align == channels * bits // 8
    if encoding is None or not ordinary or length % align:
        return None
    return Plain(rate, channels, encoding, begin, length // align)


def decode_plain(file: BinaryIO, plain: Plain, path: Path, wanted: tuple[int, float]) -> Source:
    """Read plain samples.

    Args:
        file: the open file; its position moves
        plain: where and how they lie
        path: its path, for errors
        wanted: the first frame, and the one to stop before; others are not read

    Raises:
        AudioError: while `blocks` is read, if the file has shrunk meanwhile
    """
    first, last = min(wanted[0], plain.frames), int(min(wanted[1], plain.frames))

    def blocks() -> Iterator[NDArray[Any]]:
        for at in range(first, last, BLOCK) or [first]:
            yield _read(file, plain, path, at, min(BLOCK, last - at))

    finite = plain.encoding != "float32"
    return Source(plain.sample_rate, plain.channels, plain.frames, finite, first, blocks())


def _read(file: BinaryIO, plain: Plain, path: Path, at: int, frames: int) -> NDArray[Any]:
    """`(frames, channels)` from one frame on; libsndfile's values, to the bit."""
    count = frames * plain.channels
    width = 3 if plain.encoding == "int24" else 2 if plain.encoding == "int16" else 4
    # One byte before 24 bits: read as 32, each number has the last byte of its neighbour at the bottom.
    before = 1 if width == 3 else 0
    raw = np.empty(count * width + before, np.uint8)
    file.seek(plain.begin + at * plain.channels * width - before)
    if file.readinto(raw.data) < len(raw):  # type: ignore[attr-defined]
        raise AudioError(f"{str(path)!r} is truncated: it became shorter while it was read")
    if plain.encoding == "int16":
        return raw.view("<i2").reshape(frames, plain.channels)
    if plain.encoding == "float32":
        return raw.view("<f4").reshape(frames, plain.channels)
    whole = raw.view("<i4") if width == 4 else np.ndarray(count, "<i4", raw.data, 0, (3,)) & np.int32(-256)
    return (whole.astype(np.float32) * np.float32(2**-31)).reshape(frames, plain.channels)
