"""Progress on anything that takes longer than two seconds: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self


class Progress(Protocol):
    """What the long loops report to. `Quiet()` is the library's default, `Shown()` the command line's."""

    def start(self, what: str, total: float, unit: str) -> None:
        """A new piece of work begins, `total` of `unit` (say, 0.52 audio hours)."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """`amount` more is done."""

    def finish(self) -> None:
        """The piece of work is over."""


class Quiet:
    """Reports nothing."""

    def start(self, what: str, total: float, unit: str) -> None:
        """Nothing."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Shown:
    """Progress with an ETA on stderr: a bar on a terminal, else a line every ten seconds."""

    every_s = 10.0

    def __init__(self) -> None:
        self._bar: object | None = None
        self._what, self._unit, self._total, self._done = "", "", 0.0, 0.0
        self._began = self._told = 0.0

    def start(self, what: str, total: float, unit: str) -> None:
        """Begin; on a terminal a bar appears."""
        self.finish()
        self._what, self._unit, self._total, self._done = what, unit, total, 0.0
        self._began = self._told = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _Bar(what, total, unit)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Move on; off a terminal a line is printed at most every ten seconds."""
        self._done += amount
        if isinstance(self._bar, _Bar):
            self._bar.update(self._done, note)
            return
        now = time.monotonic()
        if now - self._told >= self.every_s and self._done > 0:
            self._told = now
            left = (now - self._began) * max(self._total - self._done, 0.0) / self._done
            line = f"{self._what}: {self._done:.4g} of {self._total:.4g} {self._unit}, about {left:.0f} s left {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Take the bar away."""
        if isinstance(self._bar, _Bar):
            self._bar.close()
        self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


class _Bar:
    """A rich progress bar; rich is imported only when one is shown."""

    def __init__(self, what: str, total: float, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.4g}/{task.total:.4g} " + unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(what, total=total, note="")

    def update(self, done: float, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)

    def close(self) -> None:
        self._progress.stop()
