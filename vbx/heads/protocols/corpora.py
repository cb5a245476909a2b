"""Corpora: several of them as one, `emodb+nemo`, and classes that are called alike."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from vbx.cache.schema import Column
from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, RecipeError, UnknownName
from vbx.heads.protocol import CORPUS

Mapped = Mapping[str, Mapping[str, str]]
"""Label column to what its classes become: `CLASS`, or `CORPUS:CLASS`, to a name, or to an empty one."""
NOTHING: Mapped = MappingProxyType({})


def load_corpora(
    load: Callable[[str], Vectors],
    known: Collection[str],
    name: str,
    mapping: Mapped = NOTHING,
    targets: Collection[str] = (),
) -> tuple[Vectors, list[str]]:
    """Load one corpus, or several as one.

    Args:
        load: name of a corpus to its vectors of one feature
        known: names of the corpora that there are; one that is called so is never taken for several
        name: of a corpus, or of several joined by `+`
        mapping: what classes become
        targets: label columns that must be of one kind in all of them

    Returns:
        the vectors, and what the mapping did, in sentences

    Raises:
        UnknownName: if a column or a class of the mapping is nowhere
        RecipeError: if a class is not in the mapping of its column, or a target is of several kinds
        CacheError: if the vectors of two corpora are not comparable
    """
    names = [name] if name in known or "+" not in name else [part.strip() for part in name.split("+")]
    loaded = [load(one) for one in names]
    for column in mapping:
        if not any(column in vectors.schema for vectors in loaded):
            raise UnknownName("label column of [mapping]:", column, sorted({c for v in loaded for c in v.schema}))
    mapped, notes = [], []
    for vectors in loaded:
        there, more = map_classes(vectors, mapping)
        mapped.append(there)
        notes += more
    return (mapped[0] if len(mapped) == 1 else join_corpora(mapped, targets)), notes


def map_classes(vectors: Vectors, mapping: Mapped) -> tuple[Vectors, list[str]]:
    """Rename, unite and leave out classes.

    Args:
        vectors: of one corpus
        mapping: what classes become; columns that the corpus lacks are passed over

    Returns:
        the vectors with other labels, and what was done, in sentences

    Raises:
        UnknownName: if the mapping names a class of this corpus that it lacks
        RecipeError: if a column is not one of classes, or a class is not in its mapping

    Examples:
        >>> v = Vectors.from_arrays(np.eye(3), {"emotion": ["joy", "fear", "joy"]}, corpus="c")
        >>> map_classes(v, {"emotion": {"joy": "happiness", "c:fear": ""}})[0].labels["emotion"].tolist()
        ['happiness', None, 'happiness']
    """
    if not set(mapping) & set(vectors.schema):
        return vectors, []
    labels, schema, notes = vectors.labels, dict(vectors.schema), []
    for column, names in mapping.items():
        if column not in schema:
            continue
        if schema[column].kind != "class":
            raise RecipeError(
                f"[mapping.{column}]: {column!r} of corpus {vectors.corpus!r} is of kind {schema[column].kind!r}; only "
                f"classes can be mapped: read the corpus with --label {column}:class"
            )
        becomes = _read_names(vectors, column, names)
        counts = labels[column].value_counts()
        renamed = [becomes.get(value) or None for value in labels[column].tolist()]
        labels = labels.assign(**{column: pd.Series(renamed, index=labels.index, dtype=object)})
        classes = tuple(sorted({name for name in becomes.values() if name}))
        schema[column] = Column("class", classes=classes, missing=bool(labels[column].isna().any()))
        changed = [f"{a} to {b} ({counts[a]})" for a, b in becomes.items() if b and b != a]
        gone = [f"{a} ({counts[a]})" for a, b in becomes.items() if not b]
        where = f"{column!r} of corpus {vectors.corpus!r}"
        notes += [f"classes of {where} renamed: {', '.join(changed)}"] if changed else []
        notes += [f"classes of {where} left out: {', '.join(gone)} utterances"] if gone else []
    return replace(vectors, labels=labels, schema=schema), notes


def _read_names(vectors: Vectors, column: str, names: Mapping[str, str]) -> dict[str, str]:
    """What each class that the corpus has becomes."""
    corpus, classes = vectors.corpus, vectors.schema[column].classes
    for key in names:
        if key.startswith(f"{corpus}:") and key.removeprefix(f"{corpus}:") not in classes and key not in classes:
            raise UnknownName(f"class in [mapping.{column}]:", key, [f"{corpus}:{name}" for name in classes])
    seen, becomes = set(vectors.labels[column].dropna()), {}
    for name in classes:
        if name not in seen:
            continue
        if f"{corpus}:{name}" not in names and name not in names:
            count = int((vectors.labels[column] == name).sum())
            raise RecipeError(
                f"class {name!r} of {column!r} in corpus {corpus!r} ({count} utterances) is not in [mapping.{column}]; "
                f"say there what it becomes: '{corpus}:{name}' = 'NAME', or '' to leave it out"
            )
        becomes[name] = names.get(f"{corpus}:{name}", names.get(name, ""))
    return becomes


def join_corpora(corpora: Sequence[Vectors], targets: Collection[str] = ()) -> Vectors:
    """Put the utterances of several corpora one after the other.

    Ids become `CORPUS/ID`, speakers `CORPUS:SPEAKER`, and a column of classes `corpus` says where each comes from.
    Classes of one name are one class. A column that a corpus lacks is missing there; one that is of different kinds is
    text, which cannot be learnt.

    Args:
        corpora: vectors of one feature, each of another corpus
        targets: label columns that must be of one kind in all of them

    Raises:
        RecipeError: if a corpus is there twice, has a label column `corpus`, or a target is of several kinds
        CacheError: if the vectors of two corpora are not comparable

    Examples:
        >>> a, b = (Vectors.from_arrays(np.eye(2), {"age": [20, 30]}, corpus=name) for name in "ab")
        >>> joined = join_corpora([a, b])
        >>> joined.corpus, joined.ids, joined.labels["corpus"].tolist()
        ('a+b', ('a/0', 'a/1', 'b/0', 'b/1'), ['a', 'a', 'b', 'b'])
    """
    names = [vectors.corpus for vectors in corpora]
    if len(set(names)) < len(names):
        raise RecipeError(f"a corpus is named twice in {'+'.join(names)!r}; join different ones")
    for vectors in corpora:
        if CORPUS in vectors.schema:
            raise RecipeError(
                f"corpus {vectors.corpus!r} has a label column {CORPUS!r}, as a joined one has; rename its own"
            )
    _check_comparable(corpora)
    columns = list(dict.fromkeys(column for vectors in corpora for column in vectors.schema))
    schema, frames = {}, [_named(vectors) for vectors in corpora]
    for column in columns:
        schema[column] = _join_column(column, corpora, column in targets)
        for frame, vectors in zip(frames, corpora, strict=True):
            if column not in vectors.schema:
                frame[column] = None
            if schema[column].kind == "number":
                frame[column] = pd.to_numeric(frame[column]).astype(np.float64)
            else:
                frame[column] = [None if pd.isna(value) else _as_text(value) for value in frame[column].tolist()]
                frame[column] = frame[column].astype(object)
    schema[CORPUS] = Column("class", classes=tuple(sorted(names)))
    keys = [vectors.key for vectors in corpora]
    return Vectors(
        x=np.concatenate([vectors.x for vectors in corpora]),
        ids=tuple(f"{vectors.corpus}/{name}" for vectors in corpora for name in vectors.ids),
        labels=pd.concat([frame[[*columns, CORPUS]] for frame in frames], ignore_index=True),
        schema=schema,
        feature=corpora[0].feature,
        corpus="+".join(names),
        columns=corpora[0].columns,
        key=keys[0] if len(set(keys)) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest(),
        missing=sum(vectors.missing for vectors in corpora),
        # Of several codebooks or checkpoints, none made all of the vectors.
        parts=corpora[0].parts if len({vectors.parts for vectors in corpora}) == 1 else (),
    )


def _named(vectors: Vectors) -> pd.DataFrame:
    """Labels of a corpus that name it: no speaker of one is a speaker of another."""
    frame = vectors.labels.copy()
    if "speaker" in frame:
        speakers = [None if pd.isna(value) else f"{vectors.corpus}:{value}" for value in frame["speaker"].tolist()]
        frame["speaker"] = pd.Series(speakers, index=frame.index, dtype=object)
    return frame.assign(**{CORPUS: vectors.corpus})


def _as_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _join_column(name: str, corpora: Sequence[Vectors], target: bool) -> Column:
    """The schema of a column over corpora; where it has no value in one, that one has no say."""
    found = {v.corpus: v.schema[name] for v in corpora if name in v.schema and v.labels[name].notna().any()}
    kinds = {corpus: column.kind for corpus, column in found.items()}
    units = {column.unit for column in found.values() if column.unit}
    if target and len(set(kinds.values())) > 1:
        told = ", ".join(f"{kind!r} in {corpus!r}" for corpus, kind in kinds.items())
        raise RecipeError(
            f"label column {name!r} is of kind {told}; read one of the corpora with --label {name}:KIND, so that it is "
            "of one kind in all"
        )
    if target and len(units) > 1:
        raise RecipeError(f"label column {name!r} is in different units: {', '.join(sorted(units))}")
    missing = len(found) < len(corpora) or any(column.missing for column in found.values())
    if len(set(kinds.values())) != 1 or "text" in kinds.values():
        return Column("text", missing=missing)
    columns = list(found.values())
    if columns[0].kind == "class":
        return Column("class", tuple(sorted({c for column in columns for c in column.classes})), missing=missing)
    low, high = ([getattr(c, side) for c in columns if getattr(c, side) is not None] for side in ("low", "high"))
    limits = min(low, default=None), max(high, default=None)
    return Column("number", (), *limits, unit=next(iter(units), None), missing=missing)


def _check_comparable(corpora: Sequence[Vectors]) -> None:
    """Refuse vectors that were made by different encoders: a number of one means nothing beside that of another."""
    first = corpora[0]
    for other in corpora[1:]:
        names = f"vectors of {first.feature!r} in {first.corpus!r} and {other.corpus!r}"
        if (first.feature, first.columns, len(first.parts)) != (other.feature, other.columns, len(other.parts)):
            raise CacheError(f"{names} do not have the same columns; extract one feature for both")
        for ours, theirs in zip(first.parts, other.parts, strict=True):
            if ours.spec.encoder == "boaw" and ours.spec != theirs.spec:
                raise CacheError(
                    f"{names} cannot be compared: bags of audio words count by the codebook of their own corpus; "
                    "choose a feature without one, as compare"
                )
            # Vectors from elsewhere bear their own digest: that they are of one kind is said by their name alone.
            differ = set(ours.spec.difference(theirs.spec)) - ({"weights"} if ours.spec.encoder == "array" else set())
            if differ:
                raise CacheError(
                    f"{names} cannot be compared: they were made with different {', '.join(sorted(differ))}; extract "
                    f"both alike, or name those that are, as {ours.typed}#{ours.spec.key[:8]}"
                )
