"""Timing: how long a sweep will take, from a few steps of some of its shapes."""

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vbx.cache.vectors import Vectors
from vbx.heads.data import list_classes
from vbx.heads.engine import trains_natively
from vbx.heads.head import list_layers
from vbx.heads.jobs import Jobs
from vbx.heads.protocol import Protocol
from vbx.heads.protocols.folds import make_folds
from vbx.heads.run import Run, group_shapes
from vbx.heads.training import each_stack
from vbx.progress import Quiet

BUDGET_S = 2.0
"""How long measuring takes, about."""
MOST_SHAPES = 6
"""How many shapes are measured; what lies between them is interpolated."""
STEP_WORTH = 8
"""Utterances whose multiplications take as long as moving the weights once."""
EPOCHS = 4
"""How many epochs are measured."""
FEW_ROWS = 64
"""Utterances of train that a first look at a shape sees."""


@dataclass(frozen=True)
class Group:
    """Runs of one shape on one feature.

    Attributes:
        runs: the runs
        vectors: what they learn from, with the splits of their first fold
        folds: how often each is trained
        at_once: trainings side by side: cores of the native kernel, else runs of a stack, where so many fit
        engine: what trains them
    """

    runs: tuple[Run, ...]
    vectors: Vectors
    folds: int
    at_once: int
    engine: Hashable

    @property
    def work(self) -> float:
        """Of an epoch, as `count_work` has it."""
        run = self.runs[0]
        return count_work(run, self.vectors) / run.fit.epochs


@dataclass(frozen=True)
class Pace:
    """How fast trainings of a shape go.

    Attributes:
        at_once: trainings side by side
        prepare_s: until the first step, once a shape and fold
        epoch_s: an epoch and what is watched on dev after it
        score_s: what is once a training: first weights, metrics and their replicates
    """

    at_once: float
    prepare_s: float
    epoch_s: float
    score_s: float


@dataclass(frozen=True)
class Estimate:
    """How long a sweep will take if no run stops early.

    Attributes:
        seconds: wall time
        shapes: how many shapes there are
        measured: how many of them were measured
        device: where
        cores: how many train at a time
    """

    seconds: float
    shapes: int
    measured: int
    device: str
    cores: int


def estimate_sweep(
    places: Sequence[tuple[Sequence[Run], Vectors]], device: str = "cpu", budget_s: float = BUDGET_S
) -> Estimate:
    """Measure how long a sweep will take: an upper bound where runs stop early.

    Args:
        places: runs that are to be trained, with what they learn from
        device: where
        budget_s: how long measuring may take, about

    Raises:
        RecipeError: if labels do not fit the runs
        UnknownName: if they lack a column
    """
    groups = group_runs(places, device)
    chosen = choose_groups([(group.engine, group.work) for group in groups])
    paces = {place: measure_pace(groups[place], device, budget_s / len(chosen)) for place in chosen}
    seconds = sum(
        add_up(group, paces[place] if place in paces else _between(place, groups, paces))
        for place, group in enumerate(groups)
    )
    cores = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    return Estimate(seconds, len(groups), len(chosen), device, cores)


def count_work(run: Run, vectors: Vectors) -> float:
    """What training a run is at most, in proportion to its time where machine and engine are the same.

    In each step every weight is moved once, and multiplied for each utterance of the batch.
    """
    outputs = {task.name: max(len(list_classes(vectors, task.columns[0])), len(task.columns)) for task in run.tasks}
    layers = list_layers(vectors.x.shape[1], run.trunk, run.tasks, outputs)
    weights = sum(layer.width_in * layer.width_out for layer in layers)
    return float(run.fit.epochs * _count_train(vectors) * weights * (1 + STEP_WORTH / run.fit.batch_size))


def group_runs(places: Sequence[tuple[Sequence[Run], Vectors]], device: str) -> list[Group]:
    """Runs by shape and feature."""
    found = []
    for runs, vectors in places:
        protocols: dict[Protocol, tuple[Vectors, int]] = {}
        for members in group_shapes(runs).values():
            first = members[0]
            if first.protocol not in protocols:
                protocols[first.protocol] = _first_fold(first, vectors)
            native = trains_natively(first, torch.device(device))
            at_once = torch.get_num_threads() if native else len(members)
            found.append(Group(tuple(members), *protocols[first.protocol], at_once, (native, first.fit.dtype)))
    return found


def choose_groups(works: Sequence[tuple[Hashable, float]], most: int = MOST_SHAPES) -> list[int]:
    """Places of groups to measure: of each engine the least and the most work, and evenly between.

    Examples:
        >>> choose_groups([("native", 5.0), ("native", 1.0), ("native", 3.0), ("torch", 2.0)], most=2)
        [0, 1, 3]
    """
    chosen: set[int] = set()
    for engine in dict.fromkeys(engine for engine, _ in works):
        order = sorted((place for place, work in enumerate(works) if work[0] == engine), key=lambda p: works[p][1])
        chosen |= {order[round(i)] for i in np.linspace(0, len(order) - 1, min(most, len(order)))}
    return sorted(chosen)


def add_up(group: Group, pace: Pace) -> float:
    """Seconds of a group at a pace: each run all its epochs, `at_once` trainings at a time."""
    trainings = [pace.score_s + run.fit.epochs * pace.epoch_s for run in group.runs]
    side_by_side = max(sum(trainings) * group.folds / pace.at_once, max(trainings))
    return group.folds * pace.prepare_s + side_by_side


def measure_pace(group: Group, device: str, budget_s: float) -> Pace:
    """Train a little of a shape: as many utterances as the budget has time for.

    A first look loads what is loaded once, a second says how many utterances there is time for.
    """
    few = min(1.0, max(FEW_ROWS, 4 * group.runs[0].fit.batch_size) / _count_train(group.vectors))
    if not trains_natively(group.runs[0], torch.device(device)):
        group = replace(group, at_once=min(group.at_once, _stack_size(group, device)))
    small = _sample(group, few)
    _time(small, device, 1)
    look = _time(small, device, 2 * EPOCHS)
    share = min(1.0, max(3 * few, few * budget_s / 2 / EPOCHS / (look.epoch_s + 1e-6)))
    pace = _time(_sample(group, share), device, EPOCHS)
    return pace if share >= 1 else extrapolate((few, look), (share, pace))


def extrapolate(small: tuple[float, Pace], large: tuple[float, Pace]) -> Pace:
    """Pace on all utterances from that on two shares of them: some of the time is for each utterance, some is not.

    Examples:
        >>> extrapolate((0.1, Pace(2, 1.0, 2.0, 5.0)), (0.2, Pace(2, 2.0, 3.0, 4.0)))
        Pace(at_once=2, prepare_s=10.0, epoch_s=11.0, score_s=4.0)
    """
    (few, before), (share, after) = small, large
    found = []
    for name in ("prepare_s", "epoch_s", "score_s"):
        less, more = getattr(before, name), getattr(after, name)
        slope = max(0.0, more - less) / (share - few)
        found.append(min(more + slope * (1 - share), more / share))
    return Pace(after.at_once, *found)


def _between(place: int, groups: Sequence[Group], paces: Mapping[int, Pace]) -> Pace:
    """Pace of a group, from those of its engine with less and with more work."""
    like = sorted((p for p in paces if groups[p].engine == groups[place].engine), key=lambda p: groups[p].work)
    works = [groups[p].work for p in like]
    columns = zip(*(vars(paces[p]).values() for p in like), strict=True)
    return Pace(*(float(np.interp(groups[place].work, works, column)) for column in columns))


class _Laps(Quiet):
    """When each epoch of each training ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advance(self, amount: float = 1.0, note: str = "", what: str = "") -> None:
        self.times.append(time.perf_counter())


def _time(group: Group, device: str, epochs: int) -> Pace:
    """Pace of `at_once` trainings of so many epochs."""
    run, laps = group.runs[0], _Laps()
    # No run stops early, but what is watched is watched.
    fit = replace(run.fit, epochs=epochs, patience=run.fit.patience and epochs + 1)
    runs = [replace(run, seed=seed, fit=fit, protocol=Protocol()) for seed in range(group.at_once)]
    began = time.perf_counter()
    for _ in each_stack(runs, group.vectors, device=device, max_stack=group.at_once, progress=laps):
        pass
    ended = time.perf_counter()
    # Trainings go side by side: an epoch is over when all have ended theirs. The median knows no hiccups.
    ends = laps.times[group.at_once - 1 :: group.at_once] or laps.times[-1:]
    epoch_s = float(np.median(np.diff(ends))) if len(ends) > 1 else ends[0] - began
    return Pace(group.at_once, max(ends[0] - began - epoch_s, 0.0), epoch_s, ended - laps.times[-1])


def _stack_size(group: Group, device: str) -> int:
    """How many runs of a shape torch trains together."""
    run = replace(group.runs[0], protocol=Protocol())
    return Jobs(run, group.vectors, make_folds(run, group.vectors), torch.device(device)).stack_size


def _sample(group: Group, share: float) -> Group:
    """A share of the utterances of each split, drawn at random."""
    vectors = group.vectors
    if share < 1:
        rng, rows = np.random.default_rng(0), []
        for places in vectors.labels.groupby("split").indices.values():
            rows += rng.choice(places, min(len(places), max(2, round(share * len(places)))), replace=False).tolist()
        kept = sorted(rows)
        labels, ids = vectors.labels.iloc[kept].reset_index(drop=True), tuple(vectors.ids[i] for i in kept)
        vectors = replace(vectors, x=vectors.x[kept], ids=ids, labels=labels)
    assert vectors.fingerprint  # made once, now, not while the clock runs
    return replace(group, vectors=vectors)


def _first_fold(run: Run, vectors: Vectors) -> tuple[Vectors, int]:
    """What a run learns from, with the splits of its first fold, and how many folds there are."""
    folds = make_folds(run, vectors)
    if run.protocol.kind == "splits":
        return vectors, 1
    return replace(vectors, labels=vectors.labels.assign(split=folds.splits[0])), len(folds.names)


def _count_train(vectors: Vectors) -> int:
    return max(1, int((vectors.labels["split"] == "train").sum())) if "split" in vectors.labels else 1
