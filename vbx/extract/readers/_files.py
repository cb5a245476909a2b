"""Label files as text: every cell a string, every error with its file and line, and an end to every size.

A table comes from anywhere, so it is read as data alone, and what would take more memory than any table of labels is
refused before it is taken apart.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vbx.errors import CorpusError
from vbx.extract.corpus import MOST_COLUMNS

DELIMITERS = (",", "\t", ";")
MOST_BYTES = 1 << 30
MOST_CELLS = 200_000_000
LONGEST_LINE = 1 << 24
"""Characters of one line, a thousand for each of the most columns."""
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks of other encodings."""
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def read_text(path: Path) -> str:
    """A file's text, which must be UTF-8, with or without a byte order mark.

    Raises:
        CorpusError: if it is not UTF-8 text, with the line where it ceases to be, or too large for a label file
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    if size > MOST_BYTES:
        raise CorpusError(f"{str(path)!r} has {size:,} bytes; vbx reads label files of up to {MOST_BYTES:,}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), None)
    if encoding:
        raise CorpusError(f"{str(path)!r} is {encoding.upper()}, not UTF-8; convert it: `iconv -f {encoding} -t utf-8`")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{str(path)!r} is not UTF-8: line {line} holds the byte 0x{raw[error.start]:02x}; "
            f"convert it, for instance with `iconv -f latin1 -t utf-8`"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(
            f"line {line} of {str(path)!r} holds a zero byte, so it is no UTF-8 text; if it is UTF-16 without a mark, "
            "convert it: `iconv -f utf-16le -t utf-8`"
        )
    return text


def read_delimited(path: Path) -> pd.DataFrame:
    """Read a table of comma, tab or semicolon separated values; the header tells which.

    No cell is interpreted: `03` stays `03` and a speaker may be called `NA`. Only the empty cell is missing.
    Lines that are blank are passed over; a column without a name is called `column_N`, N counting from one.

    Args:
        path: the file, with a header

    Returns:
        columns of str or None, indexed by the line in the file at which each row ends

    Raises:
        CorpusError: if it is not UTF-8, has no header, a column twice, or a row of another length than the header, or
            exceeds a limit
    """
    text = read_text(path)
    delimiter = _delimiter(path, text)
    reader = csv.reader(check_lines(path, text), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() or f"column_{place}" for place, name in enumerate(next(reader, []), start=1)]
        check_names(path, names)
        rows = []
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(names):
                raise CorpusError(
                    f"line {reader.line_num} of {str(path)!r} has {len(row)} cells, its header has {len(names)}; "
                    "a cell that holds the separator must stand in double quotes"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise CorpusError(
            f"line {reader.line_num} of {str(path)!r} cannot be read ({error}); look for a quotation mark too many"
        ) from None
    check_cells(path, len(rows), len(names))
    columns = zip(*(row for _, row in rows), strict=True) if rows else [()] * len(names)
    values = {name: [cell or None for cell in column] for name, column in zip(names, columns, strict=True)}
    return pd.DataFrame(values, index=pd.Index([line for line, _ in rows], name="line"), columns=names, dtype=object)


def check_lines(path: Path, text: str) -> Iterator[str]:
    """Lines of a text with their ends.

    Raises:
        CorpusError: if one is too long for a table
    """
    for number, line in enumerate(LINE.finditer(text), start=1):
        if line.end() - line.start() > LONGEST_LINE:
            raise CorpusError(
                f"line {number} of {str(path)!r} has {line.end() - line.start():,} characters; vbx reads lines of up "
                f"to {LONGEST_LINE:,}, so it may be no table"
            )
        yield line[0]


def check_names(path: Path, names: list[str]) -> None:
    """Make sure that a table has columns, not too many, each with a name of its own.

    Raises:
        CorpusError: if it has none, too many, or one twice
    """
    if not names:
        raise CorpusError(f"{str(path)!r} has no columns; its first line must name them")
    if len(names) > MOST_COLUMNS:
        raise CorpusError(_too_wide(path, len(names)))
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise CorpusError(f"{str(path)!r} has more than one column called {name!r}; give each a name of its own")


def check_cells(path: Path, rows: int, columns: int) -> None:
    """Make sure that a table fits into memory.

    Raises:
        CorpusError: if it has too many cells
    """
    if rows * columns > MOST_CELLS:
        raise CorpusError(
            f"{str(path)!r} has {rows:,} rows of {columns:,} columns; vbx reads tables of up to {MOST_CELLS:,} cells, "
            "so keep the columns that are labels"
        )


def _too_wide(path: Path, count: int) -> str:
    return f"{str(path)!r} has {count:,} columns; vbx reads up to {MOST_COLUMNS:,}, so keep those that are labels"


def _delimiter(path: Path, text: str) -> str:
    """The separator that occurs most often in the header."""
    header = next(check_lines(path, text), "")
    counts = {delimiter: header.count(delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=counts.__getitem__)
    if counts[best] > MOST_COLUMNS:  # told before a hundred million names are made
        raise CorpusError(_too_wide(path, counts[best] + 1))
    return best
