"""Scaling against scikit-learn; by speaker; and what does not vary."""

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from vbx.errors import RecipeError
from vbx.heads.scaling import apply_scale, fit_scale, scale_by_speaker

SCALERS = {"standard": StandardScaler, "robust": RobustScaler, "minmax": MinMaxScaler}


@pytest.mark.parametrize("scale", SCALERS)
def test_scaling_as_scikit_learn_does_it(scale):
    random = np.random.default_rng(0)
    x = random.standard_normal((5000, 6)) * [1, 10, 1e-6, 1e6, 3, 1] + [0, 5, 1, 1e7, -2, 0]
    x[:, 5] = 4.2
    centre, spread = fit_scale(x, scale)
    np.testing.assert_allclose(apply_scale(x, centre, spread), SCALERS[scale]().fit_transform(x), rtol=1e-6, atol=1e-9)


def test_no_scaling():
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_array_equal(apply_scale(x, *fit_scale(x, "none")), x)


@pytest.mark.parametrize("scale", SCALERS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e7, 123456.789])
def test_a_column_that_does_not_vary_becomes_0(scale, value):
    x = np.full((1001, 1), value, dtype=np.float32)
    centre, spread = fit_scale(x, scale)
    assert spread == 1 and np.abs(apply_scale(x, centre, spread)).max() <= 1e-7 * max(abs(value), 1)


def test_float32_is_summed_in_float64():
    x = (np.random.default_rng(0).standard_normal((200_000, 1)) + 1000).astype(np.float32)
    centre, spread = fit_scale(x, "standard")
    assert centre[0] == pytest.approx(x.astype(np.float64).mean(), abs=1e-9)
    assert spread[0] == pytest.approx(x.astype(np.float64).std(), abs=1e-9)


def test_each_speaker_is_scaled_by_itself():
    random = np.random.default_rng(0)
    x = random.standard_normal((30, 4)) + np.repeat([[0.0], [50.0], [-9.0]], 10, axis=0)
    speakers = np.repeat(["a", "b", "c"], 10)
    shuffled = random.permutation(30)
    scaled = scale_by_speaker(x[shuffled], speakers[shuffled], "standard")
    for name in "abc":
        rows = speakers[shuffled] == name
        np.testing.assert_allclose(scaled[rows], StandardScaler().fit_transform(x[shuffled][rows]), atol=1e-12)
    assert (scale_by_speaker(x[:1], ["a"], "standard") == 0).all()
    with pytest.raises(RecipeError, match="1 of 2 have none"):
        scale_by_speaker(x[:2], ["a", None], "standard")
