"""A feed: waveforms on their way to an encoder that runs in a thread beside the reading."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from vbx.errors import AudioError
from vbx.extract.batching import make_batches
from vbx.extract.encoder import Encoded, Wave, encode_batch
from vbx.extract.lanes import Lane
from vbx.extract.work import as_stored, check_length


class Feed:
    """Waveforms on their way to an encoder that runs in a thread beside the reading.

    Args:
        lane: its lane; the encoder is there
        alone: held while a batch is encoded, by encoders that would only get into each other's way
    """

    def __init__(self, lane: Lane, alone: AbstractContextManager[object] | None) -> None:
        assert lane.encoder is not None
        self._lane, self._encoder, self._alone = lane, lane.encoder, alone
        self._changed = threading.Condition()
        self._waves: deque[tuple[int, Wave, bool, float]] = deque()
        self._held = 0
        self._closed = self._over = False
        self._idle = 0.0
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(self._run)

    def put(self, row: int, wave: Wave, silent: bool, seconds: float) -> None:
        """Hand on a waveform; waits while as much as two batches is waiting.

        Raises:
            VbxError: whatever ended the encoder's thread
        """
        most = max(2 * self._samples(), 60 * self._encoder.spec.sample_rate, len(wave))
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._held + len(wave) <= most)
            if not self._over:
                self._waves.append((row, wave, silent, seconds))
                self._held += len(wave)
                self._changed.notify_all()
        if self._over:
            self._done.result()

    def close(self, abandon: bool = False) -> None:
        """Wait for the encoder to come to the end of what it was given.

        Args:
            abandon: whether what is still waiting is to be left

        Raises:
            VbxError: whatever ended the encoder's thread
        """
        with self._changed:
            self._closed = True
            if abandon:
                self._waves.clear()
            self._changed.notify_all()
        self._pool.shutdown()
        if not abandon:
            self._done.result()

    def _run(self) -> None:
        began, sent = time.perf_counter(), deque[list[tuple[int, bool, float]]]()
        wanted = {x.output for unit in self._lane.units.values() for x in unit.layouts}
        try:
            for encoded in self._encoded(self._batches(sent), sorted(wanted)):
                for (row, silent, seconds), outputs in zip(sent.popleft(), encoded, strict=True):
                    self._lane.take(row, as_stored(outputs, self._lane.stored(row)), silent, seconds)
            self._lane.times.encoding = time.perf_counter() - began - self._idle
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _encoded(self, batches: Iterator[list[Wave]], wanted: list[str]) -> Iterator[list[Encoded | str]]:
        if self._alone is None:
            yield from self._encoder.encode_stream(batches, wanted)
            return
        for waves in batches:
            with self._alone:
                encoded = encode_batch(self._encoder, waves, wanted)
            yield encoded

    def _batches(self, sent: deque[list[tuple[int, bool, float]]]) -> Iterator[list[Wave]]:
        """Waveforms in batches; which rows they are of goes into `sent`."""
        details: dict[int, tuple[bool, float]] = {}
        for batch in make_batches(self._waves_in_order(details), self._samples):
            sent.append([(row, *details.pop(row)) for row, _ in batch])
            yield [wave for _, wave in batch]

    def _waves_in_order(self, details: dict[int, tuple[bool, float]]) -> Iterator[tuple[int, Wave]]:
        while (item := self._get()) is not None:
            row, wave, silent, seconds = item
            try:
                check_length(wave, self._encoder)
            except AudioError as error:
                self._lane.take(row, str(error), seconds=seconds)
                continue
            details[row] = (silent, seconds)
            yield row, wave

    def _samples(self) -> int:
        return int(self._encoder.batch_s * self._encoder.spec.sample_rate)

    def _get(self) -> tuple[int, Wave, bool, float] | None:
        began = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._waves or self._closed)
            self._idle += time.perf_counter() - began
            if not self._waves:
                return None
            item = self._waves.popleft()
            self._held -= len(item[1])
            self._changed.notify_all()
        return item
