"""Noise: a function of the samples and of nothing else."""

import numpy as np
import pytest

from vbx.cache.feature import list_encoders, list_features
from vbx.extract.encoder import Encoder, load_encoder, resolve_spec


@pytest.fixture
def encoder() -> Encoder:
    return load_encoder(resolve_spec(list_encoders()["noise"], None))


def test_outputs(encoder: Encoder) -> None:
    hidden, frames = encoder.outputs
    entry = next(f for f in list_features() if f["feature"] == "noise")
    assert (hidden.name, frames.name) == ("hidden", "frames")
    assert len(hidden.columns) == entry["dim"] and not hidden.optional
    assert frames.frames and frames.optional


def test_a_function_of_the_samples(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(n).astype(np.float32) for n in (1, 320, 16000)]
    first = encoder.encode(waves, ["hidden", "frames"])
    again = encoder.encode([*waves[::-1], waves[0][:0]], ["hidden", "frames"])[2::-1]
    for wave, one, two in zip(waves, first, again, strict=True):
        np.testing.assert_array_equal(one["hidden"], two["hidden"])
        np.testing.assert_array_equal(one["frames"], two["frames"])
        assert one["frames"].shape == (1 + len(wave) // 320, 16) and one["frames"].dtype == np.float32
    nearly = waves[2].copy()
    nearly[-1] = np.nextafter(nearly[-1], np.float32(9))
    assert not np.array_equal(encoder.encode([nearly], ["hidden"])[0]["hidden"], first[2]["hidden"])


def test_only_what_is_wanted(encoder: Encoder) -> None:
    assert list(encoder.encode([np.zeros(10, np.float32)], ["hidden"])[0]) == ["hidden"]


def test_standard_normal(encoder: Encoder) -> None:
    waves = list(np.arange(2000, dtype=np.float32)[:, None])
    hidden = np.stack([outputs["hidden"] for outputs in encoder.encode(waves, ["hidden"])])
    assert abs(hidden.mean()) < 0.03 and abs(hidden.std() - 1) < 0.03
    assert np.abs(np.corrcoef(hidden.T) - np.eye(16)).max() < 0.12
