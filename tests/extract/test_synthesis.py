"""The made-up corpus: what is written, that it is the same each time, and that its labels can be heard."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler

from vbx.errors import CorpusError
from vbx.extract import synthesis
from vbx.extract.audio import read_wave
from vbx.extract.corpus import read_corpus
from vbx.extract.encoders.prosody import track_pitch
from vbx.extract.synthesis import COUNTRIES, EMOTIONS, GENDERS, synthesise_corpus

HUME = ["Awe", "Excitement", "Amusement", "Awkwardness", "Fear", "Horror", "Distress", "Triumph", "Sadness", "Surprise"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise_corpus(tmp_path_factory.mktemp("bursts") / "new" / "folder")


@pytest.fixture(scope="module")
def labels(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "labels.csv")


@pytest.fixture(scope="module")
def waves(folder: Path, labels: pd.DataFrame) -> list[np.ndarray]:
    return [read_wave(folder / file) for file in labels["file"]]


def digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


def test_labels(labels: pd.DataFrame) -> None:
    assert list(labels.columns) == ["file", "speaker", "split", "gender", "age", "country", *HUME]
    assert len(labels) == 240
    assert labels[HUME].min().min() >= 0 and labels[HUME].max().max() <= 1
    assert (labels[HUME].max(axis=1) >= 0.6).all() and (labels[HUME].max() > 0.8).all()
    assert labels["age"].between(20, 40).all() and labels["age"].nunique() > 8
    assert labels.groupby("speaker")[["split", "gender", "age", "country"]].nunique().max().max() == 1


def test_splits(labels: pd.DataFrame) -> None:
    speakers = labels.groupby("speaker").first()
    assert speakers["split"].value_counts().to_dict() == {"train": 8, "dev": 2, "test": 2}
    train = speakers[speakers["split"] == "train"]
    assert set(zip(train["gender"], train["country"], strict=True)) == {(g, c) for g in GENDERS for c in COUNTRIES}
    for split in ("dev", "test"):
        held_out = speakers[speakers["split"] == split]
        assert held_out["gender"].nunique() == held_out["country"].nunique() == held_out["age"].nunique() == 2


def test_audio(folder: Path, labels: pd.DataFrame, waves: list[np.ndarray]) -> None:
    assert sorted(labels["file"]) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.wav"))
    info = soundfile.info(folder / labels["file"][0])
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    lengths = np.array([len(wave) for wave in waves]) / 16000
    assert 0.4 <= lengths.min() < 0.6 and 2.0 < lengths.max() <= 2.5
    assert max(np.abs(wave).max() for wave in waves) < 0.99
    assert min(np.sqrt(np.mean(wave**2)) for wave in waves) > 0.003


def test_the_same_bytes_for_a_seed(tmp_path: Path) -> None:
    small = {"speakers": 3, "clips_per_speaker": 3}
    first, again, other = (
        digest(synthesise_corpus(tmp_path / name, seed=seed, **small)) for name, seed in [("a", 4), ("b", 4), ("c", 5)]
    )
    assert first == again != other
    assert digest(synthesise_corpus(tmp_path / "a", seed=4, **small)) == first


def test_other_sizes(tmp_path: Path) -> None:
    labels = pd.read_csv(synthesise_corpus(tmp_path, speakers=5, clips_per_speaker=1) / "labels.csv")
    assert list(labels["split"]) == ["train", "train", "train", "dev", "test"]
    for speakers, clips in [(2, 5), (3, 0)]:
        with pytest.raises(CorpusError, match=f"{speakers} speakers with {clips} clips each cannot be split"):
            synthesise_corpus(tmp_path, speakers=speakers, clips_per_speaker=clips)


def test_it_is_read_as_a_corpus(folder: Path) -> None:
    corpus = read_corpus(folder)
    assert len(corpus.utterances) == 240
    assert corpus.schema["country"].classes == tuple(sorted(COUNTRIES))
    assert {corpus.schema[name].kind for name in (*HUME, "age")} == {"number"}
    assert set(corpus.labels["split"]) == {"train", "dev", "test"}


def test_documented_emotions() -> None:
    assert list(EMOTIONS) == HUME
    for label in (*HUME, "gender", "age", "country"):
        assert f"\n| {label} | " in str(synthesis.__doc__)


def test_gender_and_emotions_are_heard(labels: pd.DataFrame, waves: list[np.ndarray]) -> None:
    """Rank correlations of intensities with what each should change, measured in the sound alone."""
    pitch, slope, level = [], [], []
    for wave in waves:
        f0, decibels = track_pitch(wave, 16000)
        voiced = np.flatnonzero(f0)
        semitones = 12 * np.log2(f0[voiced] / 27.5)
        pitch.append(np.median(semitones))
        slope.append(np.polyfit(voiced / len(f0), semitones, 1)[0])
        level.append(decibels.max())
    heard = pd.DataFrame({"pitch": pitch, "slope": slope, "level": level, "length": [len(w) for w in waves]})
    assert heard["pitch"][labels["gender"] == "Female"].mean() > heard["pitch"][labels["gender"] == "Male"].mean() + 6
    within = heard - heard.groupby(labels["speaker"]).transform("mean")
    rank = pd.concat([labels[HUME], within], axis=1).corr("spearman")
    assert rank["slope"]["Surprise"] > 0.2 and rank["slope"]["Distress"] < -0.2
    assert rank["level"]["Triumph"] > 0.25 and rank["level"]["Sadness"] < -0.25
    assert rank["length"]["Awe"] > 0.3 and rank["length"]["Surprise"] < -0.2
    assert rank["pitch"]["Fear"] > 0.3 and rank["pitch"]["Awkwardness"] < -0.2


def concordance(truth: np.ndarray, guess: np.ndarray) -> float:
    """Lin 1989."""
    covariance = np.mean((truth - truth.mean()) * (guess - guess.mean()))
    return float(2 * covariance / (truth.var() + guess.var() + (truth.mean() - guess.mean()) ** 2))


@pytest.mark.slow
def test_linear_models_learn_it_from_egemaps(labels: pd.DataFrame, waves: list[np.ndarray]) -> None:
    """Trained on eight speakers, judged on four others."""
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile("eGeMAPSv02", "func")
    x = np.stack([smile.process_signal(wave, 16000).to_numpy()[0] for wave in waves])
    train = (labels["split"] == "train").to_numpy()
    # eGeMAPS divides deviations by means that may be next to 0: outliers are cut off.
    x = np.clip(StandardScaler().fit(x[train]).transform(x), -4, 4)
    score = {}
    for name in (*HUME, "age"):
        y = labels[name].to_numpy(float)
        score[name] = concordance(y[~train], RidgeCV(np.logspace(-1, 4, 20)).fit(x[train], y[train]).predict(x[~train]))
    for name in ("country", "gender"):
        y = labels[name].to_numpy()
        guess = LogisticRegression(C=0.1, max_iter=3000).fit(x[train], y[train]).predict(x[~train])
        score[name] = float(recall_score(y[~train], guess, average="macro"))
    assert score["country"] > 0.9 and score["gender"] > 0.9 and score["age"] > 0.7, score
    assert np.mean([score[name] for name in HUME]) > 0.55, score
    assert min(score[name] for name in HUME) > 0.25, score
