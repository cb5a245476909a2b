"""Plan: which encoders have to run, once each, for the features that were asked for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vbx.cache.feature import OPTIONAL_OUTPUTS, Feature, Part, list_encoders, read_feature
from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, UnknownName
from vbx.extract.audio import RESAMPLERS
from vbx.extract.checkpoints import find_checkpoint
from vbx.extract.encoder import encoder_plugin, resolve_spec
from vbx.progress import Progress, Quiet

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def count_cores() -> int:
    """Processes worth starting: the cores this process may use, or what VBX_WORKERS says."""
    return int(os.environ.get("VBX_WORKERS", len(os.sched_getaffinity(0))))


@dataclass(frozen=True)
class Settings:
    """How to extract; `channel`, `resampler` and `precision` change the vectors, the rest does not.

    Attributes:
        channel: `mix`, or the number of a channel from `0`
        resampler: `soxr-` and a quality: QQ, LQ, MQ, HQ, VHQ
        workers: threads that read audio
        part: (I, N): do only the I-th of N parts of the work, I from 1
        progress: what to tell of the progress
        download: whether weights that are not on this machine are fetched

    Raises:
        UnknownName: if the resampler or the channel is none that there is
    """

    channel: str = "mix"
    resampler: str = "soxr-HQ"
    precision: str = "float32"
    workers: int = field(default_factory=count_cores)
    rehash: bool = False
    part: tuple[int, int] = (1, 1)
    progress: Progress = field(default_factory=Quiet)
    download: bool = True

    def __post_init__(self) -> None:
        if self.resampler not in RESAMPLERS:
            raise UnknownName("resampler", self.resampler, RESAMPLERS)
        if self.channel != "mix" and not self.channel.isdigit():
            raise UnknownName("channel", self.channel, ["mix", "0", "1"])
        if self.precision not in PRECISIONS:
            raise UnknownName("precision", self.precision, PRECISIONS)

    @property
    def readers(self) -> int:
        """Threads that read files to digest them."""
        return min(max(self.workers, 1), 4)


@dataclass(frozen=True)
class Job:
    """One encoder, to be run once over a corpus.

    Attributes:
        spec: resolved
        checkpoint: where its weights lie
        optional: optional outputs that were asked for
        parts: name of each feature it serves, with the outputs of this encoder that the feature has
    """

    spec: EncoderSpec
    checkpoint: Path | None
    optional: tuple[str, ...]
    parts: tuple[tuple[str, Part], ...]


def plan_jobs(features: Sequence[str], checkpoints: Mapping[str, str], settings: Settings) -> list[Job]:
    """One job per encoder that the features need.

    Args:
        features: names of features
        checkpoints: name of a feature, encoder or model to a path or a hub id, perhaps with `@REVISION`
        settings: channel and resampler go into the specs

    Raises:
        UnknownName: if a feature or the name of a checkpoint is not known
        CheckpointError: if weights are not there
    """
    where = _by_model(checkpoints)
    jobs: dict[str, Job] = {}
    for feature in dict.fromkeys(features):
        for part in read_feature(feature).parts:
            job = _job(feature, part, where, settings)
            other = jobs.get(job.spec.key)
            if other:
                optional = tuple(dict.fromkeys(other.optional + job.optional))
                job = replace(other, optional=optional, parts=other.parts + job.parts)
            jobs[job.spec.key] = job
    return list(jobs.values())


def _job(feature: str, part: Part, where: Mapping[str, str], settings: Settings) -> Job:
    spec = replace(part.spec, channel=settings.channel, resampler=settings.resampler)
    if settings.precision in getattr(encoder_plugin(spec.encoder), "PRECISIONS", ()):
        spec = replace(spec, precision=settings.precision)
    checkpoint = None
    if getattr(encoder_plugin(spec.encoder), "NEEDS_CHECKPOINT", False):
        given = part.encoder.partition(":")[2] if spec.encoder == "onnx" else None
        place = where.get(spec.model) or where.get(part.encoder) or given
        spec, checkpoint = find_checkpoint(spec, place, download=settings.download, progress=settings.progress)
    optional = tuple(output for output in part.outputs if output in OPTIONAL_OUTPUTS)
    return Job(resolve_spec(spec, checkpoint), checkpoint, optional, ((feature, part),))


def _by_model(checkpoints: Mapping[str, str]) -> dict[str, str]:
    """Checkpoints by the model they are of, so that one serves all features of that model."""
    encoders = list_encoders()
    models = {spec.model: spec.model for spec in encoders.values() if "/" in spec.model}
    found: dict[str, str] = {}
    for name, where in checkpoints.items():
        model = models.get(name) or (encoders[name].model if name in encoders else None)
        try:
            model = model or _model_of(read_feature(name))
        except UnknownName:
            raise UnknownName("checkpoint", name, [*encoders, *models], "(a feature, an encoder or a model)") from None
        if found.setdefault(model, where) != where:
            raise CheckpointError(f"two checkpoints were given for {model!r}: {found[model]!r} and {where!r}")
    return found


def _model_of(feature: Feature) -> str:
    return feature.parts[0].spec.model
