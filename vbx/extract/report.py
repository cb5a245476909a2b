"""The report of an extraction: counts per feature, failures with their reasons, what is worth knowing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vbx.cache.feature import Part
from vbx.cache.layout import Layout
from vbx.cache.loading import pooled_outputs
from vbx.cache.store import LabelTable
from vbx.extract.plan import Job
from vbx.extract.units import Presence


@dataclass(frozen=True)
class FeatureCount:
    """What happened to one feature.

    Attributes:
        feature: its name
        utterances: of the corpus
        extracted: given a vector now
        cached: had one before
        failed: have none, with a reason
        left: have none yet: another part of the work
    """

    feature: str
    utterances: int
    extracted: int
    cached: int
    failed: int
    left: int


@dataclass(frozen=True)
class EncoderShare:
    """What one encoder's pass was spent on. Whatever is near 1 is what bounds the run.

    Attributes:
        encoder: folder of its spec
        seconds: wall time of the pass, which encoders share
        audio_h: hours of audio encoded
        x_real_time: hours of audio an hour
        reading: share of the wall time in which the processes that read were reading
        encoding: share in which this encoder was at work
        writing: share in which its units were being written
        waiting: share in which this encoder was not at work
    """

    encoder: str
    seconds: float
    audio_h: float
    x_real_time: float
    reading: float
    encoding: float
    writing: float
    waiting: float


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Attributes:
        corpus: its name
        features: one count per feature, in the order asked for
        encoders: what the time of each encoder that ran went into
        failures: utterance, feature and reason of each vector that could not be made
        notes: what is worth knowing about the corpus
    """

    corpus: str
    features: tuple[FeatureCount, ...]
    encoders: tuple[EncoderShare, ...]
    failures: tuple[dict[str, str], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Done:
    """One job, before and after.

    Attributes:
        job: which
        before: output to what was there of it
        after: output to what is there now
        layouts: layout by output
    """

    job: Job
    before: Mapping[str, Presence]
    after: Mapping[str, Presence]
    layouts: Mapping[str, Layout]


def count_failures(table: LabelTable, done: Sequence[Done]) -> int:
    """How many utterances had a recorded reason for having no vector, of any of the encoders."""
    failed = {row for each in done for presence in each.before.values() for row in presence.failures}
    return len(failed & set(table.rows.tolist()))


def count_features(
    table: LabelTable, done: Sequence[Done], encoders: Sequence[EncoderShare], notes: Sequence[str]
) -> Report:
    """Compare what is there now with what was there before.

    Args:
        table: the corpus
        done: each job, before and after
        encoders: what time went into
        notes: of the corpus
    """
    failures: list[dict[str, str]] = []
    counts: dict[str, FeatureCount] = {}
    rows = table.rows.tolist()
    for feature, pieces in _pieces(done).items():
        old, new, reasons = set(rows), set(rows) - {-1}, dict[int, str]()
        for each, part in pieces:
            for output in part.outputs or pooled_outputs(each.layouts):
                old &= each.before.get(output, Presence()).vectors
                new &= each.after.get(output, Presence()).vectors
            for presence in each.after.values():
                reasons.update(presence.failures)
        failed = [
            (name, table.about["unreadable"][name] if row < 0 else reasons[row])
            for name, row in zip(table.ids, rows, strict=True)
            if row not in new and (row < 0 or row in reasons)
        ]
        failures += [{"utterance": name, "feature": feature, "reason": reason} for name, reason in failed]
        cached, there = sum(row in old for row in rows), sum(row in new for row in rows)
        left = len(rows) - there - len(failed)
        counts[feature] = FeatureCount(feature, len(rows), there - cached, cached, len(failed), left)
    silent = {row for each in done for presence in each.after.values() for row in presence.silent}
    quiet = sum(row in silent for row in rows)
    warned = [f"{quiet} utterances are digital silence; they have a vector all the same"] if quiet else []
    return Report(table.corpus, tuple(counts.values()), tuple(encoders), tuple(failures), (*notes, *warned))


def _pieces(done: Sequence[Done]) -> dict[str, list[tuple[Done, Part]]]:
    """The parts of each feature, with the jobs that make them."""
    pieces: dict[str, list[tuple[Done, Part]]] = {}
    for each in done:
        for feature, part in each.job.parts:
            pieces.setdefault(feature, []).append((each, part))
    return pieces
