"""Derive: vectors made from frames that are in the cache, by a codebook learnt from them, rather than from audio."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from threadpoolctl import threadpool_limits

from vbx import __version__
from vbx.cache.feature import Part, list_features, read_feature
from vbx.cache.layout import Layout, read_layouts
from vbx.cache.provenance import CODEBOOKS
from vbx.cache.rows import read_rows
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.errors import CorpusError, UnknownName
from vbx.extract.codebook import read_codebook
from vbx.extract.encoder import Encoder, load_encoder, resolve_spec
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.source import Source, find_codebook, open_source, source_feature
from vbx.extract.units import Results, Unit, list_units, read_presence, write_results


def split_features(features: Sequence[str]) -> tuple[list[str], list[str]]:
    """Features that are made from audio, and features that are derived from frames of those.

    Args:
        features: names of features; of names joined by `+` each stands alone if one of them is derived

    Returns:
        the former, sources of the latter among them, and the latter; none twice

    Raises:
        UnknownName: if a feature is not known

    Examples:
        >>> split_features(["egemaps+boaw-500", "boaw-125"])
        (['egemaps', 'compare-lld'], ['boaw-500', 'boaw-125'])
    """
    waves: list[str] = []
    sources: list[str] = []
    derived: list[str] = []
    for feature in features:
        if not any(source_feature(part.spec) for part in read_feature(feature).parts):
            waves.append(feature)
            continue
        for name, part in zip(feature.split("+"), read_feature(feature).parts, strict=True):
            source = source_feature(part.spec)
            (derived if source else waves).append(name.strip())
            sources += [source] if source else []
    return list(dict.fromkeys([*waves, *sources])), list(dict.fromkeys(derived))


def plan_derived(
    features: Sequence[str], table: LabelTable, store: Store, settings: Settings, *, learn: bool = True
) -> list[Job]:
    """One job per derived encoder, its codebook that of the present train split.

    Args:
        features: from `split_features`
        table: the corpus as the cache knows it
        store: the cache
        settings: part of the work, threads, progress; channel and resampler say which frames
        learn: whether a codebook that is not there yet is learnt

    Raises:
        CorpusError: if there is no train split, or too little in it
        CacheError: if frames or a codebook are damaged
    """
    pieces: dict[EncoderSpec, list[tuple[str, Part]]] = {}
    for feature in dict.fromkeys(features):
        for part in read_feature(feature).parts:
            spec = replace(part.spec, channel=settings.channel, resampler=settings.resampler)
            pieces.setdefault(spec, []).append((feature, part))
    jobs = []
    for spec, parts in pieces.items():
        # In a cache on an object store it is no Path, but it is only read, and read alike.
        checkpoint = cast("Path | None", find_codebook(spec, table, store, settings, learn))
        job = Job(resolve_spec(spec, checkpoint), checkpoint, (), tuple(parts))
        if checkpoint:
            _refuse_larger(job, load_encoder(job.spec, checkpoint), table.corpus)
        jobs.append(job)
    return jobs


def run_derived(jobs: Sequence[Job], table: LabelTable, store: Store, settings: Settings) -> None:
    """Derive what is not there yet, unit by unit.

    An utterance without frames has no vector either, for the same reason. A job without a codebook waits: with `--part`
    there is none until every part of the frames of the train split is there.
    """
    # One thread an utterance; those of BLAS would only stand in each other's way.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(max(settings.workers, 1)) as pool:
        for job in jobs:
            if job.checkpoint:
                _run_job(job, table, store, settings, pool)


def _run_job(job: Job, table: LabelTable, store: Store, settings: Settings, pool: ThreadPoolExecutor) -> None:
    source, encoder = open_source(job.spec, table, store, settings), load_encoder(job.spec, job.checkpoint)
    folder = store.folder(table.corpus) / job.spec.folder
    layouts = _list_layouts(job, encoder, source, read_layouts(folder), store.format)
    (number, parts), mine, done = settings.part, set(table.rows.tolist()), source.done()
    units = [
        unit
        for unit in list_units(read_presence(folder), layouts, read_rows(folder.parent)["row"].tolist())
        if unit.number % parts == number - 1 and mine & set(unit.rows) and set(unit.rows) <= done
    ]
    if not units:
        return
    store.open_spec(table.corpus, job.spec, _made_with(job), layouts)
    settings.progress.start(" ".join(dict(job.parts)), sum(len(unit.rows) for unit in units), "utterances")
    for unit in units:
        write_results(unit, _derive_unit(unit, source, encoder, pool), store, folder)
        settings.progress.advance(len(unit.rows))
    settings.progress.finish()
    store.write_failures(folder)


def foresee_jobs(
    features: Sequence[str], checkpoints: Mapping[str, str], corpus: str, store: Store, settings: Settings
) -> list[Job]:
    """What an extraction would run, found out without learning anything or fetching weights.

    Args:
        features: names of features, derived ones among them
        checkpoints: as for `extract_vectors`
        corpus: name of the corpus, which need not be in the cache
        store: the cache
        settings: as for `extract_vectors`

    Raises:
        UnknownName: if a feature is not known
        CheckpointError: if weights are not there
        CorpusError: if there is no train split, or too little in it
    """
    settings = replace(settings, download=False)
    waves, derived = split_features(features)
    jobs = plan_jobs(waves, checkpoints, settings)
    if corpus in store.corpora():
        derivations = plan_derived(derived, store.label_table(corpus), store, settings, learn=False)
    else:
        derivations = [
            Job(part.spec, None, (), ((feature, part),)) for feature in derived for part in read_feature(feature).parts
        ]
    return jobs + [
        job if job.checkpoint else replace(job, spec=job.spec.resolved("a codebook that is not learnt yet"))
        for job in derivations
    ]


def list_waiting(jobs: Sequence[Job]) -> list[str]:
    """What a user should know of derived jobs that wait for their codebook."""
    return [
        f"{', '.join(dict(job.parts))} waits until {source_feature(job.spec)} of the whole train split is there: run "
        "`vbx extract` again when all parts are done"
        for job in jobs
        if job.checkpoint is None
    ]


def _refuse_larger(job: Job, encoder: Encoder, corpus: str) -> None:
    """Refuse features that a codebook has too few words for, naming the largest that it serves."""
    there = {output.name for output in encoder.outputs}
    for feature, part in job.parts:
        known = {e["feature"]: set(e["outputs"]) for e in list_features() if e["encoder"] == part.encoder}
        if strange := set(part.outputs) - set().union(*known.values()):
            raise UnknownName(f"output of encoder {job.spec.model!r}:", min(strange), there)
        if not set(part.outputs) <= there:
            words = len(read_codebook(job.checkpoint).words) if job.checkpoint else 0
            fitting = [name for name, outputs in known.items() if outputs <= there]
            way_out = f"{fitting[-1]!r} fits" if fitting else "that is too few for any bag"
            raise CorpusError(
                f"{feature!r} has more words than the train split of corpus {corpus!r} has distinct frames, {words}: "
                f"{way_out}"
            )


def _made_with(job: Job) -> dict[str, Any]:
    """What `spec.json` says beside the spec; by `train` loading finds the vectors of the present split."""
    if job.checkpoint is None:
        return {"vbx": __version__}
    train = read_codebook(job.checkpoint).about["train"]
    return {"vbx": __version__, "checkpoint": f"{CODEBOOKS}/{job.checkpoint.name}", "train": train}


def _list_layouts(job: Job, encoder: Encoder, source: Source, known: Mapping[str, Layout], format: str) -> list[Layout]:
    """Layouts of the outputs that are wanted; units are those of the frames, so that one is made from one."""
    wanted = {output for _, part in job.parts for output in part.outputs}
    unit_rows = next((layout.unit_rows for layout in known.values()), source.unit_rows)
    return [
        known.get(o.name) or Layout(o.name, o.columns, o.dtype, o.frames, unit_rows, format)
        for o in encoder.outputs
        if o.name in wanted
    ]


def _derive_unit(unit: Unit, source: Source, encoder: Encoder, pool: ThreadPoolExecutor) -> Results:
    """Vectors of one unit; the failures of its frames are its own."""
    failed, wanted = source.failures(), [layout.output for layout in unit.layouts]
    failures = {row: f"{source.feature}: {failed[row]}" for row in unit.rows if row in failed}
    results = Results(failures=failures, silent=source.silent() & set(unit.rows))
    found = list(source.read(unit.rows))
    encoded = pool.map(lambda frames: encoder.encode([frames], wanted)[0], [frames for _, frames in found])
    results.vectors.update(zip([row for row, _ in found], encoded, strict=True))
    return results
