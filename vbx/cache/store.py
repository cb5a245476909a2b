"""Store: the cache. What is there, write, load."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.cache.feature import Feature, Part, read_feature
from vbx.cache.files import create_file, locked, read_sealed, read_table, seal, write_file, write_table
from vbx.cache.layout import (
    MIN_UNIT_ROWS,
    Block,
    Commit,
    Layout,
    checksum,
    commit_path,
    read_commits,
    read_layouts,
    write_commit,
    write_layout,
)
from vbx.cache.loading import ARRAYS, load_frames, load_rows, pooled_outputs
from vbx.cache.rows import add_rows, read_rows
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.vectors import Vectors, join
from vbx.errors import CacheError, UnknownName

SPEC, LABELS, CORPUS, FAILURES = "spec.json", "labels.parquet", "corpus.json", "failures.parquet"


@dataclass(frozen=True)
class LabelTable:
    """A corpus as the cache knows it.

    Attributes:
        corpus: its name
        ids: of all utterances, in the order of the corpus
        rows: row of each utterance; -1 where its file could not be read
        labels: one row per utterance, in the same order
        schema: what each label column holds
        about: what else `corpus.json` says: root, reader, split (`given` or how it was made), unreadable (id to reason)
    """

    corpus: str
    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: pd.DataFrame
    schema: dict[str, Column]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """The cache: a folder with one folder per corpus, and in it one per encoder spec.

    Attributes:
        root: the folder
        format: how new arrays are written: `zarr` or `hdf5`; reading finds out by itself

    Examples:
        >>> Store("no-such-folder").corpora()
        []
    """

    root: Path
    format: str

    def __init__(self, root: str | Path = "vbx-cache", format: str = "zarr") -> None:
        if re.match(r"[a-z0-9]+://", str(root)):
            raise CacheError(f"cache {str(root)!r}: object stores are not supported yet; give a local folder")
        if format not in ARRAYS:
            raise UnknownName("cache format", format, ARRAYS)
        object.__setattr__(self, "root", Path(root).expanduser())
        object.__setattr__(self, "format", format)

    # ------------------------------------------------------------ what is there

    def corpora(self) -> list[str]:
        """Names of the corpora."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{CORPUS}"))

    def folder(self, corpus: str) -> Path:
        """Folder of a corpus.

        Raises:
            UnknownName: if there is none of that name
        """
        if corpus not in self.corpora():
            raise UnknownName(
                "corpus", corpus, self.corpora(), f"in the cache {str(self.root)!r} (`vbx extract` adds one)"
            )
        return self.root / corpus

    def specs(self, corpus: str) -> dict[Path, EncoderSpec]:
        """Folders of encoder specs of a corpus, and what they hold."""
        return {path.parent: read_spec(path.parent) for path in sorted(self.folder(corpus).glob(f"*/{SPEC}"))}

    def find(self, corpus: str, part: Part) -> tuple[Path, EncoderSpec]:
        """The folder that holds what a feature means.

        Raises:
            CacheError: if nothing there answers, or several do and the name does not say which
        """
        specs = {f: s for f, s in self.specs(corpus).items() if s.answers(part.spec) and s.key.startswith(part.key)}
        # What the name leaves open has a default: vectors made by it come before those made otherwise.
        usual = {f: s for f, s in specs.items() if (s.channel, s.resampler) == (part.spec.channel, part.spec.resampler)}
        specs = usual or specs
        if len(specs) == 1:
            return next(iter(specs.items()))
        name = part.encoder
        if not specs:
            raise CacheError(
                f"corpus {corpus!r} has no vectors of {name!r} in the cache {str(self.root)!r}; "
                f"`vbx extract` makes them, `vbx cache why {name}` says what is there"
            )
        keys = ", ".join(f"{name}#{s.key[:8]} (weights {str(s.weights)[:8]}, {s.channel})" for s in specs.values())
        raise CacheError(f"corpus {corpus!r} has vectors of {len(specs)} encoders named {name!r}; say which: {keys}")

    def label_table(self, corpus: str) -> LabelTable:
        """Utterances and labels of a corpus."""
        folder = self.folder(corpus)
        about = read_sealed(folder / CORPUS)
        frame = read_table(folder / LABELS)
        schema = {name: Column.from_json(fields) for name, fields in about.pop("schema").items()}
        labels = frame.drop(columns=["id", "row"])
        return LabelTable(corpus, tuple(frame["id"]), frame["row"].to_numpy(np.int64), labels, schema, about)

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
        folder = self.root / table.corpus
        with locked(folder):
            readable = files["content"].notna().to_numpy()
            rows = np.full(len(files), -1, dtype=np.int64)
            if readable.any():
                rows[readable] = add_rows(folder, files[readable], self._align(folder))["row"]
            frame = table.labels.reset_index(drop=True).copy()
            frame.insert(0, "row", rows)
            frame.insert(0, "id", list(table.ids))
            write_table(folder / LABELS, frame)
            schema = {name: column.to_json() for name, column in table.schema.items()}
            write_file(folder / CORPUS, seal({**table.about, "corpus": table.corpus, "schema": schema}))
        return LabelTable(table.corpus, table.ids, rows, table.labels, table.schema, table.about)

    def open_spec(
        self, corpus: str, spec: EncoderSpec, made_with: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> Path:
        """Make or open the folder of an encoder spec, with the arrays of some of its outputs.

        Returns:
            the folder
        """
        folder = self.folder(corpus) / spec.folder
        with locked(self.folder(corpus)):
            create_file(folder / SPEC, seal({"spec": spec.to_json(), "key": spec.key, "made_with": dict(made_with)}))
            if read_spec(folder).key != spec.key:
                raise CacheError(f"{folder} holds another encoder's vectors; move it away")
            rows = int(read_rows(folder.parent)["row"].max()) + 1
            for layout in layouts:
                write_layout(folder, layout)
                made = read_layouts(folder)[layout.output]
                if made.columns != layout.columns:
                    raise CacheError(f"{folder}: output {layout.output!r} has other columns than the encoder now gives")
                ARRAYS[made.format].prepare(folder, made, rows)
        return folder

    def write_unit(self, folder: Path, layout: Layout, block: Block, commit: Commit) -> bool:
        """Write a unit, then its record. Whoever comes second with the same unit writes nothing.

        Args:
            folder: of the spec
            layout: of the output
            block: the vectors, finite but for rows without one
            commit: the record, its `files` empty

        Returns:
            whether it was written
        """
        with locked(folder.parent):
            if commit_path(folder, commit.output, commit.unit).exists():
                return False
            paths = ARRAYS[layout.format].write_unit(folder, layout, commit.unit, block)
            data = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            files = {name: (len(content), checksum(content)) for name, content in data.items()}
            return write_commit(folder, replace(commit, files=files))

    def write_failures(self, folder: Path) -> None:
        """Write `failures.parquet` of a spec: utterances without a vector, and why. The records are its source."""
        table = self.label_table(folder.parent.name)
        places = dict(zip(table.ids, table.rows.tolist(), strict=True))
        lines = [(name, places[name], reason) for name, reason in self.failures(folder).items()]
        frame = pd.DataFrame(lines, columns=["id", "row", "reason"])
        write_table(folder / FAILURES, frame.astype({"id": object, "row": "int64", "reason": object}))

    def failures(self, folder: Path) -> dict[str, str]:
        """Utterances without a vector of a spec, and why: id to reason."""
        table = self.label_table(folder.parent.name)
        reasons: dict[int, str] = {}
        for output in read_layouts(folder):
            for commit in read_commits(folder, output).values():
                reasons.update(commit.failures)
        found: dict[str, str] = dict(table.about.get("unreadable", {}))
        found.update({u: reasons[row] for u, row in zip(table.ids, table.rows.tolist(), strict=True) if row in reasons})
        return found

    @staticmethod
    def _align(folder: Path) -> int:
        units = [x.unit_rows for spec in folder.glob(f"*/{SPEC}") for x in read_layouts(spec.parent).values()]
        return max(units, default=MIN_UNIT_ROWS)

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
        read_rows(self.folder(corpus))  # damaged rows would be damage to what the vectors are of
        parts = []
        for part in feature.parts:
            folder, spec = self.find(corpus, part)
            if (folder / FAILURES).exists():
                read_table(folder / FAILURES)
            outputs = part.outputs or pooled_outputs(folder)
            matrix = load_rows(folder, outputs, table.rows)
            there = matrix.present
            if not there.any():
                raise CacheError(f"corpus {corpus!r} has no vector of {part.encoder!r} yet; run `vbx extract` again")
            parts.append(
                Vectors(
                    x=matrix.values if there.all() else matrix.values[there],  # a copy costs time and memory
                    ids=tuple(name for name, here in zip(table.ids, there, strict=True) if here),
                    labels=table.labels[there].reset_index(drop=True),
                    schema=table.schema,
                    feature=feature.name,
                    corpus=corpus,
                    columns=matrix.columns,
                    key=hashlib.sha256(f"{spec.key} {list(outputs)}".encode()).hexdigest(),
                    missing=int((~there).sum()),
                )
            )
        return join(parts, feature.name)

    def load_frames(self, corpus: str, feature: str) -> dict[str, NDArray[np.floating[Any]]]:
        """Load frame sequences, every byte verified: id to `(F, D)`, for a feature of frames.

        Raises:
            CacheError: if vectors are damaged or not there, or the feature has no frames
        """
        (part,) = read_feature(feature).parts
        table = self.label_table(corpus)
        folder, _ = self.find(corpus, part)
        return load_frames(folder, part.outputs[0], dict(zip(table.ids, table.rows.tolist(), strict=True)))


def read_spec(folder: Path) -> EncoderSpec:
    """The encoder spec that a folder holds.

    Raises:
        CacheError: if its record is damaged or does not fit the folder's name
    """
    body = read_sealed(folder / SPEC)
    spec = EncoderSpec.from_json(body["spec"])
    if spec.key != body["key"] or folder.name != spec.folder:
        raise CacheError(f"{folder} is foreign: its spec hashes to {spec.key[:12]} (`vbx cache check`)")
    return spec


def done_rows(folder: Path, output: str) -> set[int]:
    """Rows of an output that need no extraction: with a vector, or with a reason why there is none."""
    return {row for commit in read_commits(folder, output).values() for row in commit.rows}
