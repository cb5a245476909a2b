"""Store: the cache. What is there, write, load."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.ahead import reading_ahead
from vbx.cache.feature import Feature, Part, read_feature
from vbx.cache.files import create_file, locked, read_sealed, seal, unseal
from vbx.cache.labels import CORPUS, LABELS, SPEC, LabelTable, put_labels, read_labels
from vbx.cache.layout import Block, Commit, Layout, read_commits, read_layouts, write_layout
from vbx.cache.loading import ARRAYS, MappedOutput, MappedRows, map_rows, open_outputs, pooled_outputs
from vbx.cache.provenance import of_present_split
from vbx.cache.remote import Place, RemotePath, find_places, open_place, read_many
from vbx.cache.rows import UTTERANCES
from vbx.cache.spec import EncoderSpec
from vbx.cache.tables import read_verified, replace_table
from vbx.cache.units import prepare_arrays, write_unit
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName

FAILURES = "failures.parquet"
__all__ = ["CORPUS", "FAILURES", "LABELS", "SPEC", "LabelTable", "Store", "done_rows", "read_spec"]


@dataclass(frozen=True)
class Store:
    """The cache: a folder, or a prefix of an object store, with one folder per corpus, in it one per encoder spec.

    Attributes:
        root: the folder; given as `s3://BUCKET/PREFIX` it is one of an object store, and needs the extra `remote`
        format: how new arrays are written: `zarr` or `hdf5`; reading finds out by itself

    Examples:
        >>> Store("no-such-folder").corpora()
        []
    """

    root: Place
    format: str

    def __init__(self, root: str | Path = "vbx-cache", format: str = "zarr") -> None:
        if format not in ARRAYS:
            raise UnknownName("cache format", format, ARRAYS)
        place = open_place(root)
        if format == "hdf5" and isinstance(place, RemotePath):
            raise CacheError(
                f"cache {place}: an object store holds Zarr, HDF5 is for local folders; give --format zarr"
            )
        object.__setattr__(self, "root", place)
        object.__setattr__(self, "format", format)

    # ------------------------------------------------------------ what is there

    def corpora(self) -> list[str]:
        """Names of the corpora."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{CORPUS}"))

    def folder(self, corpus: str) -> Place:
        """Folder of a corpus.

        Raises:
            UnknownName: if there is none of that name
        """
        if corpus in {"", ".", ".."} or "/" in corpus or not (self.root / corpus / CORPUS).exists():
            raise UnknownName(
                "corpus", corpus, self.corpora(), f"in the cache {str(self.root)!r} (`vbx extract` adds one)"
            )
        return self.root / corpus

    def specs(self, corpus: str) -> dict[Place, EncoderSpec]:
        """Folders of encoder specs of a corpus, and what they hold."""
        paths = find_places(self.folder(corpus), f"*/{SPEC}")
        found = zip(paths, read_many(paths), strict=True)
        return {path.parent: _spec(unseal(data, path), path.parent) for path, data in found}

    def find(self, corpus: str, part: Part) -> tuple[Place, EncoderSpec]:
        """The folder that holds what a feature means.

        Raises:
            CacheError: if nothing there answers, or several do and the name does not say which
        """
        specs = {f: s for f, s in self.specs(corpus).items() if s.answers(part.spec) and s.key.startswith(part.key)}
        # What the name leaves open has a default: vectors made by it come before those made otherwise.
        usual = {f: s for f, s in specs.items() if _made_as(s) == _made_as(part.spec)}
        specs = usual or specs
        if not part.key:
            specs = of_present_split(self.folder(corpus), specs)
        if len(specs) == 1:
            return next(iter(specs.items()))
        name = part.encoder
        if not specs:
            raise CacheError(
                f"corpus {corpus!r} has no vectors of {name!r} in the cache {str(self.root)!r}; "
                f"`vbx extract` makes them, `vbx cache why {name}` says what is there"
            )
        keys = ", ".join(
            f"{part.typed}#{s.key[:8]} (weights {str(s.weights)[:8]}, {s.channel}, {s.precision})"
            for s in specs.values()
        )
        raise CacheError(f"corpus {corpus!r} has vectors of {len(specs)} encoders named {name!r}; say which: {keys}")

    def label_table(self, corpus: str) -> LabelTable:
        """Utterances and labels of a corpus."""
        return read_labels(self.folder(corpus))

    # ------------------------------------------------------------ write

    def put_corpus(self, table: LabelTable, files: pd.DataFrame) -> LabelTable:
        """Give each utterance its row, and write labels and schema; nothing is extracted for that.

        Args:
            table: ids, labels, schema and what to keep about the corpus; its rows are ignored
            files: content, start_s, end_s, header_s, path of each utterance; content is None where a file could not
                be read

        Returns:
            the table with its rows
        """
        return put_labels(self.root / table.corpus, table, files)

    def open_spec(
        self, corpus: str, spec: EncoderSpec, made_with: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> Place:
        """Make or open the folder of an encoder spec, with the arrays of some of its outputs.

        Returns:
            the folder
        """
        folder = self.folder(corpus) / spec.folder
        with locked(self.folder(corpus)):
            create_file(folder / SPEC, seal({"spec": spec.to_json(), "key": spec.key, "made_with": dict(made_with)}))
            if read_spec(folder).key != spec.key:
                raise CacheError(f"{folder} holds another encoder's vectors; move it away")
            for layout in layouts:
                write_layout(folder, layout)
            made = read_layouts(folder)
            for layout in layouts:
                if made[layout.output].columns != layout.columns:
                    raise CacheError(f"{folder}: output {layout.output!r} has other columns than the encoder now gives")
            prepare_arrays(folder, [made[layout.output] for layout in layouts])
        return folder

    def write_unit(self, folder: Place, layout: Layout, block: Block, commit: Commit) -> bool:
        """Write a unit, then its record. Whoever comes second with the same unit writes nothing.

        Args:
            folder: of the spec
            layout: of the output
            block: the vectors, finite but for rows without one
            commit: the record, its `files` empty

        Returns:
            whether it was written
        """
        return write_unit(folder, layout, block, commit)

    def write_failures(self, folder: Place) -> None:
        """Write `failures.parquet` of a spec: utterances without a vector, and why. The records are its source."""

        def make() -> pd.DataFrame:
            table = self.label_table(folder.parent.name)
            places = dict(zip(table.ids, table.rows.tolist(), strict=True))
            lines = [(name, places[name], reason) for name, reason in self.failures(folder, table).items()]
            frame = pd.DataFrame(lines, columns=["id", "row", "reason"])
            return frame.astype({"id": object, "row": "int64", "reason": object})

        replace_table(folder / FAILURES, make)

    def failures(self, folder: Place, table: LabelTable | None = None) -> dict[str, str]:
        """Utterances without a vector of a spec, and why: id to reason; the corpus is read unless given."""
        table = table or self.label_table(folder.parent.name)
        reasons: dict[int, str] = {}
        for output in read_layouts(folder):
            for commit in read_commits(folder, output).values():
                reasons.update(commit.failures)
        found: dict[str, str] = dict(table.about.get("unreadable", {}))
        found.update({u: reasons[row] for u, row in zip(table.ids, table.rows.tolist(), strict=True) if row in reasons})
        return found

    # ------------------------------------------------------------ load

    def load_vectors(self, corpus: str, feature: str | Feature) -> Vectors:
        """Load a feature, every byte of it verified.

        Args:
            corpus: name of a corpus in the cache
            feature: name of a feature whose outputs are pooled; several are joined by `+`

        Returns:
            the vectors of all utterances that have one, in the order of the corpus

        Raises:
            CacheError: if vectors are damaged or not there
            UnknownName: if there is no such corpus or feature
        """
        feature = read_feature(feature) if isinstance(feature, str) else feature
        table = self.label_table(corpus)
        rows, parts = self._map(table, feature)
        keys = [part.digest for part in parts]
        whole = len(rows.ids) == len(table.ids)
        with reading_ahead(_files(rows)):
            x = rows.load()
        return Vectors(
            x=x,
            ids=rows.ids,
            labels=table.labels if whole else table.labels.iloc[rows.places].reset_index(drop=True),
            schema=table.schema,
            feature=feature.name,
            corpus=corpus,
            columns=rows.columns,
            key=keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest(),
            missing=len(table.ids) - len(rows.ids),
            parts=parts,
        )

    def open_rows(self, corpus: str, feature: str | Feature) -> MappedRows:
        """Open a feature without loading it: row i of `load_vectors(...).x` is `gather([i])`; `frames(i)` of frames.

        Nothing is returned unverified: what is first touched is verified then.

        Raises:
            CacheError: if something is damaged or not there
            UnknownName: if there is no such corpus or feature
        """
        feature = read_feature(feature) if isinstance(feature, str) else feature
        return self._map(self.label_table(corpus), feature)[0]

    def load_frames(self, corpus: str, feature: str) -> dict[str, NDArray[np.floating[Any]]]:
        """Load frame sequences, every byte verified: id to `(F, D)`, read-only in place, for a feature of frames.

        Raises:
            CacheError: if vectors are damaged or not there, or the feature has no frames
        """
        rows = self.open_rows(corpus, feature)
        with reading_ahead(_files(rows)):
            return {name: rows.frames(number) for number, name in enumerate(rows.ids)}

    def _map(self, table: LabelTable, feature: Feature) -> tuple[MappedRows, tuple[Part, ...]]:
        """A feature opened, and its parts as they are there."""
        home = self.folder(table.corpus)
        read_verified(home / UTTERANCES)  # damaged rows would be damage to what the vectors are of
        outputs: list[MappedOutput] = []
        parts = []
        for part in feature.parts:
            folder, spec = self.find(table.corpus, part)
            if (folder / FAILURES).exists():
                read_verified(folder / FAILURES)
            names = part.outputs or pooled_outputs(read_layouts(folder))
            outputs += open_outputs(folder, names)
            parts.append(replace(part, spec=spec, outputs=tuple(names), key=""))
        rows = map_rows(table.ids, table.rows, outputs)
        if not rows.ids:
            raise CacheError(f"corpus {table.corpus!r} has no vector of {feature.name!r} yet; run `vbx extract` again")
        return rows, tuple(parts)


def _files(rows: MappedRows) -> list[tuple[Place, int]]:
    """Files that hold some rows, in the order of their units, with their sizes in bytes."""
    commits = [
        (output.folder, output.commits[unit])
        for output in rows.outputs
        for unit in np.unique(rows.rows // output.layout.unit_rows).tolist()
    ]
    return [(folder / name, size) for folder, commit in commits for name, (size, _) in commit.files.items()]


def read_spec(folder: Place) -> EncoderSpec:
    """The encoder spec that a folder holds.

    Raises:
        CacheError: if its record is damaged or does not fit the folder's name
    """
    return _spec(read_sealed(folder / SPEC), folder)


def _spec(body: Mapping[str, Any], folder: Place) -> EncoderSpec:
    spec = EncoderSpec.from_json(body["spec"])
    if spec.key != body["key"] or folder.name != spec.folder:
        raise CacheError(f"{folder} is foreign: its spec hashes to {spec.key[:12]} (`vbx cache check`)")
    return spec


def _made_as(spec: EncoderSpec) -> tuple[str, str, str]:
    """What the name of a feature leaves open, but for the weights."""
    return spec.channel, spec.resampler, spec.precision


def done_rows(folder: Place, output: str) -> set[int]:
    """Rows of an output that need no extraction: with a vector, or with a reason why there is none."""
    return {row for commit in read_commits(folder, output).values() for row in commit.rows}
