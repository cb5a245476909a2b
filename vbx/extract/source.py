"""Source: frames in the cache that other vectors are derived from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from vbx.cache.layout import MIN_UNIT_ROWS, Commit, Layout, read_commits, read_layouts
from vbx.cache.loading import MappedOutput
from vbx.cache.remote import Place
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
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
