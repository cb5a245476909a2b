"""Reuse: what another corpus of the cache has of the same audio is not encoded again, and never taken unverified."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vbx
from vbx.errors import CacheError
from vbx.extract import work
from vbx.extract.plan import Settings
from vbx.extract.report import Report

FEATURES = ("noise", "noise@frames", "prosody")


@pytest.fixture
def store(tmp_path: Path) -> vbx.Store:
    """A cache that has corpus `one`, clips 0 to 5; clip 5 is digital silence."""
    folder = tmp_path / "one"
    folder.mkdir()
    for i in range(6):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, 1600 + 100 * i) * (i != 5)
        soundfile.write(folder / f"{i}.wav", wave, 16000)
    store = vbx.Store(tmp_path / "cache")
    extract(folder, store)
    return store


@pytest.fixture
def other(tmp_path: Path, store: vbx.Store) -> Path:
    """A corpus with clips 2 to 5 of the first under other names, and two of its own."""
    folder = tmp_path / "two"
    folder.mkdir()
    for i in range(2, 6):
        shutil.copy(tmp_path / "one" / f"{i}.wav", folder / f"same{i}.wav")
    for i in range(2):
        soundfile.write(folder / f"new{i}.wav", np.full(1700 + i, 0.25), 16000)
    return folder


def extract(folder: Path, store: vbx.Store, features: tuple[str, ...] = FEATURES) -> Report:
    return vbx.extract_vectors(vbx.read_corpus(folder), features, store, settings=Settings(workers=0))


def test_common_audio_is_encoded_once(store: vbx.Store, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = work.read_wave
    monkeypatch.setattr(work, "read_wave", lambda path, *a, **k: read.append(path.name) or real(path, *a, **k))
    report = extract(other, store)
    assert sorted(read) == ["new0.wav", "new1.wav"]
    assert [(f.extracted, f.failed) for f in report.features] == [(6, 0)] * 3
    assert sum("4 vectors were taken from one" in note for note in report.notes) == 2
    assert any("1 utterances are digital silence" in note for note in report.notes)
    alone = vbx.Store(store.root.parent / "alone")
    extract(other, alone)
    for feature in ("noise", "prosody"):
        ours, theirs = store.load_vectors("two", feature), alone.load_vectors("two", feature)
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.x, theirs.x)
    ours, theirs = store.load_frames("two", "noise@frames"), alone.load_frames("two", "noise@frames")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_another_segment_or_channel_is_another_utterance(store: vbx.Store, other: Path) -> None:
    (other / "labels.csv").write_text("file,start,end\n" + "".join(f"same{i}.wav,0.01,0.08\n" for i in range(2, 6)))
    report = extract(other, store, ("noise",))
    assert not any("were taken from" in note for note in report.notes)


def test_damaged_vectors_are_not_lent(store: vbx.Store, other: Path) -> None:
    (shard,) = (p for p in (store.root / "one").rglob("hidden/c/0/0"))
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CacheError, match="damaged"):
        store.load_vectors("one", "noise")
    report = extract(other, store, ("noise",))
    assert [(f.extracted, f.failed) for f in report.features] == [(6, 0)]
    alone = vbx.Store(store.root.parent / "alone")
    extract(other, alone, ("noise",))
    np.testing.assert_array_equal(store.load_vectors("two", "noise").x, alone.load_vectors("two", "noise").x)
