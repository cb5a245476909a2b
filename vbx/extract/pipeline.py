"""The pipeline: what is lacking is found, done in one pass, and counted. Running it again is how one resumes."""

from collections.abc import Mapping, Sequence

from vbx.cache.layout import read_layouts
from vbx.cache.store import LabelTable, Store
from vbx.devices import pick_device
from vbx.extract.corpus import Corpus, without_collection
from vbx.extract.derive import list_waiting, plan_derived, run_derived, split_features
from vbx.extract.passes import Pass, run_pass
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.register import register_corpus
from vbx.extract.report import Done, EncoderShare, Report, count_failures, count_features
from vbx.extract.units import Presence, read_presence


def extract_vectors(
    corpus: Corpus,
    features: Sequence[str],
    store: Store,
    *,
    device: str = "auto",
    checkpoints: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> Report:
    """Put the vectors of a corpus into the cache.

    What is there already is not made again, nor what another corpus of the cache has of the same audio; labels and
    splits are refreshed in any case. Each file is read once for all encoders. An utterance that gives no vector is
    counted and told with its reason, and costs no other.

    Args:
        corpus: from `read_corpus`
        features: names of features; those of one encoder share its pass
        store: the cache
        device: `auto`, `cpu`, `cuda` or `cuda:i`
        checkpoints: name of a feature, encoder or model to a path or a hub id, perhaps with `@REVISION`
        settings: channel, resampler, precision, processes, part of the work, progress

    Returns:
        counts per feature, what the time went into, the failures, and what is worth knowing

    Raises:
        UnknownName: if a feature is not known
        CheckpointError: if weights are not there
        DeviceError: if the device is not there
        CacheError: if the cache cannot be written

    Examples:
        >>> import tempfile; from vbx.extract.synthesis import synthesise_corpus
        >>> from vbx.extract.corpus import read_corpus
        >>> with tempfile.TemporaryDirectory() as tmp:
        ...     corpus = read_corpus(synthesise_corpus(tmp + "/bursts", speakers=3, clips_per_speaker=2))
        ...     report = extract_vectors(corpus, ["noise"], Store(tmp + "/cache"))
        >>> report.features[0].extracted
        6
    """
    settings = settings or Settings()
    if device != "auto":  # which would import torch, and is not wanted unless something is lacking
        pick_device(device)
    waves, derived = split_features(features)
    jobs = plan_jobs(waves, checkpoints or {}, settings)
    with without_collection():
        table, notes, contents = register_corpus(corpus, store, settings)
    before = {job.spec.key: read_presence(store.folder(table.corpus) / job.spec.folder) for job in jobs}
    lacking = [job for job in jobs if _lacks(before[job.spec.key], job, table)]
    shares: list[EncoderShare] = []
    if lacking:
        shares, said = run_pass(Pass(lacking, before, corpus, table, contents, store, settings), device)
        notes = (*notes, *said)
    done = [_done(job, before[job.spec.key], table, store, ran=job in lacking) for job in jobs]
    more, waiting = _derive(derived, table, store, settings)
    done, notes = [*done, *more], (*notes, *waiting)
    stood = count_failures(table, done)
    if stood:
        notes = (*notes, f"{stood} failures stand from before; `vbx cache drop FEATURE --failed` has them tried again")
    return count_features(table, done, shares, notes)


def _derive(
    features: Sequence[str], table: LabelTable, store: Store, settings: Settings
) -> tuple[list[Done], list[str]]:
    """Derive vectors from frames that are in the cache now; a job before and after, and what a user should know."""
    jobs = plan_derived(features, table, store, settings)
    before = {job.spec.key: read_presence(store.folder(table.corpus) / job.spec.folder) for job in jobs}
    run_derived(jobs, table, store, settings)
    return [_done(job, before[job.spec.key], table, store, ran=True) for job in jobs], list_waiting(jobs)


def _lacks(there: Mapping[str, Presence], job: Job, table: LabelTable) -> bool:
    """Whether anything of a job is still to do; found out without loading the encoder."""
    mine = set(table.rows[table.rows >= 0].tolist())
    outputs = {output for _, part in job.parts for output in part.outputs} | set(job.optional)
    return not there or any(
        output not in there or mine - there[output].vectors - set(there[output].failures) for output in outputs or there
    )


def _done(job: Job, before: Mapping[str, Presence], table: LabelTable, store: Store, ran: bool) -> Done:
    """A job, before and after; its table of failures is written anew."""
    folder = store.folder(table.corpus) / job.spec.folder
    if folder.exists():
        store.write_failures(folder)
    return Done(job, before, read_presence(folder) if ran else before, read_layouts(folder))
