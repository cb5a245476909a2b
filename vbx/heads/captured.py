"""Captured: the steps of a stack on a CUDA device, recorded once as a CUDA graph and replayed from then on.

A step is a hundred small kernels, which the host takes longer to launch than the device to compute. A graph launches
them at once. Written without a GPU at hand and not yet run on one: that a step can be recorded, and gives the same when
replayed, is tested on a CPU with a tape in the graph's place; the tests marked `gpu` and `benchmarks/heads_gpu.py` are
for the rest. Should recording fail, or a replay differ, a warning says so and steps are made one by one.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vbx.heads.data import Split
from vbx.heads.model import Model
from vbx.heads.run import Run
from vbx.heads.stack import Stack
from vbx.heads.steps import Buffers, count_rows, draw_orders, fill_buffers, make_buffers, train_step

WARM_UP = 3
"""Full steps made one by one before one is recorded: what libraries set up at first use must not be in a graph."""

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Records what a call does, and gives what does it again on the same memory."""


class CapturedSteps:
    """Passes over train, as `steps.train_epoch` makes them. The smaller last batch of an epoch is never recorded.

    Args:
        capture: records a step
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._stack: Stack | None = None
        self._buffers: Buffers | None = None
        self._replay: Replay | None = None
        self._alone = 0
        self._ahead: tuple[tuple[Run, ...], int, Tensor] | None = None

    def train_epoch(self, model: Model, stack: Stack, train: Split, epoch: int) -> None:
        """One pass over train. The host does not wait for the device meanwhile."""
        order = self._take_order(model, stack, train, epoch)
        buffers = self._hold(model, stack, order)
        fill_buffers(model, stack, buffers, order, epoch)
        size = model.run.fit.batch_size
        for rows in count_rows(len(train.rows), size):
            step = partial(train_step, model, stack, train, buffers, rows)
            if rows < size:
                step()
            elif self._replay is not None:
                self._replay()
            elif self._alone == WARM_UP:
                self._replay = self._record(step, stack, buffers)
                self._alone += 1
            else:
                step()
                self._alone += 1
        self._draw_ahead(model, stack, train, epoch + 1)

    def release(self) -> None:
        """Give the memory back."""
        self._replay = self._buffers = self._stack = self._ahead = None

    def _hold(self, model: Model, stack: Stack, order: Tensor) -> Buffers:
        """Buffers of a stack; new ones, and a new recording, if it is another than before."""
        if self._buffers is None or self._stack is None or self._stack.moving.numbers is not stack.moving.numbers:
            self.release()  # before new memory is asked for
            self._stack, self._alone = stack, 0
            self._buffers = make_buffers(model, stack, order)
        return self._buffers

    def _take_order(self, model: Model, stack: Stack, train: Split, epoch: int) -> Tensor:
        if self._ahead is None or self._ahead[:2] != (stack.runs, epoch):
            return draw_orders(model, stack.runs, len(train.rows), epoch, train.x.is_cuda)
        return self._ahead[2]

    def _draw_ahead(self, model: Model, stack: Stack, train: Split, epoch: int) -> None:
        """Draw the order of the next epoch while the device still computes this one."""
        self._ahead = None
        if epoch <= max(run.fit.epochs for run in stack.runs):
            order = draw_orders(model, stack.runs, len(train.rows), epoch, train.x.is_cuda)
            self._ahead = (stack.runs, epoch, order)

    def _record(self, step: Callable[[], None], stack: Stack, buffers: Buffers) -> Replay | None:
        """Make a step that is also recorded; what replays it, or None if that is not to be trusted."""
        moving, replayed = stack.moving, None
        state = (moving.numbers, moving.first, moving.second, stack.previous, buffers.at)
        before = [tensor.clone() for tensor in state]
        replay: Replay | None = None
        try:
            replay = self._capture(step)
            _restore(state, before)
            replay()
            replayed = moving.numbers.clone()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"steps are made one by one: they cannot be recorded ({reason})", stacklevel=2)
        _restore(state, before)
        step()
        if replayed is None:
            return None
        if torch.isclose(replayed, moving.numbers, rtol=1e-3, atol=1e-5, equal_nan=True).all():
            return replay
        warnings.warn("steps are made one by one: a recorded one gives other weights", stacklevel=2)
        return None


@contextlib.contextmanager
def open_captured(device: torch.device) -> Iterator[CapturedSteps]:
    """Captured steps on a CUDA device; all that the block does there is on their stream, its products in full float32.

    Args:
        device: a CUDA device
    """
    cuda: Any = torch.cuda  # whose streams and graphs have no types
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    stream = cuda.Stream(device)
    stream.wait_stream(cuda.current_stream(device))
    steps = CapturedSteps(partial(capture_graph, stream=stream))
    try:
        with cuda.device(device), cuda.stream(stream):
            yield steps
    finally:
        torch.set_float32_matmul_precision(before)
        cuda.current_stream(device).wait_stream(stream)
        steps.release()
        cuda.empty_cache()  # what the next stack may take is judged by the memory that is free


def capture_graph(step: Callable[[], None], stream: Any) -> Replay:
    """Record a step as a CUDA graph.

    Args:
        step: what is recorded; it must have been done on the stream before
        stream: where it is recorded; its own, not the default one
    """
    stream.synchronize()
    graph: Any = torch.cuda.CUDAGraph()
    # Backward passes run in a thread of their own: only this one must not wait for the device meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    replay: Replay = graph.replay
    return replay


def _restore(state: tuple[Tensor, ...], before: list[Tensor]) -> None:
    for tensor, old in zip(state, before, strict=True):
        tensor.copy_(old)
