"""The bootstrap and the jackknife over speakers against drawing speakers, and leaving them out, one by one."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import recall_score

from vbx.heads.metrics import METRICS, confusions, moments
from vbx.heads.statistics.bootstrap import BLOCKS, DRAWS, draw_counts, group_utterances, resample

SPEAKERS = ["b", None, "b", float("nan"), "a", "c", "d", "e"]


def test_utterances_without_a_speaker_stand_alone():
    codes, names = group_utterances(list("stuvwxyz"), SPEAKERS)
    expected = ("id:t", "id:v", "speaker:a", "speaker:b", "speaker:c", "speaker:d", "speaker:e")
    assert names == expected and codes.tolist() == [3, 0, 3, 1, 2, 4, 5, 6]
    assert group_utterances(["x", "y"], None)[1] == ("id:x", "id:y")
    names = group_utterances(list("sabcdef"), [None, "s", *"abcde"])[1]  # a name is not an id
    assert "id:s" in names and "speaker:s" in names


def test_few_speakers_say_nothing_of_others():
    ids = [f"u{i}" for i in range(12)]
    assert group_utterances(ids, list("abcde" * 2) + ["a", "b"])[1] == tuple(sorted(f"id:{i}" for i in ids))
    assert len(group_utterances(ids, list("abcdef" * 2))[1]) == 6


def test_draws_are_with_replacement_and_a_function_of_the_names():
    counts = draw_counts(("a", "b", "c", "d"))
    draws = counts[:DRAWS]
    assert counts.shape == (DRAWS + 4, 4) and (draws.sum(1) == 4).all()
    np.testing.assert_array_equal(counts, draw_counts.__wrapped__(("a", "b", "c", "d")))
    assert not np.array_equal(counts, draw_counts(("a", "b", "c", "e")))
    # Of 4 draws out of 4 a given one is absent with probability (3/4)^4 = 0.316.
    assert (draws == 0).mean() == pytest.approx(0.316, abs=0.03)


@pytest.mark.parametrize("size", [1, 7, BLOCKS, BLOCKS + 1, 100])
def test_each_group_is_left_out_once(size):
    left = 1 - draw_counts(tuple(f"{i:03d}" for i in range(size)))[DRAWS:]
    assert left.shape == (min(size, BLOCKS), size) and (left.sum(0) == 1).all()
    sizes = left.sum(1)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    assert (np.diff(left.argmax(0)) >= 0).all()  # neighbours stay together


def test_replicates_are_metrics_of_the_drawn_utterances():
    random = np.random.default_rng(0)
    n, speakers = 60, [f"s{i}" for i in random.integers(0, 8, 60)]
    truth, said = random.integers(0, 3, n), random.integers(0, 3, n)
    numbers, guesses = random.standard_normal((n, 2)), random.standard_normal((n, 2))
    codes, names = group_utterances([str(i) for i in range(n)], speakers)
    counts = draw_counts(names)
    uar = METRICS["uar"].function(resample(confusions(said, truth, 3, codes), counts))
    ccc = METRICS["ccc"].function(resample(moments(guesses, numbers, codes), counts))
    assert uar.shape == (DRAWS + 8,) and ccc.shape == (DRAWS + 8, 2)
    for draw in (0, 1, 99, 100, 999, 1000, 1007):
        rows = np.concatenate([np.flatnonzero(codes == g) for g, k in enumerate(counts[draw]) for _ in range(int(k))])
        if draw >= DRAWS:
            assert sorted(rows) == sorted(np.flatnonzero(codes != draw - DRAWS))
        assert uar[draw] == pytest.approx(recall_score(truth[rows], said[rows], average="macro", zero_division=0))
        t, p = numbers[rows], guesses[rows]
        cov = ((t - t.mean(0)) * (p - p.mean(0))).mean(0)
        expected = 2 * cov / (t.var(0) + p.var(0) + (t.mean(0) - p.mean(0)) ** 2)
        np.testing.assert_allclose(ccc[draw], expected, atol=1e-10)


def test_intervals_are_those_of_scipy():
    """Every utterance a group, so that scipy can draw them too."""
    random = np.random.default_rng(5)
    truth = random.standard_normal(80)
    said = 0.6 * truth + 0.5 * random.standard_normal(80)
    groups, names = group_utterances([f"{i:02d}" for i in range(80)], None)
    drawn = METRICS["mae"].function(resample(moments(said[:, None], truth[:, None], groups), draw_counts(names)))[
        :DRAWS
    ]
    theirs = stats.bootstrap(
        (np.abs(said - truth),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    )
    spread = theirs.standard_error
    assert drawn.std() == pytest.approx(spread, rel=0.1)
    interval = theirs.confidence_interval
    np.testing.assert_allclose(np.percentile(drawn, [2.5, 97.5]), [interval.low, interval.high], atol=0.25 * spread)
