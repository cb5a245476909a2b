"""Every metric against scikit-learn and audmetric, edge cases among them."""

import warnings

import audmetric
import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics as sk

from vbx.heads.metrics import METRICS, combine_scores, confusions, moments

REGRESSION = {
    "ccc": audmetric.concordance_cc,
    "pearson": lambda t, p: pearsonr(t, p)[0],
    "mae": sk.mean_absolute_error,
    "rmse": lambda t, p: sk.mean_squared_error(t, p) ** 0.5,
    "inverse_mae": lambda t, p: 1 / sk.mean_absolute_error(t, p),
}
CLASSIFICATION = {
    "uar": lambda t, p: sk.recall_score(t, p, average="macro", zero_division=0),
    "recall": lambda t, p: sk.recall_score(t, p, average="macro", zero_division=0),
    "precision": lambda t, p: sk.precision_score(t, p, average="macro", zero_division=0),
    "f1_macro": lambda t, p: sk.f1_score(t, p, average="macro", zero_division=0),
    "f1_weighted": lambda t, p: sk.f1_score(t, p, average="weighted", zero_division=0),
    "accuracy": sk.accuracy_score,
}


def regress(name, truth, prediction):
    groups = np.zeros(len(truth), dtype=int)
    return METRICS[name].function(moments(prediction[:, None], truth[:, None], groups)[0])[0]


def classify(name, truth, prediction, classes):
    return METRICS[name].function(confusions(prediction, truth, classes, np.zeros(len(truth), dtype=int))[0])


def test_every_metric_has_a_reference():
    assert {n for n, m in METRICS.items() if m.kind == "regression"} == set(REGRESSION)
    assert {n for n, m in METRICS.items() if m.kind == "classification"} == set(CLASSIFICATION)
    assert {n for n, m in METRICS.items() if not m.maximise} == {"mae", "rmse"}


@pytest.mark.parametrize("n", [2, 3, 50, 2000])
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_metrics(name, n):
    random = np.random.default_rng(n)
    truth = random.standard_normal(n)
    prediction = 0.6 * truth + 0.5 * random.standard_normal(n) + 0.2
    assert regress(name, truth, prediction) == pytest.approx(REGRESSION[name](truth, prediction), abs=1e-12)


def test_ccc_divides_by_n():
    truth, prediction = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    cov, t, p = np.cov(truth, prediction, ddof=0)[0, 1], truth, prediction
    assert regress("ccc", t, p) == pytest.approx(2 * cov / (t.var() + p.var() + (t.mean() - p.mean()) ** 2), abs=1e-15)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classification_metrics(name, seed):
    random = np.random.default_rng(seed)
    n = [1, 2, 5, 10, 40, 100, 400, 1000][seed]
    truth, prediction = random.integers(0, 5, n), random.integers(0, 5, n)
    prediction = np.where(random.random(n) < 0.5, truth, prediction)  # some classes are in one of the two, or in none
    assert classify(name, truth, prediction, 6) == pytest.approx(CLASSIFICATION[name](truth, prediction), abs=1e-12)
    if name in ("uar", "precision"):
        reference = {"uar": audmetric.unweighted_average_recall, "precision": audmetric.unweighted_average_precision}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert classify(name, truth, prediction, 6) == pytest.approx(reference[name](truth, prediction), abs=1e-12)


def test_uar_counts_a_class_that_only_predictions_have():
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert classify("uar", truth, prediction, 4) == pytest.approx((0.5 + 1 + 0) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sk.balanced_accuracy_score(truth, prediction) == pytest.approx(0.75)  # what it must not be


def test_what_is_not_defined_is_nan_and_nothing_is_raised():
    one, nothing = np.array([1.0]), np.array([np.nan])
    constant, varied = np.full(5, 2.0), np.arange(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in REGRESSION:
            assert np.isnan(regress(name, nothing, one))
        for name in CLASSIFICATION:
            assert np.isnan(classify(name, np.array([-1]), np.array([0]), 3))
        assert np.isnan(regress("pearson", varied, constant)) and np.isnan(regress("pearson", one, one))
        assert np.isnan(regress("ccc", constant, constant)) and np.isnan(regress("inverse_mae", one, one))
        assert regress("ccc", varied, constant) == 0.0
        assert regress("mae", one, one) == 0.0 and classify("uar", np.array([1]), np.array([1]), 3) == 1.0


@pytest.mark.parametrize("name", REGRESSION)
def test_missing_numbers_are_left_out(name):
    random = np.random.default_rng(0)
    truth, prediction = random.standard_normal(60), random.standard_normal(60)
    truth[::3] = np.nan
    there = ~np.isnan(truth)
    assert regress(name, truth, prediction) == pytest.approx(
        REGRESSION[name](truth[there], prediction[there]), abs=1e-12
    )


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_missing_classes_are_left_out(name):
    random = np.random.default_rng(0)
    truth, prediction = random.integers(-1, 3, 60), random.integers(0, 3, 60)
    there = truth >= 0
    assert classify(name, truth, prediction, 3) == pytest.approx(CLASSIFICATION[name](truth[there], prediction[there]))


def test_statistics_of_groups_add_up_to_those_of_all():
    random = np.random.default_rng(0)
    t, p, groups = random.standard_normal((40, 3)), random.standard_normal((40, 3)), random.permutation(40) % 6
    whole = moments(p, t, np.zeros(40, dtype=int))[0]
    np.testing.assert_allclose(moments(p, t, groups).sum(0), whole, atol=1e-12)
    alone = moments(p[groups == 2], t[groups == 2], np.zeros((groups == 2).sum(), dtype=int))[0]
    np.testing.assert_allclose(moments(p, t, groups)[2], alone, atol=1e-12)
    truth, said = random.integers(-1, 4, 40), random.integers(0, 4, 40)
    by_group = confusions(said, truth, 4, groups)
    for g in range(6):
        rows = (groups == g) & (truth >= 0)
        np.testing.assert_array_equal(by_group[g], sk.confusion_matrix(truth[rows], said[rows], labels=range(4)))


def test_a_large_offset_costs_no_digits_once_it_is_taken_off():
    random = np.random.default_rng(0)
    truth = 1e6 + random.standard_normal(500)
    prediction = truth + 0.1 * random.standard_normal(500)
    shifted = truth - truth.mean(), prediction - truth.mean()
    assert regress("ccc", *shifted) == pytest.approx(audmetric.concordance_cc(truth, prediction), abs=1e-9)


def test_equation_7_gives_the_scores_of_table_ii():
    # Atmaja et al. 2022: CCC, UAR, 1/MAE and the S_MTL they print.
    table = [(0.416, 0.506, 0.237, 0.349), (0.335, 0.417, 0.234, 0.311), (0.384, 0.438, 0.225, 0.321)]
    table += [(0.533, 0.523, 0.252, 0.386), (0.534, 0.525, 0.253, 0.388), (0.369, 0.456, 0.227, 0.322)]
    for *parts, score in table:
        assert combine_scores(np.array(parts), "hmean") == pytest.approx(score, abs=1e-3)


def test_scores_combine_row_by_row():
    parts = np.array([[0.5, 0.5], [0.5, 0.0], [0.5, -0.1], [0.5, np.nan], [-0.1, np.nan]])
    np.testing.assert_allclose(combine_scores(parts, "hmean"), [0.5, 0, 0, np.nan, np.nan])
    np.testing.assert_allclose(combine_scores(parts, "mean"), [0.5, 0.25, 0.2, np.nan, np.nan])
