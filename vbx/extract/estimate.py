"""Estimate: what an extraction would do and cost, found out without writing or loading anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vbx.cache.feature import Part, list_features, read_feature
from vbx.cache.rows import identify
from vbx.cache.store import Store, done_rows
from vbx.errors import CheckpointError, CorpusError
from vbx.extract.contents import digest_files
from vbx.extract.corpus import Corpus
from vbx.extract.derive import foresee_jobs, split_features
from vbx.extract.plan import Settings
from vbx.extract.register import describe_files, known_files, known_rows, refuse_other_corpus

FRAME_RATE_HZ = {"opensmile": 100.0, "wav2vec2": 50.0, "noise": 50.0}
"""Frames a second, for the size of features of frames."""


@dataclass(frozen=True)
class Estimate:
    """What an extraction would do.

    Attributes:
        corpus: its name
        utterances: of the corpus
        files: audio files behind them
        unreadable: files that cannot be read
        audio_h: hours of audio, as the headers say
        features: feature, cached, missing, audio_h to encode, bytes on disk (None where the width is not known before)
        notes: what stands in the way
    """

    corpus: str
    utterances: int
    files: int
    unreadable: int
    audio_h: float
    features: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def estimate_extraction(
    corpus: Corpus,
    features: Sequence[str],
    store: Store,
    *,
    checkpoints: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Estimate:
    """Say what `extract_vectors` would do with the same arguments.

    Raises:
        UnknownName: if a feature is not known
    """
    settings = settings or Settings()
    known = {} if settings.rehash else known_files(corpus, store)
    contents = digest_files([u.path for u in corpus.utterances], settings.readers, settings.progress, known)
    rows = known_rows(corpus, store)
    files = describe_files(corpus, contents, rows)
    refuse_other_corpus(corpus, files, rows, store)
    readable = files[files["content"].notna()]
    place = dict(zip(identify(rows), rows["row"].tolist(), strict=True))
    mine = [place.get(identity, -1) for identity in identify(readable)]
    dims = {entry["feature"]: entry for entry in list_features()}
    lines, notes = [], list(corpus.notes)
    for feature in sum(split_features(features), []):
        try:
            jobs = foresee_jobs([feature], checkpoints or {}, corpus.name, store, settings)
            jobs = [job for job in jobs if feature in dict(job.parts)]  # not what it is derived from
        except (CheckpointError, CorpusError) as error:  # what it would cost can be said without its weights
            jobs = []
            notes.append(f"{feature} counts as missing: {error}")
        done = set(mine) - {-1} if jobs else set()
        for job in jobs:
            folder = store.root / corpus.name / job.spec.folder
            for output in (o for _, part in job.parts for o in part.outputs):
                done &= done_rows(folder, output)
        todo = readable[[row not in done for row in mine]]
        parts = read_feature(feature).parts
        widths = [_row_bytes(part, dims, float(todo["header_s"].mean()) if len(todo) else 0.0) for part in parts]
        size = sum(w for w in widths if w is not None) * len(todo)
        lines.append(
            {
                "feature": feature,
                "cached": len(readable) - len(todo),
                "missing": len(todo),
                "audio_h": round(float(todo["header_s"].sum()) / 3600, 4),
                "bytes": None if None in widths else int(size),
            }
        )
    return Estimate(
        corpus=corpus.name,
        utterances=len(files),
        files=len(contents),
        unreadable=sum(content.digest is None for content in contents.values()),
        audio_h=round(float(readable["header_s"].sum()) / 3600, 4),
        features=tuple(lines),
        notes=tuple(notes),
    )


def _row_bytes(part: Part, dims: Mapping[str, Mapping[str, Any]], seconds: float) -> float | None:
    """Bytes of one utterance of a part, or None where only the weights know."""
    entries = [e for e in dims.values() if e["encoder"] == part.encoder]
    if not entries:
        return None
    rate = FRAME_RATE_HZ[part.spec.encoder] * seconds if any(e.get("frames") for e in entries) else 1.0
    for entry in entries:
        if tuple(entry["outputs"]) == part.outputs:
            return int(entry["dim"]) * 4.0 * rate
    if part.outputs == ("frames",):
        return min(int(e["dim"]) for e in entries) * 2.0 * FRAME_RATE_HZ[part.spec.encoder] * seconds
    return None
