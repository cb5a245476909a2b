"""Source: frames in the cache that other vectors are derived from, and the codebook learnt from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from vbx import __version__
from vbx.cache.layout import MIN_UNIT_ROWS, Commit, Layout, read_commits, read_layouts
from vbx.cache.loading import MappedOutput
from vbx.cache.provenance import CODEBOOKS, digest_contents, split_contents
from vbx.cache.remote import Place
from vbx.cache.spec import EncoderSpec, canonical
from vbx.cache.store import LabelTable, Store
from vbx.errors import CorpusError
from vbx.extract.codebook import learn_codebook, write_codebook
from vbx.extract.encoder import encoder_plugin
from vbx.extract.plan import Settings, plan_jobs


@dataclass(frozen=True)
class Source:
    """Frames in the cache.

    Attributes:
        feature: its name
        spec: of the encoder that gave them
        folder: of that spec
        layout: of the frames; None as long as there are none
        commits: units that are there
    """

    feature: str
    spec: EncoderSpec
    folder: Place
    layout: Layout | None
    commits: Mapping[int, Commit]

    @property
    def unit_rows(self) -> int:
        """Rows of a unit."""
        return self.layout.unit_rows if self.layout else MIN_UNIT_ROWS

    def done(self) -> set[int]:
        """Rows with frames, or with a reason why there are none."""
        return {row for commit in self.commits.values() for row in commit.rows}

    def failures(self) -> dict[int, str]:
        """Rows without frames, and why."""
        return {row: reason for commit in self.commits.values() for row, reason in commit.failures.items()}

    def silent(self) -> set[int]:
        """Rows of digital silence."""
        return {row for commit in self.commits.values() for row in commit.silent}

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Row and frames `(F, D)` of the rows that have any, in order, one unit in memory at a time.

        Raises:
            CacheError: if a byte of them differs from what was written
        """
        for number, inside in groupby(sorted(rows), lambda row: row // self.unit_rows):
            commit = self.commits.get(number)
            if commit and self.layout:
                # What was read stays mapped as long as this lives: one for each unit.
                unit = MappedOutput(self.folder, self.layout, {number: commit})
                for row in sorted(set(inside) & set(commit.present)):
                    yield row, unit.frames(row).astype(np.float32, copy=False)


def source_feature(spec: EncoderSpec) -> str | None:
    """Name of the feature whose frames an encoder takes; None if it takes audio."""
    feature: str | None = getattr(encoder_plugin(spec.encoder), "SOURCE", None)
    return feature


def open_source(spec: EncoderSpec, table: LabelTable, store: Store, settings: Settings) -> Source:
    """The frames that an encoder takes, as far as they are in the cache; channel and resampler are the settings'."""
    feature = source_feature(spec) or ""
    (job,) = plan_jobs([feature], {}, settings)
    ((_, part),) = job.parts
    folder = store.folder(table.corpus) / job.spec.folder
    layout = read_layouts(folder).get(part.outputs[0])
    return Source(feature, job.spec, folder, layout, read_commits(folder, layout.output) if layout else {})


def find_codebook(spec: EncoderSpec, table: LabelTable, store: Store, settings: Settings, learn: bool) -> Place | None:
    """The file of the codebook of the present train split; None if it is not there and cannot or may not be learnt.

    One that is there is never learnt again: its name says what it is learnt from, by what definition.

    Args:
        spec: of the encoder that needs it
        table: the corpus as the cache knows it
        store: the cache
        settings: say which frames; told of the progress
        learn: whether to learn it as soon as all frames of the split are there

    Raises:
        CorpusError: if there is no train split, or no frame in it
        CacheError: if frames are damaged
    """
    folder, plugin = store.folder(table.corpus), encoder_plugin(spec.encoder)
    contents = split_contents(folder, table)
    if not contents:
        raise CorpusError(
            f"corpus {table.corpus!r} has no train split to learn the codebook of {spec.encoder!r} from: its labels "
            "need a column `split` with `train` in it, or none at all, then vbx makes one"
        )
    source = open_source(spec, table, store, settings)
    origin = {
        "code": spec.code,
        "seed": plugin.SEED,
        "size": max(plugin.SIZES),
        "source": source.spec.key,
        "train": digest_contents(contents),
    }
    digest = hashlib.sha256(canonical(origin)).hexdigest()
    path = folder / CODEBOOKS / f"{spec.encoder}-{spec.model}-{digest[:12]}.json"
    if not path.exists():
        if not learn or not set(contents) <= source.done():
            return None
        settings.progress.start(f"codebook of {source.feature}", len(contents), "utterances")
        codebook = learn_codebook(_train_frames(source, contents, settings), max(plugin.SIZES), plugin.SEED)
        settings.progress.finish()
        about = {**codebook.about, **origin, "corpus": table.corpus, "vbx": __version__}
        write_codebook(path, replace(codebook, about=about))
    return path


def _train_frames(
    source: Source, contents: Mapping[int, str], settings: Settings
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for row, frames in source.read(list(contents)):
        yield contents[row], frames
        settings.progress.advance()
