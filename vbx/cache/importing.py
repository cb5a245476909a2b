"""Importing: vectors from elsewhere, kept in the cache beside those that vbx extracts."""

import hashlib

import numpy as np
import pandas as pd

from vbx.cache.layout import Block, Commit, Layout, choose_unit_rows
from vbx.cache.rows import read_rows
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LABELS, LabelTable, Store
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError

PREFIX = "array:"


def import_vectors(store: Store, vectors: Vectors) -> None:
    """Put vectors from elsewhere into the cache, under a feature name `array:NAME`.

    Their spec says that they are an array, and bears its digest: they can never pass for the vectors of an encoder.

    Args:
        store: the cache
        vectors: from `Vectors.from_arrays(x, labels, feature="array:NAME", corpus=...)`; where the cache has that
            corpus already, its labels stay and ids must be known there, else the corpus is made from the labels

    Raises:
        CacheError: if the feature is not called `array:NAME`, or an id is not in the corpus

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as tmp:
        ...     store = Store(tmp)
        ...     mine = Vectors.from_arrays(np.eye(3), {"age": [1, 2, 3]}, feature="array:mine", corpus="toy")
        ...     import_vectors(store, mine)
        ...     store.load_vectors("toy", "array:mine").x.shape
        (3, 3)
    """
    if not vectors.feature.startswith(PREFIX):
        raise CacheError(f"feature {vectors.feature!r}: vectors from elsewhere are called {PREFIX}NAME")
    if vectors.corpus in store.corpora() and (store.folder(vectors.corpus) / LABELS).exists():
        table = store.label_table(vectors.corpus)
    else:
        table = _make_corpus(store, vectors)
    places = dict(zip(table.ids, table.rows.tolist(), strict=True))
    strange = [name for name in vectors.ids if places.get(name, -1) < 0]
    if strange:
        raise CacheError(
            f"{len(strange)} ids, such as {strange[0]!r}, are not in corpus {vectors.corpus!r} of the cache"
        )
    rows = np.array([places[name] for name in vectors.ids])
    digest = hashlib.sha256(vectors.x.tobytes() + "\n".join(vectors.ids).encode()).hexdigest()
    spec = EncoderSpec("array", vectors.feature.removeprefix(PREFIX), weights=digest)
    unit_rows = choose_unit_rows(1.0, vectors.x.shape[1] * 4, 1e6)
    layout = Layout("array", vectors.columns, "float32", False, unit_rows, store.format)
    folder = store.open_spec(vectors.corpus, spec, {}, [layout])
    known = set(read_rows(folder.parent)["row"].tolist())
    for unit in sorted({int(row) // unit_rows for row in rows}):
        mine = np.flatnonzero(rows // unit_rows == unit)
        values = np.full((int(rows[mine].max()) - unit * unit_rows + 1, layout.dim), np.nan, np.float32)
        values[rows[mine] - unit * unit_rows] = vectors.x[mine]
        there = set(rows[mine].tolist())
        inside = sorted(row for row in known if row // unit_rows == unit)
        failures = {row: "not among the vectors that were imported" for row in inside if row not in there}
        store.write_unit(folder, layout, Block(values), Commit("array", unit, tuple(inside), failures, (), {}))
    store.write_failures(folder)


def _make_corpus(store: Store, vectors: Vectors) -> LabelTable:
    """A corpus without audio: an utterance's content is the digest of its id."""
    contents = [hashlib.sha256(f"{vectors.corpus}\n{name}".encode()).hexdigest() for name in vectors.ids]
    files = pd.DataFrame(
        {"content": contents, "start_s": 0.0, "end_s": np.nan, "header_s": 0.0, "path": list(vectors.ids)}
    )
    about = {"root": "", "reader": "", "split": "given", "unreadable": {}, "notes": ["imported, without audio"]}
    empty = np.zeros(0, np.int64)
    table = LabelTable(vectors.corpus, vectors.ids, empty, vectors.labels, vectors.schema, about)
    return store.put_corpus(table, files)
