"""Paired tests against scipy, against swapping predictions outright, and against what must hold of any test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vbx.heads.metrics import METRICS, confusions, moments
from vbx.heads.statistics.bootstrap import DRAWS, draw_counts, resample
from vbx.heads.statistics.significance import EXACT, FLIPS, compare_seeds, correct_holm, flip_signs, pseudo_values


@pytest.mark.parametrize("n", [2, 5, 6, 9, EXACT])
def test_few_pairs_are_tested_exactly(n):
    rng = np.random.default_rng(n)
    for differences in (rng.standard_normal(n) + 0.5, rng.integers(-2, 3, n).astype(float)):
        expected = stats.permutation_test(
            (differences, np.zeros(n)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert float(flip_signs(differences)) == pytest.approx(expected, abs=1e-12)


def test_many_pairs_are_tested_by_draws():
    for shift in (0.0, 0.2, 0.5):
        differences = np.random.default_rng(7).standard_normal(40) + shift
        expected = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=99_999, rng=np.random.default_rng(1)
        ).pvalue
        error = np.sqrt(expected * (1 - expected) / FLIPS)
        assert float(flip_signs(differences)) == pytest.approx(expected, abs=6 * error + 1e-5)
        assert flip_signs(differences) == flip_signs(differences)


def test_on_signed_ranks_it_is_the_test_of_wilcoxon():
    rows = np.random.default_rng(0).standard_normal((30, 11)) + 0.4
    ranks = np.sign(rows) * stats.rankdata(np.abs(rows), axis=1)
    expected = [stats.wilcoxon(row, method="exact").pvalue for row in rows]
    np.testing.assert_allclose(flip_signs(ranks), expected)


def test_rows_are_tested_one_by_one():
    rows = np.random.default_rng(0).standard_normal((2, 3, 20))
    rows[1, 2, 4] = np.nan
    p = flip_signs(rows)
    assert p.shape == (2, 3) and np.isnan(p[1, 2])
    np.testing.assert_array_equal(p[0, 1], flip_signs(rows[0, 1]))
    assert np.isnan(flip_signs(np.zeros((2, 0)))).all() and flip_signs(np.array([0.3])) == 1


@given(st.lists(st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-9), min_size=1, max_size=24), st.randoms())
def test_what_holds_of_any_differences(values, random):
    differences = np.array(values)
    p = float(flip_signs(differences))
    assert 0 < p <= 1
    assert float(flip_signs(-differences)) == p
    shuffled = differences.copy()
    random.shuffle(shuffled)
    assert float(flip_signs(shuffled)) == pytest.approx(p, abs=0 if len(values) <= EXACT else 0.05)
    assert float(flip_signs(np.zeros(len(values)))) == 1  # a setting against itself


def test_a_clear_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    assert flip_signs(1 + 0.1 * rng.standard_normal(32)) == 1 / (FLIPS + 1)
    chance = flip_signs(rng.standard_normal((2000, 16)))
    assert (chance < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def swapped(one, two, metric, swaps=4000):
    """p of a metric's difference when each speaker's predictions go to either setting (Yeh 2000)."""
    rng = np.random.default_rng(0)
    observed, reached = abs(metric(one.sum(0)) - metric(two.sum(0))), 0
    for swap in rng.integers(0, 2, (swaps, len(one))).astype(bool):
        shape = (-1,) + (1,) * (one.ndim - 1)
        a = np.where(swap.reshape(shape), two, one).sum(0)
        b = np.where(swap.reshape(shape), one, two).sum(0)
        reached += abs(metric(a) - metric(b)) >= observed - 1e-12
    return (reached + 1) / (swaps + 1)


@pytest.mark.parametrize("kind", ["ccc", "uar"])
def test_pseudo_values_stand_for_swapped_predictions(kind):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(24), 10)
    counts = draw_counts(tuple(f"s{i:02d}" for i in range(24)))[DRAWS:]
    function = METRICS[kind].function
    ours, theirs = [], []
    for shift in (0.0, 0.05, 0.1, 0.2, 0.3):
        sums = []
        for better in (0.0, shift):
            if kind == "ccc":
                truth = np.random.default_rng(4).standard_normal(240)
                said = truth * (0.5 + better) + 0.6 * rng.standard_normal(240)
                sums.append(moments(said[:, None], truth[:, None], groups)[:, 0])
            else:
                classes = np.random.default_rng(4).integers(0, 4, 240)
                right = rng.random(240) < 0.4 + better
                sums.append(confusions(np.where(right, classes, rng.integers(0, 4, 240)), classes, 4, groups))
        parts = [pseudo_values(function(s.sum(0)), function(resample(s, counts))) for s in sums]
        ours.append(float(flip_signs(parts[1] - parts[0])))
        theirs.append(swapped(sums[1], sums[0], function))
    np.testing.assert_allclose(ours, theirs, atol=0.06)
    assert min(theirs) < 0.05 < max(theirs)


def test_pseudo_values_of_a_mean_are_its_parts():
    blocks = np.random.default_rng(0).standard_normal((3, 8))
    left_out = (blocks.sum(1, keepdims=True) - blocks) / 7
    np.testing.assert_allclose(pseudo_values(blocks.mean(1), left_out), blocks, atol=1e-12)


def test_seeds_are_compared_by_the_paired_t_test():
    one, two = np.random.default_rng(0).standard_normal((2, 7))
    effect, p = compare_seeds(one - two + 0.4)
    assert p == pytest.approx(stats.ttest_rel(one + 0.4, two).pvalue)
    assert effect == pytest.approx(np.mean(one - two + 0.4) / np.std(one - two, ddof=1))
    assert np.isnan(compare_seeds(np.array([0.3]))).all()
    assert compare_seeds(np.zeros(3))[1] == 1 and compare_seeds(np.full(3, 0.2))[1] == 0
    assert np.isnan(compare_seeds(np.array([0.3, np.nan, 0.1]))).all()


def holm_by_hand(p):
    """Step down: the smallest times m, the next times m - 1, none below one before it."""
    corrected, highest = {}, 0.0
    for done, (place, value) in enumerate(sorted(enumerate(p), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, value * (len(p) - done)))
        corrected[place] = highest
    return [corrected[place] for place in range(len(p))]


@given(st.lists(st.floats(0, 1), min_size=0, max_size=12))
def test_holm(p):
    assert correct_holm(np.array(p, dtype=float)).tolist() == pytest.approx(holm_by_hand(p))
    with_none = correct_holm(np.array([np.nan, *p], dtype=float))
    assert np.isnan(with_none[0]) and with_none[1:].tolist() == pytest.approx(holm_by_hand(p))


def test_holm_in_the_literature():
    """The four p of Wikipedia's worked example of the step-down: only the first two are rejected at 0.05."""
    corrected = correct_holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.03, 0.06, 0.06, 0.02])
