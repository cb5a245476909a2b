"""One unit of work: read its utterances, encode them in batches, write the unit and its record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.layout import Block, Commit, Layout
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import Store
from vbx.errors import AudioError
from vbx.extract.audio import normalise, read_wave
from vbx.extract.batching import encode_batch, make_batches, read_ahead
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import Encoded, Encoder, Wave

GONE = "its file was no longer in the corpus when its turn came"


@dataclass(frozen=True)
class Unit:
    """What is to be done.

    Attributes:
        number: number of the unit
        utterances: row to utterance; None where the corpus has it no more
        layouts: of the outputs that are wanted
    """

    number: int
    utterances: Mapping[int, Utterance | None]
    layouts: tuple[Layout, ...]


@dataclass
class _Results:
    """What has come of a unit so far."""

    vectors: dict[int, Encoded] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)


def run_unit(encoder: Encoder, unit: Unit, store: Store, folder: Path, workers: int) -> None:
    """Do one unit.

    A waveform that cannot be read, is too short or gives a value that is not finite becomes a failure of its row; the
    others are as if it were not there.

    Args:
        encoder: loaded
        unit: what to do
        store: the cache
        folder: folder of the encoder's spec
        workers: threads that read audio
    """
    results = _Results()
    wanted = [layout.output for layout in unit.layouts]
    waves = _readable(encoder, unit, results, workers)
    for batch in make_batches(waves, int(encoder.batch_s * encoder.spec.sample_rate)):
        encoded = encode_batch(encoder, [wave for _, wave in batch], wanted)
        for (row, _), outputs in zip(batch, encoded, strict=True):
            _keep(row, outputs, unit.layouts, results)
    for layout in unit.layouts:
        commit = Commit(
            output=layout.output,
            unit=unit.number,
            rows=tuple(sorted(unit.utterances)),
            failures=dict(sorted(results.failures.items())),
            silent=tuple(sorted(results.silent & set(results.vectors))),
            files={},
        )
        store.write_unit(folder, layout, _block(layout, unit, results.vectors), commit)


def prepare_wave(utterance: Utterance, spec: EncoderSpec) -> Wave:
    """The waveform of an utterance as an encoder of that spec sees it.

    Raises:
        AudioError: if it gives none
    """
    wave = read_wave(
        utterance.path,
        spec.sample_rate,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        channel=spec.channel,
        resampler=spec.resampler,
    )
    return normalise(wave, spec.normalise)


def check_length(wave: Wave, encoder: Encoder) -> None:
    """Refuse a waveform that is too short for an encoder.

    Raises:
        AudioError: if it is
    """
    if len(wave) < encoder.min_samples:
        rate = encoder.spec.sample_rate
        raise AudioError(f"too short: {len(wave) / rate:.4f} s, the encoder needs {encoder.min_samples / rate:.4f} s")


def _readable(encoder: Encoder, unit: Unit, results: _Results, workers: int) -> Iterator[tuple[int, Wave]]:
    def read(item: tuple[int, Utterance | None]) -> tuple[int, Wave | str]:
        row, utterance = item
        if utterance is None:
            return row, GONE
        try:
            wave = prepare_wave(utterance, encoder.spec)
            check_length(wave, encoder)
        except AudioError as error:
            return row, str(error)
        return row, wave

    for row, wave in read_ahead(sorted(unit.utterances.items(), key=lambda item: item[0]), read, workers):
        if isinstance(wave, str):
            results.failures[row] = wave
            continue
        if not wave.any():
            results.silent.add(row)
        yield row, wave


def _keep(row: int, outputs: Encoded | str, layouts: Sequence[Layout], results: _Results) -> None:
    """Keep the outputs of a row as they will be stored, or the reason why there are none."""
    if isinstance(outputs, str):
        results.failures[row] = outputs
        return
    with np.errstate(over="ignore"):
        stored: dict[str, NDArray[Any]] = {x.output: np.asarray(outputs[x.output]).astype(x.dtype) for x in layouts}
    for name, values in stored.items():
        if not np.isfinite(values).all():
            results.failures[row] = f"the encoder's output {name!r} is not finite as {values.dtype}"
            return
    results.vectors[row] = stored


def _block(layout: Layout, unit: Unit, vectors: Mapping[int, Encoded]) -> Block:
    first, last = unit.number * layout.unit_rows, max(unit.utterances)
    if not layout.frames:
        values = np.full((last - first + 1, layout.dim), np.nan, dtype=layout.dtype)
        for row, outputs in vectors.items():
            values[row - first] = outputs[layout.output]
        return Block(values)
    sequences = [vectors[row][layout.output] if row in vectors else None for row in range(first, last + 1)]
    lengths = [0 if frames is None else len(frames) for frames in sequences]
    empty = np.zeros((0, layout.dim), dtype=layout.dtype)
    flat = np.concatenate([empty, *(frames for frames in sequences if frames is not None)])
    return Block(flat.astype(layout.dtype), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
