"""Running packs: two sets of buffers in turn, and a computation recorded once where a device can replay it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vbx.extract.encoders._packed_attention import Attend, Segments, attend_by_clip
from vbx.extract.encoders._packed_layout import FIELDS, Clip, Shape, pack_shape, write_pack
from vbx.extract.encoders._packed_model import Result, Wanted, run_pack
from vbx.extract.encoders._packed_weights import PackedWeights

IN_FLIGHT = 2
"""Packs begun and not yet collected, at most: while one is computed, the next is laid out and copied."""
SAME = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative L2 difference up to which a replayed pack is taken for the one computed step by step."""


@dataclass
class Buffers:
    """Memory of one pack in flight.

    Attributes:
        samples: on the host, see `write_pack`
        table: on the host
        device_samples: where they are copied to
        device_table: where it is copied to
        memory: on the host, flat, for each field of `Result`
        results: the part of it that holds the pack's results
    """

    samples: torch.Tensor
    table: torch.Tensor
    device_samples: torch.Tensor
    device_table: torch.Tensor
    memory: dict[str, torch.Tensor]
    results: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Ticket:
    """A pack in flight: the number of its buffers, its clips, and its shape."""

    number: int
    pack: Sequence[Clip]
    shape: Shape


@dataclass
class Tally:
    """What has been run: packs, frames of clips, frames of their arrays, and seconds a GPU was computing and was not.

    The seconds are taken from the device's own events, from the first pack's beginning to the last one's end.
    """

    packs: int = 0
    frames: int = 0
    room: int = 0
    busy_s: float = 0.0
    idle_s: float = 0.0


class PackRunner:
    """Runs packs of one model on a device; `CudaRunner` overlaps copies and replays recorded computations.

    Attributes:
        largest: largest pack; smaller once memory was short
        tally: what has been run
    """

    def __init__(self, weights: PackedWeights, attend: Attend, precision: str, device: str, largest: Shape) -> None:
        self.largest = largest
        self.tally = Tally()
        self._weights = weights
        self._attend = attend
        self._recordable = attend is not attend_by_clip
        self._precision = precision
        self._device = device
        self._buffers: list[Buffers | None] = [None] * IN_FLIGHT
        self._turn = 0
        self._seen: set[tuple[Shape, Wanted]] = set()
        self._recorded: dict[tuple[Shape, Wanted], Callable[[], Result] | None] = {}
        self._static: tuple[torch.Tensor, torch.Tensor] | None = None

    def submit(self, pack: Sequence[Clip], wanted: Wanted) -> Ticket:
        """Begin a pack; at most `IN_FLIGHT` may be begun and not collected.

        Raises:
            torch.OutOfMemoryError: if it does not fit; nothing has been begun then
        """
        shape = pack_shape(pack, self.largest)
        number = self._turn
        with torch.inference_mode(), arithmetic(self._precision):
            buffers = self._fit(number, shape)
            samples, table = (part.numpy() for part in (buffers.samples, buffers.table))
            write_pack(pack, self._weights.stack, samples[: self._samples(shape)], table[:, : shape.clips])
            self._upload(number, buffers)
            self._compute(number, buffers, pack, shape, wanted)
        self._turn = (number + 1) % IN_FLIGHT
        self.tally.packs += 1
        self.tally.frames += sum(clip.frames for clip in pack)
        self.tally.room += shape.frames
        return Ticket(number, pack, shape)

    def collect(self, ticket: Ticket) -> tuple[NDArray[np.float64], NDArray[np.float16] | None]:
        """Wait for a pack: sums `(L, clips, D)` over frames that count, and the frames `(F, D)` if wanted."""
        self._wait(ticket.number)
        buffers = self._buffers[ticket.number]
        assert buffers is not None
        sums = buffers.results["sums"][:, : len(ticket.pack)].numpy().copy()
        frames = buffers.results.get("frames")
        count = sum(clip.frames for clip in ticket.pack)
        return sums, None if frames is None else frames[:count].numpy().copy()

    def shrink(self) -> None:
        """Halve the largest pack and let go of all memory; nothing may be in flight."""
        self.largest = Shape(self.largest.frames // 2, max(self.largest.clips // 2, 64), self.largest.longest)
        self._buffers = [None] * IN_FLIGHT
        self._static = None
        self._seen.clear()
        self._recorded.clear()

    def reset_tally(self) -> None:
        """Count from here; nothing may be in flight."""
        self.tally = Tally()

    def _samples(self, shape: Shape) -> int:
        stack = self._weights.stack
        return shape.slots * stack.hop + stack.reach - stack.hop

    def _fit(self, number: int, shape: Shape) -> Buffers:
        """The buffers of that number, large enough for a shape."""
        held = self._buffers[number]
        samples = max(self._samples(shape), self._samples(self.largest))
        clips = max(shape.clips, self.largest.clips)
        if held is None or len(held.samples) < samples or held.table.shape[1] < clips:
            table = (len(FIELDS), clips)
            held = Buffers(
                samples=self._host((samples,), torch.float32),
                table=self._host(table, torch.int32),
                device_samples=torch.zeros(samples, dtype=torch.float32, device=self._device),
                device_table=torch.zeros(table, dtype=torch.int32, device=self._device),
                memory={},
                results={},
            )
            self._buffers[number] = held
        return held

    def _compute(self, number: int, buffers: Buffers, pack: Sequence[Clip], shape: Shape, wanted: Wanted) -> None:
        """Run a pack on the device: step by step the first time, recorded from then on if it is of full size."""
        samples, table = buffers.device_samples[: self._samples(shape)], buffers.device_table[:, : shape.clips]
        key = (shape, wanted)
        if self._recordable and key in self._seen - self._recorded.keys() and shape.frames == self.largest.frames:
            result = self._run(samples, table, shape, wanted, tuple(clip.frames for clip in pack))
            self._recorded[key] = self._record(shape, wanted, samples, table, result)
        elif self._recorded.get(key) is not None:
            result = self._replay(key, samples, table)
        else:
            result = self._run(samples, table, shape, wanted, tuple(clip.frames for clip in pack))
            self._seen.add(key)
        self._download(number, buffers, result)

    def _run(
        self,
        samples: torch.Tensor,
        table: torch.Tensor,
        shape: Shape,
        wanted: Wanted,
        lengths: tuple[int, ...] | None,
    ) -> Result:
        return run_pack(self._weights, samples, Segments(table, lengths), shape, wanted, self._attend)

    def _record(
        self, shape: Shape, wanted: Wanted, samples: torch.Tensor, table: torch.Tensor, result: Result
    ) -> Callable[[], Result] | None:
        """Record the computation of a shape, replay it on a pack and compare; None if that is not to be trusted."""
        if self._static is None:
            self._static = (
                torch.zeros(self._samples(self.largest), dtype=torch.float32, device=self._device),
                torch.zeros(len(FIELDS), self.largest.clips, dtype=torch.int32, device=self._device),
            )
        fixed = (self._static[0][: self._samples(shape)], self._static[1][:, : shape.clips])
        for ours, theirs in zip(fixed, (samples, table), strict=True):
            ours.copy_(theirs)
        try:
            replay = self._capture(lambda: self._run(*fixed, shape, wanted, None))
            if replay is None:
                return None
            again = replay().sums
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"packs are computed step by step: they cannot be recorded ({reason})", stacklevel=2)
            return None
        wrong = _difference(again, result.sums)
        if wrong <= SAME[self._weights.dtype]:
            return replay
        warnings.warn(f"packs are computed step by step: a recorded one differs by {wrong:.1e}", stacklevel=2)
        return None

    def _replay(self, key: tuple[Shape, Wanted], samples: torch.Tensor, table: torch.Tensor) -> Result:
        assert self._static is not None
        replay = self._recorded[key]
        assert replay is not None
        self._static[0][: len(samples)].copy_(samples)
        self._static[1][:, : table.shape[1]].copy_(table)
        return replay()

    def _host(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host that the device copies from and to."""
        return torch.zeros(size, dtype=dtype)

    def _upload(self, number: int, buffers: Buffers) -> None:
        """Copy a pack to the device."""
        buffers.device_samples.copy_(buffers.samples)
        buffers.device_table.copy_(buffers.table)

    def _download(self, number: int, buffers: Buffers, result: Result) -> None:
        """Copy what a pack gives to the host."""
        buffers.results.clear()
        for name, part in (("sums", result.sums), ("frames", result.frames)):
            if part is not None:
                held = buffers.memory.get(name)
                if held is None or len(held) < part.numel():
                    buffers.memory[name] = held = self._host((part.numel(),), part.dtype)
                buffers.results[name] = held[: part.numel()].view(part.shape)
                buffers.results[name].copy_(part, non_blocking=True)

    def _wait(self, number: int) -> None:
        """Wait until a pack's results are on the host."""

    def _capture(self, compute: Callable[[], Result]) -> Callable[[], Result] | None:
        """Record a computation and give what replays it, or None on a device that cannot."""
        return None


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative L2 difference of what is finite; infinite if that is not the same places."""
    finite = theirs.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return float("inf")
    ours, theirs = ours[finite], theirs[finite]
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Matrix products as the precision says, whatever the process has set; sums of halves are kept in float32."""
    products = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision()
    halves = (products.allow_fp16_reduced_precision_reduction, products.allow_bf16_reduced_precision_reduction)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    products.allow_fp16_reduced_precision_reduction = products.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        products.allow_fp16_reduced_precision_reduction, products.allow_bf16_reduced_precision_reduction = halves
