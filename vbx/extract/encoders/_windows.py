"""From samples to frames, and from long audio to windows that count every frame once."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ConvStack:
    """Strided convolutions without padding, in front of a transformer.

    Attributes:
        kernels: length of each kernel
        strides: stride of each layer

    Examples:
        >>> stack = ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
        >>> stack.hop, stack.reach, stack.frames(16000)
        (320, 400, 49)
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def reach(self) -> int:
        """Samples behind one frame: the shortest waveform that has any."""
        samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def frames(self, samples: int) -> int:
        """Frames of a waveform: `floor((n - kernel) / stride) + 1` after each layer."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)

    def samples(self, start: int, stop: int) -> slice:
        """The samples behind frames `start` to `stop`."""
        return slice(start * self.hop, (stop - 1) * self.hop + self.reach)


@dataclass(frozen=True)
class Window:
    """Frames that are encoded together, and those of them that count.

    Attributes:
        start: first frame encoded
        stop: one past the last frame encoded
        first: first frame that counts
        last: one past the last frame that counts
    """

    start: int
    stop: int
    first: int
    last: int


def cut_windows(frames: int, length: int | None, overlap: int) -> list[Window]:
    """Cut a row of frames into windows.

    Two neighbours give up half of their overlap each, so every frame counts in exactly one window. The last window is
    moved back until it is as long as the others: it overlaps more, and no frame lacks context.

    Args:
        frames: how many there are
        length: frames of a window; None for one window whatever the length
        overlap: frames that neighbours share

    Raises:
        ValueError: if the overlap leaves a window nothing of its own

    Examples:
        >>> [(w.start, w.stop, w.first, w.last) for w in cut_windows(25, 10, 4)]
        [(0, 10, 0, 8), (6, 16, 8, 14), (12, 22, 14, 18), (15, 25, 18, 25)]
    """
    if length is None or frames <= length:
        return [Window(0, frames, 0, frames)]
    if not 0 <= overlap < length:
        raise ValueError(f"windows of {length} frames cannot overlap by {overlap}")
    step = length - overlap
    starts = [*range(0, frames - length, step), frames - length]
    # The middle of each overlap is where one window stops to count and the next begins.
    edges = [(start + after + length) // 2 for after, start in zip(starts, starts[1:], strict=False)]
    bounds = [0, *edges, frames]
    return [
        Window(start, start + length, first, last)
        for start, first, last in zip(starts, bounds, bounds[1:], strict=False)
    ]
