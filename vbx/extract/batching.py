"""Batching: waveforms of like length side by side, never more than the encoder wants at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vbx.errors import AudioError
from vbx.extract.encoder import Encoded, Encoder, Wave

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read], workers: int) -> Iterator[Read]:
    """Read items in threads, in order, at most `2 * workers` ahead: memory stays bounded whatever the corpus."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Read]] = deque()
        for item in items:
            ahead.append(pool.submit(read, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def make_batches(waves: Iterable[tuple[int, Wave]], most: int) -> Iterator[list[tuple[int, Wave]]]:
    """Group rows into batches, in order.

    Args:
        waves: row and waveform `(T,)`
        most: most samples of a batch, padding counted; at least one waveform is in every batch

    Examples:
        >>> import numpy as np
        >>> [len(b) for b in make_batches([(i, np.zeros(n)) for i, n in enumerate([5, 5, 9, 30])], 20)]
        [2, 1, 1]
    """
    batch: list[tuple[int, Wave]] = []
    longest = 0
    for row, wave in waves:
        if batch and max(longest, len(wave)) * (len(batch) + 1) > most:
            yield batch
            batch, longest = [], 0
        batch.append((row, wave))
        longest = max(longest, len(wave))
    if batch:
        yield batch


def encode_batch(encoder: Encoder, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded | str]:
    """Encode a batch; one that does not fit into memory, or holds a bad waveform, is halved until it does.

    Returns:
        for each waveform its outputs, or the reason why it has none; none is ever left out
    """
    try:
        return list(encoder.encode(waves, wanted))
    except MemoryError:
        if len(waves) == 1:
            return [f"{len(waves[0]) / encoder.spec.sample_rate:.1f} s do not fit into memory"]
    except AudioError as error:
        if len(waves) == 1:
            return [str(error)]
    half = len(waves) // 2
    return encode_batch(encoder, waves[:half], wanted) + encode_batch(encoder, waves[half:], wanted)
