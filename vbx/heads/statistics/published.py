"""Published: which numbers of a paper belong beside a setting."""

import json
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from vbx.errors import RecipeError
from vbx.heads.pages import join_keys

Numbers = dict[str, float]


def find_published(
    published: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], shown: Collection[str]
) -> Numbers:
    """Numbers of a paper for one setting.

    A key of `published` is a feature, or a feature and what else must hold, as TOML has it: `FEATURE, KEY = VALUE`.
    Of keys that hold, one whose conditions are all on what the table compares comes before another, then the one with
    more conditions: a paper may give one setting in two tables, with two numbers.

    Args:
        published: what numbers are of, to the numbers, nested or not: `METRIC`, `dev.METRIC` or `test.METRIC`
        about: of a setting (`describe_run`)
        shown: names of what the settings of the table differ in

    Returns:
        names with dots, to the numbers; none if no key holds

    Raises:
        RecipeError: if the conditions of a key are no TOML

    Examples:
        >>> paper = {"egemaps": {"score": 0.3}, "egemaps, fit.batch_size = 2": {"score": 0.4}}
        >>> find_published(paper, {"feature": "egemaps", "fit.batch_size": 2}, ["feature", "fit.batch_size"])
        {'score': 0.4}
        >>> find_published(paper, {"feature": "egemaps", "fit.batch_size": 2}, ["feature"])
        {'score': 0.3}
    """
    found: list[tuple[bool, int, Numbers]] = []
    for key, numbers in published.items():
        feature, conditions = _read_key(key)
        if feature == about["feature"] and all(about.get(path) == value for path, value in conditions.items()):
            found.append((set(conditions) <= set(shown), len(conditions), _flat_numbers(numbers)))
    return max(found, key=lambda entry: entry[:2])[2] if found else {}


def _read_key(key: str) -> tuple[str, dict[str, Any]]:
    """Feature and conditions; a list is what `describe_run` makes of it."""
    feature, comma, rest = key.partition(",")
    try:
        conditions = tomllib.loads(f"of = {{{rest}}}")["of"] if comma else {}
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"published numbers of {key!r}: write 'FEATURE, KEY = VALUE' as in TOML ({error})") from None
    flat = join_keys(conditions)
    return feature.strip(), {path: json.dumps(v) if isinstance(v, list) else v for path, v in flat.items()}


def _flat_numbers(table: Mapping[str, Any]) -> Numbers:
    return {name: float(value) for name, value in join_keys(table).items() if isinstance(value, (int, float))}
