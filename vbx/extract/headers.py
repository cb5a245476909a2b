"""What a file's header says about its own size: the only trace of a cut file that most formats leave.

libsndfile reads a WAV of which half is missing without a word. Legal, and no sign of a cut: sizes that a writer to a
pipe could not know (0, the largest number, or 0x7FFFF000 and more).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from vbx.extract.plain import Plain, find_plain

UNKNOWN_SIZE = 0x7FFFF000
"""From here on a size of 32 bits means "until the end of the file"."""
MP3_SLACK = 1441
"""Bytes of the largest MP3 frame: encoders disagree by about that much on what their stream holds."""
OGG_PAGE = 65307
"""Bytes of the largest Ogg page (RFC 3533, section 6)."""


@dataclass(frozen=True)
class _Chunks:
    """How a format of chunks is laid out.

    Attributes:
        audio: name of the chunk that holds the samples
        size: format of a chunk's size
        first: offset of the first chunk
        align: chunks begin at multiples of it
        inclusive: whether a chunk's size counts its own header
    """

    audio: bytes
    size: str = "<I"
    first: int = 12
    align: int = 2
    inclusive: bool = False


_FORMATS = {
    b"RIFF": _Chunks(b"data"),
    b"RIFX": _Chunks(b"data", size=">I"),
    b"RF64": _Chunks(b"data"),
    b"FORM": _Chunks(b"SSND", size=">I"),
    b"caff": _Chunks(b"data", size=">q", first=8, align=1),
    b"riff": _Chunks(b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", "<Q", first=40, align=8, inclusive=True),
}
_HARMLESS = (b"fact", b"LIST", b"JUNK", b"PAD ", b"bext", b"PEAK")
"""Chunks before the samples of a WAV that do not change how they are read."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        cut: a clause for an error, if the file must be cut short
        unset: offset of the size of a WAV's samples where it is still 0, though samples follow: that is how a writer
            to a pipe leaves it, and libsndfile takes it for a file without samples
        plain: how to read its samples without libsndfile, if they lie there as plain numbers
    """

    cut: str | None = None
    unset: int | None = None
    plain: Plain | None = None


def read_header(file: BinaryIO, size: int) -> Header:
    """Read what a file says of itself.

    Args:
        file: the open file; its position moves
        size: its size, in bytes
    """
    file.seek(0)
    head = file.read(4)
    if head in (b"RIFF", b"RIFX"):
        return _read_wav(file, size, head)
    if head == b"OggS":
        return Header(_ogg_cut(file, size))
    if head in _FORMATS:
        end, slack = _chunk_end(file, size, head), 0
    elif head == b".snd":
        end, slack = _au_end(file), 0
    elif head == b"NIST":
        end, slack = _sphere_end(file), 0
    else:
        end, slack = _mp3_end(file), MP3_SLACK
    return Header(_cut(end, size, slack))


def _cut(end: int | None, size: int, slack: int = 0) -> str | None:
    if end is None or end <= size + slack:
        return None
    return f"its header announces {end - size} bytes more than the {size} that are there"


def _read_wav(file: BinaryIO, size: int, head: bytes) -> Header:
    layout, fmt = _FORMATS[head], b""
    ordinary = head == b"RIFF" and file.read(8)[4:] == b"WAVE"
    for name, begin, length in _walk(file, size, layout):
        if name == b"fmt ":
            ordinary = ordinary and not fmt
            fmt = file.read(min(length, 40))
        elif name == b"data" and length == 0:
            return Header(unset=_unset(file, size, layout, begin))
        elif name == b"data":
            unknown = length >= UNKNOWN_SIZE
            cut = None if unknown else _cut(begin + length, size)
            plain = find_plain(fmt, begin, length) if ordinary and not (unknown or cut) else None
            return Header(cut, None, plain)
        else:
            ordinary = ordinary and name in _HARMLESS
    return Header()


def _unset(file: BinaryIO, size: int, layout: _Chunks, begin: int) -> int | None:
    # Samples follow, unless it is one more chunk with a name and a size that fits.
    name, at, length = next(_walk(file, size, replace(layout, first=begin)), (b"none", begin, 0))
    is_chunk = name.replace(b" ", b"").isalnum() and at + length <= size
    return None if is_chunk else begin - 4


def _walk(file: BinaryIO, size: int, layout: _Chunks) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of the content and size of the content of each chunk; the file stands at the content."""
    at, name_bytes = layout.first, 16 if layout.inclusive else 4
    header = name_bytes + struct.calcsize(layout.size)
    for _ in range(1000):  # a file of zeros must not keep us
        if at >= size:  # a damaged size may be more than a seek takes
            return
        file.seek(at)
        raw = file.read(header)
        if len(raw) < header:
            return
        (length,) = struct.unpack(layout.size, raw[name_bytes:])
        length -= header if layout.inclusive else 0
        yield raw[:name_bytes], at + header, length
        if length < 0:
            return
        at += header + length
        at += -at % layout.align


def _chunk_end(file: BinaryIO, size: int, head: bytes) -> int | None:
    layout, long_size = _FORMATS[head], 0
    for name, begin, length in _walk(file, size, layout):
        if name == b"ds64":  # EBU Tech 3306: the sizes that do not fit into 32 bits
            file.seek(begin + 8)
            long_size = int.from_bytes(file.read(8), "little")
        if name == layout.audio:
            if long_size:
                return begin + long_size
            unknown = length <= 0 or (struct.calcsize(layout.size) == 4 and length >= UNKNOWN_SIZE)
            return None if unknown else begin + length
    return None


def _au_end(file: BinaryIO) -> int | None:
    raw = file.read(8)
    if len(raw) < 8:
        return None
    begin, length = struct.unpack(">II", raw)
    return None if length in (0, 0xFFFFFFFF) else int(begin + length)


def _sphere_end(file: BinaryIO) -> int | None:
    """NIST SPHERE: a header of text, `name -i value`."""
    file.seek(0)
    lines = file.read(4096).decode("latin-1").split("\n")
    values = {words[0]: words[2] for words in (line.split() for line in lines) if len(words) == 3}
    try:
        counts = [int(values[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
        header = int(lines[1])
    except (KeyError, ValueError, IndexError):
        return None
    return header + counts[0] * counts[1] * counts[2]


def _mp3_end(file: BinaryIO) -> int | None:
    """The Xing or Info frame in the first MPEG frame tells the bytes of the whole stream."""
    file.seek(0)
    head = file.read(10)
    begin = 0
    if head[:3] == b"ID3" and len(head) == 10:  # an ID3v2 tag; its size has seven bits a byte
        begin = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(begin)
    frame = file.read(64)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0 or not 4 <= at <= 48:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    place = at + 8 + (4 if flags & 1 else 0)
    return begin + int.from_bytes(frame[place : place + 4], "big") if flags & 2 else None


def _ogg_cut(file: BinaryIO, size: int) -> str | None:
    file.seek(max(0, size - 2 * OGG_PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS")
    while at >= 0 and (tail[at + 4 : at + 5] > b"\x00" or tail[at + 5 : at + 6] > b"\x07"):
        at = tail.rfind(b"OggS", 0, at)  # these four bytes may be sound
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last page is not complete"
    # RFC 3533, section 6: flag 0x04 marks the last page of a stream.
    return None if page[5] & 4 else "the page that ends the stream is missing"
