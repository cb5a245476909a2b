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
from vbx.errors import AudioError, CacheError, CheckpointError, CorpusError, DeviceError, UnknownName
from vbx.extract.codebook import read_codebook
from vbx.extract.corpus import Utterance
from vbx.extract.encoder import Encoded, Encoder, Wave, encode_batch, load_encoder
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.source import source_feature
from vbx.extract.work import Item, Order, as_stored, check_length, do_item

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
    """Vectors of audio files, each read once per encoder, as many at once as the encoder likes.

    Args:
        paths: audio files
        jobs: of `match_jobs`
        device: `cpu`, `cuda` or `cuda:i`

    Returns:
        path to vector `(D,)`, names of the D columns, and path to the reason of each file that gave none

    Raises:
        DeviceError: if an encoder cannot run there in the precision that it ran in
    """
    wanted: dict[str, dict[str, None]] = {}
    for job in jobs:
        wanted.setdefault(job.spec.key, {}).update(dict.fromkeys(_outputs(job)))
    lines = [_Line(job, list(wanted[key]), device) for key, job in {job.spec.key: job for job in jobs}.items()]
    outcomes: dict[str, dict[Path, Encoded | str]] = {}
    failures: dict[Path, str] = {}
    for line in lines:
        outcomes[line.spec.key] = line.encode([path for path in dict.fromkeys(paths) if path not in failures])
        failures |= {path: text for path, text in outcomes[line.spec.key].items() if isinstance(text, str)}
    rows = {}
    for path in [path for path in dict.fromkeys(paths) if path not in failures]:
        given = [(outcomes[job.spec.key][path], _outputs(job)) for job in jobs]
        pieces = [encoded[o] for encoded, names in given if not isinstance(encoded, str) for o in names]
        rows[str(path)] = np.concatenate(pieces).astype(np.float32, copy=False)
    columns = {line.spec.key: {o.name: o.columns for o in line.encoder.outputs} for line in lines}
    names = tuple(name for job in jobs for o in _outputs(job) for name in columns[job.spec.key][o])
    return rows, names, {str(path): text for path, text in failures.items()}


def _outputs(job: Job) -> list[str]:
    return [output for _, part in job.parts for output in part.outputs]


class _Line:
    """An encoder with the outputs that are wanted of it; before one that takes frames, the encoder of those.

    Raises:
        CheckpointError: if a codebook was learnt from frames of another encoder than is at hand
    """

    def __init__(self, job: Job, wanted: Sequence[str], device: str) -> None:
        self.spec, self.encoder = job.spec, _load(job, device)
        self._wanted, self._frames = wanted, ""
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

    def encode(self, paths: Sequence[Path]) -> dict[Path, Encoded | str]:
        """Outputs of files as the cache would hold them, or the reason why there are none."""
        found: dict[Path, Encoded | str] = {}
        waves: dict[Path, Wave] = {}
        for path in paths:
            answer = do_item(Item(0, Utterance(str(path), path), None, {0: {}}, 0.0), [self._order], {})
            wave = answer.waves.get(0)
            try:
                if wave is not None:
                    check_length(wave, self._first)
            except AudioError as error:
                found[path] = str(error)
                continue
            if wave is None:
                found[path] = answer.outcomes[0]
                continue
            waves[path] = wave
            if sum(map(len, waves.values())) >= self._first.batch_s * self._first.spec.sample_rate:
                found |= self._encode(waves)
                waves = {}
        return found | self._encode(waves)

    def _encode(self, waves: Mapping[Path, Wave]) -> dict[Path, Encoded | str]:
        """Outputs of waveforms that are at hand together."""
        if not waves:
            return {}
        wanted = {self._frames} if self._frames else self._wanted
        stored = {o.name: o.dtype for o in self._first.outputs if o.name in wanted}
        given = encode_batch(self._first, list(waves.values()), list(stored))
        found = {path: as_stored(outputs, stored) for path, outputs in zip(waves, given, strict=True)}
        return {path: self._bag(outputs) if self._frames else outputs for path, outputs in found.items()}

    def _bag(self, outputs: Encoded | str) -> Encoded | str:
        """What an encoder of frames makes of them."""
        if isinstance(outputs, str):
            return outputs
        frames: NDArray[Any] = outputs[self._frames].astype(np.float32, copy=False)
        return self.encoder.encode([frames], self._wanted)[0]


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
