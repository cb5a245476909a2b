"""Bags of audio words: against plain loops over frames and words, ties and all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances
from threadpoolctl import threadpool_limits

from vbx.cache.feature import list_encoders, list_features, read_feature
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError, CheckpointError, UnknownName
from vbx.extract.codebook import Codebook, learn_codebook
from vbx.extract.encoder import load_encoder, resolve_spec
from vbx.extract.encoders import boaw
from vbx.extract.encoders.boaw import BagOfWords

SPEC = list_encoders()["boaw"]
SIZES = (5, 12, 40)
NAMES = [f"words-{size}" for size in SIZES]


def make_encoder(book: Codebook, nearest: int = 3) -> BagOfWords:
    return BagOfWords(SPEC, book, SIZES, nearest)


def loops(frames: np.ndarray, book: Codebook, size: int, nearest: int) -> np.ndarray:
    """openXBOW's definition, one frame and one word at a time."""
    words = [(word.astype(np.float64) - book.mean) / book.deviation for word in book.words[:size]]
    counts = [0] * size
    for frame in frames:
        scaled = (frame.astype(np.float64) - book.mean) / book.deviation
        distances = [float(np.sum((scaled - word) ** 2)) for word in words]
        for i in sorted(range(size), key=lambda i: (distances[i], i))[:nearest]:
            counts[i] += 1
    return np.array([np.log10(count + 1) for count in counts]).astype(np.float32)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((n, 6)) ** 3 * 1000).astype(np.float32) for n in (1, 300, 57)]


@pytest.fixture(scope="module")
def book(frames: list[np.ndarray]) -> Codebook:
    return learn_codebook([(str(i), x) for i, x in enumerate(frames)], 40, seed=2)


@pytest.mark.parametrize("nearest", [1, 3, 4])
def test_bags_are_those_of_plain_loops(frames: list[np.ndarray], book: Codebook, nearest: int) -> None:
    for one, bags in zip(frames, make_encoder(book, nearest).encode(frames, NAMES), strict=True):
        for size, name in zip(SIZES, NAMES, strict=True):
            assert bags[name].dtype == np.float32
            assert np.array_equal(bags[name], loops(one, book, size, nearest)), (len(one), size)


def test_bags_are_those_of_scikit_learns_distances(frames: list[np.ndarray], book: Codebook) -> None:
    (bags,) = make_encoder(book).encode([frames[1]], ["words-40"])
    distances = pairwise_distances(book.standardise(frames[1]), book.standardise(book.words))
    counts = np.bincount(np.argsort(distances, axis=1)[:, :3].ravel(), minlength=40)
    np.testing.assert_array_equal(bags["words-40"], np.log10(1 + counts).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 30))
def test_ties_go_to_the_word_chosen_earlier(seed: int, top: int, count: int) -> None:
    """Frames on a coarse grid: most distances are equal to others."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, top + 1, (40, 4)).astype(np.float32)
    book = Codebook(words, np.full(4, 0.1), np.array([1.0, 3.0, 1.0, 7.0]), {})
    x = rng.integers(0, top + 1, (count, 4)).astype(np.float32)
    (bags,) = make_encoder(book).encode([x], NAMES)
    for size, name in zip(SIZES, NAMES, strict=True):
        assert np.array_equal(bags[name], loops(x, book, size, 3))
        assert round(float((10.0 ** bags[name].astype(np.float64) - 1).sum()), 3) == 3 * count


def test_distances_that_a_product_cannot_tell_apart_are_told_apart() -> None:
    """Frames far from the mean: of the numbers in a product hardly a digit is left for the difference."""
    rng = np.random.default_rng(4)
    words = np.float32(4e7) + 8 * rng.integers(0, 3, (40, 6)).astype(np.float32)
    book = Codebook(words, np.zeros(6), np.full(6, 1.0), {})
    x = (np.float32(4e7) + 8 * rng.integers(0, 3, (50, 6))).astype(np.float32)
    (bags,) = make_encoder(book).encode([x], ["words-40"])
    assert np.array_equal(bags["words-40"], loops(x, book, 40, 3))


def test_neither_chunks_nor_company_nor_threads_count(
    frames: list[np.ndarray], book: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(book)
    expected = encoder.encode(frames, NAMES)
    for chunk in (1, 7, 100, 4096):
        monkeypatch.setattr(boaw, "CHUNK", chunk)
        for threads in (1, 2):
            with threadpool_limits(threads, user_api="blas"):
                found = [encoder.encode([x], [name])[0] for x in frames for name in NAMES]
        for i, bags in enumerate(found):
            name = NAMES[i % len(NAMES)]
            assert np.array_equal(bags[name], expected[i // len(NAMES)][name])


def test_the_catalogue_says_what_comes_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2100, 130)).astype(np.float32)
    encoder = BagOfWords(SPEC, learn_codebook([("a", x)], 2000, seed=1))
    entries = [entry for entry in list_features() if entry["encoder"] == "boaw"]
    assert [entry["dim"] for entry in entries] == list(boaw.SIZES)
    widths = {output.name: len(output.columns) for output in encoder.outputs}
    (bags,) = encoder.encode([x[:20]], list(widths))
    for entry in entries:
        (name,) = entry["outputs"]
        assert widths[name] == len(bags[name]) == entry["dim"]
        assert abs((10.0 ** bags[name].astype(np.float64) - 1).sum() - 20 * boaw.NEAREST) < 1e-3
    (part,) = read_feature(boaw.SOURCE).parts
    assert part.outputs == ("frames",) and SPEC.model == boaw.SOURCE


def test_bags_with_more_words_than_the_codebook_are_not_offered(frames: list[np.ndarray]) -> None:
    small = learn_codebook([("a", frames[2])], 20, seed=2)
    assert [output.name for output in make_encoder(small).outputs] == ["words-5", "words-12"]


def test_frames_of_another_width_are_refused(book: Codebook) -> None:
    encoder = make_encoder(book)
    for x in (np.zeros((3, 7), np.float32), np.zeros(1600, np.float32)):
        with pytest.raises(CacheError, match="6 columns"):
            encoder.encode([x], NAMES)


def test_without_a_codebook_it_says_what_it_is_made_from() -> None:
    spec = resolve_spec(SPEC, None)
    assert spec.weights is None
    with pytest.raises(CheckpointError, match="compare-lld frames in the cache"):
        load_encoder(spec)
    with pytest.raises(UnknownName, match="compare-lld"):
        load_encoder(EncoderSpec("boaw", "egemaps-lld"))
