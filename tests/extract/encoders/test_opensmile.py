"""openSMILE: against the package's own `process_signal` and `process_file`."""

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from vbx.cache.feature import list_encoders, list_features
from vbx.cache.spec import EncoderSpec
from vbx.errors import MissingExtra, UnknownName
from vbx.extract.audio import read_wave
from vbx.extract.encoder import Encoder, load_encoder, resolve_spec
from vbx.extract.encoders import opensmile as plugin

opensmile = pytest.importorskip("opensmile")
CATALOGUE = ["egemaps", "compare", "egemaps-lld", "compare-lld"]


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: load_encoder(resolve_spec(list_encoders()[name], None)) for name in CATALOGUE}


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """A second and a bit of a gliding harmonic tone in noise."""
    rng = np.random.default_rng(0)
    t = np.arange(20123) / 16000
    tone = sum(np.sin(2 * np.pi * k * (120 * t + 30 * t**2)) / k for k in range(1, 20))
    return (0.1 * tone + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def theirs(wave: np.ndarray, model: str, level: str) -> np.ndarray:
    return opensmile.Smile(model, level).process_signal(wave, 16000).to_numpy()


def ours(encoder: Encoder, wave: np.ndarray) -> np.ndarray:
    name = encoder.outputs[0].name
    return np.asarray(encoder.encode([wave], [name])[0][name])


@pytest.mark.parametrize(("name", "model"), [("egemaps", "eGeMAPSv02"), ("compare", "ComParE_2016")])
def test_functionals_are_those_of_the_package(
    encoders: dict[str, Encoder], wave: np.ndarray, name: str, model: str
) -> None:
    vector = ours(encoders[name], wave)
    assert vector.dtype == np.float32 and vector.ndim == 1
    np.testing.assert_array_equal(vector, theirs(wave, model, "func")[0])


def test_functionals_of_a_real_file(encoders: dict[str, Encoder], corpora: Path) -> None:
    path = next((corpora / "emodb_4class" / "audio").rglob("*.wav"))
    expected = opensmile.Smile("eGeMAPSv02", "func").process_file(path).to_numpy()[0]
    np.testing.assert_array_equal(ours(encoders["egemaps"], read_wave(path)), expected)


def test_a_vector_does_not_depend_on_what_came_before(encoders: dict[str, Encoder], wave: np.ndarray) -> None:
    encoder, other = encoders["egemaps"], wave[::-1].copy()
    alone = ours(encoder, wave)
    batch = encoder.encode([other, wave, np.zeros(960, np.float32), wave], ["functionals"])
    np.testing.assert_array_equal(batch[1]["functionals"], alone)
    np.testing.assert_array_equal(batch[3]["functionals"], alone)
    np.testing.assert_array_equal(batch[0]["functionals"], ours(encoder, other))


def test_full_scale_does_not_wrap(encoders: dict[str, Encoder]) -> None:
    square = np.sign(np.sin(2 * np.pi * 200 * np.arange(16000) / 16000 + 0.1)).astype(np.float32)
    nearly = np.clip(square, -1, 32767 / 32768)
    np.testing.assert_array_equal(ours(encoders["egemaps"], square), theirs(nearly, "eGeMAPSv02", "func")[0])
    np.testing.assert_array_equal(ours(encoders["egemaps"], square * 3), ours(encoders["egemaps"], square))
    # The trap is there: from the same wave the package makes something else.
    assert not np.array_equal(ours(encoders["egemaps"], square), theirs(square, "eGeMAPSv02", "func")[0])


def test_the_wave_is_left_alone(encoders: dict[str, Encoder], wave: np.ndarray) -> None:
    copy = wave.copy()
    ours(encoders["egemaps"], wave)
    np.testing.assert_array_equal(wave, copy)


def test_egemaps_frames(encoders: dict[str, Encoder], wave: np.ndarray) -> None:
    frames = ours(encoders["egemaps-lld"], wave)
    np.testing.assert_array_equal(frames, theirs(wave, "eGeMAPSv02", "lld"))


@pytest.mark.parametrize("samples", [960, 5000, 16000, 20123])
def test_compare_frames(encoders: dict[str, Encoder], wave: np.ndarray, samples: int) -> None:
    frames = ours(encoders["compare-lld"], wave[:samples])
    plain, deltas = (theirs(wave[:samples], "ComParE_2016", level) for level in ("lld", "lld_de"))
    assert len(deltas) > len(plain)
    times = opensmile.Smile("ComParE_2016", "lld").process_signal(wave[:samples], 16000).index.get_level_values("start")
    assert len(frames) == len(set(times)) == len(plain) - (samples > 960)
    np.testing.assert_array_equal(frames[:, :65], plain[: len(frames)])
    np.testing.assert_array_equal(frames[:, 65:], deltas[: len(frames)])


def test_frames_do_not_fit_float16(encoders: dict[str, Encoder]) -> None:
    loud = np.clip(np.random.default_rng(0).standard_normal(16000), -1, 1).astype(np.float32)
    assert np.abs(ours(encoders["compare-lld"], loud)).max() > np.finfo(np.float16).max


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_it_says_about_itself(encoders: dict[str, Encoder], name: str) -> None:
    (output,) = encoders[name].outputs
    entry = next(f for f in list_features() if f["feature"] == name)
    assert [output.name] == entry["outputs"] and len(output.columns) == entry["dim"]
    assert output.frames == entry.get("frames", False) and output.dtype == "float32"
    assert len(set(output.columns)) == len(output.columns)
    assert encoders[name].min_samples == 960
    assert encoders[name].spec.weights == f"opensmile-{metadata.version('opensmile')}"


def test_columns_are_the_package_s(encoders: dict[str, Encoder]) -> None:
    assert list(encoders["egemaps"].outputs[0].columns) == opensmile.Smile("eGeMAPSv02", "func").feature_names
    columns = encoders["compare-lld"].outputs[0].columns
    assert (columns[0], columns[65]) == ("F0final_sma", "F0final_sma_de")


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_constants_are_finite(encoders: dict[str, Encoder], name: str, level: float) -> None:
    for samples in (960, 16000):
        assert np.isfinite(ours(encoders[name], np.full(samples, level, np.float32))).all()


def test_shortest_wave_of_other_sets(wave: np.ndarray) -> None:
    encoder = load_encoder(EncoderSpec("opensmile", "IS10", level="functionals"))
    assert encoder.min_samples == 1120
    assert np.isfinite(ours(encoder, wave[:1120])).all()


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="unknown openSMILE feature set 'eGeMAPSv03'; did you mean 'eGeMAPSv0"):
        load_encoder(EncoderSpec("opensmile", "eGeMAPSv03"))
    with pytest.raises(UnknownName, match="unknown openSMILE level 'functional'; did you mean 'functionals'"):
        load_encoder(EncoderSpec("opensmile", "eGeMAPSv02", level="functional"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    spec = EncoderSpec("opensmile", "eGeMAPSv02")
    monkeypatch.setitem(sys.modules, "opensmile", None)
    monkeypatch.setattr(metadata, "version", absent)
    for call in (lambda: plugin.fingerprint(spec, None), lambda: plugin.load(spec, None, "cpu")):
        with pytest.raises(MissingExtra, match=r"encoder 'opensmile' needs an optional package: .*vbx\[opensmile\]"):
            call()
