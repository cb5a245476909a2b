"""Result: what a run reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vbx.heads.head import Head
from vbx.heads.run import Run


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one run on one split.

    Attributes:
        split: `dev` or `test`
        task: name of the task; `score` for the combined score
        column: label column; empty for the mean over the task's columns
        metric: name of the metric; how parts are combined, for the combined score
        value: its value; nan if it is not defined
        n: utterances that have a vector and a label here
        replicates: its value in each bootstrap draw then without each block of speakers
            (`draw_counts`), for means over columns and the combined score
        part: fold of a cross-validation, or corpus, that it is of alone; empty for the pool of them all
    """

    split: str
    task: str
    column: str
    metric: str
    value: float
    n: int
    replicates: NDArray[np.float32] | None = None
    part: str = ""


@dataclass(frozen=True)
class FoldResult:
    """One training of a run that has several.

    Attributes:
        head: its weights
        status: `ok` or `diverged`
        epochs: passes over its train
        best_epoch: the epoch, from 1, whose weights were kept
        seconds: wall time of its stack, divided by the runs in it
        curve: what was monitored on its dev after each epoch
    """

    head: Head
    status: Literal["ok", "diverged"]
    epochs: int
    best_epoch: int
    seconds: float
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """What a run reached.

    Attributes:
        run: the run
        key: `run.key_on(vectors)`
        status: `ok`, or `diverged` if a weight or a loss was no longer finite, in any fold; then every value is nan
        epochs: passes over train; of several folds, their mean
        best_epoch: the epoch, from 1, whose weights were kept; of several folds, their mean
        seconds: wall time of its stack, divided by the runs in it; of several folds, their sum
        rows: its metrics: of the pool of its folds, then of each part
        head: its weights; None where each fold has its own
        notes: what one should know: no dev split, ...
        curve: what was monitored on dev after each epoch, less is better; empty if nothing was; of several folds, the
            mean as far as all of them went
        folds: its trainings by the name of the fold, where there are several
    """

    run: Run
    key: str
    status: Literal["ok", "diverged"]
    epochs: int
    best_epoch: int
    seconds: float
    rows: tuple[ScoreRow, ...]
    head: Head | None
    notes: tuple[str, ...] = ()
    curve: tuple[float, ...] = ()
    folds: Mapping[str, FoldResult] = field(default_factory=dict)

    @property
    def heads(self) -> Mapping[str, Head]:
        """Its heads by the name they are kept under: its key or, where each fold has its own, `KEY/FOLD`."""
        own = {self.key: self.head} if self.head is not None else {}
        return own | {f"{self.key}/{name}": fold.head for name, fold in self.folds.items()}
