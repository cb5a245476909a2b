"""The crew: processes that read audio and run the encoders of the CPU. One that dies is replaced; the run goes on."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self, TypeAlias

from vbx.errors import VbxError
from vbx.extract.encoder import Encoder, Output
from vbx.extract.work import Answer, Item, Order, do_item
from vbx.extract.worker import describe, load_here, receive, send

QUEUED = 2
"""Tasks that a worker has at once: one it works on, and one so that it need not wait for the next."""
AHEAD_S = 3600.0
"""Audio that may be under way at once where waveforms are handed on, in seconds: 230 MB at 16 kHz."""
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from vbx.extract.worker import serve
serve(int(sys.argv[1]))
"""
Descriptions: TypeAlias = dict[int, tuple[tuple[Output, ...], float]]
"""Outputs and speed of encoders, by the number of their order."""


@dataclass(eq=False)
class _Task:
    """Some items of which the answers are to come in order.

    Attributes:
        items: still to be answered by a worker
        answers: so far
        alone: whether this is one item of a task whose worker died
        parts: the tasks it was taken apart into
    """

    items: tuple[Item, ...]
    answers: list[Answer] = field(default_factory=list)
    alone: bool = False
    parts: tuple["_Task", ...] = ()

    @property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.items)

    def collect(self) -> list[Answer] | None:
        """All answers, or None while some are missing."""
        if not self.parts:
            return self.answers if len(self.answers) == len(self.items) else None
        found = [part.collect() for part in self.parts]
        return None if None in found else [answer for answers in found if answers for answer in answers]


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    tasks: deque[_Task] = field(default_factory=deque)


class Crew:
    """Processes that do items.

    Processes of our own rather than `multiprocessing`'s pool: that one is lost as a whole when a decoder crashes, and
    it runs the user's script again in each of them.

    Args:
        orders: what each encoder wants
        workers: processes; 0 to do everything in this one
    """

    def __init__(self, orders: Sequence[Order], workers: int) -> None:
        self._orders = tuple(orders)
        self._most = workers
        self._workers: list[_Worker] = []
        self._here: dict[int, Encoder] = {}
        self._waiting: deque[_Task] = deque()
        self.deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            if kind is not None:
                worker.process.kill()
            worker.process.wait()
        self._workers.clear()

    @property
    def size(self) -> int:
        """Processes that work at once."""
        return max(len(self._workers), 1)

    def describe(self) -> Descriptions:
        """Outputs and speed of the encoders that run in the crew, by the number of their order.

        Raises:
            VbxError: if one cannot be loaded
        """
        if not self._most:
            self._here = load_here(self._orders)
            return {i: describe(encoder) for i, encoder in self._here.items()}
        return self._welcome(self._launch())

    def run(self, items: Sequence[Item], cost_s: float) -> Iterator[list[Answer]]:
        """Do items, a task at a time.

        Args:
            items: what to do; neighbours are done together
            cost_s: about how long all of it would take one process, in seconds: a short run starts few

        Yields:
            answers, in the order of the items. An item on which its process dies is answered with that as its reason
        """
        tasks = (_Task(tuple(group)) for group in cut_tasks(items))
        if not self._most:
            for task in tasks:
                yield [do_item(item, self._orders, self._here) for item in task.items]
            return
        for worker in [self._launch() for _ in range(min(self._most, 1 + int(cost_s / 3.0)) - len(self._workers))]:
            self._welcome(worker)
        limit_s = AHEAD_S * (1 if any(not order.in_worker for order in self._orders) else 4)
        under_way: deque[_Task] = deque()
        following = next(tasks, None)
        while under_way or following:
            while following and self._room(under_way, following, limit_s):
                under_way.append(following)
                self._waiting.append(following)
                following = next(tasks, None)
            self._hand_out()
            while under_way and (answers := under_way[0].collect()) is not None:
                under_way.popleft()
                yield answers
            if under_way:
                self._take_in()

    def _room(self, under_way: Sequence[_Task], task: _Task, limit_s: float) -> bool:
        few = len(under_way) < (QUEUED + 1) * len(self._workers)
        return not under_way or (few and sum(t.seconds for t in under_way) + task.seconds <= limit_s)

    def _hand_out(self) -> None:
        for depth in range(QUEUED):
            for worker in self._workers:
                if self._waiting and len(worker.tasks) == depth:
                    worker.tasks.append(self._waiting.popleft())
                    try:
                        send(worker.connection, worker.tasks[-1].items)
                    except ConnectionError:
                        self._bury(worker)
                        return

    def _take_in(self) -> None:
        """Wait for answers, or for the end of a worker."""
        busy = {worker.connection: worker for worker in self._workers if worker.tasks}
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            try:
                worker.tasks[0].answers = receive(worker.connection)
                worker.tasks.popleft()
            except (EOFError, ConnectionError):
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that died, and find out which of its items it died of: each is done again by itself."""
        worker.connection.close()
        code = worker.process.wait()
        self.deaths += 1
        self._workers.remove(worker)
        if worker.tasks:
            suspect = worker.tasks.popleft()
            if suspect.alone:
                suspect.answers = [_died(suspect.items[0], code)]
            else:
                suspect.parts = tuple(_Task((item,), alone=True) for item in suspect.items)
                worker.tasks.extendleft(reversed(suspect.parts))
        self._waiting.extendleft(reversed(worker.tasks))
        self._welcome(self._launch())

    def _launch(self) -> _Worker:
        """Start a process and tell it its orders."""
        ours, theirs = Pipe()
        with theirs:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            command = [sys.executable, "-c", _START, str(theirs.fileno()), json.dumps(sys.path)]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _welcome(self, worker: _Worker) -> Descriptions:
        """What a new process says of its encoders, once it has loaded them."""
        try:
            send(worker.connection, self._orders)
            said: Descriptions | VbxError = receive(worker.connection)
        except (EOFError, ConnectionError):
            ending = _ending(worker.process.wait())
            raise VbxError(f"a process that reads audio did not start ({ending}); see what it printed") from None
        if isinstance(said, VbxError):
            raise said
        return said


def cut_tasks(items: Sequence[Item], most: int = 16, most_s: float = 30.0) -> Iterator[list[Item]]:
    """Cut items into tasks: few enough to lose with a worker, enough to be worth a message.

    Args:
        items: in order
        most: most items of a task
        most_s: most audio of a task of more than one item, in seconds
    """
    for _, group in itertools.groupby(zip(items, _numbers(items, most, most_s), strict=True), key=lambda pair: pair[1]):
        yield [item for item, _ in group]


def _numbers(items: Iterable[Item], most: int, most_s: float) -> Iterator[int]:
    """The number of the task of each item."""
    task, count, seconds = 0, 0, 0.0
    for item in items:
        if count and (count >= most or seconds + item.seconds > most_s):
            task, count, seconds = task + 1, 0, 0.0
        count, seconds = count + 1, seconds + item.seconds
        yield task


def _died(item: Item, code: int) -> Answer:
    reason = f"{str(item.utterance.path)!r}: the process that read it died of it twice ({_ending(code)})"
    return Answer(item.row, item.seconds, {number: reason for number in item.wanted})


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        return f"{name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"
    return f"exit status {code}"
