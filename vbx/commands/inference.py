"""From audio files to vectors without a cache, for `vbx heads predict`: the one place where both stages meet."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from vbx.cache.vectors import Vectors, join
from vbx.devices import pick_device
from vbx.errors import AudioError, CorpusError, UnknownName
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import load_encoder
from vbx.extract.plan import Settings, plan_jobs
from vbx.extract.work import encode_alone, prepare_wave


def encode_files(
    paths: Sequence[Path], feature: str, checkpoints: Mapping[str, str], device: str
) -> tuple[Vectors, dict[str, str]]:
    """Vectors of audio files, one clip at a time.

    Returns:
        the vectors of the files that gave one, and the reason of each that did not

    Raises:
        CorpusError: if none gave a vector
    """
    parts, failures = [], dict[str, str]()
    for job in plan_jobs([feature], checkpoints, Settings()):
        encoder = load_encoder(job.spec, job.checkpoint, pick_device(device))
        for _, part in job.parts:
            outputs = part.outputs or tuple(o.name for o in encoder.outputs if not o.frames and not o.optional)
            rows, names = [], []
            for path in paths:
                try:
                    wave = prepare_wave(Utterance(str(path), path), job.spec)
                except AudioError as error:
                    failures[str(path)] = str(error)
                    continue
                encoded = encode_alone(encoder, wave, dict.fromkeys(outputs, "float32"))
                if isinstance(encoded, str):
                    failures[str(path)] = encoded
                    continue
                rows.append(np.concatenate([encoded[o] for o in outputs]))
                names.append(str(path))
            if not rows:
                raise CorpusError(f"none of {len(paths)} files gave a vector; {next(iter(failures.values()), '')}")
            columns = {o.name: o.columns for o in encoder.outputs}
            parts.append(
                Vectors(
                    x=np.stack(rows),
                    ids=tuple(names),
                    labels=pd.DataFrame(index=range(len(names))),
                    schema={},
                    feature=feature,
                    columns=tuple(c for o in outputs for c in columns[o]),
                )
            )
    return join(parts, feature), failures


def select_split(vectors: Vectors, split: str | None) -> Vectors:
    """The vectors of one split, or all.

    Raises:
        UnknownName: if there is no such split
    """
    if split is None:
        return vectors
    there = sorted(set(vectors.labels["split"].dropna()))
    if split not in there:
        raise UnknownName("split", split, there)
    rows = np.flatnonzero((vectors.labels["split"] == split).to_numpy())
    ids, labels = tuple(vectors.ids[i] for i in rows), vectors.labels.iloc[rows].reset_index(drop=True)
    return replace(vectors, x=vectors.x[rows], ids=ids, labels=labels, missing=0)
