"""Values: what TOML, JSON or `--set` says, checked against the type of a dataclass's field."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vbx.errors import RecipeError, UnknownName

Noun = TypeVar("Noun")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def later(default: Noun) -> Noun:
    """A field that came after results were first kept: at its default it is left out of a run's key and settings.

    So a run that does not use it is the run that it was.
    """
    return field(default=default, metadata={"later": True})


def plain(value: Any) -> Any:
    """A noun as JSON has it; fields that came `later` are left out at their defaults.

    Examples:
        >>> from vbx.heads.parts import Score
        >>> plain(Score("mean", ("age.ccc",)))
        {'combine': 'mean', 'of': ['age.ccc']}
    """
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if not is_dataclass(value):
        return value
    kept = {f.name: getattr(value, f.name) for f in fields(value)}
    old = {f.name for f in fields(value) if f.metadata.get("later") and kept[f.name] == f.default}
    return {name: plain(item) for name, item in kept.items() if name not in old}


def later_defaults(cls: type) -> dict[str, Any]:
    """Defaults, as JSON has them, of the fields of a noun that came `later`."""
    return {f.name: plain(f.default) for f in fields(cls) if f.metadata.get("later")}


def build(cls: type[Noun], table: Mapping[str, Any], where: str) -> Noun:
    """Make a dataclass from a table, every value checked against its field's type.

    Args:
        cls: a dataclass
        table: its fields by name
        where: the place, for errors: `[fit] of recipe 'default'`

    Raises:
        UnknownName: if the table has a key that is not a field
        RecipeError: if a field is missing or a value has another type or is out of range
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise UnknownName(f"key of {where}:", key, known)
    missing = [name for name, f in known.items() if name not in table and _required(f)]
    if missing:
        raise RecipeError(f"{where} lacks the key {missing[0]!r}, which has no default")
    values = {key: coerce(value, hints[key], f"{key!r} of {where}") for key, value in table.items()}
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def coerce(value: object, hint: Any, where: str) -> Any:
    """A value as the type that a field has.

    Args:
        value: as TOML or JSON gives it
        hint: `str`, `int`, `float`, `bool`, a tuple of one of these, a dataclass, or one of these or None
        where: the place, for errors

    Raises:
        RecipeError: if it is of another type

    Examples:
        >>> coerce([128, 64], tuple[int, ...], "'hidden' of [trunk]")
        (128, 64)
    """
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(a for a in get_args(hint) if a is not type(None))
        return None if value is None else coerce(value, inner, where)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where} is {value!r}; it must be a list")
        return tuple(coerce(v, inner, f"item {i + 1} of {where}") for i, v in enumerate(value))
    if hint not in _WORDS:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} is {value!r}; it must be a table")
        return build(hint, value, where)
    # A whole number is a number; true is not.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise RecipeError(f"{where} is {value!r}; it must be {_WORDS[hint]}")
    return value


def is_list(hint: Any) -> bool:
    """Whether a field of this type holds a list, so that a list is one value of it and not several."""
    return get_origin(hint) is tuple


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
