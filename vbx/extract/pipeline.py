"""The pipeline: read, encode, write, unit by unit. Running it again is how one resumes."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vbx import __version__
from vbx.cache.layout import Layout, choose_unit_rows, read_commits, read_layouts
from vbx.cache.rows import read_rows
from vbx.cache.store import LabelTable, Store, done_rows
from vbx.devices import pick_device
from vbx.errors import UnknownName
from vbx.extract.corpus import Corpus, Utterance
from vbx.extract.encoder import Encoder, load_encoder
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.register import register_corpus
from vbx.extract.report import Report, count_failures, count_features, present_rows
from vbx.extract.units import Unit, run_unit


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

    What is there already is not made again; labels and splits are refreshed in any case. An utterance that gives no
    vector is counted and told with its reason, and costs no other.

    Args:
        corpus: from `read_corpus`
        features: names of features; those of one encoder share its pass
        store: the cache
        device: `auto`, `cpu`, `cuda` or `cuda:i`
        checkpoints: name of a feature, encoder or model to a path or a hub id, perhaps with `@REVISION`
        settings: channel, resampler, threads, part of the work, progress

    Returns:
        counts per feature, the failures, and what is worth knowing

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
    jobs = plan_jobs(features, checkpoints or {}, settings)
    device = pick_device(device)
    table, notes = register_corpus(corpus, store, settings)
    before = {job.spec.key: present_rows(store, table.corpus, job) for job in jobs}
    stood = count_failures(store, table, jobs)
    seconds = {}
    for job in jobs:
        began = time.monotonic()
        _run_job(job, table, corpus, store, device, settings)
        seconds[job.spec.key] = time.monotonic() - began
    if stood:
        notes = (*notes, f"{stood} failures stand from before; `vbx cache drop FEATURE --failed` has them tried again")
    return count_features(store, table, jobs, before, seconds, notes)


def _run_job(job: Job, table: LabelTable, corpus: Corpus, store: Store, device: str, settings: Settings) -> None:
    """Run one encoder over the units that are not there yet."""
    folder = store.folder(table.corpus) / job.spec.folder
    rows = read_rows(folder.parent).set_index("row")["header_s"]
    mine = set(table.rows[table.rows >= 0].tolist())
    if _lacks(folder, job, mine):
        encoder = load_encoder(job.spec, job.checkpoint, device)
        layouts = _open(encoder, job, store, table.corpus, float(rows.mean()))
        utterances = dict(zip(table.rows.tolist(), corpus.utterances, strict=True))
        part, parts = settings.part
        units = [u for u in _units(folder, layouts, list(rows.index), utterances) if u.number % parts == part - 1]
        hours = [float(rows[list(unit.utterances)].sum()) / 3600 for unit in units]
        settings.progress.start(" ".join(dict(job.parts)), sum(hours), "audio h")
        for unit, length in zip(units, hours, strict=True):
            run_unit(encoder, unit, store, folder, settings.workers)
            settings.progress.advance(length)
        settings.progress.finish()
    if folder.exists():
        store.write_failures(folder)


def _lacks(folder: Path, job: Job, mine: set[int]) -> bool:
    """Whether anything of a job is still to do; found out without loading the encoder."""
    layouts = read_layouts(folder)
    outputs = {output for _, part in job.parts for output in part.outputs} | set(job.optional)
    return not layouts or any(o not in layouts or mine - done_rows(folder, o) for o in outputs or layouts)


def _open(encoder: Encoder, job: Job, store: Store, corpus: str, seconds: float) -> tuple[Layout, ...]:
    """Open the arrays of the outputs to keep: all that come for nothing, and the optional ones asked for."""
    known = read_layouts(store.folder(corpus) / job.spec.folder)
    # All outputs of an encoder share one size of unit, so that one pass fills them all.
    frame_rates = [100 * seconds if output.frames else 1 for output in encoder.outputs]
    widths = [len(o.columns) * np.dtype(o.dtype).itemsize for o in encoder.outputs]
    row_bytes = max(rate * width for rate, width in zip(frame_rates, widths, strict=True))
    unit_rows = next((x.unit_rows for x in known.values()), choose_unit_rows(seconds, row_bytes, encoder.speed))
    layouts = [
        known.get(o.name) or Layout(o.name, o.columns, o.dtype, o.frames, unit_rows, store.format)
        for o in encoder.outputs
        if not o.optional or o.name in job.optional
    ]
    for name in job.optional:
        if name not in {o.name for o in encoder.outputs}:
            raise UnknownName(f"output of encoder {job.spec.model!r}:", name, [o.name for o in encoder.outputs])
    made_with = {"vbx": __version__, "checkpoint": str(job.checkpoint) if job.checkpoint else None}
    folder = store.open_spec(corpus, job.spec, made_with, layouts)
    return tuple(read_layouts(folder)[layout.output] for layout in layouts)


def _units(folder: Path, layouts: Sequence[Layout], rows: list[int], utterances: Mapping[int, Utterance]) -> list[Unit]:
    """Units of which some output is not there yet, the longest clips last."""
    there = {layout.output: read_commits(folder, layout.output) for layout in layouts}
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(row // layouts[0].unit_rows, []).append(row)
    units = []
    for number, inside in sorted(members.items()):
        missing = tuple(layout for layout in layouts if number not in there[layout.output])
        if missing and any(row in utterances for row in inside):
            units.append(Unit(number, {row: utterances.get(row) for row in inside}, missing))
    return units
