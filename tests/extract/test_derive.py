"""Derived vectors: the definition over the whole path, whose split the words are of, and nothing twice."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from vbx.cache.check import check_cache
from vbx.cache.feature import name_features, read_feature
from vbx.cache.layout import read_layouts
from vbx.cache.provenance import digest_contents, split_contents
from vbx.cache.store import Store
from vbx.cache.tidy import drop_damaged, drop_units
from vbx.cache.why import explain
from vbx.errors import CacheError, CorpusError, UnknownName
from vbx.extract import passes
from vbx.extract.codebook import read_codebook
from vbx.extract.corpus import read_corpus
from vbx.extract.derive import foresee_jobs, list_waiting, plan_derived, run_derived, split_features
from vbx.extract.encoder import Encoded
from vbx.extract.encoders.boaw import BagOfWords
from vbx.extract.pipeline import extract_vectors
from vbx.extract.plan import Job, Settings

pytest.importorskip("opensmile")

CLIPS, UNIT = 24, 8


def make_corpus(folder: Path, clips: int = CLIPS, seed: int = 0) -> Path:
    """Clips of gliding tones in noise, two of three in train."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(clips):
        t = np.arange(6400 + 17 * i) / 16000
        tone = np.sin(2 * np.pi * (100 + 20 * (i % 9)) * (t + t**2))
        soundfile.write(folder / f"{seed}-{i:03d}.wav", 0.3 * tone + 0.05 * rng.standard_normal(len(t)), 16000)
    return relabel(folder)


def relabel(folder: Path, splits: Sequence[str] = ("train", "train", "test")) -> Path:
    names = sorted(path.name for path in folder.glob("*.wav"))
    table = pd.DataFrame({"file": names, "split": [splits[i % len(splits)] for i in range(len(names))]})
    table.to_csv(folder / "labels.csv", index=False)
    return folder


def derive(corpus: Path, store: Store, features: Sequence[str], **settings: object) -> list[Job]:
    """As `extract_vectors` does it, in one process."""
    chosen = Settings(**{"workers": 0, **settings})  # type: ignore[arg-type]
    waves, derived = split_features(features)
    extract_vectors(read_corpus(corpus), waves, store, device="cpu", settings=chosen)
    table = store.label_table(corpus.name)
    jobs = plan_derived(derived, table, store, chosen)
    run_derived(jobs, table, store, chosen)
    return jobs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, Job]:
    """A cache of three units that no test changes."""
    corpus = make_corpus(tmp_path_factory.mktemp("made") / "toy")
    store = Store(corpus.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "choose_unit_rows", lambda *_: UNIT)
        (job,) = derive(corpus, store, ["boaw-125", "boaw-250"])
    return store, corpus, job


@pytest.fixture
def copied(made: tuple[Store, Path, Job], tmp_path: Path) -> tuple[Path, Store]:
    """The corpus and the cache, for a test to change."""
    shutil.copytree(made[1].parent, tmp_path / "copy")
    return tmp_path / "copy" / "toy", Store(tmp_path / "copy" / "cache")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The bags that are wanted of each utterance."""
    seen: list[tuple[str, ...]] = []
    real = BagOfWords.encode

    def counting(self: BagOfWords, waves: Sequence[np.ndarray], wanted: Sequence[str]) -> list[Encoded]:
        seen.extend(tuple(wanted) for _ in waves)
        return real(self, waves, wanted)

    monkeypatch.setattr(BagOfWords, "encode", counting)
    return seen


def test_vectors_are_the_definition_over_the_frames_of_the_cache(made: tuple[Store, Path, Job]) -> None:
    store, _, job = made
    frames, table = store.load_frames("toy", "compare-lld"), store.label_table("toy")
    train = np.concatenate([frames[u] for u, s in zip(table.ids, table.labels["split"], strict=True) if s == "train"])
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.astype(np.float64).std(axis=0, ddof=1)
    deviation[deviation == 0] = 1
    assert job.checkpoint
    book = read_codebook(job.checkpoint)
    np.testing.assert_allclose(book.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(book.deviation, deviation, rtol=1e-6, atol=1e-12)
    for size in (125, 250):
        words = (book.words[:size] - book.mean) / book.deviation
        vectors = store.load_vectors("toy", f"boaw-{size}")
        assert vectors.x.shape == (CLIPS, size) and vectors.missing == 0
        for name, x in zip(vectors.ids, vectors.x, strict=True):
            counts = np.zeros(size)
            for frame in frames[name]:
                distances = (((frame - book.mean) / book.deviation - words) ** 2).sum(axis=1)
                counts[np.argsort(distances, kind="stable")[:10]] += 1
            assert np.array_equal(x, np.log10(counts + 1).astype(np.float32)), name


def test_words_are_frames_of_the_train_split_and_of_no_other(made: tuple[Store, Path, Job]) -> None:
    store, _, job = made
    frames, table = store.load_frames("toy", "compare-lld"), store.label_table("toy")
    there: dict[str, set[bytes]] = {"train": set(), "test": set()}
    for name, split in zip(table.ids, table.labels["split"], strict=True):
        there[split] |= {frame.tobytes() for frame in frames[name]}
    assert job.checkpoint
    book = read_codebook(job.checkpoint)
    words = {word.tobytes() for word in book.words}
    assert words <= there["train"] and not words & there["test"]
    about = book.about
    assert about["corpus"] == "toy" and about["seed"] == 10
    assert about["train"] == digest_contents(split_contents(store.folder("toy"), table))
    assert about["source"] in {spec.key for spec in store.specs("toy").values() if spec.level == "lld"}
    assert about["frames"] == sum(
        len(frames[u]) for u, s in zip(table.ids, table.labels["split"], strict=True) if s == "train"
    )
    assert job.spec.weights == book.digest


def test_a_second_run_derives_nothing_and_sizes_share_a_pass(
    copied: tuple[Path, Store], calls: list[tuple[str, ...]]
) -> None:
    corpus, store = copied
    drop_units(store.find("toy", read_feature("boaw-125").parts[0])[0])
    derive(corpus, store, ["boaw-250"])
    assert calls == [("words-250",)] * CLIPS
    calls.clear()
    derive(corpus, store, ["boaw-250", "boaw-125", "boaw-500"])
    assert calls == [("words-125", "words-500")] * CLIPS, "those that lack, in one pass"
    calls.clear()
    jobs = derive(corpus, store, ["boaw-500", "boaw-125", "boaw-250"])
    assert calls == [] and len(jobs) == 1
    assert [name for name, _ in jobs[0].parts] == ["boaw-500", "boaw-125", "boaw-250"]
    assert check_cache(store) == []


def test_a_unit_that_is_lost_is_derived_again_and_no_other(
    copied: tuple[Path, Store], calls: list[tuple[str, ...]]
) -> None:
    corpus, store = copied
    x = store.load_vectors("toy", "boaw-125").x
    folder, _ = store.find("toy", read_feature("boaw-125").parts[0])
    (folder / "commits" / "words-125-000001.json").unlink()
    derive(corpus, store, ["boaw-125", "boaw-250"])
    assert calls == [("words-125",)] * UNIT
    assert np.array_equal(store.load_vectors("toy", "boaw-125").x, x)


def test_another_train_split_is_another_key(copied: tuple[Path, Store], made: tuple[Store, Path, Job]) -> None:
    (corpus, store), (_, _, first) = copied, made
    x = store.load_vectors("toy", "boaw-125").x
    relabel(corpus, ("train", "train", "dev"))
    (same,) = derive(corpus, store, ["boaw-125"])
    assert same.spec.key == first.spec.key, "what is not in train does not count"
    relabel(corpus, ("train", "test", "train"))
    (other,) = derive(corpus, store, ["boaw-125"])
    assert other.spec.key != first.spec.key
    assert other.spec.difference(first.spec).keys() == {"weights"}
    old, new = (store.load_vectors("toy", f"boaw-125#{job.spec.key[:10]}").x for job in (first, other))
    assert np.array_equal(old, x) and not np.array_equal(new, x)
    assert np.array_equal(store.load_vectors("toy", "boaw-125").x, new), "those of the present split"
    relabel(corpus, ("test", "train", "train"))
    extract_vectors(read_corpus(corpus), ["compare-lld"], store, device="cpu", settings=Settings(workers=0))
    with pytest.raises(CacheError, match=f"another train split .*#{first.spec.key[:8]}"):
        store.load_vectors("toy", "boaw-125")
    assert np.array_equal(store.load_vectors("toy", f"boaw-125#{first.spec.key[:8]}").x, x)
    relabel(corpus)
    (back,) = derive(corpus, store, ["boaw-125"])
    assert back.spec.key == first.spec.key, "a codebook stays valid for the split it was learnt from"
    assert np.array_equal(store.load_vectors("toy", "boaw-125").x, x)
    assert check_cache(store) == []


def test_new_utterances_beside_train_are_derived_by_the_codebook_that_is_there(
    copied: tuple[Path, Store], made: tuple[Store, Path, Job], calls: list[tuple[str, ...]]
) -> None:
    (corpus, store), (_, _, first) = copied, made
    make_corpus(corpus, clips=6, seed=1)
    table = pd.read_csv(corpus / "labels.csv").sort_values("file")
    old = table["file"].str.startswith("0-")
    table["split"] = ["train" if o and i % 3 < 2 else "test" for i, o in enumerate(old)]
    table.to_csv(corpus / "labels.csv", index=False)
    calls.clear()
    (more,) = derive(corpus, store, ["boaw-125"])
    assert more.spec.key == first.spec.key and len(calls) == 6
    assert len(store.load_vectors("toy", "boaw-125").x) == CLIPS + 6
    relabel(corpus)
    (grown,) = derive(corpus, store, ["boaw-125"])
    assert grown.spec.key != first.spec.key, "train has grown"


def test_an_utterance_without_frames_has_no_bag_for_the_same_reason(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    soundfile.write(corpus / "0-000.wav", np.full(300, 0.1), 16000)
    (corpus / "0-001.wav").write_text("this is no audio")
    soundfile.write(corpus / "0-002.wav", np.zeros(4000), 16000)
    (job,) = derive(corpus, store, ["boaw-125"])
    folder = store.root / "toy" / job.spec.folder
    reasons = store.failures(folder)
    (source,) = [f for f, spec in store.specs("toy").items() if spec.encoder == "opensmile"]
    assert set(reasons) == set(store.failures(source)) == {"0-000.wav", "0-001.wav"}
    assert reasons["0-000.wav"] == "compare-lld: " + store.failures(source)["0-000.wav"]
    assert "too short" in reasons["0-000.wav"]
    assert set(pd.read_parquet(folder / "failures.parquet")["id"]) == set(reasons)
    vectors = store.load_vectors("toy", "boaw-125")
    assert len(vectors.x) == CLIPS - 2 and vectors.missing == 2 and "0-002.wav" in vectors.ids
    assert drop_units(folder, failed_only=True) == 1
    (again,) = derive(corpus, store, ["boaw-125"])
    assert again.spec.key == job.spec.key
    assert np.array_equal(store.load_vectors("toy", "boaw-125").x, vectors.x)


def test_parts_wait_for_the_codebook_then_do_their_share(
    tmp_path: Path, calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "choose_unit_rows", lambda *_: UNIT)
    corpus, store = make_corpus(tmp_path / "toy"), Store(tmp_path / "cache")
    (waits,) = derive(corpus, store, ["boaw-125"], part=(1, 2))
    assert waits.checkpoint is None and waits.spec.weights is None and calls == []
    (told,) = list_waiting([waits])
    assert "boaw-125" in told and "compare-lld" in told
    assert not (store.root / "toy" / waits.spec.folder).exists()
    (second,) = derive(corpus, store, ["boaw-125"], part=(2, 2))
    assert second.checkpoint and list_waiting([second]) == []
    assert len(calls) == UNIT
    (first,) = derive(corpus, store, ["boaw-125"], part=(1, 2))
    assert first.spec.key == second.spec.key and len(calls) == CLIPS
    assert len(store.load_vectors("toy", "boaw-125").x) == CLIPS


def test_looking_learns_nothing(copied: tuple[Path, Store]) -> None:
    store, settings = copied[1], Settings(workers=0)
    table = store.label_table("toy")
    shutil.rmtree(store.root / "toy" / "codebooks")
    (job,) = plan_derived(["boaw-125"], table, store, settings, learn=False)
    assert job.checkpoint is None
    assert not (store.root / "toy" / "codebooks").exists()
    source, unlearnt = foresee_jobs(["boaw-125"], {}, "toy", store, settings)
    assert source.spec.level == "lld"
    (row,) = explain(store, "toy", "boaw-125", {"boaw": unlearnt.spec})
    assert "another weights (asked 'a codebook that is not learnt yet'" in row["verdict"]
    assert foresee_jobs(["boaw-125"], {}, "other", store, settings)[1].spec.weights == unlearnt.spec.weights
    assert not (store.root / "toy" / "codebooks").exists()
    (learnt,) = plan_derived(["boaw-125"], table, store, settings)
    assert plan_derived(["boaw-125"], table, store, settings, learn=False) == [learnt]
    assert foresee_jobs(["boaw-125"], {}, "toy", store, settings)[1] == learnt
    (row,) = explain(store, "toy", "boaw-125", {"boaw": learnt.spec})
    assert row["verdict"] == "nothing would be extracted"


def test_a_damaged_codebook_is_found_refused_and_mended(
    copied: tuple[Path, Store], calls: list[tuple[str, ...]]
) -> None:
    corpus, store = copied
    (job,) = derive(corpus, store, ["boaw-125"])
    x = store.load_vectors("toy", "boaw-125").x
    assert job.checkpoint and calls == []
    whole = job.checkpoint.read_bytes()
    job.checkpoint.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    (finding,) = check_cache(store)
    assert finding.problem == "damaged" and finding.path.startswith("toy/codebooks/boaw-compare-lld-")
    with pytest.raises(CacheError, match="damaged"):
        derive(corpus, store, ["boaw-125"])
    assert [f.path for f in drop_damaged(store)] == [finding.path]
    calls.clear()
    (again,) = derive(corpus, store, ["boaw-125"])
    assert again.spec.key == job.spec.key and job.checkpoint.read_bytes() == whole and calls == []
    assert np.array_equal(store.load_vectors("toy", "boaw-125").x, x)
    (job.checkpoint.parent / "notes.txt").write_text("mine")
    assert [(f.path, f.problem) for f in check_cache(store)] == [("toy/codebooks/notes.txt", "foreign")]


def test_damaged_frames_are_refused(copied: tuple[Path, Store]) -> None:
    corpus, store = copied
    shutil.rmtree(store.root / "toy" / "codebooks")
    path = max((p for p in store.root.rglob("*") if "frames" in p.parts), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    with pytest.raises(CacheError, match="damaged"):
        derive(corpus, store, ["boaw-125"])
    assert not (store.root / "toy" / "codebooks").exists()


def test_a_bag_that_is_too_large_is_refused_with_the_one_that_fits(tmp_path: Path) -> None:
    corpus, store = make_corpus(tmp_path / "toy", clips=9), Store(tmp_path / "cache")
    derive(corpus, store, ["boaw-125"])
    with pytest.raises(CorpusError, match="'boaw-1000' has more words .* 'toy' .*: 'boaw-125' fits"):
        derive(corpus, store, ["boaw-1000"])
    tiny = make_corpus(tmp_path / "tiny", clips=3)
    with pytest.raises(CorpusError, match="too few for any bag"):
        derive(tiny, store, ["boaw-125"])


def test_without_a_train_split_it_says_so(tmp_path: Path) -> None:
    corpus, store = relabel(make_corpus(tmp_path / "toy", clips=4), ("dev", "test")), Store(tmp_path / "cache")
    with pytest.raises(CorpusError, match="'toy' has no train split"):
        derive(corpus, store, ["boaw-125"])


def test_features_are_split_by_what_they_are_made_from() -> None:
    assert split_features(["compare", "noise"]) == (["compare", "noise"], [])
    assert split_features(["boaw-500", "compare-lld", "boaw-125", "boaw-500"]) == (
        ["compare-lld"],
        ["boaw-500", "boaw-125"],
    )
    assert split_features(["egemaps+noise", "noise + boaw-125"]) == (
        ["egemaps+noise", "noise", "compare-lld"],
        ["boaw-125"],
    )
    with pytest.raises(UnknownName, match="boaw-125"):
        split_features(["boaw-12"])


def test_only_the_sizes_that_are_there_are_offered(made: tuple[Store, Path, Job]) -> None:
    specs = made[0].specs("toy")
    outputs = {spec.key: read_layouts(folder) for folder, spec in specs.items()}
    assert name_features(specs.values(), outputs) == ["boaw-125", "boaw-250"]


def test_an_output_that_is_none_is_refused(made: tuple[Store, Path, Job]) -> None:
    store, _, _ = made
    with pytest.raises(UnknownName, match="frames"):
        plan_derived(["boaw-125@frames"], store.label_table("toy"), store, Settings(workers=0))


@pytest.mark.slow
def test_bags_of_real_speech_tell_emotions_apart(corpora: Path, tmp_path: Path) -> None:
    """A linear SVM on EmoDB: far above chance, 0.25, and larger bags no worse."""
    store = Store(tmp_path / "cache")
    derive(corpora / "emodb_4class", store, ["boaw-125", "boaw-2000"], workers=2)
    reached = {}
    for feature in ("boaw-125", "boaw-2000"):
        vectors = store.load_vectors("emodb_4class", feature)
        train = (vectors.labels["split"] == "train").to_numpy()
        emotion = vectors.labels["emotion"].to_numpy()
        model = make_pipeline(StandardScaler(), LinearSVC(C=1e-3)).fit(vectors.x[train], emotion[train])
        reached[feature] = recall_score(emotion[~train], model.predict(vectors.x[~train]), average="macro")
    assert reached["boaw-125"] > 0.65 and reached["boaw-2000"] > 0.75, reached
