"""Speech encoder: batches of waveforms through a transformer, each row as if it were alone."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError
from vbx.extract.encoder import Encoded, Encoder, Output, Wave
from vbx.extract.encoders._speech_models import SpeechModel
from vbx.extract.encoders._windows import Window, cut_windows

BATCH_S = {"cpu": 12.0, "cuda": 160.0}
"""Padded audio worth encoding at once, in seconds. On a CPU short clips gain half their time by sharing the weights
that are read, and more than this leaves its caches; a GPU is idle with less than its number."""
FEWEST = 4
"""Frames of a batch at least: matrix products of fewer rows round differently (measured with MKL)."""
SPEED = {"cpu": 5.0, "cuda": 1000.0}
"""Seconds of audio a second, roughly."""

NO_MEMORY = ("can't allocate memory", "not enough memory", "out_of_memory", "could not create a memory")
"""What torch and oneDNN say on a CPU when memory is short; neither has a class for it."""

Pooled: TypeAlias = list[tuple[torch.Tensor, np.ndarray]]
"""For each piece of a batch the sums over its frames `(L, D)`, and its frames `(F, D)` or none."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a waveform that is encoded at once.

    Attributes:
        row: which waveform
        samples: its samples
        window: its frames, and which of them count
    """

    row: int
    samples: Wave
    window: Window


class SpeechEncoder(Encoder):
    """Mean hidden states and heads of a wav2vec2, HuBERT or WavLM model.

    Outputs:
        `hidden` (D,): mean over the frames of the last hidden state, after the model's last normalisation;
        `logits`, `age`, `gender` (K,): heads of audEERING's models on `hidden`; `gender` are probabilities;
        `layers` ((L + 1) * D,), optional: means of the transformer's input (layer 0), of the output of each block, and
        at last of the last hidden state in place of the last block's output, one behind the other;
        `frames` (F, D), optional: the last hidden state, one row each 20 ms, float16.

    Each waveform is normalised by its own samples and convolved by itself; zeros are put behind its frames only then, a
    mask keeps them out of attention, and only true frames enter a mean: an utterance gives the same vector alone and
    in any batch, but for the rounding of sums. Waveforms longer than `spec.window_s` are normalised whole and encoded
    in windows; a model that normalises its first convolution over time does that within each window.
    """

    def __init__(self, spec: EncoderSpec, model: SpeechModel, device: str) -> None:
        self.spec = spec
        self.outputs = _outputs(model)
        self.min_samples = model.stack.reach
        kind = device.partition(":")[0]
        self.batch_s = BATCH_S[kind] if model.paddable else 0.0
        self.speed = SPEED[kind]
        self._model = model
        self._device = device

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`."""
        shortest = min(map(len, waves))
        if shortest < self.min_samples:
            # Padded to its neighbours, transformers would take the whole row for true frames, without a word.
            raise AudioError(f"{shortest} samples give no frame; the model needs {self.min_samples}")
        try:
            with torch.inference_mode(), _exact_float32():
                return self._encode(waves, wanted)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY):
                raise MemoryError(f"a batch of {len(waves)} waveforms does not fit on {self._device}") from error
            raise

    def _encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        layers = len(self._model.blocks) + 1 if "layers" in wanted else 1
        sums = torch.zeros(len(waves), layers, self._model.dim, dtype=torch.float64, device=self._device)
        frames: list[list[np.ndarray]] = [[] for _ in waves]
        batches = list(self._batches(waves))
        for batch, sums_and_frames in zip(batches, self._map(partial(self._pool, wanted), batches), strict=True):
            for piece, (total, kept) in zip(batch, sums_and_frames, strict=True):
                sums[piece.row] += total
                frames[piece.row].append(kept)
        counts = torch.tensor([self._model.stack.frames(len(wave)) for wave in waves], device=self._device)
        means = (sums / counts[:, None, None]).to(torch.float32)
        outputs = {"hidden": means[:, -1], "layers": means.flatten(1)}
        for name in set(wanted) & set(self._model.heads):
            outputs[name] = self._model.heads[name](outputs["hidden"])
        if "gender" in outputs:
            outputs["gender"] = outputs["gender"].softmax(-1)
        arrays = {name: outputs[name].cpu().numpy() for name in wanted if name != "frames"}
        return [
            {name: np.concatenate(frames[i]) if name == "frames" else arrays[name][i] for name in wanted}
            for i in range(len(waves))
        ]

    def _map(self, work: Callable[[list[Piece]], Pooled], batches: list[list[Piece]]) -> Iterable[Pooled]:
        """What `work` gives for each batch, in order."""
        return map(work, batches)

    @torch.inference_mode()  # here again: it may run in a thread of its own
    def _pool(self, wanted: Sequence[str], batch: list[Piece]) -> Pooled:
        """For each piece the sums over its frames `(L, D)`, and the frames themselves if they are wanted."""
        pooled = []
        for piece, states in zip(batch, self._states(batch, all_layers="layers" in wanted), strict=True):
            kept = slice(piece.window.first - piece.window.start, piece.window.last - piece.window.start)
            sums = torch.stack([state[kept].sum(0, dtype=torch.float64) for state in states])
            last = states[-1][kept] if "frames" in wanted else states[-1][:0]
            pooled.append((sums, last.to(torch.float16).cpu().numpy()))
        return pooled

    def _batches(self, waves: Sequence[Wave]) -> Iterator[list[Piece]]:
        """Pieces in order, as many at once as `batch_s` allows; a single one may be longer."""
        budget = self.batch_s * self.spec.sample_rate
        batch: list[Piece] = []
        for piece in self._pieces(waves):
            longest = max(len(p.samples) for p in [*batch, piece])
            if batch and longest * (len(batch) + 1) > budget:
                yield batch
                batch = []
            batch.append(piece)
        yield batch

    def _pieces(self, waves: Sequence[Wave]) -> Iterator[Piece]:
        stack, rate = self._model.stack, self.spec.sample_rate
        length = stack.frames(round(self.spec.window_s * rate)) if self.spec.window_s else None
        overlap = round((self.spec.overlap_s or 0.0) * rate / stack.hop)
        for row, wave in enumerate(waves):
            if self._model.standardise:
                wave = _standardise(wave)
            windows = cut_windows(stack.frames(len(wave)), length, overlap)
            if len(windows) == 1:
                yield Piece(row, wave, windows[0])
                continue
            for window in windows:
                yield Piece(row, wave[stack.samples(window.start, window.stop)], window)

    def _states(self, batch: list[Piece], all_layers: bool) -> list[list[torch.Tensor]]:
        """Hidden states `(F, D)` of each piece: the last one, or the input of each block and then the last."""
        rows = [self._frames(piece.samples) for piece in batch]
        frames = pad_sequence(rows, batch_first=True)
        if self._model.paddable and frames.shape[1] < FEWEST:
            frames = nn.functional.pad(frames, (0, 0, 0, FEWEST - frames.shape[1]))
        counts = torch.tensor([len(row) for row in rows], device=self._device)
        mask = torch.arange(frames.shape[1], device=self._device) < counts[:, None]
        inputs: list[torch.Tensor] = []
        hooks = [
            block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
            for block in (self._model.blocks if all_layers else ())
        ]
        try:
            with warnings.catch_warnings():
                # WavLM's attention adds a float mask to a boolean one, which torch does and tells everybody about.
                warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
                last = self._model.transformer(frames, attention_mask=None if mask.all() else mask)
        finally:
            for hook in hooks:
                hook.remove()
        states = [*inputs, last.last_hidden_state]
        return [[state[i, : len(row)] for state in states] for i, row in enumerate(rows)]

    def _frames(self, samples: Wave) -> torch.Tensor:
        """The transformer's input `(F, D)` for one waveform, convolved without any neighbour or padding.

        So a first convolution that is normalised over time (wav2vec2 base and its relatives, Baevski et al. 2020,
        arXiv:2006.11477) sees true frames alone, and few-frame clips keep the last digits of their convolutions.
        """
        convolved = self._model.convolutions(torch.tensor(samples, dtype=torch.float32, device=self._device)[None])
        projected = self._model.projection(convolved.transpose(1, 2))
        frames: torch.Tensor = projected[0] if isinstance(projected, torch.Tensor) else projected[0][0]
        return frames


def _standardise(wave: Wave) -> Wave:
    """A waveform with mean 0 and variance 1 over its own samples.

    `(x - mean) / sqrt(variance + 1e-7)` with the population variance, as `Wav2Vec2FeatureExtractor` of transformers.
    The constant leaves digital silence at 0 and very quiet waveforms (under about -70 dBFS) quiet.
    """
    normal: Wave = wave - wave.mean()
    normal /= np.sqrt(wave.var() + 1e-7)
    return normal


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Float32 arithmetic without TF32 or bfloat16 inside, whatever the process has set."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def _outputs(model: SpeechModel) -> tuple[Output, ...]:
    hidden = tuple(f"hidden_{i:04d}" for i in range(model.dim))
    layers = tuple(f"layer{j:02d}_{i:04d}" for j in range(len(model.blocks) + 1) for i in range(model.dim))
    return (
        Output("hidden", hidden),
        *(Output(name, columns) for name, columns in model.columns.items()),
        Output("layers", layers, optional=True),
        Output("frames", hidden, frames=True, dtype="float16", optional=True),
    )
