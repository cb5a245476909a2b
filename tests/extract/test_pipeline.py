"""The pipeline: nothing twice, nothing lost, one bad clip costs no other."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from vbx.cache.check import check_cache
from vbx.cache.layout import read_commits
from vbx.cache.store import Store
from vbx.cache.tables import read_table
from vbx.errors import CorpusError, UnknownName
from vbx.extract import passes
from vbx.extract.audio import read_wave
from vbx.extract.audit import audit_vectors
from vbx.extract.corpus import read_corpus
from vbx.extract.encoder import Encoded, Wave, load_encoder
from vbx.extract.encoders import noise
from vbx.extract.estimate import estimate_extraction
from vbx.extract.pipeline import extract_vectors
from vbx.extract.plan import Settings
from vbx.extract.report import Report


def make_corpus(folder: Path, clips: int = 6) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(clips):
        soundfile.write(folder / f"{i:03d}.wav", rng.uniform(-0.5, 0.5, 1600 + 160 * i), 16000)
    return folder


def run(corpus: Path, store: Store, features: Sequence[str] = ("noise",), **settings: object) -> Report:
    return extract_vectors(
        read_corpus(corpus),
        list(features),
        store,
        device="cpu",
        settings=Settings(**settings),  # type: ignore[arg-type]
    )


def counts(report: Report) -> tuple[int, int, int]:
    (feature,) = report.features
    assert feature.utterances == feature.extracted + feature.cached + feature.failed + feature.left
    return feature.extracted, feature.cached, feature.failed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the noise encoder is given."""
    seen: list[int] = []
    real = noise.Noise.encode

    def counting(self: noise.Noise, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        seen.append(len(waves))
        return real(self, waves, wanted)

    monkeypatch.setattr(noise.Noise, "encode", counting)
    return seen


def test_each_vector_is_the_encoders_own_of_that_file(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    run(corpus, store)
    vectors = store.load_vectors("toy", "noise")
    encoder = load_encoder(next(iter(store.specs("toy").values())))
    for name, x in zip(vectors.ids, vectors.x, strict=True):
        (alone,) = encoder.encode([read_wave(corpus / name)], ["hidden"])
        assert np.array_equal(alone["hidden"], x)


def test_a_second_run_makes_no_encoder_call(tmp_path: Path, calls: list[int]) -> None:
    """A neighbour tested for the finished file only after it had computed it."""
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    assert counts(run(corpus, store)) == (6, 0, 0)
    calls.clear()
    assert counts(run(corpus, store)) == (0, 6, 0)
    assert calls == []


def test_a_renamed_file_is_known_and_an_edited_one_is_new(tmp_path: Path, calls: list[int]) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    run(corpus, store)
    before = dict(zip(store.load_vectors("toy", "noise").ids, store.load_vectors("toy", "noise").x, strict=True))
    (corpus / "000.wav").rename(corpus / "renamed.wav")
    assert counts(run(corpus, store)) == (0, 6, 0)
    soundfile.write(corpus / "001.wav", np.random.default_rng(9).uniform(-0.5, 0.5, 2000), 16000)
    calls.clear()
    assert counts(run(corpus, store)) == (1, 5, 0)
    assert sum(calls) == 1
    after = dict(zip(store.load_vectors("toy", "noise").ids, store.load_vectors("toy", "noise").x, strict=True))
    assert np.array_equal(after["renamed.wav"], before["000.wav"])
    assert not np.array_equal(after["001.wav"], before["001.wav"])
    assert set(after) == {"renamed.wav", *(f"{i:03d}.wav" for i in range(1, 6))}


def test_one_bad_file_of_many_costs_no_other(tmp_path: Path) -> None:
    """A neighbour's one corrupt file aborted the whole set."""
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    run(corpus, Store(tmp_path / "clean"))
    clean = Store(tmp_path / "clean").load_vectors("toy", "noise")
    (corpus / "empty.wav").write_bytes(b"")
    (corpus / "text.wav").write_text("this is no audio")
    soundfile.write(corpus / "nan.wav", np.array([0.1, np.nan, 0.2] * 900, np.float32), 16000, subtype="FLOAT")
    whole = (corpus / "005.wav").read_bytes()
    (corpus / "cut.wav").write_bytes(whole[: len(whole) // 2])
    report = run(corpus, store)
    assert counts(report) == (6, 0, 4)
    told = {f["utterance"]: f["reason"] for f in report.failures}
    assert set(told) == {"empty.wav", "text.wav", "nan.wav", "cut.wav"}
    assert all(len(reason) > 10 for reason in told.values())
    vectors = store.load_vectors("toy", "noise")
    assert vectors.ids == clean.ids and np.array_equal(vectors.x, clean.x)
    assert vectors.missing == 4
    folder = next(iter(store.specs("toy")))
    assert set(read_table(folder / "failures.parquet")["id"]) == set(told)
    again = run(corpus, store)
    assert counts(again) == (0, 6, 4), "a failure is not tried again and again"
    assert any("4 failures stand from before" in note for note in again.notes)


def test_a_file_that_is_not_there_is_counted(tmp_path: Path) -> None:
    """A shrunken test set must not go unnoticed."""
    corpus, store = make_corpus(tmp_path / "toy", 3), Store(tmp_path / "cache")
    table = pd.DataFrame({"file": ["000.wav", "001.wav", "002.wav", "lost.wav"], "split": "train"})
    table.to_csv(corpus / "labels.csv", index=False)
    report = run(corpus, store)
    assert counts(report) == (3, 0, 1)
    assert report.failures == ({"utterance": "lost.wav", "feature": "noise", "reason": "there is no such file"},)
    assert store.load_vectors("toy", "noise").missing == 1


def test_silence_has_a_vector_and_is_counted(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 2), Store(tmp_path / "cache")
    soundfile.write(corpus / "silence.wav", np.zeros(1600), 16000)
    report = run(corpus, store)
    assert counts(report) == (3, 0, 0)
    assert any("1 utterances are digital silence" in note for note in report.notes)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour printed a line and skipped the batch."""
    real = noise.Noise.encode

    def small(self: noise.Noise, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        if len(waves) > 2 or max(map(len, waves)) > 2300:
            raise MemoryError
        return real(self, waves, wanted)

    corpus = make_corpus(tmp_path / "toy")
    run(corpus, Store(tmp_path / "clean"))
    monkeypatch.setattr(noise.Noise, "encode", small)
    store = Store(tmp_path / "cache")
    report = run(corpus, store)
    assert counts(report) == (5, 0, 1)
    assert "memory" in report.failures[0]["reason"]
    clean = Store(tmp_path / "clean").load_vectors("toy", "noise")
    assert np.array_equal(store.load_vectors("toy", "noise").x, clean.x[:5])


def test_a_value_that_is_not_finite_never_reaches_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = noise.Noise.encode

    def broken(self: noise.Noise, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        results = real(self, waves, wanted)
        for wave, result in zip(waves, results, strict=True):
            if len(wave) == 1600:
                result["hidden"][3] = np.inf
        return results

    monkeypatch.setattr(noise.Noise, "encode", broken)
    store = Store(tmp_path / "cache")
    report = run(make_corpus(tmp_path / "toy"), store)
    assert counts(report) == (5, 0, 1)
    assert "not finite" in report.failures[0]["reason"]


def test_layers_asked_for_later_are_added_and_the_rest_stays(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    run(corpus, store)
    folder = next(iter(store.specs("toy")))
    before = read_commits(folder, "hidden")
    (report,) = run(corpus, store, ["noise@frames"]).features
    assert report.extracted == 6
    assert read_commits(folder, "hidden") == before
    frames = store.load_frames("toy", "noise@frames")
    vectors = store.load_vectors("toy", "noise")
    for name, x in zip(vectors.ids, vectors.x, strict=True):
        assert np.array_equal(frames[name][0], x.astype(np.float16))


def test_features_of_one_encoder_share_its_pass(tmp_path: Path, calls: list[int]) -> None:
    store = Store(tmp_path / "cache")
    report = run(make_corpus(tmp_path / "toy"), store, ["noise", "noise@frames"])
    assert [f.extracted for f in report.features] == [6, 6]
    assert sum(calls) == 6


def test_parts_of_the_work_add_up(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 150), Store(tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "choose_unit_rows", lambda *_: 64)
        first = run(corpus, store, part=(1, 2)).features[0]
        second = run(corpus, store, part=(2, 2)).features[0]
    assert (first.extracted, first.left) == (86, 64)
    assert (second.extracted, second.cached, second.left) == (64, 86, 0)


def test_extraction_does_not_depend_on_any_seed(tmp_path: Path) -> None:
    """A neighbour froze a random crop in its cache."""
    corpus = make_corpus(tmp_path / "toy")
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        store = Store(tmp_path / f"cache{seed}")
        run(corpus, store)
        found.append(store.load_vectors("toy", "noise").x)
    assert np.array_equal(found[0], found[1])


def test_two_corpora_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    run(make_corpus(tmp_path / "a" / "toy", 2), store)
    other = tmp_path / "b" / "toy"
    other.mkdir(parents=True)
    soundfile.write(other / "x.wav", np.random.default_rng(5).uniform(-1, 1, 1600), 16000)
    with pytest.raises(CorpusError, match="--name"):
        run(other, store)
    shutil.move(tmp_path / "a" / "toy", tmp_path / "moved" / "toy")
    assert counts(run(tmp_path / "moved" / "toy", store)) == (0, 2, 0)


def test_new_labels_need_no_extraction(tmp_path: Path, calls: list[int]) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 3), Store(tmp_path / "cache")
    table = pd.DataFrame({"file": [f"{i:03d}.wav" for i in range(3)], "speaker": ["01", "02", "03"], "age": [1, 2, 3]})
    table.to_csv(corpus / "labels.csv", index=False)
    run(corpus, store)
    calls.clear()
    table.assign(age=[4, 5, 6]).to_csv(corpus / "labels.csv", index=False)
    run(corpus, store)
    labels = store.load_vectors("toy", "noise").labels
    assert labels["age"].tolist() == [4.0, 5.0, 6.0] and labels["speaker"].tolist() == ["01", "02", "03"]
    assert calls == []


def test_a_split_that_vbx_made_stays_when_the_corpus_grows(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 12), Store(tmp_path / "cache")
    report = run(corpus, store)
    assert any("split made by vbx" in note for note in report.notes)
    before = dict(
        zip(store.load_vectors("toy", "noise").ids, store.load_vectors("toy", "noise").labels["split"], strict=True)
    )
    assert set(before.values()) == {"train", "dev", "test"}
    for i in range(4):
        soundfile.write(corpus / f"new{i}.wav", np.random.default_rng(70 + i).uniform(-1, 1, 1600), 16000)
    run(corpus, store)
    after = dict(
        zip(store.load_vectors("toy", "noise").ids, store.load_vectors("toy", "noise").labels["split"], strict=True)
    )
    assert {name: after[name] for name in before} == before


def test_an_overlapping_split_is_counted(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 4), Store(tmp_path / "cache")
    shutil.copy(corpus / "000.wav", corpus / "copy.wav")
    rows = {"file": ["000.wav", "001.wav", "002.wav", "003.wav", "copy.wav"], "speaker": ["a", "a", "b", "c", "d"]}
    pd.DataFrame({**rows, "split": ["train", "test", "train", "dev", "test"]}).to_csv(
        corpus / "labels.csv", index=False
    )
    notes = run(corpus, store).notes
    assert any("1 speakers in more than one split" in note for note in notes)
    assert any("1 audio in more than one split" in note for note in notes)
    assert any("1 utterances repeat the audio" in note for note in notes)


def test_an_audit_finds_nothing_in_a_true_cache_and_something_in_a_false_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    run(corpus, store)
    (audit,) = audit_vectors(read_corpus(corpus), "noise", store, sample=4)
    assert (audit.sampled, audit.max_abs) == (4, 0.0)
    monkeypatch.setattr("vbx.extract.work.normalise", lambda wave, how: wave * np.float32(0.5))
    (audit,) = audit_vectors(read_corpus(corpus), "noise", store, sample=4)
    assert audit.max_relative > 0.1 and audit.worst


def test_an_estimate_tells_and_writes_nothing(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    plan = estimate_extraction(read_corpus(corpus), ["noise"], store)
    assert not store.root.exists()
    assert (plan.utterances, plan.files, plan.unreadable) == (6, 6, 0)
    assert plan.audio_h == pytest.approx(sum(1600 + 160 * i for i in range(6)) / 16000 / 3600, abs=1e-4)
    assert plan.features[0] | {"audio_h": 0} == {
        "feature": "noise",
        "cached": 0,
        "missing": 6,
        "audio_h": 0,
        "bytes": 384,
    }
    run(corpus, store)
    assert estimate_extraction(read_corpus(corpus), ["noise"], store).features[0]["cached"] == 6


def test_unknown_names_are_told_before_anything_is_done(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 1), Store(tmp_path / "cache")
    for features, checkpoints in ((["nois"], {}), (["noise"], {"noice": "x"})):
        with pytest.raises(UnknownName, match="did you mean 'noise'"):
            extract_vectors(read_corpus(corpus), features, store, device="cpu", checkpoints=checkpoints)
    with pytest.raises(UnknownName, match="output"):
        run(corpus, store, ["noise@layers"])


KILLED = """
import sys, time
from vbx.cache.store import Store
from vbx.extract import pipeline
from vbx.extract.corpus import read_corpus
from vbx.extract import passes
from vbx.extract.encoders import noise
real = noise.Noise.encode
def slow(self, waves, wanted):
    time.sleep(0.02)
    return real(self, waves, wanted)
noise.Noise.encode = slow
pipeline.choose_unit_rows = lambda *_: 64
real_unit = Store.write_unit
def acknowledging(self, folder, layout, block, commit):
    done = real_unit(self, folder, layout, block, commit)
    print(commit.unit, flush=True)
    return done
Store.write_unit = acknowledging
print("ready", flush=True)
pipeline.extract_vectors(read_corpus(sys.argv[1]), ["noise"], Store(sys.argv[2], sys.argv[3]), device="cpu")
"""


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_kill_loses_nothing_acknowledged_and_shows_nothing_wrong(tmp_path: Path, format: str) -> None:
    corpus, store = make_corpus(tmp_path / "toy", 400), Store(tmp_path / "cache", format)
    acknowledged: set[int] = set()
    rng = np.random.default_rng(0)
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(corpus), str(store.root), format]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.3, 1.0))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged |= {int(line) for line in process.stdout.read().split() if line.isdigit()}
        process.wait()
        assert [f for f in check_cache(store) if f.problem != "leftover"] == []
    folders = list(store.specs("toy")) if store.corpora() else []
    assert acknowledged <= {unit for f in folders for unit in read_commits(f, "hidden")}
    report = run(corpus, store)
    assert sum(counts(report)) == 400 and counts(report)[2] == 0
    run(corpus, Store(tmp_path / "clean"))
    clean, killed = Store(tmp_path / "clean").load_vectors("toy", "noise"), store.load_vectors("toy", "noise")
    assert clean.ids == killed.ids and np.array_equal(clean.x, killed.x)
