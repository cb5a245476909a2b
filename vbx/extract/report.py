"""The report of an extraction: counts per feature, failures with their reasons, what is worth knowing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vbx.cache.feature import Part
from vbx.cache.layout import read_commits, read_layouts
from vbx.cache.loading import pooled_outputs
from vbx.cache.store import LabelTable, Store
from vbx.extract.plan import Job


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
        seconds: wall time of the encoder's pass, which features of one encoder share
    """

    feature: str
    utterances: int
    extracted: int
    cached: int
    failed: int
    left: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Attributes:
        corpus: its name
        features: one count per feature, in the order asked for
        failures: utterance, feature and reason of each vector that could not be made
        notes: what is worth knowing about the corpus
    """

    corpus: str
    features: tuple[FeatureCount, ...]
    failures: tuple[dict[str, str], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


def present_rows(store: Store, corpus: str, job: Job) -> dict[str, set[int]]:
    """Rows that have a vector: output to rows."""
    folder = store.folder(corpus) / job.spec.folder
    if not folder.exists():
        return {}
    return {
        output: {row for commit in read_commits(folder, output).values() for row in commit.present}
        for output in read_layouts(folder)
    }


def count_failures(store: Store, table: LabelTable, jobs: Sequence[Job]) -> int:
    """How many utterances have a recorded reason for having no vector, of any of the encoders."""
    mine = set(table.rows.tolist())
    folders = [store.folder(table.corpus) / job.spec.folder for job in jobs]
    commits = [
        c for folder in folders for output in read_layouts(folder) for c in read_commits(folder, output).values()
    ]
    return len({row for commit in commits for row in commit.failures} & mine)


def count_features(
    store: Store,
    table: LabelTable,
    jobs: Sequence[Job],
    before: Mapping[str, Mapping[str, set[int]]],
    seconds: Mapping[str, float],
    notes: Sequence[str],
) -> Report:
    """Compare what is there now with what was there before.

    Args:
        store: the cache
        table: the corpus
        jobs: what was run
        before: key of a spec to what `present_rows` gave before
        seconds: key of a spec to the wall time of its pass
        notes: of the corpus
    """
    failures: list[dict[str, str]] = []
    silent: set[int] = set()
    counts: dict[str, FeatureCount] = {}
    places = dict(zip(table.ids, table.rows.tolist(), strict=True))
    for feature, pieces in _pieces(jobs).items():
        old, new, reasons, took = set(places.values()), set(places.values()) - {-1}, dict[str, str](), 0.0
        for job, part in pieces:
            folder = store.folder(table.corpus) / job.spec.folder
            now = present_rows(store, table.corpus, job)
            for output in part.outputs or pooled_outputs(folder):
                old &= before[job.spec.key].get(output, set())
                new &= now.get(output, set())
            reasons |= store.failures(folder) if folder.exists() else table.about["unreadable"]
            silent |= {row for output in now for c in read_commits(folder, output).values() for row in c.silent}
            took += seconds[job.spec.key]
        failed = {name: reason for name, reason in reasons.items() if places[name] not in new}
        failures += [{"utterance": u, "feature": feature, "reason": reason} for u, reason in failed.items()]
        cached = sum(row in old for row in places.values())
        there = sum(row in new for row in places.values())
        left = len(places) - there - len(failed)
        counts[feature] = FeatureCount(
            feature, len(places), there - cached, cached, len(failed), left, seconds=round(took, 3)
        )
    quiet = sum(row in silent for row in places.values())
    warned = [f"{quiet} utterances are digital silence; they have a vector all the same"] if quiet else []
    return Report(table.corpus, tuple(counts.values()), tuple(failures), (*notes, *warned))


def _pieces(jobs: Sequence[Job]) -> dict[str, list[tuple[Job, Part]]]:
    """The parts of each feature, with the jobs that make them."""
    pieces: dict[str, list[tuple[Job, Part]]] = {}
    for job in jobs:
        for feature, part in job.parts:
            pieces.setdefault(feature, []).append((job, part))
    return pieces
