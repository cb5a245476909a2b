"""Packs on a CUDA device: pinned memory, a copy stream, recorded computations.

Written without a GPU at hand and not yet run on one. What can be tried on a CPU, the order of buffers and the replay of
static ones, is tested there with stand-ins; `benchmarks/extract_gpu.py` and the tests marked `gpu` are for the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vbx.extract.encoders._packed_attention import Attend
from vbx.extract.encoders._packed_layout import Clip, Shape
from vbx.extract.encoders._packed_model import BLOCKS, SLOTS, Result, Wanted
from vbx.extract.encoders._packed_runner import IN_FLIGHT, Buffers, PackRunner, Ticket
from vbx.extract.encoders._packed_weights import PackedWeights

FRAMES = 32768
"""Frames of a pack where memory is ample: eleven minutes of audio, and products that fill a large GPU."""
FEWEST_FRAMES = 2048
"""Frames of a pack where it is not."""
SHARE = 0.4
"""Share of the free memory that a pack may take; a recorded computation keeps its own beside the allocator's."""


class CudaRunner(PackRunner):
    """Runs packs on a GPU, one behind the other without a gap.

    While one pack is computed, the next is laid out in pinned memory and copied on a stream of its own. From the third
    full pack of a shape on, a pack is one launch of a CUDA graph. Nothing is compiled.
    """

    def __init__(self, weights: PackedWeights, attend: Attend, precision: str, device: str, largest: Shape) -> None:
        super().__init__(weights, attend, precision, device, largest)
        cuda: Any = torch.cuda  # whose streams and events have no types
        self._timer: Callable[[], Any] = lambda: cuda.Event(enable_timing=True)
        self._copies, self._computes = cuda.Stream(device), cuda.Stream(device)
        self._copied = [cuda.Event() for _ in range(IN_FLIGHT)]
        self._begun = [self._timer() for _ in range(IN_FLIGHT)]
        self._done = [self._timer() for _ in range(IN_FLIGHT)]
        self._last_done: Any = None
        self._pool: Any = None
        # The weights were laid out on the stream of the caller.
        self._computes.wait_stream(torch.cuda.current_stream(device))

    def submit(self, pack: Sequence[Clip], wanted: Wanted) -> Ticket:
        """See `PackRunner.submit`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._computes):
            try:
                return super().submit(pack, wanted)
            except torch.OutOfMemoryError:
                torch.cuda.synchronize(self._device)  # its copy may be under way, and its buffers are free again
                raise

    def collect(self, ticket: Ticket) -> tuple[NDArray[np.float64], NDArray[np.float16] | None]:
        """See `PackRunner.collect`."""
        results = super().collect(ticket)
        begun, done = self._begun[ticket.number], self._done[ticket.number]
        self.tally.busy_s += begun.elapsed_time(done) / 1000
        if self._last_done is not None:
            self.tally.idle_s += max(self._last_done.elapsed_time(begun), 0.0) / 1000
        self._last_done = done
        # Its next recording must not move what the next pack is compared with.
        self._done[ticket.number] = self._timer()
        return results

    def shrink(self) -> None:
        """See `PackRunner.shrink`."""
        torch.cuda.synchronize(self._device)
        super().shrink()
        self._pool = None
        torch.cuda.empty_cache()

    def reset_tally(self) -> None:
        """See `PackRunner.reset_tally`."""
        super().reset_tally()
        self._last_done = None

    def _host(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype, pin_memory=True)

    def _fit(self, number: int, shape: Shape) -> Buffers:
        held = self._buffers[number]
        buffers = super()._fit(number, shape)
        if buffers is not held:
            self._copies.wait_stream(self._computes)  # which writes the zeros of new memory
        return buffers

    def _upload(self, number: int, buffers: Buffers) -> None:
        with torch.cuda.stream(self._copies):
            buffers.device_samples.copy_(buffers.samples, non_blocking=True)
            buffers.device_table.copy_(buffers.table, non_blocking=True)
            self._copied[number].record(self._copies)
        self._computes.wait_event(self._copied[number])
        self._begun[number].record(self._computes)

    def _download(self, number: int, buffers: Buffers, result: Result) -> None:
        super()._download(number, buffers, result)
        self._done[number].record(self._computes)

    def _wait(self, number: int) -> None:
        self._done[number].synchronize()

    def _capture(self, compute: Callable[[], Result]) -> Callable[[], Result] | None:
        self._computes.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Threads that read audio may go on: only this one must not wait for the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._computes, capture_error_mode="thread_local"):
            result = compute()
        self._pool = graph.pool()

        def replay() -> Result:
            graph.replay()
            return result

        return replay


def largest_pack(device: str, weights: PackedWeights) -> Shape:
    """The largest pack that a device's free memory allows.

    Args:
        device: a CUDA device
        weights: of the model, on the device
    """
    free, _ = torch.cuda.mem_get_info(device)
    frames = FRAMES
    while frames > FEWEST_FRAMES and pack_bytes(frames, weights) > SHARE * free:
        frames //= 2
    return Shape(frames, max(frames // 16, 64), frames)


def pack_bytes(frames: int, weights: PackedWeights) -> int:
    """Memory of the device that a pack takes at its peak, roughly and rather too much.

    Its samples twice, the convolutions of one slice, the windows of one slice of positions, and what a block holds.
    """
    size = weights.dtype.itemsize
    dim, inner = weights.projection.weight.shape[0], weights.blocks[0].feed_in.weight.shape[0]
    slots = frames + 2 * max(frames // 16, 64)
    stack, first = weights.stack, weights.convolutions[0]
    convolving = 3 * min(SLOTS, slots) * stack.hop // first.stride * first.weight.shape[1] * size
    placing = min(BLOCKS, frames) * weights.positions.weight.shape[1] * len(weights.positions.weight) * size
    block = frames * (dim * (4 + 4 + 8 + 5 * size) + 2 * inner * size)
    return 4 * slots * stack.hop * 4 + max(convolving, placing, block) + frames * dim * (4 + 3 * size)
