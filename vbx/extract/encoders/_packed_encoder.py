"""wav2vec2 and HuBERT in packs: the outputs of `SpeechEncoder`, with nothing padded to anything."""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError, CheckpointError
from vbx.extract.encoder import Encoded, Encoder, Wave
from vbx.extract.encoders._cuda_runner import CudaRunner, largest_pack
from vbx.extract.encoders._packed_attention import PRECISIONS, choose_attention
from vbx.extract.encoders._packed_layout import Clip, Shape, fill_packs
from vbx.extract.encoders._packed_model import Wanted
from vbx.extract.encoders._packed_runner import IN_FLIGHT, PackRunner, Tally, Ticket, arithmetic
from vbx.extract.encoders._packed_stream import Stream
from vbx.extract.encoders._packed_weights import packable, packed_weights
from vbx.extract.encoders._speech_encoder import SpeechEncoder, _outputs
from vbx.extract.encoders._speech_models import SpeechModel

CPU_PACK = Shape(frames=1024, clips=64, longest=1024)
"""Largest pack on a CPU, where this encoder is for tests."""
SPEED = 8000.0
"""Seconds of audio a second on a large GPU: an estimate, not measured."""
PROBE_S = (0.1, 2.3, 0.7, 1.0)
"""Lengths of the clips on which a new encoder is compared with `SpeechEncoder`."""
TOLERANCES = {"float32": 1e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative L2 distance to it. Rounding alone gives about 3e-7, 8e-4, 8e-4 and 6e-3; an error, far more."""


class PackedEncoder(Encoder):
    """`SpeechEncoder` for models that are `packable`: the same outputs, from packs of clips laid end to end.

    Clips of one batch and the next share packs, and two packs are in flight. In `spec.precision` float32, an utterance
    gives the same vector as from `SpeechEncoder`, alone and in any pack, but for the rounding of sums. In `tf32`,
    `float16` and `bfloat16` matrix products are of that precision; the residual stream, the norms of the transformer,
    the means and the heads remain float32 or better.

    The arithmetic is tested on a CPU. On CUDA it was written without a GPU at hand and is not yet run on one.

    Args:
        spec: resolved; `precision` is one of `PRECISIONS`
        model: on the device, `packable`; its modules are not kept
        device: `cuda` or `cuda:i`, or `cpu` for tests
        largest: the largest pack; by default what the device's memory allows
    """

    def __init__(self, spec: EncoderSpec, model: SpeechModel, device: str, largest: Shape | None = None) -> None:
        self.spec = spec
        self.outputs = _outputs(model)
        self.min_samples = model.stack.reach
        self.speed = SPEED
        nothing = nn.Identity()
        bare = (nothing,) * len(model.blocks)
        self._model = replace(model, convolutions=nothing, projection=nothing, transformer=nothing, blocks=bare)
        self._device = device
        self._halved = False
        self._runner = _make_runner(spec.precision, model, device, largest)
        self.batch_s = self._runner.largest.frames * model.stack.hop / spec.sample_rate

    @property
    def tally(self) -> Tally:
        """What has been run so far."""
        return self._runner.tally

    def reset_tally(self) -> None:
        """Count from here."""
        self._runner.reset_tally()

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`."""
        shortest = min(map(len, waves))
        if shortest < self.min_samples:
            raise AudioError(f"{shortest} samples give no frame; the model needs {self.min_samples}")
        encoded: list[Encoded] = []
        for outputs in next(self.encode_stream([waves], wanted)):
            if isinstance(outputs, str):
                raise MemoryError(f"a batch of {len(waves)} waveforms does not fit on {self._device}")
            encoded.append(outputs)
        return encoded

    def encode_stream(self, batches: Iterable[Sequence[Wave]], wanted: Sequence[str]) -> Iterator[list[Encoded | str]]:
        """See `Encoder.encode_stream`: batches share packs, and the outputs of one come when the next is on its way."""
        stream = Stream(self.spec, self._model, wanted)
        asked = Wanted(layers="layers" in wanted, frames="frames" in wanted)
        flight: deque[Ticket] = deque()
        try:
            for pack in fill_packs(stream.clips(batches), lambda: self._runner.largest):
                self._begin(pack, asked, flight, stream)
                yield from stream.finished()
            while flight:
                self._finish(flight, stream)
                yield from stream.finished()
            yield from stream.finished()
        finally:
            while flight:  # whoever stopped listening must not leave memory that the device still writes to
                self._runner.collect(flight.popleft())

    def _begin(self, pack: Sequence[Clip], asked: Wanted, flight: deque[Ticket], stream: Stream) -> None:
        """Begin a pack; if it does not fit, halve all packs, once."""
        todo = deque([pack])
        while todo:
            part = todo.popleft()
            if len(flight) == IN_FLIGHT:
                self._finish(flight, stream)
            try:
                flight.append(self._runner.submit(part, asked))
            except torch.OutOfMemoryError:
                while flight:
                    self._finish(flight, stream)
                if self._halved:
                    stream.fail(part, f"a pack of {sum(clip.frames for clip in part)} frames does not fit into memory")
                    continue
                self._halved = True
                self._runner.shrink()
                frames = self._runner.largest.frames
                self.batch_s = frames * self._model.stack.hop / self.spec.sample_rate
                warnings.warn(f"memory of {self._device} is short: packs now have {frames} frames", stacklevel=2)
                todo.extendleft(reversed(list(fill_packs(part, lambda: self._runner.largest))))

    def _finish(self, flight: deque[Ticket], stream: Stream) -> None:
        ticket = flight.popleft()
        stream.add(ticket.pack, *self._runner.collect(ticket))


def open_gpu_encoder(spec: EncoderSpec, model: SpeechModel, device: str) -> Encoder:
    """The fastest encoder for a model on a GPU that gives what transformers gives.

    A model that cannot be packed, or whose packs are wrong on this device, runs on transformers' modules in padded
    batches: in float32 only.

    Args:
        spec: resolved
        model: on the device
        device: `cuda` or `cuda:i`

    Raises:
        CheckpointError: if another precision than float32 is asked for and the model cannot be packed
    """
    plain = SpeechEncoder(replace(spec, precision="float32"), model, device)
    trouble = "its clips cannot be packed"
    if packable(model):
        encoder = PackedEncoder(spec, model, device)
        trouble = _difference(encoder, plain)
        if not trouble:
            encoder.reset_tally()
            return encoder
        if spec.precision == "float32":
            warnings.warn(f"{spec.model!r} runs in padded batches, which is slow: {trouble}", stacklevel=2)
    if spec.precision != "float32":
        raise CheckpointError(f"{spec.model!r} cannot be run in {spec.precision} on {device}: {trouble}; use float32")
    return plain


def _difference(encoder: PackedEncoder, reference: SpeechEncoder) -> str:
    """What is wrong with an encoder's vectors of some noise, if anything is."""
    noise = np.random.default_rng(0)
    sizes = [max(round(length * encoder.spec.sample_rate), encoder.min_samples) for length in PROBE_S]
    waves = [noise.standard_normal(size).astype(np.float32) for size in sizes]
    try:
        found = [encoded["hidden"] for encoded in encoder.encode(waves, ["hidden"])]
    except RuntimeError as error:
        return "packs fail on this device, " + " ".join(str(error).split())[:200]
    right = [encoded["hidden"] for encoded in reference.encode(waves, ["hidden"])]
    gap = float(np.max([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(found, right, strict=True)]))
    if math.isfinite(gap) and gap <= TOLERANCES[encoder.spec.precision]:
        return ""
    return f"packs differ from transformers' by {gap:.0e} on this device"


def _make_runner(precision: str, model: SpeechModel, device: str, largest: Shape | None) -> PackRunner:
    weights = packed_weights(model, PRECISIONS[precision][0])
    heads = weights.blocks[0].heads
    with torch.inference_mode(), arithmetic(precision):
        attend = choose_attention(device, precision, heads, model.dim // heads)
    if device.startswith("cuda"):
        return CudaRunner(weights, attend, precision, device, largest or largest_pack(device, weights))
    return PackRunner(weights, attend, precision, device, largest or CPU_PACK)
