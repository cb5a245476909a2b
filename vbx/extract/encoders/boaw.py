"""Bag of audio words: how often the frames of an utterance fall on each word of a codebook.

Schmitt and Schuller 2017, JMLR 18(96), in the settings of the ComParE baselines: frames standardised by the train
split, each counted for its 10 nearest words, log10(count + 1), no division by the number of frames. One codebook spans
descriptors and deltas: two equal halves could not make the 125 numbers that are published.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError, CheckpointError, UnknownName
from vbx.extract.codebook import Codebook, read_codebook
from vbx.extract.encoder import Encoded, Encoder, Output, Wave

SOURCE = "compare-lld"
"""Feature whose frames stand in for waveforms."""
SIZES = (125, 250, 500, 1000, 2000)
SEED = 10
"""openXBOW's."""
NEAREST = 10
"""Words that a frame counts for."""
CHUNK = 256
"""Frames compared with the words at once; no bag depends on it."""


class BagOfWords(Encoder):
    """Bags of several sizes over one codebook; that of size K is over the first K words.

    Distances are Euclidean, in float64; of words that are equally near the one chosen earlier counts.

    Args:
        spec: the spec
        codebook: learnt on the train split
        sizes: of the bags; those above the number of words are left out
        nearest: words that a frame counts for
    """

    def __init__(
        self, spec: EncoderSpec, codebook: Codebook, sizes: Sequence[int] = SIZES, nearest: int = NEAREST
    ) -> None:
        self.spec = spec
        self._codebook, self._nearest = codebook, nearest
        self._words = codebook.standardise(codebook.words)
        self._squares = np.square(self._words).sum(axis=1)
        self._sizes = {f"words-{size}": size for size in sizes if nearest < size <= len(self._words)}
        self.outputs = tuple(
            Output(name, tuple(f"word_{i:04d}" for i in range(size)), optional=True)
            for name, size in self._sizes.items()
        )

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`; what it takes in place of waveforms are frames `(F, D)`.

        Raises:
            CacheError: if frames are not as wide as those the codebook was learnt on
        """
        sizes, width = sorted({self._sizes[name] for name in wanted}), self._words.shape[1]
        results: list[Encoded] = []
        for frames in waves:
            if frames.ndim != 2 or frames.shape[1] != width:
                raise CacheError(f"frames of shape {frames.shape} do not fit a codebook of {width} columns")
            counts = self._count(frames, sizes)
            results.append({name: np.log10(1.0 + counts[self._sizes[name]]).astype(np.float32) for name in wanted})
        return results

    def _count(self, frames: NDArray[np.floating[Any]], sizes: Sequence[int]) -> dict[int, NDArray[np.int64]]:
        """For each size, how many frames have each word among their nearest."""
        counts = {size: np.zeros(size, dtype=np.int64) for size in sizes}
        words, squares = self._words[: sizes[-1]].T, self._squares[: sizes[-1]]
        for first in range(0, len(frames), CHUNK):
            scaled = self._codebook.standardise(frames[first : first + CHUNK])
            # |x - c|^2 without |x|^2, which is the same for all words of a frame.
            distances = scaled @ words
            distances *= -2.0
            distances += squares
            lowest, begin = np.empty((len(scaled), 0)), 0
            for size in sizes:  # what was lowest among fewer words is all that has to be looked at again
                more = _lowest(distances[:, begin:size], self._nearest + 1)
                lowest = np.sort(np.concatenate([lowest, more], axis=1), axis=1)[:, : self._nearest + 1]
                counts[size] += self._tally(scaled, distances[:, :size], lowest)
                begin = size
        return counts

    def _tally(
        self, scaled: NDArray[np.float64], distances: NDArray[np.float64], lowest: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """How many frames have each word among their nearest.

        A product of matrices rounds as its shape and its threads will have it. Frames whose choice is closer than that
        rounding are compared again, word by word, so that a bag is one and the same however it was computed.
        """
        last, after = lowest[:, self._nearest - 1], lowest[:, self._nearest]
        longest = np.sqrt(np.square(scaled).sum(axis=1)) + np.sqrt(self._squares.max())
        rounding = 4 * scaled.shape[1] * np.finfo(np.float64).eps * np.square(longest)
        close = after - last <= rounding
        nearest = distances <= last[:, None]
        nearest[close] = False
        counts: NDArray[np.int64] = np.count_nonzero(nearest, axis=0).astype(np.int64)
        for frame in scaled[close]:
            exact = np.square(frame - self._words[: len(counts)]).sum(axis=1)
            counts[np.argsort(exact, kind="stable")[: self._nearest]] += 1
        return counts


def _lowest(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The lowest `count` values of each row, in any order; all of them if there are no more."""
    if values.shape[1] <= count:
        return values
    return np.partition(values, count - 1, axis=1)[:, :count]


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """Digest of the codebook; None as long as none has been learnt.

    Args:
        spec: the spec
        checkpoint: file of the codebook
    """
    return read_codebook(checkpoint).digest if checkpoint else None


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Make the encoder; it runs on the CPU whatever the device.

    Raises:
        CheckpointError: if no codebook was given
        UnknownName: if it is to be of another source
    """
    if spec.model != SOURCE:
        raise UnknownName("source of bags of audio words", spec.model, [SOURCE])
    if checkpoint is None:
        raise CheckpointError(
            f"bags of audio words are made from the {SOURCE} frames in the cache by a codebook learnt there, not from "
            "audio: `vbx extract` makes both"
        )
    return BagOfWords(spec, read_codebook(checkpoint))
