"""Result: what a run reached."""

from dataclasses import dataclass
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
    """

    split: str
    task: str
    column: str
    metric: str
    value: float
    n: int
    replicates: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Result:
    """What a run reached.

    Attributes:
        run: the run
        key: `run.key_on(vectors)`
        status: `ok`, or `diverged` if a weight or a loss was no longer finite; then every value is nan
        epochs: passes over train
        best_epoch: the epoch, from 1, whose weights were kept
        seconds: wall time of its stack, divided by the runs in it
        rows: its metrics
        head: its weights
        notes: what one should know: no dev split, ...
        curve: what was monitored on dev after each epoch, less is better; empty if nothing was
    """

    run: Run
    key: str
    status: Literal["ok", "diverged"]
    epochs: int
    best_epoch: int
    seconds: float
    rows: tuple[ScoreRow, ...]
    head: Head
    notes: tuple[str, ...] = ()
    curve: tuple[float, ...] = ()
