"""Work: what is done with one utterance, in a worker process or in this one. Read once, for every encoder."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError
from vbx.extract.audio import normalise, read_wave
from vbx.extract.contents import Stamp
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import Encoded, Encoder, Wave, encode_batch

CHANGED = "its file changed after the extraction began; run it again"


@dataclass(frozen=True)
class Order:
    """What one encoder wants of each utterance.

    Attributes:
        spec: resolved
        checkpoint: where its weights lie
        in_worker: whether the process that reads also encodes; else the waveform is handed on
    """

    spec: EncoderSpec
    checkpoint: Path | None
    in_worker: bool


@dataclass(frozen=True)
class Item:
    """One utterance to be read.

    Attributes:
        row: its row in the cache
        utterance: where it lies
        stamp: of its file, when that was digested
        wanted: number of an order to the outputs it wants, with the type each is stored in
        seconds: its length, as its header has it
    """

    row: int
    utterance: Utterance
    stamp: Stamp | None
    wanted: Mapping[int, Mapping[str, str]]
    seconds: float


@dataclass
class Answer:
    """What has come of one utterance.

    Attributes:
        row: its row in the cache
        seconds: its length, as its header has it
        outcomes: number of an order to its outputs as they are stored, or to the reason why there are none
        waves: number of an order to the waveform for its encoder
        silent: whether it is digital silence
        reading_s: time it took to read, in seconds
        encoding_s: number of an order to the time its encoder took, in seconds
    """

    row: int
    seconds: float
    outcomes: dict[int, Encoded | str] = field(default_factory=dict)
    waves: dict[int, Wave] = field(default_factory=dict)
    silent: bool = False
    reading_s: float = 0.0
    encoding_s: dict[int, float] = field(default_factory=dict)


def do_item(item: Item, orders: Sequence[Order], encoders: Mapping[int, Encoder]) -> Answer:
    """Read one utterance and encode it for the orders that are to be done here.

    Args:
        item: what to read, and for which orders
        orders: all of them
        encoders: encoder by the number of its order, of those with `in_worker`
    """
    answer = Answer(item.row, item.seconds)
    read: dict[int, Wave | str] = {}
    for number in item.wanted:
        spec = orders[number].spec
        began = time.perf_counter()
        if spec.sample_rate not in read:
            read[spec.sample_rate] = _read(item, spec)
        wave = read[spec.sample_rate]
        answer.reading_s += time.perf_counter() - began
        if isinstance(wave, str):
            answer.outcomes[number] = wave
            continue
        answer.silent = answer.silent or not wave.any()
        wave = normalise(wave, spec.normalise)
        if number in encoders:
            began = time.perf_counter()
            answer.outcomes[number] = encode_alone(encoders[number], wave, item.wanted[number])
            answer.encoding_s[number] = time.perf_counter() - began
        else:
            answer.waves[number] = wave
    return answer


def encode_alone(encoder: Encoder, wave: Wave, stored: Mapping[str, str]) -> Encoded | str:
    """Outputs of one waveform as they are stored, or the reason why there are none."""
    try:
        check_length(wave, encoder)
    except AudioError as error:
        return str(error)
    (outputs,) = encode_batch(encoder, [wave], list(stored))
    return as_stored(outputs, stored)


def as_stored(outputs: Encoded | str, stored: Mapping[str, str]) -> Encoded | str:
    """Outputs in the types they are stored in, or the reason why they cannot be: a value that is not finite.

    Args:
        outputs: of an encoder, or its own reason
        stored: name of an output to its type
    """
    if isinstance(outputs, str):
        return outputs
    kept: dict[str, NDArray[Any]] = {}
    with np.errstate(over="ignore"):
        for name, dtype in stored.items():
            kept[name] = np.asarray(outputs[name]).astype(dtype)
            if not np.isfinite(kept[name]).all():
                return f"the encoder's output {name!r} is not finite as {dtype}"
    return kept


def prepare_wave(utterance: Utterance, spec: EncoderSpec) -> Wave:
    """The waveform of an utterance as an encoder of that spec sees it.

    Raises:
        AudioError: if it gives none
    """
    return normalise(_wave(utterance, spec), spec.normalise)


def check_length(wave: Wave, encoder: Encoder) -> None:
    """Refuse a waveform that is too short for an encoder.

    Raises:
        AudioError: if it is
    """
    if len(wave) < encoder.min_samples:
        rate = encoder.spec.sample_rate
        raise AudioError(f"too short: {len(wave) / rate:.4f} s, the encoder needs {encoder.min_samples / rate:.4f} s")


def _read(item: Item, spec: EncoderSpec) -> Wave | str:
    """The waveform before normalisation, or the reason why there is none."""
    path = item.utterance.path
    try:
        wave = _wave(item.utterance, spec)
        # The row belongs to the content that was digested: a file that was edited since would be under a false name.
        if item.stamp is not None and Stamp.of(os.stat(path)) != item.stamp:
            return CHANGED
    except AudioError as error:
        return str(error)
    except MemoryError:
        return f"{item.seconds:.1f} s do not fit into memory"
    except OSError as error:
        return f"{str(path)!r} cannot be read: {error.strerror or error}"
    return wave


def _wave(utterance: Utterance, spec: EncoderSpec) -> Wave:
    return read_wave(
        utterance.path,
        spec.sample_rate,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        channel=spec.channel,
        resampler=spec.resampler,
    )
