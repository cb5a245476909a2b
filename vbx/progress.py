"""Progress on anything that takes longer than two seconds: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self


class Progress(Protocol):
    """What the long loops report to. `Quiet()` is the library's default, `Shown()` the command line's.

    Several pieces of work may be under way side by side; `what` says which is meant, the empty string the last begun.
    """

    def start(self, what: str, total: float, unit: str) -> None:
        """A new piece of work begins, `total` of `unit` (say, 0.52 audio hours)."""

    def advance(self, amount: float = 1.0, note: str = "", what: str = "") -> None:
        """`amount` more is done."""

    def finish(self, what: str = "") -> None:
        """The piece of work is over."""


class Quiet:
    """Reports nothing."""

    def start(self, what: str, total: float, unit: str) -> None:
        """Nothing."""

    def advance(self, amount: float = 1.0, note: str = "", what: str = "") -> None:
        """Nothing."""

    def finish(self, what: str = "") -> None:
        """Nothing."""


class Shown:
    """Progress with an ETA on stderr: bars on a terminal, else a line every ten seconds.

    Work that is counted in audio hours also tells how many times as fast as real time it goes.
    """

    every_s = 10.0

    def __init__(self) -> None:
        self._pieces: dict[str, _Piece] = {}
        self._bars: _Bars | None = None
        self._lock = threading.Lock()

    def start(self, what: str, total: float, unit: str) -> None:
        """Begin; on a terminal a bar appears."""
        with self._lock:
            now = time.monotonic()
            self._pieces.pop(what, None)
            self._pieces[what] = _Piece(what, total, unit, now, now)
            if sys.stderr.isatty():
                self._bars = self._bars or _Bars()
                self._bars.add(self._pieces[what])

    def advance(self, amount: float = 1.0, note: str = "", what: str = "") -> None:
        """Move on; off a terminal a line is printed at most every ten seconds."""
        with self._lock:
            piece = self._piece(what)
            if piece is None:
                return
            now = time.monotonic()
            piece.done += amount
            if self._bars:
                self._bars.update(piece, f"{piece.pace(now)} {note}".strip())
            elif now - piece.told >= self.every_s and piece.done > 0:
                piece.told = now
                print(f"{piece.line(now)} {note}".rstrip(), file=sys.stderr, flush=True)

    def finish(self, what: str = "") -> None:
        """Take the bar away."""
        with self._lock:
            piece = self._piece(what)
            if piece is None:
                return
            del self._pieces[piece.what]
            if self._bars:
                self._bars.remove(piece)
            if self._bars and not self._pieces:
                self._bars.close()
                self._bars = None

    def _piece(self, what: str) -> "_Piece | None":
        return self._pieces.get(what or next(reversed(self._pieces), ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._pieces:
            self.finish()


@dataclass
class _Piece:
    """A piece of work that is under way."""

    what: str
    total: float
    unit: str
    began: float
    told: float
    done: float = 0.0

    def pace(self, now: float) -> str:
        """How many times as fast as real time audio goes; nothing for other work."""
        if self.unit != "audio h" or now <= self.began:
            return ""
        return f"{self.done * 3600 / (now - self.began):.3g} x real time"

    def line(self, now: float) -> str:
        """One plain line."""
        left = (now - self.began) * max(self.total - self.done, 0.0) / self.done
        pace = self.pace(now)
        middle = f", {pace}" if pace else ""
        return f"{self.what}: {self.done:.4g} of {self.total:.4g} {self.unit}{middle}, about {left:.0f} s left"


class _Bars:
    """Bars of rich, one below the other; rich is imported only when one is shown."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.4g}/{task.total:.4g} {task.fields[unit]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._tasks: dict[str, Any] = {}

    def add(self, piece: _Piece) -> None:
        self._tasks[piece.what] = self._progress.add_task(piece.what, total=piece.total, unit=piece.unit, note="")

    def update(self, piece: _Piece, note: str) -> None:
        self._progress.update(self._tasks[piece.what], completed=piece.done, note=note)

    def remove(self, piece: _Piece) -> None:
        self._progress.remove_task(self._tasks.pop(piece.what))

    def close(self) -> None:
        self._progress.stop()
