"""Encoder: a frozen map from waveforms to named outputs. An encoder plugin is one file with `load`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError
from vbx.plugins import find_plugin

Wave: TypeAlias = NDArray[np.float32]
"""A waveform: `(T,)` float32, mono, at the encoder's sample rate, full scale 1."""
Encoded: TypeAlias = Mapping[str, NDArray[np.floating[Any]]]
"""Outputs of one utterance by name: `(D,)`, or `(F, D)` for frames."""


@dataclass(frozen=True)
class Output:
    """One named output of an encoder.

    Attributes:
        name: `hidden`, `logits`, `functionals`, `frames`, `layers`, ...
        columns: a name for each of its D columns
        frames: whether it has one row a frame, `(F, D)`, rather than one vector `(D,)`
        dtype: how it is stored
        optional: whether it is kept only when a feature asks for it
    """

    name: str
    columns: tuple[str, ...]
    frames: bool = False
    dtype: str = "float32"
    optional: bool = False


class Encoder(ABC):
    """A frozen map from waveforms to named outputs.

    An utterance's output is the same alone and in any batch.

    Attributes:
        spec: what it is, weights resolved
        outputs: what it can give
        min_samples: shortest waveform it takes, in samples
        batch_s: most seconds of audio (padding counted) worth giving it at once; 0 for one clip at a time
        speed: seconds of audio it does in a second, roughly; a unit of work is cut by it
    """

    spec: EncoderSpec
    outputs: tuple[Output, ...]
    min_samples: int = 1
    batch_s: float = 0.0
    speed: float = 50.0

    @abstractmethod
    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """Encode waveforms.

        Args:
            waves: finite waveforms, each `(T,)` with `T >= min_samples`, at `spec.sample_rate`
            wanted: names of the outputs to give

        Returns:
            one mapping per waveform, in order

        Raises:
            MemoryError: if the batch does not fit; the caller halves it and tries again
        """

    def encode_stream(self, batches: Iterable[Sequence[Wave]], wanted: Sequence[str]) -> Iterator[list[Encoded | str]]:
        """Encode batch after batch; an accelerator's encoder overrides it to begin one before the last is done.

        Args:
            batches: as for `encode`
            wanted: names of the outputs to give

        Yields:
            for each batch, in order, the outputs of each waveform or the reason why it has none
        """
        for waves in batches:
            yield encode_batch(self, waves, wanted)


def encode_batch(encoder: Encoder, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded | str]:
    """Encode a batch; one that does not fit into memory, or holds a bad waveform, is halved until it does.

    What did not fit makes the encoder's `batch_s` smaller, so that the next batch does.

    Returns:
        for each waveform its outputs, or the reason why it has none; none is ever left out
    """
    try:
        return list(encoder.encode(waves, wanted))
    except MemoryError:
        seconds = max(map(len, waves)) * len(waves) / encoder.spec.sample_rate
        if len(waves) == 1:
            return [f"{seconds:.1f} s do not fit into memory"]
        encoder.batch_s = min(encoder.batch_s, seconds / 2)
    except AudioError as error:
        if len(waves) == 1:
            return [str(error)]
    half = len(waves) // 2
    return encode_batch(encoder, waves[:half], wanted) + encode_batch(encoder, waves[half:], wanted)


def encoder_plugin(name: str) -> Any:
    """The module of an encoder plugin.

    It has `fingerprint(spec, checkpoint)` and `load(spec, checkpoint, device)`. It says `NEEDS_CHECKPOINT = True` if it
    has weights that must be found first, `IN_WORKERS = True` if it runs in each of the processes that read audio rather
    than on a device, and in `PRECISIONS` which arithmetic it can do besides `float32`. One that can be exported has
    `make_graph(spec, checkpoint, outputs, prefix)`: an ONNX model of opset 20 from `signal (1, T)` to these outputs
    side by side, one output `(1, D)`; every name but `signal` begins with the prefix.

    Raises:
        UnknownName: if there is none of that name
    """
    return find_plugin("encoder", "vbx.extract.encoders", name)


def resolve_spec(spec: EncoderSpec, checkpoint: Path | None) -> EncoderSpec:
    """A spec with the digest of the weights that would be used, without loading them."""
    fingerprint: str | None = encoder_plugin(spec.encoder).fingerprint(spec, checkpoint)
    return spec.resolved(fingerprint)


def load_encoder(spec: EncoderSpec, checkpoint: Path | None = None, device: str = "cpu") -> Encoder:
    """Load an encoder.

    Args:
        spec: resolved spec
        checkpoint: folder or file of its weights, for encoders that have any
        device: `cpu`, `cuda` or `cuda:i`; never silently another

    Raises:
        UnknownName: if there is no such encoder plugin
        CheckpointError: if the weights are not there or not what they should be
        MissingExtra: if the plugin's package is not installed
    """
    encoder: Encoder = encoder_plugin(spec.encoder).load(spec, checkpoint, device)
    return encoder
