"""Label files as text: every cell a string, every error with its file and line."""

import csv
import io
import re
from pathlib import Path

import pandas as pd

from vbx.errors import CorpusError

DELIMITERS = (",", "\t", ";")


def read_text(path: Path) -> str:
    """A file's text, which must be UTF-8, with or without a byte order mark.

    Raises:
        CorpusError: if it is not UTF-8, with the line where it ceases to be
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{str(path)!r} is not UTF-8: line {line} holds the byte 0x{raw[error.start]:02x}; "
            f"convert it, for instance with `iconv -f latin1 -t utf-8`"
        ) from None


def read_delimited(path: Path) -> pd.DataFrame:
    """Read a table of comma, tab or semicolon separated values; the header tells which.

    No cell is interpreted: `03` stays `03` and a speaker may be called `NA`. Only the empty cell is missing.
    Lines that are blank are passed over; a column without a name is called `column_N`, N counting from one.

    Args:
        path: the file, with a header

    Returns:
        columns of str or None, indexed by the line in the file at which each row ends

    Raises:
        CorpusError: if it is not UTF-8, has no header, a column twice, or a row of another length than the header
    """
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        names = [name.strip() or f"column_{place}" for place, name in enumerate(next(reader, []), start=1)]
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise CorpusError(
            f"line {reader.line_num} of {str(path)!r} cannot be read ({error}); look for a quotation mark too many"
        ) from None
    check_names(path, names)
    for line, row in rows:
        if len(row) != len(names):
            raise CorpusError(
                f"line {line} of {str(path)!r} has {len(row)} cells, its header has {len(names)}; "
                "a cell that holds the separator must stand in double quotes"
            )
    columns = zip(*(row for _, row in rows), strict=True) if rows else [()] * len(names)
    values = {name: [cell or None for cell in column] for name, column in zip(names, columns, strict=True)}
    return pd.DataFrame(values, index=pd.Index([line for line, _ in rows], name="line"), columns=names, dtype=object)


def check_names(path: Path, names: list[str]) -> None:
    """Make sure that a table has columns, each with a name of its own.

    Raises:
        CorpusError: if it has none, or one twice
    """
    if not names:
        raise CorpusError(f"{str(path)!r} has no columns; its first line must name them")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorpusError(f"{str(path)!r} has more than one column called {twice!r}; give each a name of its own")


def _delimiter(text: str) -> str:
    """The separator that occurs most often in the header."""
    return max(DELIMITERS, key=re.split(r"[\r\n]", text, maxsplit=1)[0].count)
