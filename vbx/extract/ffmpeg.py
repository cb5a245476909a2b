"""Decoding through PyAV (FFmpeg), the extra `av`: what libsndfile does not know, as m4a, aac, wma and video."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vbx.errors import AudioError
from vbx.extract.decoding import Source

SUFFIXES = frozenset(".m4a .m4b .mp4 .mov .3gp .aac .wma .webm .mkv .mka .amr".split())
_MAGIC = (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"\xff\xf1", b"\xff\xf9", b"#!AMR")
"""How Matroska, ASF, raw AAC and AMR begin; MP4 has `ftyp` from its fifth byte on."""
SLACK_S = 0.1
"""A container may announce so much more than decodes: codecs pad, and video ends on a picture."""


def is_container(path: Path, head: bytes) -> bool:
    """Whether a file is one for PyAV, by its suffix or its first 12 bytes."""
    return path.suffix.lower() in SUFFIXES or head[4:8] == b"ftyp" or head.startswith(_MAGIC)


@contextmanager
def open_container(path: Path) -> Iterator[Source]:
    """Open a file; its first audio stream is decoded from the begin.

    Args:
        path: the file

    Raises:
        AudioError: if PyAV is not installed, the file is not readable or has no audio; while `blocks` is read, if it
            is damaged or cut short
    """
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{str(path)!r} is in a format that libsndfile does not know; to read it: pip install 'vbx[av]'"
        ) from None
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise AudioError(f"{str(path)!r} is not audio that FFmpeg can read: {error.strerror}") from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{str(path)!r} has no audio in it")
        stream = container.streams.audio[0]
        frames = _decode(container, stream, path)
        opening = next(frames, None)
        if opening is None:
            raise AudioError(f"{str(path)!r} has no samples")
        # The decoder knows better than the container: the rate of HE-AAC doubles with its second layer.
        rate, layout = opening.sample_rate, opening.layout
        declared = _declared_s(container, stream, av.time_base)
        blocks = _blocks(chain([opening], frames), av.AudioResampler("fltp", layout, rate), path, declared)
        yield Source(rate, layout.nb_channels, round(declared * rate), False, 0, blocks)


def _declared_s(container: Any, stream: Any, unit: int) -> float:
    """Length that the container announces, in seconds; 0 if it does not."""
    if container.format.name == "aac":
        return 0.0  # a stream without a header: FFmpeg guesses from its bit rate
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska has one duration for all streams.
    return container.duration / unit if container.duration and len(container.streams) == 1 else 0.0


def _decode(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    import av

    seconds = 0.0
    try:
        for frame in container.decode(stream):
            seconds += frame.samples / frame.sample_rate
            yield frame
    except av.FFmpegError as error:
        raise AudioError(
            f"{str(path)!r} is truncated or damaged: FFmpeg says {error.strerror!r} at {seconds:.3f} s"
        ) from None


def _blocks(frames: Iterator[Any], planar: Any, path: Path, declared: float) -> Iterator[NDArray[Any]]:
    """Samples of decoded frames, float32 whatever the codec gives."""
    count, rate = 0, planar.rate
    for frame in frames:
        for converted in _convert(planar, frame, path):
            count += converted.samples
            yield converted.to_ndarray().T
    if count / rate < declared - SLACK_S:
        raise AudioError(
            f"{str(path)!r} is truncated: its header announces {declared:.3f} s, but {count / rate:.3f} s are there"
        )


def _convert(planar: Any, frame: Any, path: Path) -> list[Any]:
    import av

    if frame.sample_rate != planar.rate:  # it would be passed on as it is
        raise AudioError(f"{str(path)!r} changes its sample rate from {planar.rate} to {frame.sample_rate} Hz")
    try:
        return list(planar.resample(frame))
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"{str(path)!r} is damaged: FFmpeg cannot convert its samples ({error})") from None
