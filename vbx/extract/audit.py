"""Audit: encode a random sample again from the audio, one clip at a time, and compare with the cache."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vbx.cache.layout import read_layouts
from vbx.cache.loading import map_rows, open_outputs, pooled_outputs
from vbx.cache.rows import read_rows
from vbx.cache.store import Store
from vbx.devices import pick_device
from vbx.errors import CacheError
from vbx.extract.contents import digest_file
from vbx.extract.corpus import Corpus
from vbx.extract.encoder import load_encoder
from vbx.extract.plan import Job, Settings, plan_jobs
from vbx.extract.work import check_length, prepare_wave


@dataclass(frozen=True)
class Audit:
    """What an audit found for one encoder.

    Attributes:
        encoder: folder of its spec
        sampled: vectors encoded again
        changed: sampled utterances whose file is no longer the one in the cache; they are not compared
        max_abs: largest difference of a number
        max_relative: largest relative L2 difference of a vector
        worst: id of the utterance of `max_relative`
    """

    encoder: str
    sampled: int
    changed: int
    max_abs: float
    max_relative: float
    worst: str


def audit_vectors(
    corpus: Corpus,
    feature: str,
    store: Store,
    *,
    sample: int = 20,
    checkpoints: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[Audit]:
    """Encode a random sample of the cached vectors of a feature again, alone, on the CPU.

    Args:
        corpus: from `read_corpus`, where the audio is
        feature: name of a feature
        store: the cache
        sample: utterances
        checkpoints: as for `extract_vectors`
        seed: of the sample

    Raises:
        CacheError: if the cache has no vectors of the feature, or is damaged
    """
    audits = []
    for job in plan_jobs([feature], checkpoints or {}, Settings()):
        audits.append(_audit_job(job, corpus, store, sample, seed))
    return audits


def _audit_job(job: Job, corpus: Corpus, store: Store, sample: int, seed: int) -> Audit:
    table = store.label_table(corpus.name)
    folder = store.folder(corpus.name) / job.spec.folder
    if not folder.exists():
        raise CacheError(
            f"corpus {corpus.name!r} has no vectors of {dict(job.parts)} by these weights (`vbx cache why`)"
        )
    outputs = pooled_outputs(read_layouts(folder))
    rows = map_rows(table.ids, table.rows, open_outputs(folder, outputs))
    places = {name: i for i, name in enumerate(rows.ids)}
    candidates = [u for u in corpus.utterances if u.id in places]
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:sample]
    contents = read_rows(folder.parent).set_index("row")["content"]
    encoder = load_encoder(job.spec, job.checkpoint, pick_device("cpu"))
    differences, changed = {}, 0
    for utterance in (candidates[i] for i in chosen):
        if digest_file(utterance.path).digest != contents[rows.rows[places[utterance.id]]]:
            changed += 1
            continue
        wave = prepare_wave(utterance, job.spec)
        check_length(wave, encoder)
        (encoded,) = encoder.encode([wave], outputs)
        again = np.concatenate([np.asarray(encoded[o], dtype=np.float32) for o in outputs])
        kept = rows.gather([places[utterance.id]])[0]
        scale = max(float(np.linalg.norm(kept.astype(np.float64))), 1e-30)
        gap = again.astype(np.float64) - kept
        differences[utterance.id] = (float(np.abs(gap).max()), float(np.linalg.norm(gap)) / scale)
    worst = max(differences, key=lambda name: differences[name][1], default="")
    return Audit(
        encoder=folder.name,
        sampled=len(differences),
        changed=changed,
        max_abs=max((d[0] for d in differences.values()), default=0.0),
        max_relative=differences[worst][1] if worst else 0.0,
        worst=worst,
    )
