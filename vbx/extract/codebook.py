"""Codebook: words among the frames of a train split, and how frames are brought to their scale. Learnt once, kept."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.files import create_file, read_sealed, seal
from vbx.cache.remote import Place
from vbx.cache.spec import canonical
from vbx.errors import CacheError, CorpusError

SAMPLED = 32768
"""Frames among which words are chosen; 16 for each of 2,000 words."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Words, in the order in which they were chosen: the first K of them are the codebook of size K.

    Attributes:
        words: `(K, D)` float32, each a frame of the train split as it is in the cache
        mean: `(D,)` of all frames of the train split
        deviation: `(D,)` their standard deviation (of n - 1), 1 where it is 0
        about: where it comes from
    """

    words: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of all that can change a bag, in hex."""
        seen = hashlib.sha256(canonical({"shape": list(self.words.shape), "source": self.about.get("source")}))
        for array, dtype in ((self.words, "<f4"), (self.mean, "<f8"), (self.deviation, "<f8")):
            seen.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
        return seen.hexdigest()

    def standardise(self, frames: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Frames `(F, D)` in units of the train split's deviation from its mean."""
        return (frames.astype(np.float64) - self.mean) / self.deviation


def learn_codebook(utterances: Iterable[tuple[str, NDArray[np.float32]]], size: int, seed: int) -> Codebook:
    """Learn a codebook in one pass over frames, holding no more of them than a sample.

    Words are chosen by the seeding of k-means++ alone, without iterations (openXBOW's `random++`; Arthur and
    Vassilvitskii 2007, section 2.2), from a uniform sample of 32,768 frames if there are more. The same frames give
    the same codebook, in whatever order the utterances come.

    Args:
        utterances: content, by which an utterance is told from others, and frames `(F, D)`
        size: most words; fewer if there are fewer distinct frames
        seed: of the sample and of the choice

    Raises:
        CorpusError: if there is no frame

    Examples:
        >>> frames = np.arange(12, dtype=np.float32).reshape(6, 2)
        >>> book = learn_codebook([("a", frames[:4]), ("b", frames[4:])], size=3, seed=0)
        >>> book.words.shape, book.mean.tolist(), book.about["frames"]
        ((3, 2), [5.0, 6.0], 6)
    """
    sample = _Sample(SAMPLED, seed)
    moments: dict[str, tuple[int, NDArray[np.float64], NDArray[np.float64]]] = {}
    for content, frames in utterances:
        if len(frames) and content not in moments:
            values = frames.astype(np.float64)
            mean = values.mean(axis=0)
            moments[content] = (len(values), mean, np.square(values - mean).sum(axis=0))
            sample.add(content, frames)
    if not moments:
        raise CorpusError("a codebook cannot be learnt: the train split has no frame")
    mean, deviation = _pool([moments[content] for content in sorted(moments)])
    frames = sample.frames()
    scaled = ((frames - mean) / deviation).astype(np.float32)
    count = sum(n for n, _, _ in moments.values())
    about = {"seed": seed, "utterances": len(moments), "frames": count, "sampled": len(frames)}
    return Codebook(frames[_seed_words(scaled, _number_distinct(frames), size, seed)], mean, deviation, about)


def _pool(
    moments: list[tuple[int, NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of all frames, from those of each utterance (Chan et al. 1983, eq. 2.1)."""
    counts = np.array([[n] for n, _, _ in moments], dtype=np.float64)
    means = np.array([mean for _, mean, _ in moments])
    total = counts.sum()
    mean = (counts * means).sum(axis=0) / total
    within = np.array([squares for _, _, squares in moments]).sum(axis=0)
    variance = (within + (counts * np.square(means - mean)).sum(axis=0)) / max(total - 1, 1)
    return mean, np.where(variance > 0, np.sqrt(variance), 1.0)


class _Sample:
    """A uniform sample without replacement of a stream of frames.

    A frame's rank is drawn from its utterance's content and its place in it; the lowest ranks are the sample, so that
    neither the order of the utterances nor how they are cut into units counts.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._ranks: list[NDArray[np.uint64]] = []
        self._frames: list[NDArray[np.float32]] = []
        self._held, self._limit = 0, np.uint64(2**64 - 1)

    def add(self, content: str, frames: NDArray[np.float32]) -> None:
        """Take from an utterance the frames that belong to the sample so far."""
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {content}".encode()).digest(), "big")
        ranks = np.random.PCG64(seed).random_raw(len(frames))
        low = ranks <= self._limit
        self._ranks.append(ranks[low])
        self._frames.append(frames[low])
        self._held += int(low.sum())
        if self._held > 2 * self._size:
            self._settle()

    def frames(self) -> NDArray[np.float32]:
        """The sample `(S, D)`, in the order of its ranks."""
        self._settle()
        return self._frames[0]

    def _settle(self) -> None:
        ranks = np.concatenate(self._ranks)
        order = np.argsort(ranks, kind="stable")[: self._size]
        self._ranks, self._frames = [ranks[order]], [np.concatenate(self._frames)[order]]
        self._held = len(order)
        if self._held == self._size:
            self._limit = self._ranks[0][-1]


def _number_distinct(frames: NDArray[np.float32]) -> NDArray[np.intp]:
    """A number for each frame of `(S, D)`, the same for equal ones, `(S,)`."""
    rows = np.ascontiguousarray(frames + np.float32(0))  # -0.0 is no other number than 0.0
    return np.unique(rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0], return_inverse=True)[1]


def _seed_words(frames: NDArray[np.float32], numbers: NDArray[np.intp], size: int, seed: int) -> list[int]:
    """Indices of at most `size` distinct frames, each drawn by its squared distance to the nearest one before it.

    Args:
        frames: `(S, D)` standardised
        numbers: `(S,)` which of them are equal
        size: most words
        seed: of the draws
    """
    draws = (np.random.PCG64(seed).random_raw(size) >> np.uint64(11)) * 2.0**-53
    chosen = [int(draws[0] * len(frames))]
    squares = np.einsum("ij,ij->i", frames, frames)
    nearest = np.full(len(frames), np.inf, dtype=np.float32)
    for draw in draws[1:]:
        last = chosen[-1]
        # Not a product of BLAS, whose last bits depend on the number of its threads.
        products = np.einsum("ij,j->i", frames, frames[last])
        np.minimum(nearest, np.maximum(squares - 2 * products + squares[last], 0), out=nearest)
        nearest[numbers == numbers[last]] = 0
        total = np.cumsum(nearest, dtype=np.float64)
        if total[-1] == 0:
            break
        chosen.append(int(np.searchsorted(total, draw * total[-1], side="right")))
    return chosen


# ------------------------------------------------------------------ the file


def write_codebook(path: Place, codebook: Codebook) -> None:
    """Keep a codebook, unless there is one already: whoever comes second uses the first one's."""
    words = np.ascontiguousarray(codebook.words, dtype="<f4")
    create_file(
        path,
        seal(
            {
                "about": dict(codebook.about),
                "digest": codebook.digest,
                "shape": list(words.shape),
                "mean": codebook.mean.tolist(),
                "deviation": codebook.deviation.tolist(),
                "words_float32_base64": base64.b64encode(words.tobytes()).decode(),
            }
        ),
    )


def read_codebook(path: Place) -> Codebook:
    """Read a codebook.

    Raises:
        CacheError: if it is missing, damaged, or not one
    """
    body = read_sealed(path)
    try:
        words = np.frombuffer(base64.b64decode(body["words_float32_base64"]), dtype="<f4").reshape(body["shape"])
        codebook = Codebook(words, np.array(body["mean"]), np.array(body["deviation"]), body["about"])
        if codebook.digest == body["digest"]:
            return codebook
    except (KeyError, ValueError):
        pass
    raise CacheError(f"{path} is no codebook of this version of vbx; move it away")
