"""Noise: numbers drawn from the digest of the waveform. No weights; for tests and dry runs."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vbx.cache.spec import EncoderSpec
from vbx.extract.encoder import Encoded, Encoder, Output, Wave

DIM = 16


class Noise(Encoder):
    """Standard normal numbers, a function of the samples alone; `frames` has one row each 20 ms."""

    batch_s = 60.0

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        columns = tuple(f"noise_{i:02d}" for i in range(DIM))
        self.outputs = (
            Output("hidden", columns),
            Output("frames", columns, frames=True, dtype="float16", optional=True),
        )

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`."""
        hop = self.spec.sample_rate // 50
        results: list[Encoded] = []
        for wave in waves:
            seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(wave).tobytes()).digest()[:8], "little")
            frames = np.random.default_rng(seed).standard_normal((1 + len(wave) // hop, DIM)).astype(np.float32)
            outputs = {"hidden": frames[0], "frames": frames}
            results.append({name: outputs[name] for name in wanted})
        return results


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """Noise has no weights."""
    return None


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Make the encoder; it runs on the CPU whatever the device."""
    return Noise(spec)
