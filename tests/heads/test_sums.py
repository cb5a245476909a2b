"""Statistics of whole stacks against those of one run after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.heads.test_training import make_vectors, varied_runs
from vbx.heads import sums
from vbx.heads.data import make_ready, make_split
from vbx.heads.evaluation import make_truth, predictions_of, score_rows, score_runs, watch_dev
from vbx.heads.metrics import confusions, moments
from vbx.heads.model import make_model
from vbx.heads.parts import Score
from vbx.heads.stack import predict_stack, start_stack

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("at_once", [1, 500, 1 << 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_are_those_of_each_run(monkeypatch, at_once, dtype):
    monkeypatch.setattr(sums, "NUMBERS_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    said, true = random.standard_normal((5, 83, 3)), random.standard_normal((83, 3)) + 40
    true[random.random((83, 3)) < 0.2] = np.nan
    true[:, 2] = np.nan
    spread, centre = random.uniform(1, 3, 3), random.uniform(30, 50, 3)
    prediction = torch.from_numpy(said).to(dtype)
    scale = torch.from_numpy(spread), torch.from_numpy(centre)
    found = sums.sum_moments(prediction, torch.from_numpy(true), scale)
    for run, one in zip(found, prediction.double().numpy(), strict=True):
        (expected,) = moments(one * spread + centre, true, np.zeros(83, dtype=int))
        np.testing.assert_allclose(run, expected, rtol=1e-13, atol=0)
    for some in ([2], [4, 0]):
        assert torch.equal(sums.sum_moments(prediction[some], torch.from_numpy(true), scale), found[some])


def test_confusions_are_those_of_each_run():
    random = np.random.default_rng(1)
    said, true = random.standard_normal((4, 90, 3)), random.integers(-1, 3, 90)
    found = sums.count_confusions(torch.from_numpy(said), torch.from_numpy(true))
    for run, one in zip(found, said, strict=True):
        np.testing.assert_array_equal(run, confusions(one.argmax(1), true, 3, np.zeros(90, dtype=int))[0])


@pytest.mark.parametrize("scaled", [False, True])
def test_a_stack_is_watched_as_each_run_is_scored(scaled):
    vectors, cpu = make_vectors(n=400, missing=0.3), torch.device("cpu")
    runs = [replace(run, fit=replace(run.fit, scale_targets=scaled)) for run in varied_runs(6)]
    parts = ("age.mae", "country.uar"), ("age.ccc", "emotion.ccc"), ("age.inverse_mae", "country.accuracy")
    runs = [replace(run, score=Score("mean", parts[i % 3])) for i, run in enumerate(runs)]
    ready = make_ready(runs[0], vectors)
    model = make_model(runs[0], vectors.x.shape[1], ready.classes)
    dev = make_split(ready, runs[0], vectors, "dev", cpu)
    truth, stack = make_truth(vectors, ready.labels, "dev", dev.rows), start_stack(model, runs, cpu)
    outputs = predict_stack(model, stack.moving.numbers, dev)
    found = score_runs(runs, ready, truth, outputs)
    watched = watch_dev(model, ready, dev, truth, outputs, stack)
    for place, run in enumerate(runs):
        expected = score_rows(run, predictions_of(model, ready, outputs, place), truth)[-1].value
        assert found[place] == pytest.approx(expected, rel=1e-12) and expected != 0
        assert (watched[place] == -found[place]) == (run.fit.monitor == "score")
    assert len({round(score, 6) for score in found}) == len(runs)
