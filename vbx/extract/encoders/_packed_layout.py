"""Packs: clips of many waveforms end to end, in arrays whose size does not depend on the clips."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbx.extract.encoder import Wave
from vbx.extract.encoders._windows import ConvStack

FIELDS = ("samples", "frames", "first", "last", "normalised")
"""Rows of a pack's table, one column a clip: its samples, its frames, the first frame that counts, one past the last,
and whether it must be left as it is rather than be brought to mean 0 and variance 1."""


@dataclass(frozen=True)
class Clip:
    """A waveform, or a window of one, that is encoded at once.

    Attributes:
        row: number of the waveform in the stream
        samples: its samples; those of a window are normalised already, with the waveform's own mean and variance
        frames: frames that it gives
        first: first frame that counts
        last: one past the last frame that counts
        normalised: whether its samples are to be left as they are
    """

    row: int
    samples: Wave
    frames: int
    first: int
    last: int
    normalised: bool


@dataclass(frozen=True)
class Shape:
    """Size of the arrays of a pack. A computation is recorded once for each.

    A clip begins on a multiple of the convolutions' hop, a slot, and takes at most two slots more than it has frames:
    one for the reach of its last frame, and one for samples behind it that count in its mean and variance only.

    Attributes:
        frames: room for frames of all clips
        clips: room for clips, a power of two and at least 64
        longest: most frames of one clip
    """

    frames: int
    clips: int
    longest: int

    @property
    def slots(self) -> int:
        """Room for samples, in hops."""
        return self.frames + 2 * self.clips


def fill_packs(clips: Iterable[Clip], room: Callable[[], Shape]) -> Iterator[list[Clip]]:
    """Lay clips into packs in their order, each as full as the next clip allows.

    Clips need not be sorted, since none is padded to another. A clip longer than a pack gets one of its own.

    Args:
        clips: any number of clips, taken as they are needed
        room: the largest pack; asked again for each clip, because it shrinks when memory is short

    Examples:
        >>> clips = [Clip(i, np.zeros(400), n, 0, n, False) for i, n in enumerate([5, 3, 4, 20, 1])]
        >>> [[c.row for c in pack] for pack in fill_packs(clips, lambda: Shape(10, 4, 10))]
        [[0, 1], [2], [3], [4]]
    """
    pack: list[Clip] = []
    frames = 0
    for clip in clips:
        largest = room()
        if pack and (frames + clip.frames > largest.frames or len(pack) == largest.clips):
            yield pack
            pack, frames = [], 0
        pack.append(clip)
        frames += clip.frames
    if pack:
        yield pack


def pack_shape(pack: Sequence[Clip], largest: Shape) -> Shape:
    """The shape a pack is computed in: the largest, or for a pack that is mostly empty one that is not.

    Clips and lengths are rounded up to powers of two, because attention costs a little for each place that is not
    taken. Nothing a clip gives depends on the shape, but for the rounding of sums.

    Examples:
        >>> pack = [Clip(0, np.zeros(400), 9000, 0, 9000, False), Clip(1, np.zeros(400), 120, 0, 120, False)]
        >>> pack_shape(pack, Shape(10000, 512, 1499)), pack_shape(pack[1:], Shape(10000, 512, 1499)).frames
        (Shape(frames=10000, clips=64, longest=16384), 512)
    """
    frames = sum(clip.frames for clip in pack)
    clips = max(64, 1 << (len(pack) - 1).bit_length())
    longest = max(128, 1 << (max(clip.frames for clip in pack) - 1).bit_length())
    if 4 * frames < 3 * largest.frames or frames > largest.frames:
        return Shape(-(-frames // 512) * 512, clips, longest)
    return Shape(largest.frames, clips, longest)


def write_pack(pack: Sequence[Clip], stack: ConvStack, samples: NDArray[np.float32], table: NDArray[np.int32]) -> None:
    """Write a pack into arrays; what was there before is gone.

    Args:
        pack: its clips
        stack: the convolutions that will see it
        samples: `(slots * hop + reach - hop,)`, receives the samples, each clip from a multiple of the hop, zeros else
        table: `(5, clips)`, receives `FIELDS`, zeros behind the last clip
    """
    table[:] = 0
    start = 0
    for i, clip in enumerate(pack):
        count = len(clip.samples)
        stop = start + -(-count // stack.hop) * stack.hop
        samples[start : start + count] = clip.samples
        samples[start + count : stop] = 0
        table[:, i] = (count, clip.frames, clip.first, clip.last, clip.normalised)
        start = stop
    samples[start:] = 0
