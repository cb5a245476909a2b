"""From batches of waveforms to clips for packs, and from the sums of packs back to the outputs of each batch."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.extract.encoder import Encoded, Wave
from vbx.extract.encoders._packed_layout import Clip
from vbx.extract.encoders._speech_encoder import _standardise
from vbx.extract.encoders._speech_models import SpeechModel
from vbx.extract.encoders._windows import Window, cut_windows


@dataclass
class _Open:
    """A waveform of which not everything is known yet.

    Attributes:
        count: frames that count
        left: clips that are still to come
        sums: `(L, D)` over the frames so far
        frames: frames so far, clip by clip
        reason: why it has no outputs
    """

    count: int
    left: int
    sums: NDArray[np.float64] | float = 0.0
    frames: list[NDArray[np.float16]] = field(default_factory=list)
    reason: str | None = None


class Stream:
    """Keeps account of the waveforms of a stream: which clips they became, and what has come of those.

    Args:
        spec: window and sample rate
        model: how waveforms become frames, and the heads
        wanted: names of the outputs to give
    """

    def __init__(self, spec: EncoderSpec, model: SpeechModel, wanted: Sequence[str]) -> None:
        self._stack = model.stack
        self._standardise = model.standardise
        self._length = self._stack.frames(round(spec.window_s * spec.sample_rate)) if spec.window_s else None
        self._overlap = round((spec.overlap_s or 0.0) * spec.sample_rate / self._stack.hop)
        self._wanted = tuple(wanted)
        # The means come from the device at a pack's end; heads on the device would wait behind the next pack.
        self._heads = {name: copy.deepcopy(model.heads[name]).to("cpu") for name in wanted if name in model.heads}
        self._open: dict[int, _Open] = {}
        self._batches: deque[list[int]] = deque()
        self._rows = 0

    def clips(self, batches: Iterable[Sequence[Wave]]) -> Iterator[Clip]:
        """The clips of all batches, in order; a batch is taken when its first clip is asked for."""
        for waves in batches:
            first = self._rows
            self._rows += len(waves)
            cut = [self._cut(wave) for wave in waves]
            for row, (wave, windows) in enumerate(zip(waves, cut, strict=True), first):
                self._open[row] = _Open(self._stack.frames(len(wave)), len(windows))
                if not windows:
                    self._open[row].reason = f"{len(wave)} samples give no frame; the model needs {self._stack.reach}"
            self._batches.append(list(range(first, self._rows)))
            for row, (wave, windows) in enumerate(zip(waves, cut, strict=True), first):
                yield from self._clips(row, wave, windows)

    def add(self, pack: Sequence[Clip], sums: NDArray[np.float64], frames: NDArray[np.float16] | None) -> None:
        """Take note of what a pack gave: sums `(L, clips, D)` and, if wanted, frames `(F, D)`."""
        start = 0
        for i, clip in enumerate(pack):
            wave = self._open[clip.row]
            wave.sums = wave.sums + sums[:, i]
            wave.left -= 1
            if frames is not None:
                wave.frames.append(frames[start + clip.first : start + clip.last])
            start += clip.frames

    def fail(self, pack: Sequence[Clip], reason: str) -> None:
        """Take note that a pack gave nothing."""
        for clip in pack:
            self._open[clip.row].left -= 1
            self._open[clip.row].reason = reason

    def finished(self) -> Iterator[list[Encoded | str]]:
        """The batches of which everything is known by now, in order and each once."""
        while self._batches and all(self._open[row].left == 0 for row in self._batches[0]):
            waves = [self._open.pop(row) for row in self._batches.popleft()]
            whole = iter(self._outputs([wave for wave in waves if wave.reason is None]))
            yield [wave.reason or next(whole) for wave in waves]

    def _cut(self, wave: Wave) -> list[Window]:
        frames = self._stack.frames(len(wave))
        return cut_windows(frames, self._length, self._overlap) if frames else []

    def _clips(self, row: int, wave: Wave, windows: list[Window]) -> Iterator[Clip]:
        if len(windows) == 1:
            yield Clip(row, wave, windows[0].stop, 0, windows[0].stop, normalised=not self._standardise)
        elif windows:
            # A window has not the mean and variance of its waveform.
            normal = _standardise(wave) if self._standardise else wave
            for window in windows:
                samples = normal[self._stack.samples(window.start, window.stop)]
                frames, first, last = (at - window.start for at in (window.stop, window.first, window.last))
                yield Clip(row, samples, frames, first, last, normalised=True)

    def _outputs(self, waves: list[_Open]) -> list[Encoded]:
        """The outputs of waveforms that are complete."""
        if not waves:
            return []
        means = np.stack([wave.sums / wave.count for wave in waves]).astype(np.float32)
        arrays = {"hidden": means[:, -1], "layers": means.reshape(len(means), -1)}
        with torch.inference_mode():
            for name, head in self._heads.items():
                values = head(torch.from_numpy(np.ascontiguousarray(arrays["hidden"])))
                arrays[name] = (values.softmax(-1) if name == "gender" else values).numpy()
        return [
            {name: np.concatenate(waves[i].frames) if name == "frames" else arrays[name][i] for name in self._wanted}
            for i in range(len(waves))
        ]
