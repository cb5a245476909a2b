"""SpeechEncoder on a CPU: packs of clips side by side, one core each."""

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, DeviceError
from vbx.extract.encoder import Wave
from vbx.extract.encoders._cpu_model import CpuModel, supported
from vbx.extract.encoders._onednn import has_bfloat16
from vbx.extract.encoders._speech_encoder import Piece, Pooled, SpeechEncoder
from vbx.extract.encoders._speech_models import SpeechModel

PACK_S = 8.0
"""Seconds of audio that share a reading of the weights; more gains nothing."""
SPEED = {"float32": 6.0, "bfloat16": 20.0}
"""Seconds of audio a core does in a second, roughly."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.3}
"""Largest relative L2 distance to transformers in float32 on a probe. Rounding gives 5e-7 and 7e-3 in models of the
published sizes, up to 0.16 in bfloat16 in small random ones; an error in the arithmetic gives far more."""


class CpuEncoder(SpeechEncoder):
    """The outputs of `SpeechEncoder`, by `CpuModel`, on as many cores as torch would use.

    Each core works on clips of its own: torch's threads within an operation would wait for each other, and on a busy
    machine for long. In bfloat16 the neighbours of an utterance change its vector by some 1e-3, less than bfloat16
    itself does: oneDNN's sums depend on how many rows there are.

    Args:
        spec: what it is
        model: a checkpoint; its modules are not kept
        engine: the same checkpoint, laid out for the CPU
    """

    def __init__(self, spec: EncoderSpec, model: SpeechModel, engine: CpuModel) -> None:
        nothing = nn.Identity()
        bare = replace(
            model,
            convolutions=nothing,
            projection=nothing,
            transformer=nothing,
            blocks=(nothing,) * len(model.blocks),
        )
        super().__init__(spec, bare, "cpu")
        self._engine = engine
        self._threads = torch.get_num_threads()
        self._pool_of_threads: ThreadPoolExecutor | None = None
        self.batch_s = PACK_S * self._threads
        self.speed = SPEED[spec.precision] * self._threads

    def _batches(self, waves: Sequence[Wave]) -> Iterator[list[Piece]]:
        """Pieces in order, in packs of like cost, at least one for each core if there are enough pieces."""
        pieces = list(self._pieces(waves))
        samples = sum(len(piece.samples) for piece in pieces)
        most = min(min(PACK_S, self.batch_s) * self.spec.sample_rate, math.ceil(samples / self._threads))
        pack: list[Piece] = []
        for piece in pieces:
            if pack and sum(len(p.samples) for p in [*pack, piece]) > most:
                yield pack
                pack = []
            pack.append(piece)
        yield pack

    def _map(self, work: Callable[[list[Piece]], Pooled], batches: list[list[Piece]]) -> Iterable[Pooled]:
        if self._threads == 1:
            return map(work, batches)
        if self._pool_of_threads is None:
            self._pool_of_threads = _start_threads(self._threads)
        return self._pool_of_threads.map(work, batches)

    def _states(self, batch: list[Piece], all_layers: bool) -> list[list[torch.Tensor]]:
        waves = [torch.tensor(piece.samples, dtype=torch.float32) for piece in batch]
        return self._engine.states(waves, all_layers)


def open_cpu_encoder(spec: EncoderSpec, model: SpeechModel) -> SpeechEncoder:
    """The fastest encoder for a model on this CPU that gives what transformers gives.

    Where `CpuModel` does not, transformers' modules are used and a warning says so; that is so in float32 only.

    Raises:
        DeviceError: if bfloat16 is asked for on a CPU that would have to emulate it
        CheckpointError: if bfloat16 is asked for and the model is not one that `CpuModel` runs
    """
    if spec.precision == "bfloat16" and not has_bfloat16():
        raise DeviceError(
            "precision 'bfloat16' needs a CPU with AVX512-BF16 or AMX-BF16, and this one has neither; use float32"
        )
    plain = SpeechEncoder(replace(spec, precision="float32"), model, "cpu")
    trouble = "it has parts that vbx's own arithmetic lacks"
    if supported(model):
        with torch.inference_mode():
            encoder = CpuEncoder(spec, model, CpuModel(model, DTYPES[spec.precision]))
        gap = _distance(encoder, plain)
        if gap <= TOLERANCES[spec.precision]:
            return encoder
        trouble = f"vbx's own arithmetic differs from transformers' by {gap:.0e} on this CPU"
    if spec.precision != "float32":
        raise CheckpointError(f"{spec.model!r} cannot be run in {spec.precision} on a CPU: {trouble}; use float32")
    warnings.warn(f"{spec.model!r} runs on transformers' modules, up to twice as slow: {trouble}", stacklevel=2)
    return plain


def _distance(encoder: SpeechEncoder, reference: SpeechEncoder) -> float:
    """Relative L2 distance between the outputs of two encoders for a second of noise."""
    probe = np.random.default_rng(0).standard_normal(max(reference.spec.sample_rate, reference.min_samples))
    ours, theirs = (e.encode([probe.astype(np.float32)], ["hidden"])[0]["hidden"] for e in (encoder, reference))
    gap = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return gap if math.isfinite(gap) else math.inf


def _use_one_core() -> None:
    torch.get_num_threads()  # else torch would set this thread's number later, to that of the process
    torch.set_num_threads(1)


def _start_threads(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses one core; what it uses elsewhere stays as it is."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "vbx-encode", initializer=_use_one_core)
    started = threading.Barrier(count)
    for future in [pool.submit(started.wait) for _ in range(count)]:
        future.result()
    torch.set_num_threads(before)  # torch also keeps a number for threads that are yet to come
    return pool
