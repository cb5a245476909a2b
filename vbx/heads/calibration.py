"""Calibration: how far a head's probabilities and numbers can be trusted, fitted on dev after training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from vbx.heads.parts import Task
from vbx.heads.roles import told_tasks

COVERAGE = 0.9
"""Share of utterances whose number an interval is to hold."""
COLDEST, HOTTEST = 0.1, 10.0
"""Bounds of a temperature."""
MOST = 4096
"""Utterances, evenly spaced, that a temperature is fitted on if there are more: one number needs no more."""
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Calibration:
    """What turns the outputs of a head into calibrated ones.

    Attributes:
        temperatures: of each classification task, by which its logits are divided; above 1 for a head that was too
            sure, 1 if none was better
        widths: of each regression task, for each column the half-width of the interval around a prediction that holds
            90 % of the numbers of exchangeable utterances; infinite where dev has fewer than 9 of them
        counts: of each task, labelled utterances of dev that it was fitted on (fewest of any column)
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def interval(self, task: Task, values: Floats) -> tuple[Floats, Floats] | None:
        """Lower and upper ends around the predictions `(N, K)` of a regression; None if it has none.

        Numbers of a task with sigmoid output end at 0 and 1.
        """
        if task.name not in self.widths:
            return None
        widths = np.asarray(self.widths[task.name], values.dtype)
        ends = values - widths, values + widths
        return (np.clip(ends[0], 0, 1), np.clip(ends[1], 0, 1)) if task.output == "sigmoid" else ends

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON has it: an infinite width is null."""
        widths = {name: [w if math.isfinite(w) else None for w in widths] for name, widths in self.widths.items()}
        return {"temperatures": dict(self.temperatures), "widths": widths, "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_json`."""
        widths = {name: tuple(math.inf if w is None else w for w in row) for name, row in fields["widths"].items()}
        return cls(dict(fields["temperatures"]), widths, dict(fields["counts"]))


def calibrate(
    tasks: Sequence[Task], said: Mapping[str, Floats], true: Mapping[str, NDArray[Any]]
) -> Calibration | None:
    """Fit a calibration on dev: no weight of the head changes, and no argmax.

    Every utterance counts alike, also where training weighted the classes: probabilities are those of dev's own
    distribution. Where dev chose the epoch, its errors are a little smaller than those on new utterances. Utterances of
    one speaker resemble each other, so that of new speakers an interval holds less where dev had few: 75 to 85 % of the
    ages of unseen speakers, on two small corpora.

    Args:
        tasks: what the head learnt; adversarial tasks and discriminators are left out
        said: of each task, logits `(N, C)` or values in their unit `(N, K)`
        true: of each task, indices of classes `(N,)`, -1 where missing, or numbers `(N, K)`, nan where missing

    Returns:
        the calibration; None if a prediction is not finite, or no task has a label
    """
    temperatures, widths, counts = {}, {}, {}
    for task in told_tasks(tasks):
        values, truth = np.asarray(said[task.name], np.float64), true[task.name]
        if not np.isfinite(values).all():
            return None
        if task.kind == "classification":
            counts[task.name] = int((truth >= 0).sum())
            temperatures[task.name] = fit_temperature(values[truth >= 0], truth[truth >= 0])
        else:
            counts[task.name] = int((~np.isnan(truth)).sum(0).min())
            widths[task.name] = tuple(fit_width(np.abs(values - truth).T[k]) for k in range(truth.shape[1]))
    return Calibration(temperatures, widths, counts) if any(counts.values()) else None


def fit_temperature(logits: Floats, classes: NDArray[np.integer[Any]]) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    As in Platt's scaling (1999, section 2.2) the true class of n utterances counts (n + 1) / (n + C) and each other
    1 / (n + C): a dev split without a single error is no proof that there is none.

    Args:
        logits: `(N, C)`
        classes: true class of each `(N,)`

    Returns:
        from 0.1 to 10; 1 if there is nothing to fit on, or nothing to gain

    Examples:
        >>> random = np.random.default_rng(0)
        >>> logits = random.standard_normal((4000, 3))
        >>> classes = (logits + random.gumbel(size=logits.shape)).argmax(1)
        >>> round(fit_temperature(4 * logits, classes), 1)
        4.0
    """
    step = max(1, math.ceil(len(logits) / MOST))
    logits, classes = np.asarray(logits[::step], np.float64), classes[::step]
    if not len(logits) or logits.shape[1] < 2:
        return 1.0
    size, width = logits.shape
    logits = logits - logits.max(axis=1, keepdims=True)  # so that no power overflows, whatever the temperature
    # The mean of the logits under the targets: of all classes alike, and of the true one n times more.
    wanted = float((logits.sum(axis=1) + size * logits[np.arange(size), classes]).mean() / (size + width))

    def slope(beta: float) -> float:
        """Of the loss, by the inverse of the temperature; it never falls."""
        odds = np.exp(beta * logits)
        return float((np.einsum("nc,nc->n", odds, logits) / odds.sum(axis=1)).mean()) - wanted

    def loss(beta: float) -> float:
        return float(np.log(np.exp(beta * logits).sum(axis=1)).mean()) - beta * wanted

    low, high = 1 / HOTTEST, 1 / COLDEST
    at_end = low if slope(low) >= 0 else high if slope(high) <= 0 else None
    beta = at_end or float(brentq(slope, low, high, xtol=1e-3))
    return 1 / beta if loss(beta) < loss(1.0) else 1.0


def fit_width(residuals: Floats) -> float:
    """Half-width of an interval that holds a new number with a probability of at least 90 %.

    Split conformal prediction (Lei et al. 2018, doi:10.1080/01621459.2017.1307116, algorithm 2): of n absolute
    residuals the ceil((n + 1) 0.9)-th smallest.

    Args:
        residuals: absolute residuals `(N,)` of utterances that the head did not learn from; nan where there is none

    Returns:
        the half-width; infinite for fewer than 9 residuals

    Examples:
        >>> fit_width(np.arange(1.0, 10.0)), fit_width(np.arange(8.0)), fit_width(np.arange(1.0, 20.0))
        (9.0, inf, 18.0)
    """
    present = residuals[~np.isnan(residuals)]
    place = math.ceil((len(present) + 1) * COVERAGE - 1e-9)
    return float(np.partition(present, place - 1)[place - 1]) if place <= len(present) else math.inf
