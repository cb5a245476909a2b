"""A choice within each fold, against the same by hand."""

from dataclasses import replace

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.heads.board import append_results, read_results
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.protocol import Protocol
from vbx.heads.ranking import rank_results
from vbx.heads.run import Run
from vbx.heads.statistics.nested import choose_in_folds, tell_nested
from vbx.heads.training import train_heads

AGE = Task("age", ("age",), "mse", ("mae", "ccc"))
KFOLD = Protocol("kfold", folds=4)


@pytest.fixture(scope="module")
def trained():
    random = np.random.default_rng(0)
    x = random.standard_normal((64, 5))
    labels = {
        "split": np.resize(["train", "dev", "test"], 64),
        "speaker": [f"s{i % 16}" for i in range(64)],
        "age": 3 * x[:, 0] + random.standard_normal(64) * (1 + 2 * (np.arange(64) % 16 > 7)),
    }
    vectors = Vectors.from_arrays(x, labels)
    score, runs = fit_score(Score(), (AGE,)), []
    for lr in (0.3, 0.02, 0.1):
        for seed in (1, 2):
            fit = Fit(lr=lr, epochs=4, batch_size=4)
            runs.append(Run("", "", seed, (AGE,), Trunk((4,)), fit, score, protocol=KFOLD))
    plain = replace(runs[0], protocol=Protocol())
    other = replace(runs[0], protocol=Protocol("kfold", folds=4, seed=2))
    return vectors, train_heads([*runs, other, plain], vectors)


def mean_of(results, lr, part, split, metric):
    """Mean over seeds of what a setting reached in a fold."""
    task = "score" if metric == "hmean" else "age"
    values = [
        row.value
        for result in results
        if result.run.fit.lr == lr and result.run.protocol == KFOLD
        for row in result.rows
        if (row.part, row.split, row.task, row.metric) == (part, split, task, metric)
    ]
    assert len(values) == 2
    return np.mean(values)


@pytest.mark.parametrize(("by", "metric", "best"), [("score", "hmean", np.argmax), ("age.mae", "mae", np.argmin)])
def test_each_fold_chooses_by_its_own_dev(trained, tmp_path, by, metric, best):
    vectors, results = trained
    append_results(tmp_path, results[:-2], vectors)
    ranking = rank_results(tmp_path, by=by)
    nested = choose_in_folds(read_results(tmp_path, parts=True), ranking)
    lrs = (0.3, 0.02, 0.1)
    ranks = dict(zip(ranking["fit.lr"], ranking["rank"], strict=True))
    assert nested["part"].tolist() == [f"fold={k}" for k in (1, 2, 3, 4)] and nested["n"].sum() == 64
    for row in nested.itertuples():
        chosen = lrs[best([mean_of(results, lr, row.part, "dev", metric) for lr in lrs])]
        assert row.rank == ranks[chosen]
        assert row.dev == pytest.approx(mean_of(results, chosen, row.part, "dev", metric))
        assert row.test == pytest.approx(mean_of(results, chosen, row.part, "test", metric))
        assert row.best == pytest.approx(mean_of(results, ranking["fit.lr"].iloc[0], row.part, "test", metric))
    assert nested["rank"].nunique() > 1 or by != "score"  # folds disagree, else this shows nothing
    assert f"{nested['test'].mean():.4f}" in tell_nested(nested, by)


def test_there_is_nothing_to_choose_in_one_setting_or_without_folds(trained, tmp_path):
    vectors, results = trained
    one = [r for r in results if r.run.fit.lr == 0.1]
    append_results(tmp_path / "one", one, vectors)
    append_results(tmp_path / "plain", [results[-1]], vectors)
    append_results(tmp_path / "mixed", [*one, results[-1]], vectors)
    append_results(tmp_path / "unlike", [*one, results[-2]], vectors)  # folds of the same names, and others
    for name in ("one", "plain", "mixed", "unlike"):
        out = tmp_path / name
        assert choose_in_folds(read_results(out, parts=True), rank_results(out)).empty
