"""Batching: waveforms of like length side by side, never more than the encoder wants at once."""

from collections.abc import Callable, Iterable, Iterator

from vbx.extract.encoder import Wave


def make_batches(waves: Iterable[tuple[int, Wave]], most: Callable[[], int]) -> Iterator[list[tuple[int, Wave]]]:
    """Group rows into batches, in order.

    Args:
        waves: row and waveform `(T,)`
        most: tells the most samples of a batch, padding counted, which may shrink on the way; at least one waveform is
            in every batch

    Examples:
        >>> import numpy as np
        >>> [len(b) for b in make_batches([(i, np.zeros(n)) for i, n in enumerate([5, 5, 9, 30])], lambda: 20)]
        [2, 1, 1]
    """
    batch: list[tuple[int, Wave]] = []
    longest = 0
    for row, wave in waves:
        if batch and max(longest, len(wave)) * (len(batch) + 1) > most():
            yield batch
            batch, longest = [], 0
        batch.append((row, wave))
        longest = max(longest, len(wave))
    if batch:
        yield batch
