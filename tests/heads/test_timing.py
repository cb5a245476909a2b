"""Timing: an estimate is exact arithmetic on measured paces, and paces are measured as runs train."""

from dataclasses import replace

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.heads import timing
from vbx.heads.parts import Task, Trunk
from vbx.heads.protocol import Protocol
from vbx.heads.timing import Group, Pace, add_up, choose_groups, count_work, estimate_sweep, group_runs

AGE = (Task("age", ("Age",), "mse", ("ccc",)),)


@pytest.fixture
def group(vectors, make_run):
    def make(runs=3, folds=1, **fit):
        members = tuple(make_run(seed, AGE, Trunk((4,)), **{"epochs": 10, **fit}) for seed in range(runs))
        return Group(members, vectors, folds, 1, "native")

    return make


@pytest.fixture
def paced(monkeypatch):
    """Injected paces: what is measured of each shape."""
    asked = []

    def measure(group, device, budget_s):
        asked.append((group.runs[0], budget_s))
        return Pace(group.at_once, prepare_s=1.0, epoch_s=group.work / 1000, score_s=0.5)

    monkeypatch.setattr(timing, "measure_pace", measure)
    return asked


def test_seconds_add_up(group):
    pace = Pace(1, prepare_s=1.0, epoch_s=0.25, score_s=0.5)
    assert add_up(group(), pace) == 1.0 + 3 * (0.5 + 10 * 0.25)
    assert add_up(group(epochs=20), pace) == 1.0 + 3 * (0.5 + 20 * 0.25)
    assert add_up(group(runs=6), pace) == 1.0 + 6 * (0.5 + 10 * 0.25)
    assert add_up(group(folds=5), pace) == 5 * (1.0 + 3 * (0.5 + 10 * 0.25))
    assert add_up(group(runs=6), replace(pace, at_once=2)) == 1.0 + 6 * (0.5 + 10 * 0.25) / 2
    assert add_up(group(runs=1), replace(pace, at_once=8)) == 1.0 + (0.5 + 10 * 0.25)  # not less than one takes


def test_an_estimate_grows_with_epochs_runs_and_width(vectors, make_run, paced):
    def seconds(runs=4, width=4, **fit):
        return estimate_sweep([([make_run(s, AGE, Trunk((width,)), **fit) for s in range(runs)], vectors)]).seconds

    plain = seconds(epochs=10)
    work = count_work(make_run(1, AGE, Trunk((4,)), epochs=10), vectors) / 10
    cores = timing.torch.get_num_threads()
    assert plain == pytest.approx(1.0 + max(4 / cores, 1) * (0.5 + 10 * work / 1000))
    assert plain < seconds(epochs=11) < seconds(epochs=12)
    assert plain < seconds(runs=8 * cores, epochs=10) and plain < seconds(width=5, epochs=10)


def test_few_shapes_are_measured_and_the_others_lie_between(vectors, make_run, paced, monkeypatch):
    runs = [make_run(1, AGE, Trunk((width,)), epochs=1) for width in range(2, 42)]
    found = estimate_sweep([(runs, vectors)], budget_s=3.0)
    assert (found.shapes, found.measured) == (40, timing.MOST_SHAPES)
    assert [budget for _, budget in paced] == [pytest.approx(0.5)] * 6
    assert {runs[0], runs[-1]} <= {run for run, _ in paced}
    # What is measured is linear in the work here, so what is between is exact.
    monkeypatch.setattr(timing, "MOST_SHAPES", 1000)
    monkeypatch.setattr(timing.choose_groups, "__defaults__", (1000,))
    assert estimate_sweep([(runs, vectors)]).seconds == pytest.approx(found.seconds)


def test_each_engine_has_paces_of_its_own():
    works = [("torch", float(i)) for i in range(20)] + [("native", float(i)) for i in range(3)]
    assert choose_groups(works, most=3) == [0, 10, 19, 20, 21, 22]


def test_work_is_in_proportion_to_utterances_epochs_and_weights(vectors, make_run):
    def work(run, vectors=vectors):
        return count_work(run, vectors)

    run = make_run(1, AGE, Trunk((4,)), epochs=3, batch_size=8)
    train, weights = (vectors.labels["split"] == "train").sum(), 5 * 4 + 4 * 1
    assert work(run) == 3 * train * weights * 2
    assert work(replace(run, fit=replace(run.fit, batch_size=1))) == 3 * train * weights * 9
    half = replace(vectors, labels=vectors.labels.assign(split="dev"))
    assert work(run, half) == 3 * weights * 2


def test_folds_are_counted_and_the_first_one_is_measured(vectors, make_run):
    run = replace(make_run(1, AGE), protocol=Protocol("leave_one_group_out", "speaker"))
    (group,) = group_runs([([run], vectors)], "cpu")
    assert group.folds == 6 and set(group.vectors.labels["split"].value_counts()) == {16, 4}
    (plain,) = group_runs([([make_run(1, AGE)], vectors)], "cpu")
    assert plain.folds == 1 and plain.vectors is vectors


def test_a_share_of_the_utterances_keeps_every_split(vectors, make_run):
    (group,) = group_runs([([make_run(1, AGE)], vectors)], "cpu")
    small = timing._sample(group, 0.25).vectors
    assert small.labels["split"].value_counts().to_dict() == {"train": 3, "dev": 2, "test": 2}
    for name, x, age in zip(small.ids, small.x, small.labels["Age"], strict=True):
        place = vectors.ids.index(name)
        assert (x == vectors.x[place]).all() and age == vectors.labels["Age"][place]
    assert timing._sample(group, 1.0).vectors is vectors


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pace_is_measured_by_training(make_run, dtype, monkeypatch):
    """What is trained while the clock runs: as many side by side as cores, for a few epochs, watched on dev."""
    rng, trained = np.random.default_rng(0), []
    labels = {"split": ["train", "train", "dev", "test"] * 500, "Age": rng.standard_normal(2000)}
    vectors = Vectors.from_arrays(rng.standard_normal((2000, 5)), labels)
    real = timing.each_stack

    def each_stack(runs, vectors, **more):
        trained.append((len(runs), runs[0].fit.epochs, len(vectors.ids)))
        assert len({run.seed for run in runs}) == len(runs) and {run.fit.patience for run in runs} == {
            runs[0].fit.epochs + 1
        }
        yield from real(runs, vectors, **more)

    monkeypatch.setattr(timing, "each_stack", each_stack)
    run = replace(make_run(1, AGE, epochs=100, patience=3, dtype=dtype), feature="", corpus="")
    found = estimate_sweep([([run], vectors)], budget_s=1000.0)  # time for all utterances
    assert found.seconds > 0 and (found.shapes, found.measured, found.device) == (1, 1, "cpu")
    assert [epochs for _, epochs, _ in trained] == [1, 2 * timing.EPOCHS, timing.EPOCHS]
    assert [rows < 2000 for _, _, rows in trained] == [True, True, False]


def test_stacks_of_torch_are_measured_as_large_as_they_train(vectors, make_run, monkeypatch):
    monkeypatch.setattr(timing, "trains_natively", lambda run, device: False)
    sizes, real = [], timing._time

    def time_(group, device, epochs):
        sizes.append(group.at_once)
        return real(group, device, epochs)

    monkeypatch.setattr(timing, "_time", time_)
    monkeypatch.setattr(timing, "_stack_size", lambda group, device: 5)
    for runs in (3, 8):
        members = [replace(make_run(seed, AGE), feature="", corpus="") for seed in range(runs)]
        (group,) = group_runs([(members, vectors)], "cpu")
        assert timing.measure_pace(group, "cpu", 100.0).at_once == min(runs, 5)
    assert set(sizes) == {3, 5}
