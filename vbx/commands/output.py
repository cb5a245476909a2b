"""Printing: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: object) -> None:
    """Print one JSON value on one line; what is not finite becomes null, as JSON has no word for it."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, title: str = "") -> None:
    """Print rows as a table, or as a JSON list."""
    if as_json:
        print_json(list(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table, markup=False)


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    print(text, file=sys.stderr)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):  # a numpy scalar
        return _plain(value.item())
    if isinstance(value, float) and value - value != 0.0:
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
