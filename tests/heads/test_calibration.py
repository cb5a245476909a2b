"""A calibrated head is as sure as it is right; on made predictions whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from vbx.cache.vectors import Vectors
from vbx.heads.calibration import COLDEST, HOTTEST, MOST, Calibration, calibrate, fit_temperature, fit_width
from vbx.heads.head import apply_head
from vbx.heads.parts import Fit, Score, Task, Trunk
from vbx.heads.run import Run
from vbx.heads.training import train_heads

EMOTION = Task("emotion", ("emotion",), "cross_entropy", ("uar",))
AGE = Task("age", ("age",), "mse", ("mae",))
JOY = Task("joy", ("joy", "awe"), "mse", ("mae",), output="sigmoid")


def make_logits(size, classes=4, seed=0):
    """Logits whose softmax is the true distribution, and classes drawn from it."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.standard_normal((size, classes))
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(1)


def softmax(logits):
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def calibration_error(probabilities, classes, bins=15):
    """Expected calibration error (Guo et al. 2017, eq. 3): |accuracy - confidence| over bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == classes
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [np.abs(right[places == b].mean() - confidence[places == b].mean()) * (places == b).mean()
            for b in range(bins) if (places == b).any()]  # fmt: skip
    return float(np.sum(gaps))


@pytest.mark.parametrize("factor", [0.4, 3.0, 6.0])
def test_held_out_probabilities_become_true(factor):
    logits, classes = make_logits(8000)
    dev, test = slice(0, 3000), slice(3000, None)
    temperature = fit_temperature(factor * logits[dev], classes[dev])
    assert temperature == pytest.approx(factor, rel=0.08)
    before, after = softmax(factor * logits[test]), softmax(factor * logits[test] / temperature)
    assert log_loss(classes[test], after) < log_loss(classes[test], before) - 0.02
    assert calibration_error(after, classes[test]) < 0.03 < calibration_error(before, classes[test])
    assert (after.argmax(1) == before.argmax(1)).all()


def test_it_is_the_minimum_that_a_search_finds():
    logits, classes = make_logits(2000, classes=3, seed=5)
    found = minimize_scalar(lambda t: log_loss(classes, softmax(5 * logits / t)), bounds=(0.1, 10), method="bounded")
    assert fit_temperature(5 * logits, classes) == pytest.approx(found.x, rel=0.01)


def test_a_temperature_stays_sane():
    logits, classes = make_logits(400)
    noise = np.random.default_rng(1).permutation(classes)
    assert fit_temperature(100 * logits, noise) == HOTTEST
    assert fit_temperature(logits / 100, logits.argmax(1)) == COLDEST
    for empty in (fit_temperature(logits[:0], classes[:0]), fit_temperature(logits[:, :1], 0 * classes)):
        assert empty == 1.0
    assert fit_temperature(np.zeros((9, 4)), classes[:9]) == 1.0  # no temperature changes these


def test_dev_without_an_error_makes_no_head_certain():
    sure = 3 * np.eye(2)[np.arange(20) % 2]
    temperature = fit_temperature(sure, np.arange(20) % 2)
    assert COLDEST < temperature < 1.0
    # What Platt's targets say of 20 out of 20, two classes: 21 of 22.
    assert softmax(sure / temperature)[0, 0] == pytest.approx(21 / 22, abs=1e-3)


def test_many_utterances_are_thinned_evenly():
    logits, classes = make_logits(3 * MOST)
    whole, thin = fit_temperature(2 * logits, classes), fit_temperature(2 * logits[::3], classes[::3])
    assert whole == thin != fit_temperature(2 * logits[:MOST], classes[:MOST])


@pytest.mark.parametrize("size", [9, 30, 200])
def test_intervals_hold_nine_in_ten(size):
    """Split conformal: of exchangeable numbers ceil(0.9 (n + 1)) / (n + 1), whatever their distribution."""
    random = np.random.default_rng(size)
    errors = np.abs(random.standard_t(2, size=(3000, size + 1)))
    held = [one[-1] <= fit_width(one[:-1]) for one in errors]
    promised = np.ceil(0.9 * (size + 1)) / (size + 1)
    assert 0.9 <= promised and np.mean(held) == pytest.approx(promised, abs=0.02)


def test_few_residuals_promise_nothing():
    assert fit_width(np.ones(8)) == np.inf
    assert fit_width(np.array([np.nan] * 5 + [1.0] * 8)) == np.inf
    assert fit_width(np.array([np.nan] * 5 + [1.0] * 9)) == 1.0


def test_what_is_not_labelled_does_not_count():
    logits, classes = make_logits(200)
    ages, truth = np.zeros((200, 1)), np.random.default_rng(2).standard_normal((200, 1))
    joys, joy = np.full((200, 2), 0.5), np.random.default_rng(3).uniform(size=(200, 2))
    told = {"emotion": 3 * logits, "age": ages, "joy": joys}
    some = np.arange(200) % 4 == 0
    joy[some, 1] = np.nan
    true = {"emotion": np.where(some, -1, classes), "age": np.where(some[:, None], np.nan, truth), "joy": joy}
    found = calibrate([EMOTION, AGE, JOY], told, true)
    assert found.counts == {"emotion": 150, "age": 150, "joy": 150}
    assert found.temperatures["emotion"] == fit_temperature(3 * logits[~some], classes[~some])
    assert found.widths["age"] == (fit_width(np.abs(truth[~some, 0])),)
    assert found.widths["joy"] == (fit_width(np.abs(joy[:, 0] - 0.5)), fit_width(np.abs(joy[~some, 1] - 0.5)))
    assert calibrate([EMOTION], {"emotion": logits}, {"emotion": np.full(200, -1)}) is None
    logits[3, 0] = np.nan
    assert calibrate([EMOTION], {"emotion": logits}, {"emotion": classes}) is None


def test_what_is_not_told_is_not_calibrated():
    logits, classes = make_logits(50)
    spy, foe = replace(EMOTION, name="spy", role="discriminator"), replace(EMOTION, name="foe", role="adversarial")
    told = dict.fromkeys(("emotion", "spy", "foe"), logits)
    found = calibrate([EMOTION, spy, foe], told, dict.fromkeys(told, classes))
    assert found.temperatures.keys() == found.counts.keys() == {"emotion"}


def test_intervals_of_a_sigmoid_end_where_it_ends():
    found = Calibration(widths={"joy": (0.3, np.inf), "age": (5.0,)})
    low, high = found.interval(JOY, np.array([[0.1, 0.6], [0.9, 0.6]]))
    np.testing.assert_allclose(low, [[0, 0], [0.6, 0]])
    np.testing.assert_allclose(high, [[0.4, 1], [1, 1]])
    np.testing.assert_allclose(found.interval(AGE, np.array([[30.0]])), [[[25]], [[35]]])
    assert found.interval(EMOTION, np.zeros((1, 4))) is None


def test_it_comes_back_from_json():
    found = Calibration({"emotion": 1.7}, {"joy": (0.3, np.inf)}, {"emotion": 9, "joy": 3})
    assert Calibration.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@pytest.mark.parametrize("seed", [1, 2])
def test_training_calibrates_on_dev(seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((400, 6))
    emotion = (x[:, :3] + random.gumbel(size=(400, 3))).argmax(1)
    labels = {
        "split": ["train"] * 150 + ["dev"] * 200 + ["test"] * 50,
        "emotion": np.array(["a", "b", "c"])[emotion],
        "age": 40 + 5 * x[:, 3] + random.standard_normal(400),
    }
    vectors = Vectors.from_arrays(x, labels)
    fit = Fit(epochs=60, batch_size=8, lr=3e-3, patience=0, restore_best=False, scale_targets=True)
    run = Run("", "", seed, (EMOTION, AGE), Trunk((64,)), fit, Score(of=("emotion.uar",)))
    (result,) = train_heads([run], vectors)
    head, dev = result.head, np.arange(150, 350)
    raw = apply_head(replace(head, calibration=None), vectors.x[dev])
    with np.errstate(divide="ignore"):
        logits = np.log(raw["emotion"].astype(np.float64))
    assert head.calibration.temperatures["emotion"] == pytest.approx(fit_temperature(logits, emotion[dev]), rel=1e-2)
    assert head.calibration.temperatures["emotion"] > 1.2  # trained far too long, it is too sure
    errors = np.abs(raw["age"][:, 0] - vectors.labels["age"].to_numpy()[dev])
    assert head.calibration.widths["age"][0] == pytest.approx(np.sort(errors)[180], rel=1e-4)
    assert log_loss(emotion[350:], apply_head(head, vectors.x[350:])["emotion"]) < log_loss(
        emotion[350:], apply_head(replace(head, calibration=None), vectors.x[350:])["emotion"]
    )
    without = replace(vectors, labels=vectors.labels.replace({"split": {"dev": "train"}}))
    assert train_heads([run], without)[0].head.calibration is None
