"""The bootstrap over speakers against drawing speakers one by one."""

import numpy as np
import pytest
from sklearn.metrics import recall_score

from vbx.heads.bootstrap import DRAWS, draw_counts, group_utterances, resample
from vbx.heads.metrics import METRICS, confusions, moments


def test_utterances_without_a_speaker_stand_alone():
    codes, names = group_utterances(["x", "y", "z", "x2"], ["b", None, "b", float("nan")])
    assert names == ("id:x2", "id:y", "speaker:b") and codes.tolist() == [2, 1, 2, 0]
    assert group_utterances(["x", "y"], None)[1] == ("id:x", "id:y")
    assert group_utterances(["s", "y"], [None, "s"])[1] == ("id:s", "speaker:s")  # a name is not an id


def test_draws_are_with_replacement_and_a_function_of_the_names():
    counts = draw_counts(("a", "b", "c", "d"))
    assert counts.shape == (DRAWS, 4) and (counts.sum(1) == 4).all()
    np.testing.assert_array_equal(counts, draw_counts.__wrapped__(("a", "b", "c", "d")))
    assert not np.array_equal(counts, draw_counts(("a", "b", "c", "e")))
    # Of 4 draws out of 4 a given one is absent with probability (3/4)^4 = 0.316.
    assert (counts == 0).mean() == pytest.approx(0.316, abs=0.03)


def test_replicates_are_metrics_of_the_drawn_utterances():
    random = np.random.default_rng(0)
    n, speakers = 60, [f"s{i}" for i in random.integers(0, 8, 60)]
    truth, said = random.integers(0, 3, n), random.integers(0, 3, n)
    numbers, guesses = random.standard_normal((n, 2)), random.standard_normal((n, 2))
    codes, names = group_utterances([str(i) for i in range(n)], speakers)
    counts = draw_counts(names)
    uar = METRICS["uar"].function(resample(confusions(said, truth, 3, codes), counts))
    ccc = METRICS["ccc"].function(resample(moments(guesses, numbers, codes), counts))
    assert uar.shape == (DRAWS,) and ccc.shape == (DRAWS, 2)
    for draw in (0, 1, 99, 100, 999):
        rows = np.concatenate([np.flatnonzero(codes == g) for g, k in enumerate(counts[draw]) for _ in range(int(k))])
        assert uar[draw] == pytest.approx(recall_score(truth[rows], said[rows], average="macro", zero_division=0))
        t, p = numbers[rows], guesses[rows]
        cov = ((t - t.mean(0)) * (p - p.mean(0))).mean(0)
        expected = 2 * cov / (t.var(0) + p.var(0) + (t.mean(0) - p.mean(0)) ** 2)
        np.testing.assert_allclose(ccc[draw], expected, atol=1e-10)
