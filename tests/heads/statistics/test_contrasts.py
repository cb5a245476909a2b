"""Contrasts against scipy's studentized range and t, against moments by hand, and against tables of alike settings."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from vbx.heads.statistics.contrasts import tell_apart
from vbx.heads.statistics.settings import Setting
from vbx.heads.statistics.significance import exceed_range, fit_prior


def settings_of(parts, seeds=None, about=None):
    """Settings of what each block of speakers adds `(M, S, B)`, the best first."""
    order = np.argsort(-parts.mean((1, 2)))
    made = []
    for i in order:
        keys = {seed: f"{i}-{seed}" for seed in (seeds or {}).get(int(i), range(parts.shape[1]))}
        mine = parts[i][list(keys)]
        values = {"dev.score": mine.mean(1)}
        made.append(Setting({"corpus": "c", **(about or {}).get(int(i), {})}, keys, 0, values, {}, {"dev.score": mine}, {"dev.score": 9}))  # fmt: skip  # noqa: E501
    return made, order


@pytest.mark.parametrize("count, df, q", [(10, 4, 7.8), (3, 5, 3), (40, 30, 5.5), (100, 19, 6), (10, 4, 60), (5, 1, 9)])
def test_the_range_is_that_of_scipy(count, df, q):
    expected = stats.studentized_range.sf(q, count, df)
    assert exceed_range(q / np.sqrt(2), count, df) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_range_of_two_is_a_t_test():
    for t in (0.3, 2.0, 6.0):
        assert exceed_range(t, 2, 7) == pytest.approx(2 * stats.t.sf(t, 7), abs=2e-4)
        assert exceed_range(t, 2, np.inf) == pytest.approx(2 * stats.norm.sf(t), abs=2e-4)
    assert exceed_range(-1.0, 5, 7) == 1.0 and np.isnan(exceed_range(np.nan, 5, 7))


@pytest.mark.parametrize("weight, scale, df", [(8, 2.0, 4), (3, 0.5, 9)])
def test_the_prior_is_that_the_variances_were_drawn_from(weight, scale, df):
    rng = np.random.default_rng(0)
    true = scale * weight / rng.chisquare(weight, 20_000)
    found = fit_prior(true * rng.chisquare(df, 20_000) / df, df)
    assert found == pytest.approx((scale, weight), rel=0.06)


def test_the_prior_solves_the_equations_of_moments():
    variances, df = np.array([0.1, 0.2, 2.0, 0.05, 7.0, 0.4]), 4
    scale, weight = fit_prior(variances, df)
    logs = np.log(variances)
    half = optimize.brentq(
        lambda h: special.polygamma(1, h) + special.polygamma(1, df / 2) - logs.var(ddof=1), 0.01, 99
    )
    assert weight == pytest.approx(2 * half, rel=1e-6)
    mean = np.log(scale) + special.digamma(df / 2) - np.log(df / 2) - special.digamma(half) + np.log(half)
    assert mean == pytest.approx(logs.mean())
    assert fit_prior(np.full(5, 0.3), df)[1] == np.inf


def test_two_settings_are_told_apart_by_a_t_test_over_speakers_and_seeds():
    rng = np.random.default_rng(3)
    parts = rng.normal(0, 1, (2, 5, 12)) + rng.normal(0, 1, (2, 1, 12)) + rng.normal(0, 0.5, (2, 5, 1))
    parts[0] += 0.8
    (best, other), _ = settings_of(parts)
    cells = best.parts["dev.score"] - other.parts["dev.score"]
    seeds, blocks = cells.shape
    rows, columns = cells.mean(1), cells.mean(0)
    rest = cells - rows[:, None] - columns + cells.mean()
    v = [
        columns.var(ddof=1) / blocks,
        rows.var(ddof=1) / seeds,
        (rest**2).sum() / (seeds - 1) / (blocks - 1) / cells.size,
    ]
    total = v[0] + v[1] - v[2]
    df = total**2 / (v[0] ** 2 / (blocks - 1) + v[1] ** 2 / (seeds - 1) + v[2] ** 2 / (seeds - 1) / (blocks - 1))
    assert total > max(v) and df > seeds - 1
    expected = 2 * stats.t.sf(cells.mean() / np.sqrt(total), df)
    first, p = tell_apart([best, other], "dev.score")
    assert np.isnan(first) and p == pytest.approx(expected, abs=1e-4) and 0.001 < p < 0.2


def test_one_seed_leaves_the_paired_t_test_over_speakers():
    parts = np.random.default_rng(0).normal(0, 1, (2, 1, 20))
    made, _ = settings_of(parts)
    expected = stats.ttest_rel(parts[0, 0], parts[1, 0]).pvalue
    assert tell_apart(made, "dev.score")[1] == pytest.approx(expected, abs=1e-4)


def test_of_settings_that_are_alike_one_table_in_twenty_tells_one_apart():
    """50 tables of 10, 5 seeds, 20 speakers; the bound is what 5 % exceeds once in 500."""
    rng = np.random.default_rng(0)
    for speakers, seeds in ((1.0, 0.02), (0.02, 1.0), (1.0, 0.5)):
        wrong = 0
        for _ in range(50):
            parts = rng.normal(0, speakers, (10, 1, 20)) + rng.normal(0, seeds, (10, 5, 1))
            made, _ = settings_of(parts + rng.normal(0, 0.3, (10, 5, 20)))
            wrong += np.nanmin(tell_apart(made, "dev.score")) < 0.05
        assert wrong <= stats.binom.ppf(0.998, 50, 0.05)


def test_what_is_clearly_worse_is_told_apart_and_its_removal_helps_the_next():
    rng = np.random.default_rng(1)
    parts = rng.normal(0, 1, (6, 5, 20))
    parts[3:] -= 1.5
    made, order = settings_of(parts)
    p = dict(zip(order.tolist(), tell_apart(made, "dev.score"), strict=True))
    assert all(p[i] < 0.01 for i in (3, 4, 5)) and not any(p[i] < 0.05 for i in (0, 1, 2))
    assert list(tell_apart(made, "dev.score")[1:]) == sorted(tell_apart(made, "dev.score")[1:], reverse=True)


def test_doubles_are_not_told_apart_and_strangers_not_tested():
    parts = np.random.default_rng(0).normal(0, 1, (4, 3, 8))
    parts[1] = parts[0]
    parts[2] = parts[0] - 1  # the same in everything but its level: no variance, no doubt
    parts[:2] += 5
    made, order = settings_of(parts, about={3: {"corpus": "another"}})
    p = dict(zip(order.tolist(), tell_apart(made, "dev.score"), strict=True))
    assert p[2] == 0 and np.isnan(p[3])
    assert [p[i] for i in order[:2].tolist()][1] == 1


def test_a_setting_whose_metric_is_not_always_defined_is_not_tested_and_disturbs_no_other():
    parts = np.random.default_rng(0).normal(0, 1, (5, 3, 8)) + np.arange(5)[:, None, None]
    made, _ = settings_of(parts[1:])
    expected = tell_apart(made, "dev.score")
    parts[0, 1, 2] = np.nan
    lost = settings_of(parts[:1])[0][0]
    p = tell_apart([*made, lost], "dev.score")
    assert np.isnan(p[-1]) and p[1:4] == pytest.approx(expected[1:])


def test_only_seeds_that_both_have_are_compared():
    parts = np.random.default_rng(0).normal(0, 1, (2, 5, 20))
    parts[1] -= 0.3
    parts[1, 3:] -= 50  # would say more than enough
    (best, _), _ = settings_of(parts)
    other = settings_of(parts, seeds={1: [0, 1, 2]})[0][1]
    cut = settings_of(parts[:, :3])[0]
    ours, theirs = tell_apart([best, other], "dev.score")[1], tell_apart(cut, "dev.score")[1]
    assert ours == pytest.approx(theirs) and ours > 0.05
