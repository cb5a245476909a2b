"""openSMILE: its feature sets, as functionals or as low-level descriptors. Needs the extra `opensmile`."""

import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbx.cache.spec import EncoderSpec
from vbx.errors import MissingExtra, UnknownName
from vbx.extract.encoder import Encoded, Encoder, Output, Wave
from vbx.extract.encoders._smile_graph import Extractor, make_extractor

IN_WORKERS = True

LEVELS = ("functionals", "lld")
SHORTEST_S = {"IS10": 0.07, "IS11": 0.07, "IS12": 0.07}
"""Shortest waveform from which a set gives anything, in seconds; 0.06 where it is not named (measured, 2.6.0)."""


class OpenSmile(Encoder):
    """A feature set at one level.

    Functionals are one vector, the values of `opensmile.Smile.process_signal` to the bit. Low-level descriptors are
    frames, one each 10 ms, with their deltas beside them where the set has any. Both are kept in float32: functionals
    of ComParE reach 2e11 and its descriptors 6e6, above the largest float16, 65504.

    Args:
        spec: the spec; `model` is a member of `opensmile.FeatureSet`, `level` one of `LEVELS`
        smiles: the extractors, their columns side by side
    """

    batch_s = 0.0
    speed = 50.0

    def __init__(self, spec: EncoderSpec, smiles: Sequence[Any]) -> None:
        self.spec = spec
        self.min_samples = math.ceil(SHORTEST_S.get(spec.model, 0.06) * spec.sample_rate)
        self._smiles = smiles
        self._extract: Extractor | None = None
        columns = tuple(name for smile in smiles for name in smile.feature_names)
        frames = spec.level == "lld"
        self.outputs = (Output("frames" if frames else "functionals", columns, frames=frames),)

    def encode(self, waves: Sequence[Wave], wanted: Sequence[str]) -> list[Encoded]:
        """See `Encoder.encode`."""
        (output,) = self.outputs
        results: list[Encoded] = []
        for wave in waves:
            rows = self._rows(wave)
            results.append({name: rows if output.frames else rows[0] for name in wanted})
        return results

    def _rows(self, wave: Wave) -> NDArray[np.float32]:
        # Made at the first clip, in the process that encodes.
        self._extract = self._extract or make_extractor(self._smiles, self.spec.sample_rate)
        tables = self._extract(wave)
        # What is flushed at the end of the input has the time of the last frame once more, and a set's deltas have more
        # of it than what they are the deltas of: frames are the rows with a time of their own, in step from the first.
        _, new = np.unique(tables[0].times, return_index=True)
        length = min(len(table.times) for table in tables)
        rows = np.concatenate([table.values[new[new < length]] for table in tables], axis=1)
        return np.ascontiguousarray(rows)


def fingerprint(spec: EncoderSpec, checkpoint: Path | None) -> str | None:
    """The version of the package, which stands for weights.

    Raises:
        MissingExtra: if openSMILE is not installed
    """
    try:
        return f"opensmile-{metadata.version('opensmile')}"
    except metadata.PackageNotFoundError:
        raise MissingExtra("encoder 'opensmile'", "opensmile") from None


def load(spec: EncoderSpec, checkpoint: Path | None, device: str) -> Encoder:
    """Make the encoder; it runs on the CPU whatever the device.

    Raises:
        MissingExtra: if openSMILE is not installed
        UnknownName: if there is no such feature set or level
    """
    try:
        import opensmile
    except ImportError:
        raise MissingExtra("encoder 'opensmile'", "opensmile") from None
    level = spec.level or "functionals"
    if level not in LEVELS:
        raise UnknownName("openSMILE level", level, LEVELS)
    sets = opensmile.FeatureSet.__members__
    if spec.model not in sets:
        raise UnknownName("openSMILE feature set", spec.model, sets)
    levels = [opensmile.FeatureLevel.Functionals]
    if level == "lld":
        levels = [opensmile.FeatureLevel.LowLevelDescriptors]
        if "GeMAPS" not in spec.model:  # the only sets without deltas
            levels.append(opensmile.FeatureLevel.LowLevelDescriptors_Deltas)
    return OpenSmile(spec, [opensmile.Smile(sets[spec.model], each) for each in levels])
