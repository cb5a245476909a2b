"""Exporting vectors from the cache into one file that other programs read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pandas as pd

from vbx.cache.files import write_file
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, UnknownName


def export_vectors(vectors: Vectors, path: Path, kind: str) -> None:
    """Write vectors, ids and labels into one file; it appears whole or not at all.

    Args:
        vectors: from `Store.load_vectors`
        path: the file
        kind: `hdf5` (datasets `x`, `ids`, `columns`, group `labels`), `npz` (the same names), `parquet` or `csv`
            (id, labels, then a column per dimension)

    Raises:
        UnknownName: if `kind` is none of these
        CacheError: if the file cannot be written
    """
    if kind not in WRITERS:
        raise UnknownName("export format", kind, WRITERS)
    aside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](vectors, aside)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CacheError(f"cannot write {path}: {error.strerror or error}") from error


def _write_hdf5(vectors: Vectors, path: Path) -> None:
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=vectors.x)
        file.create_dataset("ids", data=np.array(vectors.ids, dtype=object), dtype=text)
        file.create_dataset("columns", data=np.array(vectors.columns, dtype=object), dtype=text)
        labels = file.create_group("labels")
        for name, values in vectors.labels.items():
            if vectors.schema.get(str(name)) and vectors.schema[str(name)].kind == "number":
                labels.create_dataset(str(name), data=values.to_numpy(float))
            else:  # HDF5 has no missing text: the empty string stands for it
                labels.create_dataset(str(name), data=np.array([v or "" for v in values], dtype=object), dtype=text)
        file.attrs.update({"corpus": vectors.corpus, "feature": vectors.feature, "key": vectors.key})


def _write_npz(vectors: Vectors, path: Path) -> None:
    labels = {}
    for name, values in vectors.labels.items():
        numeric = pd.api.types.is_numeric_dtype(values)
        labels[f"labels/{name}"] = values.to_numpy() if numeric else np.array([v or "" for v in values], dtype=str)
    with open(path, "wb") as file:
        arrays = {"x": vectors.x, "ids": np.array(vectors.ids), "columns": np.array(vectors.columns), **labels}
        np.savez(file, allow_pickle=False, **arrays)


def _frame(vectors: Vectors) -> pd.DataFrame:
    labels = vectors.labels.rename(columns={c: f"label_{c}" for c in vectors.labels if c in {"id", *vectors.columns}})
    x = pd.DataFrame(vectors.x, columns=list(vectors.columns))
    return pd.concat([pd.Series(vectors.ids, name="id"), labels, x], axis=1)


def _write_parquet(vectors: Vectors, path: Path) -> None:
    _frame(vectors).to_parquet(path, index=False)


def _write_csv(vectors: Vectors, path: Path) -> None:
    write_file(path, _frame(vectors).to_csv(index=False).encode())


WRITERS: Mapping[str, Callable[[Vectors, Path], None]] = MappingProxyType(
    {"hdf5": _write_hdf5, "npz": _write_npz, "parquet": _write_parquet, "csv": _write_csv}
)
