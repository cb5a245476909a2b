"""Buffers, streams and recordings, with stand-ins for what only a GPU has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vbx.extract.encoders import _cuda_runner
from vbx.extract.encoders._cuda_runner import CudaRunner, largest_pack, pack_bytes
from vbx.extract.encoders._packed_attention import Segments, attend_by_clip
from vbx.extract.encoders._packed_layout import Clip, Shape
from vbx.extract.encoders._packed_model import Wanted
from vbx.extract.encoders._packed_runner import Buffers, PackRunner, arithmetic
from vbx.extract.encoders._packed_weights import PackedWeights, packed_weights
from vbx.extract.encoders._speech_models import load_speech_model
from vbx.extract.encoders._windows import ConvStack

STACK = ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
LARGEST = Shape(128, 64, 128)
ALL = Wanted(layers=True, frames=True)


def attend_densely(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Attention under a mask that is made on the device: slow, but it needs no lengths, so it can be recorded."""
    owner = torch.searchsorted(segments.bounds, torch.arange(len(queries), dtype=torch.int32), right=True)
    parts = (part.transpose(0, 1)[None] for part in (queries, keys, values))
    out = functional.scaled_dot_product_attention(*parts, attn_mask=owner[:, None] == owner)
    return out[0].transpose(0, 1).contiguous()


@pytest.fixture
def weights(checkpoint: Callable[..., tuple[Any, Path]]) -> PackedWeights:
    return packed_weights(load_speech_model(checkpoint("wav2vec2-large")[1], "cpu"), torch.float32)


def make_pack(lengths: Sequence[int], seed: int, middle: bool = False) -> list[Clip]:
    rng = np.random.default_rng(seed)
    clips = []
    for row, frames in enumerate(lengths):
        samples = rng.normal(0.1, 0.2, 400 + 320 * (frames - 1) + int(rng.integers(320))).astype(np.float32)
        first, last = (frames // 4, frames - frames // 3) if middle else (0, frames)
        clips.append(Clip(row, samples, frames, first, last, normalised=middle))
    return clips


PACKS = [
    make_pack([40, 30, 58], 1),
    make_pack([60, 68], 2),
    make_pack([9, 20, 33, 8, 17, 41], 3, middle=True),
    make_pack([5], 4),
    make_pack([100, 1, 26], 5),
    make_pack([12] * 10, 6),
    make_pack([128], 7),
    make_pack([300], 8),
    make_pack([40, 30, 58], 9),
]
"""Full and nearly empty ones, of many clips and few, of windows, and one that is too long."""


def run_all(runner: PackRunner, wanted: Wanted = ALL) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """All packs, two in flight."""
    flight, results = [], []
    for pack in PACKS:
        if len(flight) == 2:
            results.append(runner.collect(flight.pop(0)))
        flight.append(runner.submit(pack, wanted))
    return results + [runner.collect(ticket) for ticket in flight]


def assert_same(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float = 0.0) -> None:
    for (sums, frames), (right, right_frames) in zip(ours, theirs, strict=True):
        assert sums.shape == right.shape and np.linalg.norm(sums - right) <= tolerance * np.linalg.norm(right)
        assert (frames is None) == (right_frames is None)
        if frames is not None:
            assert np.abs(frames.astype(np.float32) - right_frames).max() <= (0.01 if tolerance else 0)


@pytest.fixture
def expected(weights: PackedWeights) -> list[tuple[np.ndarray, np.ndarray | None]]:
    runner = PackRunner(weights, attend_by_clip, "float32", "cpu", LARGEST)
    return [runner.collect(runner.submit(pack, ALL)) for pack in PACKS]


class LateRunner(PackRunner):
    """A device that does nothing until somebody waits for it, then everything in order: the worst case of a queue."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue: list[tuple[int, Callable[[], None]]] = []

    def _upload(self, number: int, buffers: Buffers) -> None:
        upload = super()._upload
        self.queue.append((number, lambda: upload(number, buffers)))

    def _compute(self, number: int, *args: Any) -> None:
        compute = super()._compute
        self.queue.append((number, lambda: compute(number, *args)))

    def _wait(self, number: int) -> None:
        with torch.inference_mode():
            while any(queued == number for queued, _ in self.queue):
                self.queue.pop(0)[1]()


def test_packs_in_flight_do_not_share_memory(weights: PackedWeights, expected: list[Any]) -> None:
    assert_same(run_all(LateRunner(weights, attend_by_clip, "float32", "cpu", LARGEST)), expected)


def test_tally_counts_frames_and_room(weights: PackedWeights) -> None:
    runner = PackRunner(weights, attend_by_clip, "float32", "cpu", LARGEST)
    run_all(runner)
    assert runner.tally.packs == len(PACKS)
    assert runner.tally.frames == sum(clip.frames for pack in PACKS for clip in pack)
    assert runner.tally.room == sum([128, 128, 128, 512, 128, 128, 128, 512, 128])


def test_arithmetic_is_set_for_a_pack_and_given_back() -> None:
    products = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), products.allow_fp16_reduced_precision_reduction
    for precision, expected in (("float32", "highest"), ("tf32", "high"), ("float16", "highest")):
        with pytest.raises(ZeroDivisionError), arithmetic(precision):
            assert torch.get_float32_matmul_precision() == expected
            assert not products.allow_fp16_reduced_precision_reduction
            raise ZeroDivisionError
        assert (torch.get_float32_matmul_precision(), products.allow_fp16_reduced_precision_reduction) == before


# ---------------------------------------------------------------- CudaRunner with a stand-in for torch.cuda


class Recording(TorchDispatchMode):
    """What a CUDA graph is: the operators that ran, on the memory they ran on, to be run again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read while recording"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(*(x if isinstance(x, (tuple, list)) else [x] for x in (out, again)), strict=True):
                if isinstance(old, torch.Tensor) and old.numel() and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Graph:
    def __init__(self) -> None:
        self.recording = Recording()
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.recording.replay()

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class Stream:
    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...

    def wait_event(self, event: Any) -> None:
        assert event.recorded

    def synchronize(self) -> None: ...


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded = False

    def record(self, _: Any) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded

    def elapsed_time(self, other: "Event") -> float:
        assert self is not other and self.recorded and other.recorded
        return 250.0


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Puts a stand-in in the place of torch.cuda; the graphs that were made."""
    made: list[Graph] = []

    @contextmanager
    def graph(graph: Graph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        made.append(graph)
        with graph.recording:
            yield

    stand_in = SimpleNamespace(
        Stream=Stream, Event=Event, CUDAGraph=Graph, graph=graph, stream=nullcontext, device=nullcontext,
        current_stream=lambda _: None, synchronize=lambda _: None, empty_cache=lambda: None,
        mem_get_info=lambda _: (8 << 30, 80 << 30),
    )  # fmt: skip
    monkeypatch.setattr(_cuda_runner, "torch", SimpleNamespace(**{**vars(torch), "cuda": stand_in}))
    monkeypatch.setattr(CudaRunner, "_host", lambda _, size, dtype: torch.zeros(size, dtype=dtype))
    return made


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wanted", [ALL, Wanted()])
def test_recorded_packs_are_those_computed_step_by_step(
    wanted: Wanted, weights: PackedWeights, expected: list[Any], graphs: list[Graph]
) -> None:
    runner = CudaRunner(weights, attend_densely, "float32", "cpu", LARGEST)
    if wanted != ALL:
        expected = [(sums[-1:], None) for sums, _ in expected]
    for _ in range(3):
        assert_same(run_all(runner, wanted), expected, 1e-6)
    # One for each power of two of the longest clip; what is not full is not recorded.
    assert len(graphs) == 1 and graphs[0].replays == 3 * 7 - 1
    assert runner.tally.busy_s == pytest.approx(0.25 * runner.tally.packs)
    assert runner.tally.idle_s == pytest.approx(0.25 * (runner.tally.packs - 1))


@pytest.mark.parametrize(("spoil", "word"), [("wrong", "differs by"), ("raise", "cannot be recorded.*no graphs here")])
def test_recording_that_fails_or_lies_is_not_used(
    spoil: str,
    word: str,
    weights: PackedWeights,
    expected: list[Any],
    graphs: list[Graph],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def replay(self: Graph) -> None:
        if spoil == "raise":
            raise RuntimeError("no graphs here")
        self.recording.replay()
        next(out for *_, out in reversed(self.recording.calls) if out.dtype == torch.float64).mul_(1.01)

    monkeypatch.setattr(Graph, "replay", replay)
    runner = CudaRunner(weights, attend_densely, "float32", "cpu", LARGEST)
    with pytest.warns(UserWarning, match=word):
        assert_same(run_all(runner), expected, 1e-6)
    assert_same(run_all(runner), expected, 1e-6)


@pytest.mark.filterwarnings("error")
def test_what_needs_lengths_is_not_recorded(weights: PackedWeights, expected: list[Any], graphs: list[Graph]) -> None:
    assert_same(run_all(CudaRunner(weights, attend_by_clip, "float32", "cpu", LARGEST)), expected, 1e-6)
    assert not graphs


def test_runner_starts_again_with_less(weights: PackedWeights, expected: list[Any], graphs: list[Graph]) -> None:
    runner = CudaRunner(weights, attend_densely, "float32", "cpu", LARGEST)
    run_all(runner)
    runner.shrink()
    assert runner.largest.frames == 64
    assert_same(run_all(runner), expected, 1e-6)


def test_pack_is_smaller_where_memory_is_short(
    weights: PackedWeights, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert largest_pack("cuda", weights).frames == 32768
    for free in (10**8, 10**9, 10**10):
        monkeypatch.setattr(_cuda_runner.torch.cuda, "mem_get_info", lambda _, free=free: (free, 80 << 30))
        shape = largest_pack("cuda", weights)
        assert shape.frames == 2048 or pack_bytes(shape.frames, weights) <= 0.4 * free
    monkeypatch.setattr(_cuda_runner.torch.cuda, "mem_get_info", lambda _: (0, 80 << 30))
    assert largest_pack("cuda", weights) == Shape(2048, 128, 2048)


def test_buffers_of_a_pack_that_did_not_fit_are_used_again_only_when_nothing_runs(
    weights: PackedWeights, expected: list[Any], graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(_cuda_runner.torch.cuda, "synchronize", waited.append)

    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    runner = CudaRunner(weights, attend_densely, "float32", "cpu", LARGEST)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(runner, "_run", refuse)
        runner.submit(PACKS[0], ALL)
    assert waited == ["cpu"] and runner.tally.packs == 0
    assert_same(run_all(runner), expected, 1e-6)
