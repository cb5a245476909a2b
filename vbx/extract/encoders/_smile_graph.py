"""openSMILE through its library interface: one graph of components for one clip after another.

`opensmile.Smile.process_signal` builds a graph for each clip, takes it down again, and makes a data frame of the rows.
Here the graph is built once and reset between clips. It is smaller: all levels of a set come from one graph, without
the components that none of them needs (`_smile_config.py`). And its sink sees the functionals as one field: at each
reset a sink looks up the name of every element by a search through the fields, which for the 6,373 fields of ComParE
takes as long as the rest of the reset.
"""

import ctypes
import signal
import tempfile
import threading
import warnings
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vbx.errors import AudioError
from vbx.extract.encoder import Wave
from vbx.extract.encoders._smile_config import cut_config, flatten_config

LARGEST = np.float32(32767 / 32768)
BLOCK = 1 << 20
"""Samples handed over at once: the library keeps a copy of the largest block beside the signal."""

SINK = """
[componentInstances:cComponentManager]
instance[vbx_{level}].type=cExternalSink

[vbx_{level}:cExternalSink]
reader.dmLevel = {source}
blocksize = 1
"""
ONE_FIELD = """
[componentInstances:cComponentManager]
instance[vbx_one_field].type=cVectorConcat

[vbx_one_field:cVectorConcat]
reader.dmLevel = func
writer.dmLevel = vbx_one_field
processArrayFields = 0
preserveFieldNames = 0
"""


@dataclass(frozen=True)
class Table:
    """What a level of a feature set gives for a clip.

    Attributes:
        times: `(F,)`, start of each row, in ns
        values: `(F, D)`; a single row of NaN if the clip is too short
    """

    times: NDArray[np.int64]
    values: NDArray[np.float32]


Extractor: TypeAlias = Callable[[Wave], list[Table]]
"""From a waveform to a table per level. Raises `AudioError` if openSMILE fails."""


def make_extractor(smiles: Sequence[Any], sample_rate: int) -> Extractor:
    """The fastest way that gives the values of the package: a graph that is reused, if that is the same here.

    Whether it is the same is tried on two short clips: neither another version of the package nor a feature set that a
    reset does not clear may change a value.

    Args:
        smiles: `opensmile.Smile` of one feature set, one per level
        sample_rate: in Hz
    """
    package = _Package(smiles, sample_rate)
    try:
        graph = Graph(smiles, sample_rate)
        if _agree(graph.extract, package.extract, sample_rate):
            return graph.extract
        reason = "it gives other values than a new one"
    # What a library with another private interface, or without `smile_reset`, raises.
    except (ImportError, AttributeError, TypeError, ValueError, OSError, ctypes.ArgumentError) as error:
        reason = str(error)
    warnings.warn(
        f"openSMILE's graph of {smiles[0].config_name} cannot be used again ({reason}): same values, but slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return package.extract


def to_pcm(wave: Wave) -> NDArray[np.int16]:
    """16-bit samples as the package makes them, but without its wrap-around: there +1.0 becomes -32768."""
    samples: NDArray[np.int16] = (np.clip(wave, np.float32(-1), LARGEST) * np.float32(32768)).astype(np.int16)
    return samples


class Graph:
    """A graph of components, made at its first clip, reset after each and thrown away after an error.

    One clip at a time; threads wait for each other.

    Args:
        smiles: `opensmile.Smile` of one feature set, one per level
        sample_rate: in Hz
    """

    def __init__(self, smiles: Sequence[Any], sample_rate: int) -> None:
        lib, config = import_module("opensmile.core.lib"), import_module("opensmile.core.config").config
        self._smile, self._lib, self._source = smiles[0], lib, config.EXTERNAL_SOURCE_COMPONENT
        source = Path(self._smile.default_config_root) / config.EXTERNAL_INPUT_CONFIG
        # As in the package's own `_extract`.
        self._options = {**self._smile._options(), "source": source, "sampleRate": sample_rate, "nBits": 16}
        self._sinks = [_Sink(smile._options()["sinkLevel"], smile.num_features, lib) for smile in smiles]
        self._graph: Any = None
        self._free: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def extract(self, wave: Wave) -> list[Table]:
        """The tables of a clip.

        Raises:
            AudioError: if openSMILE fails, and fails again in a new graph
        """
        with self._lock:
            try:
                if self._graph is not None:
                    return self._run(wave)
            except self._lib.OpenSmileException:
                pass  # A clip gets what it would get alone: that may be the graph's fault.
            try:
                return self._run(wave)
            except self._lib.OpenSmileException as error:
                raise AudioError(f"openSMILE failed: {error}") from None

    def _run(self, wave: Wave) -> list[Table]:
        try:
            if self._graph is None:
                self._make()
            for start in range(0, len(wave), BLOCK):
                data = to_pcm(wave[start : start + BLOCK]).tobytes()
                if not self._graph.external_audio_source_write_data(self._source, data):
                    raise self._lib.OpenSmileException(self._lib.SMILE_NOT_WRITTEN, "it took no more samples")
            self._graph.external_audio_source_set_eoi(self._source)
            for sink in self._sinks:
                sink.listen(self._graph)
            with _interrupts_held():
                self._graph.run()
            tables = [sink.table() for sink in self._sinks]
            self._graph.reset()
        except BaseException:
            self._drop()
            raise
        return tables

    def _make(self) -> None:
        levels = [sink.level for sink in self._sinks]
        self._graph = self._lib.OpenSMILE()
        self._free = weakref.finalize(self, self._graph.free)
        # The library reads the files only here: a reset builds from what it has read.
        with tempfile.TemporaryDirectory() as folder:
            config, sinks = Path(folder) / "vbx.conf", Path(folder) / "vbx_sinks.conf"
            config.write_text(cut_config(flatten_config(Path(self._smile.config_path)), levels), encoding="utf-8")
            sinks.write_text("".join(map(_sink_config, levels)), encoding="utf-8")
            self._graph.initialize(str(config), {**self._options, "sink": sinks})

    def _drop(self) -> None:
        self._graph = None
        self._free()


class _Sink:
    """Collects the rows of one level."""

    def __init__(self, level: str, dim: int, lib: Any) -> None:
        self.level = level
        self._name = f"vbx_{level}".encode()
        self._dim, self._lib = dim, lib
        # Kept here, as the library calls it; the package's wrapper would make, and keep, one for each clip.
        self._callback = lib.ExternalSinkCallbackEx(self._receive)
        self._clear()

    def _clear(self) -> None:
        self._rows, self._times, self._full = bytearray(), array("d"), False

    def _receive(self, data: Any, count: int, dim: int, meta: Any, _: Any) -> int:
        try:
            self._rows += ctypes.string_at(data, 4 * count * dim)
            self._times.append(meta.contents.time)
        except MemoryError:  # ctypes would print it and go on without the row
            self._full = True
        return 1

    def listen(self, graph: Any) -> None:
        """Begin a clip; a reset graph has forgotten its callbacks."""
        self._clear()
        set_callback = self._lib.smileapi.smile_extsink_set_data_callback_ex
        graph._check_smile_result(set_callback(graph._smileobj, self._name, self._callback, None))

    def table(self) -> Table:
        """What came since.

        Raises:
            MemoryError: if there was no room for it
        """
        rows, times, full = self._rows, self._times, self._full
        self._clear()
        if full:
            raise MemoryError
        if not times:
            return Table(np.zeros(1, np.int64), np.full((1, self._dim), np.nan, np.float32))
        starts = np.rint(np.frombuffer(times) * 1e9).astype(np.int64)
        starts[0] = 0  # as in the package
        return Table(starts, np.frombuffer(rows, np.float32).reshape(len(starts), self._dim))


class _Package:
    """The package's own way: a new graph for each clip."""

    def __init__(self, smiles: Sequence[Any], sample_rate: int) -> None:
        self._smiles, self._sample_rate = smiles, sample_rate

    def extract(self, wave: Wave) -> list[Table]:
        clipped = np.clip(wave, np.float32(-1), LARGEST)
        tables = []
        for smile in self._smiles:
            try:
                frame = smile.process_signal(clipped, self._sample_rate)
            # The package has no public error for what its library reports.
            except Exception as error:
                if type(error).__name__ != "OpenSmileException":
                    raise
                raise AudioError(f"openSMILE failed: {error}") from None
            starts = frame.index.get_level_values("start").total_seconds().to_numpy() * 1e9
            tables.append(Table(np.rint(starts).astype(np.int64), frame.to_numpy(np.float32)))
        return tables


def _sink_config(level: str) -> str:
    """The part of the configuration that reads a level; frames come as they are, functionals as one field."""
    if level == "func":
        return ONE_FIELD + SINK.format(level=level, source="vbx_one_field")
    return SINK.format(level=level, source=level)


def _agree(one: Extractor, other: Extractor, sample_rate: int) -> bool:
    """Whether two extractors give the same bits, each clip after one that is longer or shorter, louder or softer."""
    noise = np.random.default_rng(0).standard_normal(round(0.4 * sample_rate)).astype(np.float32)
    tone = np.sin(0.05 * np.arange(len(noise), dtype=np.float32)) * np.float32(0.5)
    long, short = tone + noise * np.float32(0.01), noise[: len(noise) // 3] * np.float32(0.1)
    expected = {id(wave): other(wave) for wave in (long, short)}
    for wave in (long, short, long):
        for mine, theirs in zip(one(wave), expected[id(wave)], strict=True):
            same = np.array_equal(mine.values, theirs.values, equal_nan=True)
            if not (same and np.array_equal(mine.times, theirs.times)):
                return False
    return True


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end: within a callback ctypes would print it, forget it, and lose the row."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)
