"""Watch: how far a run has come, whether it improves and when it stops."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from vbx.heads.parts import Fit


@dataclass(frozen=True)
class Watch:
    """How far a run has come.

    Attributes:
        place: of the run among those that began
        epochs: how many it has seen
        best: least of what is monitored
        best_epoch: epoch whose weights count so far
        waited: epochs since it improved
        status: `on`, `done` or `diverged`
        history: what was monitored after each epoch; empty if nothing is
    """

    place: int
    epochs: int = 0
    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    status: Literal["on", "done", "diverged"] = "on"
    history: tuple[float, ...] = ()


def look(watch: Watch, fit: Fit, value: float | None, finite: bool) -> Watch:
    """A watch one epoch on.

    Args:
        watch: before the epoch
        fit: how its run is trained
        value: what is monitored, less is better; None if nothing is: then the run goes on to its last epoch, whose
            weights count
        finite: whether all its weights are

    Examples:
        >>> watch = look(Watch(0), Fit(patience=1), 0.5, True)
        >>> look(watch, Fit(patience=1), 0.6, True).status
        'done'
    """
    epoch = watch.epochs + 1
    history = watch.history if value is None else (*watch.history, value)
    if not finite or (fit.monitor == "loss" and value is not None and not math.isfinite(value)):
        return replace(watch, epochs=epoch, best_epoch=epoch, status="diverged", history=history)
    # A score that is not defined is no improvement, but the first epoch counts until a better one comes.
    number = math.inf if value is None or math.isnan(value) else value
    improved = watch.epochs == 0 or number < watch.best - fit.min_delta
    best, waited = (number, 0) if improved else (watch.best, watch.waited + 1)
    stops = epoch == fit.epochs or (value is not None and 0 < fit.patience <= waited)
    best_epoch = epoch if improved or value is None or not fit.restore_best else watch.best_epoch
    return Watch(watch.place, epoch, best, best_epoch, waited, "done" if stops else "on", history)
