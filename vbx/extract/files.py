"""Files: vectors of audio files without a cache, by the very encoders that other vectors were made with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vbx.cache.feature import Part
from vbx.cache.provenance import CODEBOOKS
from vbx.cache.remote import Place, find_places
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError, CheckpointError, CorpusError, DeviceError, UnknownName
from vbx.extract.codebook import read_codebook
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import Encoded, Encoder, load_encoder
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.source import source_feature
from vbx.extract.work import Item, Order, do_item

NO_MATTER = ("revision",)
"""Fields in which an encoder may differ: the digest of its weights says more."""


def match_jobs(parts: Sequence[Part], checkpoints: Mapping[str, str], corpora: Sequence[Place] = ()) -> list[Job]:
    """One job per part, in order: the encoder that made these vectors, found again.

    Args:
        parts: what vectors were made of, digests of weights included
        checkpoints: name of a feature, encoder or model to a path or a hub id
        corpora: folders in the cache of the corpora that codebooks may have been learnt on

    Raises:
        CheckpointError: if weights are not there, or they or their encoder's version are others than those that made
            the vectors
        CacheError: if a codebook is not there
        CorpusError: if vectors were not made from audio by vbx
    """
    jobs = []
    for part in parts:
        spec = part.spec
        if spec.encoder == "array":
            raise CorpusError(
                f"vectors of {part.typed!r} were imported: vbx cannot make them from audio; import those of the new "
                "audio as well, and name their corpus with --corpus"
            )
        if source_feature(spec):
            jobs.append(Job(spec, _find_codebook(part, corpora), (), ((part.typed, part),)))
            continue
        settings = Settings(channel=spec.channel, resampler=spec.resampler, precision=spec.precision)
        (job,) = plan_jobs([part.typed], checkpoints, settings)
        _refuse_others(part, job.spec)
        jobs.append(replace(job, parts=((part.typed, part),)))
    return jobs


def encode_audio(
    paths: Sequence[Path], jobs: Sequence[Job], device: str
) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...], dict[str, str]]:
    """Vectors of audio files, one clip at a time, each read once per encoder.

    Args:
        paths: audio files
        jobs: of `match_jobs`
        device: `cpu`, `cuda` or `cuda:i`

    Returns:
        path to vector `(D,)`, names of the D columns, and path to the reason of each file that gave none

    Raises:
        DeviceError: if an encoder cannot run there in the precision that it ran in
    """
    lines = [_Line(job, device) for job in {job.spec.key: job for job in jobs}.values()]
    for line in lines:
        line.wanted = {
            o for job in jobs if job.spec.key == line.spec.key for _, part in job.parts for o in part.outputs
        }
    rows, failures = {}, {}
    for path in dict.fromkeys(paths):
        encoded: dict[str, Encoded] = {}
        for line in lines:
            outcome = line.encode(path)
            if isinstance(outcome, str):
                failures[str(path)] = outcome
                break
            encoded[line.spec.key] = outcome
        else:
            pieces = [encoded[job.spec.key][o] for job in jobs for _, part in job.parts for o in part.outputs]
            rows[str(path)] = np.concatenate(pieces).astype(np.float32, copy=False)
    columns = {line.spec.key: {o.name: o.columns for o in line.encoder.outputs} for line in lines}
    names = [columns[job.spec.key][o] for job in jobs for _, part in job.parts for o in part.outputs]
    return rows, tuple(name for part in names for name in part), failures


class _Line:
    """An encoder, and for one that takes frames the encoder of those."""

    def __init__(self, job: Job, device: str) -> None:
        self.spec, self.wanted = job.spec, set[str]()
        self.encoder = _load(job, device)
        self._source: tuple[Order, Encoder] | None = None
        self._frames = ""
        source = source_feature(job.spec)
        first = job
        if source and job.checkpoint:
            settings = Settings(channel=job.spec.channel, resampler=job.spec.resampler)
            (first,) = plan_jobs([source], {}, settings)
            if first.spec.key != read_codebook(job.checkpoint).about["source"]:
                raise CheckpointError(
                    f"the codebook {job.checkpoint.name!r} was learnt from {source} by another version of its encoder "
                    f"than the one at hand ({first.spec.weights})"
                )
            self._frames = first.parts[0][1].outputs[0]
        self._first = self.encoder if first is job else _load(first, device)
        self._order = Order(first.spec, first.checkpoint, in_worker=True)

    def encode(self, path: Path) -> Encoded | str:
        """Outputs of one file as the cache would hold them, or the reason why there are none."""
        wanted = {self._frames} if self._frames else self.wanted
        stored = {o.name: o.dtype for o in self._first.outputs if o.name in wanted}
        item = Item(0, Utterance(str(path), path), None, {0: stored}, 0.0)
        outcome = do_item(item, [self._order], {0: self._first}).outcomes[0]
        if isinstance(outcome, str) or not self._frames:
            return outcome
        frames: NDArray[Any] = outcome[self._frames].astype(np.float32, copy=False)
        return self.encoder.encode([frames], sorted(self.wanted))[0]


def _load(job: Job, device: str) -> Encoder:
    try:
        return load_encoder(job.spec, job.checkpoint, device)
    except (DeviceError, UnknownName) as error:
        if job.spec.precision == "float32":
            raise
        raise DeviceError(
            f"the head learnt from vectors in {job.spec.precision}, which {device!r} cannot make ({error}); predict "
            "where they were made, or train a head on float32 vectors"
        ) from error


def _refuse_others(part: Part, spec: EncoderSpec) -> None:
    """Refuse an encoder that is not the one that made the vectors of a part."""
    told = part.spec.tell_difference(spec, but=NO_MATTER)
    if told:
        raise CheckpointError(
            f"the head learnt from {part.typed!r} of another encoder than the one at hand: {told}; name the weights "
            "it learnt from with --checkpoint NAME=PATH, or train a head on vectors of these"
        )


def _find_codebook(part: Part, corpora: Sequence[Place]) -> Path:
    """File of the codebook with which a part was made."""
    for place in (place for corpus in corpora for place in find_places(corpus, f"{CODEBOOKS}/*.json")):
        if read_codebook(place).digest == part.spec.weights:
            return cast("Path", place)  # in a cache on an object store it is no Path, but it is only read, and alike
    raise CacheError(
        f"{part.typed!r} needs the codebook {str(part.spec.weights)[:12]}… that the head learnt with, and it is not in "
        "the cache of the head's corpus; say where that is with --cache"
    )
