"""Ranking against means, deviations and percentiles computed here by hand, and against the tests of scipy."""

import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError, UnknownName
from vbx.heads.board import append_results, read_results
from vbx.heads.parts import Trunk
from vbx.heads.ranking import list_metrics, list_settings, rank_parts, rank_results
from vbx.heads.statistics.bootstrap import draw_counts
from vbx.heads.statistics.settings import describe_run

DEV, TEST, MAE = ("dev", "score", "hmean"), ("test", "score", "hmean"), ("dev", "age", "mae")


@pytest.fixture
def add(tmp_path, vectors, make_run, make_result):
    """Append the result of one run to OUT."""

    def append(scores, seed=1, vectors=vectors, more=None, **settings):
        result = make_result(make_run(seed, **settings), scores, vectors, **(more or {}))
        append_results(tmp_path, [result], vectors)

    return append


def draws(mean, seed, n=400, spread=0.05):
    return mean + spread * np.random.default_rng(seed).standard_normal(n)


def test_mean_deviation_and_interval_are_those_of_the_seeds(tmp_path, add):
    values = {1: 0.51, 2: 0.47, 3: 0.58}
    replicates = {seed: draws(value, seed) for seed, value in values.items()}
    for seed, value in values.items():
        add({DEV: (value, replicates[seed])}, seed)
    (row,) = rank_results(tmp_path).to_dict("records")
    assert row["seeds"] == 3 and row["diverged"] == 0 and row["rank"] == 1
    assert row["dev.score"] == pytest.approx(statistics.mean(values.values()))
    assert row["dev.score.sd"] == pytest.approx(statistics.stdev(values.values()))
    means = [statistics.mean(draw) for draw in zip(*(np.float32(r).tolist() for r in replicates.values()), strict=True)]
    low, high = np.percentile(means, [2.5, 97.5])
    assert row["dev.score.low"] == pytest.approx(low, rel=1e-6) and row["dev.score.high"] == pytest.approx(
        high, rel=1e-6
    )


def test_one_seed_has_no_deviation(tmp_path, add):
    add({DEV: 0.5})
    (row,) = rank_results(tmp_path).to_dict("records")
    assert row["dev.score"] == 0.5 and np.isnan(row["dev.score.sd"]) and np.isnan(row["dev.score.low"])


def test_order_is_that_of_dev_whatever_test_says(tmp_path, add):
    for lr, dev, test in ((0.1, 0.5, 0.9), (0.2, 0.7, 0.1), (0.3, 0.6, 0.5)):
        add({DEV: dev, TEST: test}, lr=lr)
    ranking = rank_results(tmp_path)
    assert ranking["fit.lr"].tolist() == [0.2, 0.3, 0.1] and ranking["rank"].tolist() == [1, 2, 3]
    assert ranking["test.score"].tolist() == [0.1, 0.5, 0.9]
    assert set(ranking["ranked_by"]) == {"dev.score"} and not ranking["selected_on_test"].any()


def test_without_dev_it_is_test_and_says_so(tmp_path, add):
    add({TEST: 0.2}, lr=0.1)
    add({TEST: 0.3}, lr=0.2)
    ranking = rank_results(tmp_path)
    assert ranking["fit.lr"].tolist() == [0.2, 0.1] and set(ranking["ranked_by"]) == {"test.score"}
    assert ranking["selected_on_test"].all()
    assert list_metrics(ranking) == ["test.score"]


def test_the_best_of_seeds_is_no_argument(tmp_path, add):
    for seed, value in enumerate((0.9, 0.1)):
        add({DEV: value}, seed, lr=0.1)
    for seed, value in enumerate((0.6, 0.6)):
        add({DEV: value}, seed, lr=0.2)
    assert rank_results(tmp_path)["fit.lr"].tolist() == [0.2, 0.1]


def test_by_a_metric_of_which_less_is_better(tmp_path, add):
    for lr, mae, score in ((0.1, 4.0, 0.9), (0.2, 3.0, 0.1), (0.3, 5.0, 0.5)):
        add({DEV: score, MAE: mae}, lr=lr)
    ranking = rank_results(tmp_path, by="age.mae")
    assert ranking["fit.lr"].tolist() == [0.2, 0.1, 0.3] and set(ranking["ranked_by"]) == {"dev.age.mae"}
    assert list_metrics(ranking) == ["dev.age.mae", "dev.score"]
    assert ranking["to_best"].tolist() == [0.0, 1.0, 2.0]


def test_an_unknown_metric_is_told_with_the_nearest(tmp_path, add):
    add({DEV: 0.5, MAE: 4.0})
    with pytest.raises(UnknownName, match="unknown metric 'age.maee'; did you mean 'age.mae'"):
        rank_results(tmp_path, by="age.maee")
    with pytest.raises(CacheError, match="no results"):
        rank_results(tmp_path / "nothing")


def test_only_settings_that_differ_are_shown(tmp_path, add):
    add({DEV: 0.5}, lr=0.1, trunk=Trunk((32,)), batch_size=8)
    add({DEV: 0.6}, lr=0.1, trunk=Trunk((32, 16)), batch_size=16)
    ranking = rank_results(tmp_path)
    assert list_settings(ranking) == ["feature", "fit.batch_size", "trunk.hidden"]
    assert ranking[["trunk.hidden", "fit.batch_size"]].to_numpy().tolist() == [["[32, 16]", 16], ["[32]", 8]]
    assert list(ranking.columns[:6]) == ["rank", "feature", "fit.batch_size", "trunk.hidden", "seeds", "diverged"]
    assert ranking.columns[6] == "dev.score"


def test_tasks_that_are_left_out_are_told_by_one_column(tmp_path, add, make_run):
    tasks = make_run().tasks
    add({DEV: 0.5}, tasks=tasks)
    add({DEV: 0.6}, tasks=tasks[:2])
    add({DEV: 0.7}, tasks=(tasks[0], replace(tasks[1], weight=2.0)))
    ranking = rank_results(tmp_path)
    assert list_settings(ranking) == ["feature", "tasks", "task.country.weight"]
    assert ranking["tasks"].tolist() == [
        '["emotion", "country"]',
        '["emotion", "country"]',
        '["emotion", "country", "age"]',
    ]


def test_a_setting_that_one_lacks_does_not_change_the_others(tmp_path, add, make_run):
    tasks = make_run().tasks
    add({DEV: 0.5}, tasks=tasks[:2])
    for i, width in enumerate((8, 16)):
        add({DEV: 0.6 + i}, tasks=(*tasks[:2], replace(tasks[2], gamma=float(width), hidden=(width,))))
    assert rank_results(tmp_path)["task.age.hidden"].tolist() == ["[16]", "[8]", None]


def test_features_labels_and_corpora_are_settings(tmp_path, add, vectors):
    other = Vectors.from_arrays(vectors.x[:, :3], vectors.labels, feature="small", corpus="c6")
    relabelled = Vectors.from_arrays(vectors.x, vectors.labels.assign(Age=1.0), feature="toy", corpus="c6")
    add({DEV: 0.5})
    add({DEV: 0.6}, vectors=other)
    assert list_settings(rank_results(tmp_path)) == ["feature"]
    assert rank_results(tmp_path)["feature"].tolist() == ["small", "toy"]
    add({DEV: 0.7}, vectors=relabelled)
    ranking = rank_results(tmp_path)
    assert list_settings(ranking) == ["feature", "vectors"] and ranking["seeds"].tolist() == [1, 1, 1]
    assert ranking["vectors"].tolist()[0] == relabelled.fingerprint[:12]


def test_diverged_runs_are_counted_not_averaged(tmp_path, add):
    diverged = {"more": {"status": "diverged"}}
    for seed, value in enumerate((0.5, 0.6)):
        add({DEV: value}, seed, lr=0.1)
    add({DEV: np.nan}, 9, lr=0.1, **diverged)
    for seed in (1, 2):
        add({DEV: np.nan}, seed, lr=9.0, **diverged)
    ranking = rank_results(tmp_path)
    assert ranking["fit.lr"].tolist() == [0.1, 9.0]
    assert ranking["seeds"].tolist() == [2, 0] and ranking["diverged"].tolist() == [1, 2]
    assert ranking["dev.score"].iloc[0] == pytest.approx(0.55) and np.isnan(ranking["dev.score"].iloc[1])


def test_an_undefined_value_is_no_value(tmp_path, add):
    add({DEV: 0.9}, 1, lr=0.1)
    add({DEV: np.nan}, 2, lr=0.1)
    add({DEV: 0.2}, 1, lr=0.2)
    ranking = rank_results(tmp_path)
    assert ranking["fit.lr"].tolist() == [0.2, 0.1] and np.isnan(ranking["dev.score"].iloc[1])


def test_draws_in_which_the_metric_is_undefined_are_left_out(tmp_path, add):
    values = draws(0.5, 0)
    add({DEV: (0.5, np.where(np.arange(400) < 7, np.nan, values))})
    add({DEV: (0.4, np.full(400, np.nan))}, lr=0.1)
    row, none = rank_results(tmp_path).to_dict("records")
    assert row["dev.score.low"] == pytest.approx(np.percentile(np.float32(values[7:]), 2.5), rel=1e-6)
    assert np.isnan(none["dev.score.low"]) and none["within_noise"]


def test_differences_are_paired(tmp_path, add):
    """Of two settings that move together with the draws the difference is known, though their intervals overlap."""
    common = draws(0.0, 0, spread=0.1)
    add({DEV: (0.50, 0.50 + common)}, lr=0.1)
    add({DEV: (0.49, 0.49 + common)}, lr=0.2)
    add({DEV: (0.48, 0.48 + draws(0.0, 1, spread=0.1))}, lr=0.3)
    best, paired, apart = rank_results(tmp_path).to_dict("records")
    assert best["within_noise"] and best["to_best"] == 0
    assert best["dev.score.low"] < paired["dev.score.high"]
    assert paired["to_best"] == pytest.approx(-0.01) and paired["to_best.low"] == pytest.approx(-0.01, abs=1e-6)
    assert paired["to_best.high"] == pytest.approx(-0.01, abs=1e-6)
    assert apart["to_best.low"] < 0 < apart["to_best.high"]
    difference = np.float32(0.48 + draws(0.0, 1, spread=0.1)).astype(float) - np.float32(0.50 + common).astype(float)
    assert apart["to_best.low"] == pytest.approx(np.percentile(difference, 2.5), rel=1e-6)


def test_published_numbers_stand_beside_ours(tmp_path, add, vectors):
    other = Vectors.from_arrays(vectors.x[:, :3], vectors.labels, feature="small", corpus="c6")
    add({DEV: 0.5, TEST: 0.4, MAE: 4.0})
    add({DEV: 0.3, TEST: 0.2, MAE: 5.0}, vectors=other)
    published = {
        "toy": {"score": 0.45, "test": {"score": 0.41}, "age": {"mae": 4}, "country.uar": 0.9, "table": "II"},
        "not ours": {"score": 1.0},
    }
    ranking = rank_results(tmp_path, published=published)
    first, second = ranking.to_dict("records")
    assert first["dev.score.published"] == 0.45 and first["dev.score.minus_published"] == pytest.approx(0.05)
    assert first["test.score.minus_published"] == pytest.approx(-0.01)
    assert first["dev.age.mae.published"] == 4.0 and first["dev.age.mae.minus_published"] == 0.0
    assert np.isnan(second["dev.score.published"]) and np.isnan(second["dev.score.minus_published"])
    place = list(ranking.columns).index("dev.score.high")
    assert list(ranking.columns[place + 1 : place + 3]) == ["dev.score.published", "dev.score.minus_published"]
    assert not any("country" in name or "table" in name for name in ranking.columns)


def test_of_the_same_run_the_latest_counts(tmp_path, add, vectors):
    add({DEV: 0.5})
    frame = read_results(tmp_path)
    later = frame.assign(key="another version's", time="2999-01-01T00:00:00+00:00", value=0.8)
    for both in (pd.concat([frame, later]), pd.concat([later, frame])):
        (row,) = rank_results(both).to_dict("records")
        assert row["seeds"] == 1 and row["dev.score"] == 0.8


def test_columns_of_a_task_are_not_ranked(tmp_path, add):
    add({DEV: 0.5})
    frame = read_results(tmp_path)
    one = frame.assign(task="emotion", column="Awe", metric="ccc", value=0.9)
    assert list_metrics(rank_results(pd.concat([frame, one]))) == ["dev.score"]


def test_a_run_without_scores_is_not_ranked(tmp_path, add):
    add({})
    with pytest.raises(UnknownName, match="there is none"):
        rank_results(tmp_path)


def test_settings_have_the_names_of_a_sweep(tmp_path, add, make_run):
    add({DEV: 0.5}, lr=0.25)
    about = describe_run(read_results(tmp_path).iloc[0])
    assert about["fit.lr"] == 0.25 and about["task.age.hidden"] == "[4, 3]" and about["trunk.norm"] == "layer"
    assert about["score.of"] == '["emotion.ccc", "country.uar"]'


def scored(parts):
    """A metric that is the mean over speakers of these `(S, B)`: its value per seed, its draws, and without each."""
    counts = draw_counts(tuple(f"s{i:02d}" for i in range(parts.shape[1])))
    return parts.mean(1), parts @ (counts / counts.sum(1, keepdims=True)).T


def add_scored(add, parts, split="dev", **settings):
    for seed, (value, replicates) in enumerate(zip(*scored(parts), strict=True), start=1):
        add({(split, "score", "hmean"): (value, replicates)}, seed, **settings)


@pytest.fixture
def speakers():
    """Ten speakers, four seeds: three settings, the first clearly best, the second nearly as good."""
    rng = np.random.default_rng(0)
    common = rng.normal(0.5, 0.1, 10)
    return {lr: common - lr + 0.01 * rng.standard_normal((4, 10)) for lr in (0.0001, 0.0002, 0.3)}


def test_the_tests_are_those_of_scipy(tmp_path, add, speakers):
    for lr, parts in speakers.items():
        add_scored(add, parts, lr=lr)
    best, near, far = rank_results(tmp_path).to_dict("records")
    ours = {row["fit.lr"]: row for row in (best, near, far)}
    first = speakers[best["fit.lr"]]
    p = []
    for row in (near, far):
        parts = speakers[row["fit.lr"]]
        over_speakers = stats.permutation_test(
            (parts.mean(0), first.mean(0)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
        )
        over_seeds = stats.ttest_rel(parts.mean(1), first.mean(1))
        assert row["p_speakers"] == pytest.approx(over_speakers.pvalue, abs=1e-9)
        assert row["p_seeds"] == pytest.approx(over_seeds.pvalue, rel=1e-4)
        difference = parts.mean(1) - first.mean(1)
        assert row["to_best.d_z"] == pytest.approx(difference.mean() / difference.std(ddof=1), rel=1e-4)
        assert row["pairs"] == 10
        p.append(max(over_speakers.pvalue, over_seeds.pvalue))
    assert near["p_holm"] == pytest.approx(max(p[0], 2 * min(p)), rel=1e-4)
    assert far["p_holm"] == pytest.approx(2 * min(p), rel=1e-4)
    assert best["within_noise"] and near["within_noise"] and not far["within_noise"]
    assert np.isnan(best["p_holm"]) and ours[0.3] is far


def test_a_setting_against_its_double_is_within_the_noise(tmp_path, add, speakers):
    for lr in (0.1, 0.2):
        add_scored(add, speakers[0.0001], lr=lr)
    _, double = rank_results(tmp_path).to_dict("records")
    assert double["p_speakers"] == double["p_seeds"] == double["p_holm"] == 1 and double["within_noise"]


def test_the_order_of_rows_does_not_matter(tmp_path, add, speakers):
    for lr, parts in speakers.items():
        add_scored(add, parts, lr=lr)
    results = read_results(tmp_path)
    ranking = rank_results(results)
    for seed in range(3):
        again = rank_results(results.sample(frac=1, random_state=seed))
        pd.testing.assert_frame_equal(again[ranking.columns], ranking, rtol=1e-9)


def test_only_seeds_that_both_have_are_compared(tmp_path, add, speakers):
    add_scored(add, speakers[0.0001], lr=0.1)
    add_scored(add, speakers[0.3][:2], lr=0.2)
    _, other = rank_results(tmp_path).to_dict("records")
    expected = stats.ttest_rel(speakers[0.3][:2].mean(1), speakers[0.0001][:2].mean(1)).pvalue
    assert other["p_seeds"] == pytest.approx(expected, rel=1e-3)


def test_a_single_seed_is_tested_over_speakers_alone(tmp_path, add, speakers):
    for lr in (0.0001, 0.3):
        add_scored(add, speakers[lr][:1], lr=lr)
    _, other = rank_results(tmp_path).to_dict("records")
    assert np.isnan(other["p_seeds"]) and other["p_holm"] == other["p_speakers"] == 2 / 2**10
    assert not other["within_noise"]


def test_what_cannot_be_paired_is_not_tested(tmp_path, add, speakers, vectors):
    add_scored(add, speakers[0.0001], lr=0.1)
    add_scored(add, speakers[0.3][:, :7], lr=0.2)  # other speakers
    elsewhere = Vectors.from_arrays(vectors.x, vectors.labels, feature="toy", corpus="other")
    add_scored(add, speakers[0.3], lr=0.3, vectors=elsewhere)
    for seed in (1, 2):
        add({DEV: (0.1, scored(speakers[0.3])[1][0][:1000])}, seed, lr=0.4)  # of an earlier version
    rows = rank_results(tmp_path).set_index("fit.lr")
    assert rows["p_speakers"].isna().all() and rows["within_noise"].all() and (rows["pairs"] == 0).all()


def test_the_best_seed_is_shown_on_request_and_chosen_on_dev(tmp_path, add):
    for seed, (dev, test) in enumerate(((0.5, 0.9), (0.7, 0.2), (0.6, 0.4)), start=1):
        add({DEV: dev, TEST: test, MAE: 1.0 + seed}, seed, lr=0.1)
        add({DEV: dev - 0.2, TEST: test}, seed, lr=0.2)
    assert not any("best_seed" in name for name in rank_results(tmp_path).columns)
    first, second = rank_results(tmp_path, best_seed=True).to_dict("records")
    assert (first["best_seed"], first["dev.score.best_seed"], first["test.score.best_seed"]) == (2, 0.7, 0.2)
    assert first["dev.score"] == pytest.approx(0.6) and first["dev.age.mae.best_seed"] == 3.0
    assert np.isnan(second["dev.age.mae.best_seed"])
    (by_error, _) = rank_results(tmp_path, by="age.mae", best_seed=True).to_dict("records")
    assert by_error["best_seed"] == 1


def test_the_run_that_stands_for_a_setting_is_nearest_to_its_mean(tmp_path, add):
    for seed, value in enumerate((0.1, 0.52, 0.9), start=1):
        add({DEV: value}, seed)
    ranking = rank_results(tmp_path)
    key = read_results(tmp_path).query("seed == 2")["key"].iloc[0]
    assert ranking["run"].tolist() == [key]


def test_runs_of_two_versions_of_a_setting_go_together(tmp_path, add, speakers):
    values, replicates = scored(speakers[0.0001])
    for seed in range(4):
        add({DEV: (values[seed], replicates[seed][: None if seed else 1000])}, seed + 1)
    (row,) = rank_results(tmp_path).to_dict("records")
    expected = np.percentile(np.float32(replicates[:, :1000]).astype(float).mean(0), [2.5, 97.5])
    assert [row["dev.score.low"], row["dev.score.high"]] == pytest.approx(expected.tolist(), rel=1e-6)


def test_folds_are_shown_and_never_ranked(tmp_path, make_run, make_result, vectors):
    for lr, values in ((0.1, (0.5, 0.7)), (0.2, (0.4, 0.3))):
        for seed in (1, 2):
            result = make_result(make_run(seed, lr=lr), {TEST: sum(values) / 2}, vectors)
            (row,) = result.rows
            parts = [replace(row, value=v + seed / 100, part=f"fold={k}", n=3) for k, v in enumerate(values, start=1)]
            append_results(tmp_path, [replace(result, rows=(row, *parts))], vectors)
    every = read_results(tmp_path, parts=True)
    assert len(every) == 12 and set(every["part"]) == {"", "fold=1", "fold=2"}
    ranking = rank_results(every)
    pd.testing.assert_frame_equal(ranking, rank_results(tmp_path))
    assert ranking["test.score"].tolist() == pytest.approx([0.6, 0.35]) and ranking["seeds"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(ranking, rank_results(every.drop(columns="part")[every["part"] == ""]))
    parts = rank_parts(tmp_path, ranking)
    assert parts[["rank", "part", "seeds", "n"]].to_numpy().tolist() == [
        [1, "fold=1", 2, 3], [1, "fold=2", 2, 3], [2, "fold=1", 2, 3], [2, "fold=2", 2, 3],
    ]  # fmt: skip
    assert parts["test.score"].tolist() == pytest.approx([0.515, 0.715, 0.415, 0.315])
    assert parts["test.score.sd"].tolist() == pytest.approx([np.sqrt(0.5) / 100] * 4)
    assert len(rank_parts(every, ranking, most=1)) == 2
    assert rank_parts(every[every["part"] == ""], ranking).empty


def test_each_seed_may_be_a_row_of_its_own(tmp_path, add, speakers):
    for seed, (value, replicates) in enumerate(zip(*scored(speakers[0.3]), strict=True), start=5):
        add({DEV: (value, replicates)}, seed)
    ranking = rank_results(tmp_path, each_seed=True)
    assert list_settings(ranking) == ["feature", "seed"] and set(ranking["seed"]) == {5, 6, 7, 8}
    assert ranking["dev.score"].tolist() == sorted(speakers[0.3].mean(1), reverse=True)
    assert (ranking["seeds"] == 1).all() and ranking["run"].nunique() == 4
    assert ranking["p"].notna().tolist() == [False, True, True, True]
    assert len(rank_results(tmp_path)) == 1


def test_fields_that_came_later_tell_settings_apart_by_their_defaults(tmp_path, add, make_run):
    tasks = make_run().tasks
    for missing in ("mask", "replace"):
        changed = tuple(replace(task, missing=missing) if task.name == "age" else task for task in tasks)
        add({DEV: 0.5}, tasks=changed)
    ranking = rank_results(tmp_path)
    assert list_settings(ranking) == ["feature", "task.age.missing"]
    assert set(ranking["task.age.missing"]) == {"mask", "replace"}


def test_published_numbers_are_those_of_what_is_compared(tmp_path, add):
    paper = {
        "toy": {"score": 0.1, "test": {"score": 0.2}},
        "toy, fit.lr = 0.1": {"score": 0.3},
        "toy, fit.lr = 0.1, trunk.hidden = [9]": {"score": 0.4},
        "other": {"score": 0.5},
    }
    add({DEV: 0.5, TEST: 0.5}, lr=0.1)
    (row,) = rank_results(tmp_path, published=paper).to_dict("records")
    assert (row["dev.score.published"], row["test.score.published"]) == (0.1, 0.2)  # rates are not compared
    add({DEV: 0.6, TEST: 0.5}, lr=0.2)
    rows = rank_results(tmp_path, published=paper).set_index("fit.lr")
    assert rows["dev.score.published"].to_dict() == {0.1: 0.3, 0.2: 0.1}
    assert rows["test.score.published"].loc[0.2] == 0.2 and np.isnan(rows["test.score.published"].loc[0.1])
    add({DEV: 0.7}, lr=0.1, trunk=Trunk((9,)))
    rows = rank_results(tmp_path, published=paper)
    assert rows["dev.score.published"].tolist() == [0.4, 0.1, 0.3]
    with pytest.raises(RecipeError, match="'toy, fit.lr 0.1'"):
        rank_results(tmp_path, published={"toy, fit.lr 0.1": {"score": 1}})
