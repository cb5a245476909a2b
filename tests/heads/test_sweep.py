"""Sweeps: every run once, saved in few pieces, whoever shares the folder and whatever stops it."""

import os
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError
from vbx.heads import board, outbox, sweep
from vbx.heads.board import SCHEMA, read_results
from vbx.heads.recipe import make_tasks, read_recipe, with_tasks
from vbx.heads.results import folder
from vbx.heads.results.claims import open_claims
from vbx.heads.results.folder import part_keys, read_part
from vbx.heads.sweep import plan_sweep, run_sweep


@pytest.fixture
def other(vectors):
    """A second feature."""
    return replace(vectors, x=vectors.x[:, ::-1].copy(), feature="other", key="other")


@pytest.fixture
def plan(vectors, other, tmp_path):
    """A sweep of so many seeds over two features, into OUT."""

    def make(seeds=3, **overrides):
        fixed = {"sweep.seed": list(range(seeds)), "fit.epochs": 2, "sweep.trunk.hidden": [[4], [5]], **overrides}
        recipe = with_tasks(read_recipe("default", fixed), make_tasks(vectors.schema, ["Age"]))
        features = {"toy": vectors, "other": other}
        return plan_sweep(recipe, lambda _, feature: features[feature], [("c6", "toy"), ("c6", "other")], tmp_path)

    return make


def rows_of(out):
    """How often each run was saved."""
    return Counter(key for part in out.glob("runs-*.parquet") for key in part_keys(part, SCHEMA))


def test_a_sweep_trains_every_run_once(plan, tmp_path):
    counts = run_sweep(plan(), tmp_path)
    assert counts == dict(runs=12, finished=0, trained=12, diverged=0, elsewhere=0, under_way=0, processes=0)
    assert set(rows_of(tmp_path).values()) == {1} and len(rows_of(tmp_path)) == 12
    assert read_results(tmp_path)["feature"].value_counts().nunique() == 1
    counts = run_sweep(plan(4), tmp_path)
    assert (counts["runs"], counts["finished"], counts["trained"]) == (16, 12, 4)
    assert set(rows_of(tmp_path).values()) == {1}


def test_a_finished_sweep_writes_nothing(plan, tmp_path):
    run_sweep(plan(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run_sweep(plan(), tmp_path)["trained"] == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_the_same_feature_twice_is_trained_once(plan, tmp_path):
    sweeps = plan()
    counts = run_sweep([*sweeps, sweeps[0]], tmp_path)
    assert (counts["runs"], counts["trained"], counts["elsewhere"]) == (12, 12, 0)


def test_runs_of_a_living_process_are_left_to_it(plan, tmp_path):
    sweeps = plan()
    theirs = [run.key_on(sweeps[0].vectors) for run in sweeps[0].runs[:4]]
    with open_claims(tmp_path, board.read_keys) as claims:
        claims.take(theirs)
        counts = run_sweep(sweeps, tmp_path)
        assert (counts["trained"], counts["under_way"], counts["processes"]) == (8, 4, 1)
        assert not set(theirs) & set(rows_of(tmp_path))
    assert run_sweep(plan(), tmp_path)["trained"] == 4


def test_runs_that_become_free_are_trained_in_the_end(plan, tmp_path, monkeypatch):
    """Their process dies while the last feature is trained."""
    sweeps = plan()
    theirs = open_claims(tmp_path, board.read_keys)
    claims = theirs.__enter__()
    claims.take([run.key_on(sweeps[0].vectors) for run in sweeps[0].runs[:4]])
    real, calls = sweep.each_stack, []

    def each_stack(runs, vectors, **more):
        calls.append((vectors.feature, len(runs)))
        yield from real(runs, vectors, **more)
        if vectors.feature == "other":
            theirs.__exit__(None, None, None)

    monkeypatch.setattr(sweep, "each_stack", each_stack)
    assert run_sweep(sweeps, tmp_path)["trained"] == 12
    assert calls == [("toy", 2), ("other", 6), ("toy", 4)]


def test_processes_share_a_folder(plan, tmp_path):
    sweeps = plan(20)
    told, tell = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            status = 1
            try:
                counts = run_sweep(sweeps, tmp_path)
                os.write(tell, f"{counts['trained']} {counts['runs']}\n".encode())
                status = 0
            finally:
                os._exit(status)
    assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]
    os.close(tell)
    lines = os.read(told, 1000).decode().split("\n")[:-1]
    trained = [int(line.split()[0]) for line in lines]
    assert sum(trained) == 80 and min(trained) > 0
    assert len(rows_of(tmp_path)) == 80 and set(rows_of(tmp_path).values()) == {1}
    assert not list(tmp_path.glob(".claims-*"))


def test_an_interrupted_sweep_saves_what_is_done(plan, tmp_path, monkeypatch):
    sweeps, real = plan(), sweep.each_stack

    def each_stack(*args, **more):
        for done, results in enumerate(real(*args, **more)):
            yield results
            if done == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "each_stack", each_stack)
        run_sweep(sweeps, tmp_path)
    assert len(rows_of(tmp_path)) == 3 and not list(tmp_path.glob(".claims-*"))
    assert run_sweep(plan(), tmp_path)["trained"] == 9


# ------------------------------------------------------------------ in pieces


def test_results_are_written_together_and_in_time(tmp_path, vectors, make_run, make_result):
    runs = [make_run(seed) for seed in range(5)]
    results = [make_result(run, {("dev", "score", "hmean"): 0.5}) for run in runs]
    box = outbox.Outbox(tmp_path, "cpu", every_s=0.2)
    for result in results[:4]:
        box.put([result], vectors)
    deadline = threading.Event()
    while box.saved < 4 and not deadline.wait(0.05):
        pass
    assert len(list(tmp_path.glob("runs-*"))) == 1  # by the clock, without being closed
    box.put(results[4:], vectors)
    box.close()
    assert len(rows_of(tmp_path)) == 5 and len(list(tmp_path.glob("runs-*"))) == 2


def test_results_do_not_pile_up(tmp_path, vectors, make_run, make_result, monkeypatch):
    monkeypatch.setattr(outbox, "MOST_BYTES", 10)
    box = outbox.Outbox(tmp_path, "cpu", every_s=1000)
    for seed in range(3):  # each put waits for the one before to be written
        box.put([make_result(make_run(seed), {("dev", "score", "hmean"): 0.5})], vectors)
    assert box.saved >= 1
    box.close()
    assert len(rows_of(tmp_path)) == 3


def test_a_full_disk_ends_a_sweep_with_one_sentence(plan, tmp_path, monkeypatch):
    run_sweep(plan(1), tmp_path)
    before = rows_of(tmp_path)

    def full(*_, **__):
        raise CacheError("cannot write results in OUT: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "append_results", full)
        patch.setattr(outbox, "EVERY_S", 0.01)
        with pytest.raises(CacheError, match="No space left"):
            run_sweep(plan(200), tmp_path)
    assert rows_of(tmp_path) == before and not list(tmp_path.glob(".claims-*"))
    assert run_sweep(plan(2), tmp_path)["trained"] == 4


def test_a_folder_that_cannot_be_written_is_told_before_training(plan, tmp_path, monkeypatch):
    sweeps = plan()
    (tmp_path / "file").touch()
    monkeypatch.setattr(sweep, "each_stack", None)
    with pytest.raises(CacheError, match="cannot write in"):
        run_sweep(sweeps, tmp_path / "file" / "out")


def test_files_stay_few_while_a_sweep_goes_on_and_are_copied_a_few_times(
    tmp_path, vectors, make_run, make_result, monkeypatch
):
    real, copied, most = folder._merge, Counter(), 0

    def merge(out, parts, schema):
        for part in parts:
            copied.update(part_keys(part, schema))
        real(out, parts, schema)

    monkeypatch.setattr(folder, "_merge", merge)
    for seed in range(70):
        board.append_results(tmp_path, [make_result(make_run(seed), {("dev", "score", "hmean"): 0.5})], vectors)
        board.compact(tmp_path, on_the_way=True)
        most = max(most, len(list(tmp_path.glob("runs-*"))))
    assert most <= 10 and max(copied.values()) <= 3
    frame = read_results(tmp_path)
    assert frame["key"].nunique() == len(frame) == 70


def test_parts_of_many_bytes_are_not_copied_again(tmp_path, vectors, make_run, make_result, monkeypatch):
    for seed in range(12):
        board.append_results(tmp_path, [make_result(make_run(seed), {("dev", "score", "hmean"): 0.5})], vectors)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(folder, "FULL_BYTES", 1)
    board.compact(tmp_path)
    board.compact(tmp_path, on_the_way=True)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(folder, "FULL_BYTES", 2 * (tmp_path / before[1]).stat().st_size)
    board.compact(tmp_path)  # in pieces, for each is full once two are in it
    assert 4 <= len(list(tmp_path.glob("runs-*"))) <= 6 and len(read_results(tmp_path)) == 12


def test_merged_rows_are_the_same_in_few_groups(tmp_path, vectors, make_run, make_result):
    draws = np.arange(1000, dtype=np.float32)
    for seed in range(10):
        board.append_results(
            tmp_path, [make_result(make_run(seed), {("dev", "score", "hmean"): (0.5, draws)})], vectors
        )
    board.compact(tmp_path)
    (part,) = tmp_path.glob("runs-*")
    assert pq.read_metadata(part).num_row_groups == 1
    table = read_part(part, SCHEMA)
    assert len(table) == 10 and all(np.array_equal(row, draws) for row in table["replicates"].to_pylist())


# ------------------------------------------------------------------ progress


class Told:
    """Progress that remembers."""

    def __init__(self):
        self.begun, self.done, self.ended = [], 0.0, 0

    def start(self, what, total, unit):
        self.begun.append((what, total, unit))

    def advance(self, amount=1.0, note="", what=""):
        self.done += amount

    def finish(self, what=""):
        self.ended += 1


def test_progress_is_told_over_all_features(plan, tmp_path):
    told = Told()
    run_sweep(plan(), tmp_path, progress=told)
    assert told.begun == [("training", 12, "runs")] and told.ended == 1
    assert told.done == pytest.approx(12)


def test_runs_of_others_count_as_progress(plan, tmp_path):
    sweeps, told = plan(), Told()
    with open_claims(tmp_path, board.read_keys) as claims:
        claims.take([run.key_on(sweeps[0].vectors) for run in sweeps[0].runs[:4]])
        run_sweep(sweeps, tmp_path, progress=told)
    assert told.begun == [("training", 12, "runs")] and told.done == pytest.approx(12)


def test_a_wide_feature_is_worth_more_progress(vectors, tmp_path):
    wide = Vectors.from_arrays(
        np.random.default_rng(0).standard_normal((24, 500)), vectors.labels, feature="wide", corpus="c6"
    )
    recipe = with_tasks(read_recipe("default", {"sweep.seed": [1, 2]}), make_tasks(vectors.schema, ["Age"]))
    sweeps = plan_sweep(
        recipe, lambda _, f: {"toy": vectors, "wide": wide}[f], [("c6", "toy"), ("c6", "wide")], tmp_path
    )
    with sweep._whole(sweeps, told := Told()) as (narrow, broad):
        for share, done in ((narrow, sweeps[0]), (broad, sweeps[1])):
            before = told.done
            share.begin(done.runs)
            share.start("training", sum(run.fit.epochs for run in done.runs), "epochs")
            share.advance(sum(run.fit.epochs for run in done.runs))
            assert (told.done - before > 2) is (done.feature == "wide")
    assert told.done == pytest.approx(4)
