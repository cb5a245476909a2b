"""Pages: recipes as TOML, those that vbx brings and those of a user."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vbx.errors import RecipeError, UnknownName
from vbx.heads.ranges import is_range


def list_recipes() -> list[str]:
    """Names of the recipes that vbx brings."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def read_page(name_or_path: str | Path) -> tuple[str, dict[str, Any]]:
    """Name of a recipe and what its page says.

    Args:
        name_or_path: name of a recipe of vbx, or a TOML file

    Raises:
        UnknownName: if there is no such recipe
        RecipeError: if there is no such file, or it is not TOML
    """
    name, data = _find(name_or_path)
    try:
        return name, tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {name!r} is not TOML: {error}") from None


def join_keys(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables, as TOML makes them of dotted keys, back to dotted keys; a range is a value.

    Examples:
        >>> join_keys({"fit": {"lr": [0.1, 0.2]}, "seed": [1]})
        {'fit.lr': [0.1, 0.2], 'seed': [1]}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping) and not is_range(value)
        flat |= join_keys(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _find(name_or_path: str | Path) -> tuple[str, bytes]:
    """Name and bytes of a recipe."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.parent != Path():
        if not path.is_file():
            raise RecipeError(f"no recipe at {str(path)!r}: there is no such file")
        return path.stem, path.read_bytes()
    if str(name_or_path) not in list_recipes():
        raise UnknownName("recipe", str(name_or_path), list_recipes(), "(or the path of a .toml file)")
    return str(name_or_path), _folder().joinpath(f"{name_or_path}.toml").read_bytes()


def _folder() -> Any:
    return resources.files("vbx.recipes")
