"""Codebooks: against plain formulas, scikit-learn's seeding, and every byte of the file."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import kmeans_plusplus

from vbx.cache.files import create_file, seal
from vbx.errors import CacheError, CorpusError
from vbx.extract import codebook as module
from vbx.extract.codebook import learn_codebook, read_codebook, write_codebook


def make_utterances(lengths: list[int], dim: int = 7, seed: int = 0) -> list[tuple[str, np.ndarray]]:
    """Frames of unlike scales, in clusters; the first column far from zero, the last constant."""
    rng = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(lengths):
        frames = rng.standard_normal((length, dim)) + 4 * rng.integers(0, 3, (length, 1))
        frames = frames * 10.0 ** (np.arange(dim) % 7) + 1e5 * (np.arange(dim) == 0)
        frames[:, -1] = 2.5
        made.append((f"clip{i}", frames.astype(np.float32)))
    return made


UTTERANCES = make_utterances([40, 1, 95, 64, 3])
FRAMES = np.concatenate([frames for _, frames in UTTERANCES])


def test_frames_are_standardised_by_all_frames() -> None:
    book = learn_codebook(UTTERANCES, 20, seed=1)
    deviation = FRAMES.astype(np.float64).std(axis=0, ddof=1)
    deviation[-1] = 1.0
    np.testing.assert_allclose(book.mean, FRAMES.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(book.deviation, deviation, rtol=1e-9)
    scaled = book.standardise(FRAMES)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scaled[:, :-1].std(axis=0, ddof=1), 1, rtol=1e-9)
    assert np.array_equal(scaled[:, -1], np.zeros(len(FRAMES)))
    assert book.about["frames"] == len(FRAMES) and book.about["utterances"] == 5


def test_words_are_frames_and_no_two_are_the_same() -> None:
    for utterances in (UTTERANCES, make_utterances([150, 70], dim=130, seed=1)):
        zeros = np.zeros((2, utterances[0][1].shape[1]), np.float32)
        zeros[1] *= -1
        book = learn_codebook([*utterances, ("again", utterances[0][1]), ("zeros", zeros)], 500, seed=1)
        words = [(word + np.float32(0)).tobytes() for word in book.words]
        expected = {frame.tobytes() for _, frames in utterances for frame in frames} | {zeros[0].tobytes()}
        assert len(words) == len(set(words))
        assert set(words) == expected, "all there are, when there are too few"


def test_words_are_drawn_by_their_squared_distance() -> None:
    """Of frames at 0, 1 and 3, the last twice: every pair as often as k-means++ has it, a frame that is there twice
    as likely as two."""
    frames = np.array([[0.0], [1.0], [3.0], [3.0]], np.float32)
    rounds, pairs = 4000, dict[tuple[float, ...], int]()
    for seed in range(rounds):
        pair = tuple(learn_codebook([("a", frames)], 2, seed).words[:, 0].tolist())
        pairs[pair] = pairs.get(pair, 0) + 1
    points = frames[:, 0].tolist()
    for first in (0.0, 1.0, 3.0):
        weights = {p: points.count(p) * (p - first) ** 2 for p in set(points)}
        for second in set(points) - {first}:
            share = points.count(first) / 4 * weights[second] / sum(weights.values())
            expected = rounds * share
            assert abs(pairs.get((first, second), 0) - expected) < 4.5 * np.sqrt(expected * (1 - share)), (
                first,
                second,
            )


def test_the_first_words_are_the_smaller_codebook() -> None:
    large, small = learn_codebook(UTTERANCES, 60, seed=3), learn_codebook(UTTERANCES, 12, seed=3)
    assert np.array_equal(large.words[:12], small.words)


@pytest.mark.parametrize("sampled", [30, 32768])
def test_neither_the_order_nor_a_second_look_counts(monkeypatch: pytest.MonkeyPatch, sampled: int) -> None:
    monkeypatch.setattr(module, "SAMPLED", sampled)
    many = make_utterances([30] * 40)
    book = learn_codebook(many, 20, seed=3)
    again = learn_codebook([*many[::-1], many[0]], 20, seed=3)
    assert book.digest == again.digest
    assert np.array_equal(book.words, again.words)


def test_the_seed_and_the_frames_count() -> None:
    digests = {learn_codebook(UTTERANCES, 20, seed).digest for seed in range(5)}
    digests.add(learn_codebook(UTTERANCES[:-1], 20, 0).digest)
    assert len(digests) == 6


def test_all_that_changes_a_bag_is_in_the_digest() -> None:
    book = learn_codebook(UTTERANCES, 20, seed=3)
    for name in ("words", "mean", "deviation"):
        array = getattr(book, name).copy()
        array.flat[-1] = np.nextafter(array.flat[-1], np.inf, dtype=array.dtype)
        parts = {"words": book.words, "mean": book.mean, "deviation": book.deviation, name: array}
        assert module.Codebook(**parts, about=book.about).digest != book.digest, name
    assert module.Codebook(book.words, book.mean, book.deviation, {"source": "other"}).digest != book.digest


def test_the_seeding_is_as_good_as_that_of_scikit_learn() -> None:
    """Mean potential over seeds: that of plain k-means++, far below that of frames drawn alike."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((12, 4)) * 20
    frames = (centres[rng.integers(0, 12, 1500)] + rng.standard_normal((1500, 4))).astype(np.float32)
    scaled = (frames - frames.mean(axis=0)) / frames.std(axis=0, ddof=1)

    def potential(words: np.ndarray) -> float:
        return float(((scaled[:, None] - words[None]) ** 2).sum(axis=2).min(axis=1).mean())

    ours, theirs, random = [], [], []
    for seed in range(40):
        book = learn_codebook([("a", frames)], 12, seed)
        ours.append(potential(book.standardise(book.words)))
        theirs.append(potential(kmeans_plusplus(scaled, 12, random_state=seed, n_local_trials=1)[0]))
        random.append(potential(scaled[rng.choice(1500, 12, replace=False)]))
    error = np.std(theirs, ddof=1) * np.sqrt(2 / 40)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error
    assert np.mean(ours) < np.mean(random) - 8 * error


def test_every_frame_is_equally_likely_to_be_sampled() -> None:
    drawn, rounds = np.zeros(50), 600
    frames = np.arange(50, dtype=np.float32)[:, None]
    for seed in range(rounds):
        sample = module._Sample(10, seed)
        for i, first in enumerate((0, 3, 4, 30)):
            sample.add(str(i), frames[first : (3, 4, 30, 50)[i]])
        found = sample.frames()[:, 0].astype(int)
        assert len(found) == 10
        drawn[found] += 1
    expected = rounds * 10 / 50
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected * 0.8)


def test_memory_holds_a_sample_not_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 500)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    learn_codebook(((str(i), rng.standard_normal((1000, 50), np.float32)) for i in range(100)), 10, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 100 * 1000 * 50 * 4


def test_without_frames_there_is_no_codebook() -> None:
    with pytest.raises(CorpusError, match="no frame"):
        learn_codebook([("a", np.zeros((0, 3), np.float32))], 5, seed=0)


# ------------------------------------------------------------------ the file


def test_a_codebook_comes_back_and_the_first_one_stays(tmp_path: Path) -> None:
    first, second = learn_codebook(UTTERANCES, 20, seed=3), learn_codebook(UTTERANCES, 20, seed=4)
    path = tmp_path / "codebooks" / "boaw.json"
    write_codebook(path, first)
    write_codebook(path, second)
    back = read_codebook(path)
    assert back.digest == first.digest != second.digest
    assert np.array_equal(back.standardise(FRAMES), first.standardise(FRAMES))
    assert back.about == first.about


def test_a_damaged_codebook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boaw.json"
    write_codebook(path, learn_codebook(UTTERANCES, 20, seed=3))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(CacheError, match="damaged"):
            read_codebook(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(CacheError, match="damaged"):
        read_codebook(path)


@pytest.mark.parametrize("change", [{"shape": [20, 8]}, {"digest": "0"}, {"mean": [0.0] * 7}, {"about": {"source": 1}}])
def test_what_is_sealed_but_no_codebook_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "boaw.json"
    write_codebook(path, learn_codebook(UTTERANCES, 20, seed=3))
    body = {k: v for k, v in module.read_sealed(path).items()}
    create_file(tmp_path / "other.json", seal({**body, **change}))
    with pytest.raises(CacheError, match="no codebook"):
        read_codebook(tmp_path / "other.json")
    create_file(tmp_path / "spec.json", seal({"key": "abc"}))
    with pytest.raises(CacheError, match="no codebook"):
        read_codebook(tmp_path / "spec.json")
