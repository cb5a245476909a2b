"""What a label column holds: classes, numbers or text. Written into the cache, read by the heads."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vbx.errors import CorpusError, UnknownName

Kind = Literal["class", "number", "text"]
KINDS: tuple[Kind, ...] = ("class", "number", "text")
TEXT_COLUMNS = frozenset({"speaker"})
"""Columns that are names, never numbers: `03` and `3` are two speakers."""
PADDED = re.compile(r"-?0\d+")
"""Digits that are a name, not a number."""


@dataclass(frozen=True)
class Column:
    """The schema of one label column.

    Attributes:
        kind: `class` (one of `classes`), `number`, or `text` (anything, never a target)
        classes: the classes, sorted; empty unless `kind` is `class`
        low: smallest number seen or allowed
        high: largest number seen or allowed
        unit: unit of the numbers, if the corpus says it
        missing: whether some utterances have no value
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    missing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Fields that are set, for `corpus.json`."""
        # By identity: a `low` of 0.0 equals False, and is set all the same.
        return {k: v for k, v in asdict(self).items() if v is not None and v is not False and v != ()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Column":
        """The inverse of `to_json`."""
        return cls(**{**fields, "classes": tuple(fields.get("classes", ()))})


def infer_columns(
    frame: pd.DataFrame, known: Mapping[str, Column] | None = None, override: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, dict[str, Column]]:
    """Give each label column a kind, and its values the matching type.

    Numbers become float64 with NaN where missing; classes and text become str with None where missing.
    A column of digits with leading zeros (`03`) is text of classes, not numbers.

    Args:
        frame: label columns, one row per utterance, any types
        known: columns whose schema the corpus itself states
        override: column name to kind, from `--label NAME:KIND`

    Returns:
        the typed frame and the schema of each column

    Raises:
        UnknownName: if `override` names a column or a kind that does not exist
        CorpusError: if a value does not fit the kind that was asked for, or what the corpus states
    """
    known, override = dict(known or {}), dict(override or {})
    for name, kind in override.items():
        if name not in frame.columns:
            raise UnknownName("label column", name, list(frame.columns))
        if kind not in KINDS:
            raise UnknownName(f"kind of label {name!r}:", kind, KINDS)
    typed, schema = {}, {}
    for name in frame.columns:
        values = _as_text(frame[name])
        stated = known.get(name)
        kind = override.get(name) or (stated.kind if stated else _guess(name, values))
        typed[name], schema[name] = _typed(name, values, kind, stated if name not in override else None)
    return pd.DataFrame(typed, index=frame.index, columns=list(frame.columns)), schema


def _as_text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Values as stripped text, None where missing; 31.0 from a float column is `31`."""

    def text(value: object) -> str | None:
        if isinstance(value, str):
            return value.strip() or None
        if value is None or pd.isna(value):  # type: ignore[call-overload]
            return None
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)

    return pd.Series([text(v) for v in values.tolist()], index=values.index, dtype=object)


def _guess(name: str, values: "pd.Series[Any]") -> Kind:
    present = values.dropna().to_numpy()
    distinct = pd.unique(present)
    if name in TEXT_COLUMNS or not len(distinct):
        return "text"
    numbers, wrong = _numbers(distinct)
    if not wrong.any() and np.isfinite(numbers).any() and not any(map(PADDED.fullmatch, distinct)):
        return "number"
    return "class" if len(distinct) <= 20 or len(distinct) <= len(present) / 3 else "text"


def _numbers(texts: NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Texts as numbers, NaN where there is none, and which of them are no finite number though not missing."""
    numbers = np.asarray(pd.to_numeric(texts, errors="coerce"), dtype=np.float64)
    wrong = ~np.isfinite(numbers)
    # `nan` is how some programs write that a number is missing.
    wrong[wrong] = [text is not None and text.lower() != "nan" for text in texts[wrong]]
    return numbers, wrong


def _typed(name: str, values: "pd.Series[Any]", kind: str, stated: Column | None) -> tuple["pd.Series[Any]", Column]:
    missing = bool(values.isna().any())
    if kind == "text":
        return values, Column("text", missing=missing)
    if kind == "number":
        return _typed_numbers(name, values, stated or Column("number"))
    seen = set(values.dropna())
    classes = tuple(stated.classes) if stated and stated.classes else tuple(sorted(seen))
    strange = sorted(seen - set(classes))
    if strange:
        raise CorpusError(
            f"label {name!r} has the value {strange[0]!r}, which is not one of {list(classes)[:12]}; if it should be, "
            f"state the kind of the label yourself: --label {name}:class"
        )
    return values, Column("class", classes=classes, missing=missing)


def _typed_numbers(name: str, values: "pd.Series[Any]", stated: Column) -> tuple["pd.Series[Any]", Column]:
    found, wrong = _numbers(values.to_numpy())
    if wrong.any():
        bad = values[wrong]
        raise CorpusError(f"label {name!r} of {bad.index[0]!r} is {bad.iloc[0]!r}, which is not a number")
    numbers = pd.Series(found, index=values.index)
    low = numbers.min() if stated.low is None else stated.low
    high = numbers.max() if stated.high is None else stated.high
    strange = numbers[(found < low) | (found > high)]
    if len(strange):
        raise CorpusError(
            f"label {name!r} of {strange.index[0]!r} is {strange.iloc[0]:g}, and the corpus itself allows {low:g} to "
            f"{high:g}; if that is meant, state the kind of the label yourself: --label {name}:number"
        )
    limits = [None if np.isnan(limit) else float(limit) for limit in (low, high)]
    return numbers, replace(stated, low=limits[0], high=limits[1], missing=bool(np.isnan(found).any()))
