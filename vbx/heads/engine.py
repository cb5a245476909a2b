"""Engine: what trains runs. On a CPU the native kernel, one run a core; else torch, a stack of runs at a time."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from vbx.heads.captured import open_captured
from vbx.heads.data import Split
from vbx.heads.model import Model
from vbx.heads.native import NativeRun, explain_outside, find_kernel
from vbx.heads.run import Run
from vbx.heads.stack import Stack, predict_stack
from vbx.heads.steps import train_epoch
from vbx.progress import Progress

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Engine:
    """How a stack of runs sees train, and how it predicts.

    Attributes:
        train_epoch: one pass over train
        predict: outputs of each task `(R, N, K)` from weights `(R, P)` on a split
    """

    train_epoch: Callable[[Model, Stack, Split, int], None]
    predict: Callable[[Model, Tensor, Split], list[Tensor]]


def trains_natively(run: Run, device: torch.device) -> bool:
    """Whether the kernel trains a run on a device; else torch does."""
    return device.type == "cpu" and find_kernel().library is not None and not explain_outside(run)


def name_engines(runs: Sequence[Run], device: str) -> str:
    """What would train runs on a device, for people.

    Examples:
        >>> name_engines([], "cuda:0")
        'torch'
    """
    if torch.device(device).type != "cpu":
        return "torch"
    kernel = find_kernel()
    if kernel.library is None:
        return "torch (see `vbx doctor`)"
    reasons = dict.fromkeys(explain_outside(run) for run in runs)
    names = [f"torch ({why})" if why else f"native {kernel.path}" for why in reasons]
    return " and ".join(names)


@contextlib.contextmanager
def open_engine(native: bool, model: Model, train: Split) -> Iterator[Engine]:
    """An engine for one stack, which is one run if it is the kernel's."""
    if train.x.is_cuda:
        with open_captured(train.x.device) as steps:
            yield Engine(steps.train_epoch, predict_stack)
        return
    if not native:
        yield Engine(train_epoch, predict_stack)
        return
    with NativeRun(find_kernel(), model, train) as run:
        yield Engine(run.train_epoch, run.predict)


def work_off(
    work: Callable[[Work], Outcome], queue: Iterable[Work], workers: int, stop: Callable[[], None]
) -> Generator[Outcome, None, None]:
    """Do pieces of work in threads, and hand over what comes of each as soon as it is there.

    Args:
        work: does one piece
        queue: the pieces; each is asked for, in the caller's thread, shortly before it begins
        workers: how many threads
        stop: called at the end, or on an error, so that what is under way ends soon; what has not begun is dropped
    """
    pool, pieces = (
        ThreadPoolExecutor(workers, "vbx-heads", initializer=torch.set_num_threads, initargs=(1,)),
        iter(queue),
    )
    try:
        # One more than there are threads: the next piece is there when a thread asks for it.
        under_way = {pool.submit(work, piece) for piece in itertools.islice(pieces, workers + 1)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            under_way |= {pool.submit(work, piece) for piece in itertools.islice(pieces, len(done))}
            for future in done:
                yield future.result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)


def spread(work: Callable[[Work], Outcome], pieces: Sequence[Work], workers: int) -> list[Outcome]:
    """Do pieces of work in threads, the first alone: what it makes and keeps, the others need not make again.

    Examples:
        >>> spread(len, ["one", "three"], 2)
        [3, 5]
    """
    if workers == 1 or len(pieces) < 3:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(workers, "vbx-heads", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [work(pieces[0]), *pool.map(work, pieces[1:])]


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """Let torch and BLAS use one thread: with more, the order of sums depends on how many runs there are.

    Yields:
        how many there were for torch
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield before
    finally:
        torch.set_num_threads(before)


class Counted:
    """Tells progress from several threads, one at a time, and ends their work between two epochs."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._stopped = False

    def advance(self, amount: float) -> None:
        """`amount` epochs more are done.

        Raises:
            CancelledError: if the work is to end
        """
        if self._stopped:
            raise CancelledError
        with self._lock:
            self._progress.advance(amount)

    def stop(self) -> None:
        """Whoever tells progress next is to end."""
        self._stopped = True
