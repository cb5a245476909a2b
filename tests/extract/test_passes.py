"""One pass: each file is read once for all encoders, each encoder gets what it would get alone, time is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import vbx
from vbx.extract import work
from vbx.extract.encoder import Encoder, Output, load_encoder
from vbx.extract.plan import Settings
from vbx.extract.report import Report
from vbx.extract.work import CHANGED

FEATURES = ("noise", "prosody", "noise@frames", "egemaps")


def make_corpus(folder: Path, clips: int = 5, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(clips):
        soundfile.write(folder / f"{i}.wav", rng.uniform(-0.5, 0.5, 4000 + 1600 * i), 16000)
    return folder


def extract(folder: Path, store: vbx.Store, features: tuple[str, ...] = FEATURES, **settings: Any) -> Report:
    return vbx.extract_vectors(vbx.read_corpus(folder), features, store, device="cpu", settings=Settings(**settings))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    seen: list[str] = []
    real: Callable[..., Any] = work.read_wave

    def counting(path: Path, *args: Any, **kwargs: Any) -> Any:
        seen.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(work, "read_wave", counting)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_gives_each_encoder_what_it_would_get_alone(tmp_path: Path, workers: int) -> None:
    folder, together = make_corpus(tmp_path / "toy"), vbx.Store(tmp_path / "together")
    report = extract(folder, together, workers=workers)
    assert [(f.extracted, f.failed, f.left) for f in report.features] == [(5, 0, 0)] * 4
    for feature in ("noise", "prosody", "egemaps"):
        alone = vbx.Store(tmp_path / feature)
        extract(folder, alone, (feature,), workers=0)
        ours, theirs = together.load_vectors("toy", feature), alone.load_vectors("toy", feature)
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.x, theirs.x)
    assert set(together.load_frames("toy", "noise@frames")) == set(ours.ids)


def test_each_file_is_decoded_once(tmp_path: Path, reads: list[str]) -> None:
    folder, store = make_corpus(tmp_path / "toy"), vbx.Store(tmp_path / "cache")
    extract(folder, store)
    assert sorted(reads) == [f"{i}.wav" for i in range(5)]
    extract(folder, store)
    assert len(reads) == 5
    soundfile.write(folder / "new.wav", np.full(8000, 0.1), 16000)
    extract(folder, store)
    assert reads[5:] == ["new.wav"]


def test_encoders_that_lack_different_rows_read_what_either_lacks(tmp_path: Path, reads: list[str]) -> None:
    folder, store = make_corpus(tmp_path / "toy"), vbx.Store(tmp_path / "cache")
    extract(folder, store, ("noise",))
    soundfile.write(folder / "new.wav", np.full(8000, 0.1), 16000)
    reads.clear()
    report = extract(folder, store, ("noise", "prosody"))
    assert sorted(reads) == [*(f"{i}.wav" for i in range(5)), "new.wav"]
    assert [(f.extracted, f.cached) for f in report.features] == [(1, 5), (6, 0)]


def test_shares_of_the_time_are_shares(tmp_path: Path) -> None:
    folder, store = make_corpus(tmp_path / "toy"), vbx.Store(tmp_path / "cache")
    report = extract(folder, store, workers=2)
    assert len(report.encoders) == 3  # noise and its frames are one pass
    for share in report.encoders:
        assert share.audio_h == pytest.approx(sum(4000 + 1600 * i for i in range(5)) / 16000 / 3600, abs=1e-4)
        assert share.seconds > 0 and share.x_real_time > 0
        for part in (share.reading, share.encoding, share.writing, share.waiting):
            assert 0 <= part <= 1.01
        assert share.encoding + share.waiting == pytest.approx(1, abs=0.011)
    assert extract(folder, store).encoders == ()


def test_a_file_that_changes_under_way_is_not_kept_under_its_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = make_corpus(tmp_path / "toy"), vbx.Store(tmp_path / "cache")
    real = work.read_wave

    def edited(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "2.wav":
            soundfile.write(path, np.full(9000, 0.2), 16000)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(work, "read_wave", edited)
    report = extract(folder, store, ("noise",))
    assert [(f.extracted, f.failed) for f in report.features] == [(4, 1)]
    assert report.failures == ({"utterance": "2.wav", "feature": "noise", "reason": CHANGED},)
    monkeypatch.undo()
    report = extract(folder, store, ("noise",))  # the new content is another utterance
    assert [(f.extracted, f.cached, f.failed) for f in report.features] == [(1, 4, 0)]


class Greedy(Encoder):
    """Takes a second of audio at once, and has no memory for more than half of it."""

    outputs = (Output("hidden", ("length",)),)
    batch_s = 1.0

    def encode(self, waves: Any, wanted: Any) -> Any:
        if sum(map(len, waves)) > 8000:
            raise MemoryError
        return [{"hidden": np.array([len(wave)], np.float32)} for wave in waves]


def test_a_batch_that_does_not_fit_is_halved_once_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    for i in range(16):
        soundfile.write(folder / f"{i}.wav", np.full(2000, 0.01 * (i + 1)), 16000)
    greedy = Greedy()
    calls: list[int] = []

    def load(spec: Any, checkpoint: Any, device: str) -> Encoder:
        greedy.spec = spec
        return greedy

    encode = greedy.encode
    monkeypatch.setattr(greedy, "encode", lambda waves, wanted: calls.append(len(waves)) or encode(waves, wanted))
    monkeypatch.setattr("vbx.extract.passes.load_encoder", load)
    store = vbx.Store(tmp_path / "cache")
    report = extract(folder, store, ("noise",))
    assert calls == [8, 4, 4, 4, 4]  # the first is halved, the others are made to fit
    assert any("batches were cut to 0.5 s" in note for note in report.notes)
    assert (store.load_vectors("toy", "noise").x == 2000).all()


def test_a_thread_that_fails_ends_the_run_with_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_corpus(tmp_path / "toy", clips=200)

    class Broken(Greedy):
        def encode(self, waves: Any, wanted: Any) -> Any:
            raise ZeroDivisionError("the encoder is broken")

    def load(spec: Any, checkpoint: Any, device: str) -> Encoder:
        broken = Broken()
        broken.spec = spec
        return broken

    monkeypatch.setattr("vbx.extract.passes.load_encoder", load)
    with pytest.raises(ZeroDivisionError, match="the encoder is broken"):
        extract(folder, vbx.Store(tmp_path / "cache"), ("noise",))


def test_the_same_vectors_with_and_without_processes(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "toy", clips=40)
    stores = [vbx.Store(tmp_path / str(workers)) for workers in (0, 1, 3)]
    for workers, store in zip((0, 1, 3), stores, strict=True):
        extract(folder, store, ("prosody", "noise"), workers=workers)
    for feature in ("prosody", "noise"):
        first, *others = [store.load_vectors("toy", feature).x for store in stores]
        for other in others:
            np.testing.assert_array_equal(first, other)
    spec = next(s for s in stores[0].specs("toy").values() if s.encoder == "prosody")
    wave = vbx.read_wave(folder / "7.wav")
    (alone,) = (
        load_encoder(spec).encode([wave], ["functionals"])
        if "functionals" in {o.name for o in load_encoder(spec).outputs}
        else load_encoder(spec).encode([wave], [load_encoder(spec).outputs[0].name])
    )
    vectors = stores[2].load_vectors("toy", "prosody")
    np.testing.assert_array_equal(vectors.x[vectors.ids.index("7.wav")], next(iter(alone.values())))
