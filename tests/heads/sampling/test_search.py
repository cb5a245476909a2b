"""Search: trials are sampled, shared, resumed; the best is best on dev and never on test."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError
from vbx.heads.board import read_results
from vbx.heads.recipe import expand_runs, make_tasks, read_recipe, with_tasks

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState  # noqa: E402

from vbx.heads.sampling import search as search_  # noqa: E402
from vbx.heads.sampling.journal import NAME, make_sampler, open_study  # noqa: E402
from vbx.heads.sampling.search import run_search  # noqa: E402
from vbx.heads.sampling.trials import Search, draw_runs, list_axes, name_study  # noqa: E402

LR = {"low": 1e-4, "high": 1e-1, "log": True}


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 6))
    labels = {
        "split": ["train", "train", "dev", "test"] * 20,
        "age": (x[:, 0] + 0.2 * rng.standard_normal(80)).tolist(),
    }
    good = Vectors.from_arrays(x, labels, feature="good", corpus="c")
    return {"good": good, "noise": replace(good, x=rng.standard_normal((80, 6)), feature="noise", key="noise")}


@pytest.fixture
def make_search(features):
    def make(trials=4, places=(("c", "good"),), epochs=3, **sweep):
        axes = {f"sweep.{path.replace('__', '.')}": values for path, values in sweep.items()}
        page = read_recipe("default", {"sweep.seed": [1, 2], "fit.epochs": epochs, "trunk.hidden": [[4]], **axes})
        recipe = with_tasks(page, make_tasks(features["good"].schema, ["age"]))
        return Search(recipe, tuple(places), lambda _, feature: features[feature], trials)

    return make


def trials_of(search, out):
    vectors = {place: search.load(*place) for place in search.places}
    return open_study(out, name_study(search, vectors)).get_trials()


def settings_of(out):
    frame = read_results(out).drop_duplicates("key")
    return [json.loads(text) for text in frame["settings"]], frame


def test_a_search_samples_ranges_and_choices_with_all_seeds(make_search, tmp_path):
    search = make_search(6, fit__lr=LR, fit__batch_size={"low": 3, "high": 9}, fit__optimizer=["adam", "adamw"])
    found = run_search(search, tmp_path)
    settings, frame = settings_of(tmp_path)
    assert (found.counts["trials"], found.counts["complete"], found.counts["trained"]) == (6, 6, 12)
    assert set(frame["key"]) == found.keys and frame["seed"].value_counts().to_dict() == {1: 6, 2: 6}
    rates, sizes = {s["fit"]["lr"] for s in settings}, {s["fit"]["batch_size"] for s in settings}
    assert len(rates) == 6 and all(1e-4 <= rate <= 1e-1 for rate in rates) and np.ptp(np.log10(list(rates))) > 0.5
    assert sizes <= set(range(3, 10)) and all(isinstance(size, int) for size in sizes)
    assert {s["fit"]["optimizer"] for s in settings} == {"adam", "adamw"}


def test_what_is_sought_is_the_mean_on_dev(make_search, tmp_path):
    search = make_search(5, fit__lr=LR)
    found = run_search(search, tmp_path)
    frame = read_results(tmp_path)
    scores = frame[(frame["task"] == "score") & (frame["split"] == "dev")]
    means = scores.groupby("settings")["value"].mean()
    assert found.value == pytest.approx(means.max(), rel=1e-12)
    assert json.loads(means.idxmax())["fit"]["lr"] == found.best["fit.lr"]
    values = sorted(trial.value for trial in trials_of(search, tmp_path))
    assert values == pytest.approx(sorted(means))


def test_features_are_searched(make_search, tmp_path):
    search = make_search(8, places=(("c", "good"), ("c", "noise")), epochs=15, fit__lr=[1e-2])
    assert list_axes(search) == {"feature": ("good", "noise")}
    found = run_search(search, tmp_path)
    assert found.best == {"feature": "good"}
    # Eight trials of two settings: what is finished is not trained again, but counts.
    assert (found.counts["complete"], found.counts["trained"]) == (8, 4)


def test_lists_are_choices(make_search, tmp_path):
    found = run_search(make_search(4, trunk__hidden=[[4], [5, 3], []]), tmp_path)
    assert found.best["trunk.hidden"] in ([4], [5, 3], [])
    assert {tuple(s["trunk"]["hidden"]) for s in settings_of(tmp_path)[0]} <= {(4,), (5, 3), ()}


def test_a_search_goes_on(make_search, tmp_path):
    run_search(make_search(3, fit__lr=LR), tmp_path)
    assert run_search(make_search(3, fit__lr=LR), tmp_path).counts["trained"] == 0
    found = run_search(make_search(5, fit__lr=LR), tmp_path)
    assert (found.counts["trials"], found.counts["trained"]) == (5, 4)
    # Another question is another study; what is the same of its runs is not trained again.
    assert run_search(make_search(3, fit__lr=LR, fit__momentum=[0.0, 0.5]), tmp_path).counts["trials"] == 3


def test_the_same_search_samples_the_same(make_search, tmp_path):
    for name in ("a", "b"):
        run_search(make_search(4, fit__lr=LR), tmp_path / name)
    (a, _), (b, _) = settings_of(tmp_path / "a"), settings_of(tmp_path / "b")
    assert sorted(s["fit"]["lr"] for s in a) == sorted(s["fit"]["lr"] for s in b)
    run_search(replace(make_search(4, fit__lr=LR), seed=1), tmp_path / "c")
    assert {s["fit"]["lr"] for s in settings_of(tmp_path / "c")[0]}.isdisjoint({s["fit"]["lr"] for s in a})


def test_a_setting_that_diverges_is_no_best(make_search, tmp_path):
    search = make_search(6, fit__lr=[1e-2, 1e30], fit__optimizer=["sgd"])
    found = run_search(search, tmp_path)
    assert found.best == {"fit.lr": 1e-2} and found.counts["diverged"] > 0
    assert {t.state for t in trials_of(search, tmp_path)} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_trial_of_a_process_that_is_gone_is_taken_over(make_search, tmp_path, monkeypatch):
    search, real = make_search(4, fit__lr=LR), search_.run_sweep

    def die(*args, **more):
        real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    if (pid := os.fork()) == 0:
        search_.run_sweep = die
        run_search(search, tmp_path)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    lost = trials_of(search, tmp_path)
    assert {trial.state for trial in lost} == {TrialState.RUNNING}
    before = read_results(tmp_path)["key"].nunique()
    found = run_search(search, tmp_path)
    assert (found.counts["complete"], found.counts["trained"]) == (4, 8 - before)
    after = trials_of(search, tmp_path)
    assert [t.params for t in after[: len(lost)]] == [t.params for t in lost]


def test_processes_search_together(make_search, tmp_path):
    search = make_search(12, fit__lr=LR)
    pids = []
    for _ in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            status = 1
            try:
                run_search(search, tmp_path)
                status = 0
            finally:
                os._exit(status)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    trials = trials_of(search, tmp_path)
    assert len(trials) == 12 and {t.state for t in trials} == {TrialState.COMPLETE}
    assert len({t.params["fit.lr"] for t in trials}) == 12  # they do not sample the same
    assert read_results(tmp_path)["key"].nunique() == 24


def test_a_journal_whose_last_line_is_cut_off_goes_on(make_search, tmp_path):
    run_search(make_search(2, fit__lr=LR), tmp_path)
    journal = tmp_path / NAME
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_id":"x","stu')
    found = run_search(make_search(3, fit__lr=LR), tmp_path)
    assert found.counts["complete"] == 3
    lines = journal.read_bytes()
    assert lines.startswith(whole) and all(json.loads(line) for line in lines.splitlines())


def test_a_journal_that_is_damaged_is_told(make_search, tmp_path):
    run_search(make_search(2, fit__lr=LR), tmp_path)
    journal = tmp_path / NAME
    journal.write_bytes(b"not JSON\n" + journal.read_bytes())
    with pytest.raises(CacheError, match=f"{NAME} is damaged"):
        run_search(make_search(3, fit__lr=LR), tmp_path)


def test_without_dev_there_is_no_search(make_search, features, tmp_path):
    labels = features["good"].labels.replace({"split": {"dev": "test"}})
    features["good"] = replace(features["good"], labels=labels)
    with pytest.raises(RecipeError, match="never by test"):
        run_search(make_search(2, fit__lr=LR), tmp_path)


def test_nothing_to_sample_is_told(make_search):
    with pytest.raises(RecipeError, match="nothing to search"):
        list_axes(make_search(2))


def test_a_grid_refuses_a_range(make_search):
    with pytest.raises(RecipeError, match=r"'fit.lr'.* is a range, 0.0001 to 0.1: .* --search optuna"):
        expand_runs(make_search(2, fit__lr=LR).recipe)


def test_an_estimate_draws_as_many_runs_as_there_will_be(make_search):
    search = make_search(5, places=(("c", "good"), ("c", "noise")), fit__lr=LR)
    drawn = draw_runs(search)
    assert sum(len(runs) for runs in drawn.values()) == 10 and set(drawn) == set(search.places)


def test_processes_that_begin_together_sample_otherwise():
    def sample(seeds):
        study = optuna.create_study(sampler=make_sampler(seeds))
        return study.ask().suggest_float("x", 0, 1)

    assert sample([0, 0, 0]) == sample([0, 0, 0]) != sample([0, 0, 1])


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_search_that_is_killed_again_and_again_comes_to_its_end(make_search, tmp_path, kills):
    search, rng, seen = make_search(8, fit__lr=LR), np.random.default_rng(kills), {}
    for _ in range(kills):
        if (pid := os.fork()) == 0:
            run_search(search, tmp_path)
            os._exit(0)
        time.sleep(rng.uniform(0.0, 0.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        after = {t.number: t for t in trials_of(search, tmp_path)}
        assert all(after[n].value == t.value for n, t in seen.items() if t.state == TrialState.COMPLETE)
        assert all(t.params.items() <= after[n].params.items() for n, t in seen.items())
        seen = after
    found = run_search(search, tmp_path)
    assert found.counts["trials"] == found.counts["complete"] == 8
    assert read_results(tmp_path)["key"].nunique() == 16 == len(found.keys)


def test_a_score_of_zero_is_a_score(make_search, features):
    study = optuna.create_study(direction="maximize")
    space = {"fit.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}
    for lr, value in ((1e-3, -0.5), (1e-2, 0.0), (2e-2, -0.1)):
        study.add_trial(optuna.trial.create_trial(params={"fit.lr": lr}, distributions=space, value=value))
    search = make_search(3, fit__lr=LR)
    found = search_._sum_up(study, search, list_axes(search), {("c", "good"): features["good"]}, {})
    assert found.best == {"fit.lr": 1e-2} and found.value == 0.0 and len(found.keys) == 6
