"""Table: a file that names the audio and its labels: CSV, TSV, semicolons, Parquet or JSON lines.

One column names the files, relative to the corpus folder. It is called `file`, or one of the other spellings in
`SPELLINGS`; capitals, blanks, `_` and `-` make no difference. `start` and `end` (seconds) cut segments out of a file,
`split` and `speaker` are what they say, and every other column is a label.

`--reader table:labels/fold1.csv` names a table by its path from the corpus folder.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vbx.errors import CorpusError
from vbx.extract.corpus import MOST_COLUMNS, Listing
from vbx.extract.readers._files import check_cells, check_lines, check_names, read_delimited, read_text

order = 30

STEMS = ("labels", "metadata", "corpus")
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
FOUND = tuple(stem + suffix for stem in STEMS for suffix in SUFFIXES)
"""Names that are looked for in a folder, in this order."""
SPELLINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "file": (
            *("file", "path", "filename", "filepath"),
            *("audio", "audiofile", "audiopath", "audiofilepath", "wav", "wavfile", "wavpath"),
        ),
        "start": ("start",),
        "end": ("end",),
        "speaker": ("speaker", "speakerid"),
    }
)
"""Our columns and what tables call them, in lower case without `_`, `-` and blanks; the first that is there counts."""


def recognises(root: Path) -> bool:
    """Whether it is a table, or a folder with a table of one of the usual names."""
    if root.is_dir():
        return any((root / name).is_file() for name in FOUND)
    return root.suffix.lower() in SUFFIXES


def read(root: Path, argument: str | None) -> Listing:
    """Read a table.

    Files that the table names and the disk lacks are not looked for: extraction counts them.

    Args:
        root: the table, or the corpus folder
        argument: path of the table from the corpus folder; None for the first of the usual names

    Raises:
        CorpusError: if there is no table, it cannot be read, or no column names the files
    """
    path = _find_table(root, argument)
    frame, left_out = _READ[path.suffix.lower()](path)
    frame = _rename(path, frame)
    frame["file"] = frame["file"].map(lambda cell: str(cell).strip() or None, na_action="ignore")
    nameless = frame.index[frame["file"].isna()]
    if len(nameless):
        where = f"{frame.index.name} {nameless[0]}"
        raise CorpusError(f"{where} of {str(path)!r} names no file ({len(nameless)} such rows)")
    notes = (f"columns of {path.name} that hold lists, objects or bytes are no labels: {', '.join(left_out)}",)
    return Listing(frame, notes=notes if left_out else ())


def _find_table(root: Path, argument: str | None) -> Path:
    folder = root if root.is_dir() else root.parent
    if argument:
        path = folder / argument
    elif root.is_dir():
        path = next((folder / name for name in FOUND if (folder / name).is_file()), folder / FOUND[0])
    else:
        path = root
    if not path.is_file():
        raise CorpusError(f"there is no table {str(path)!r}; name one by `--reader table:PATH`, from the corpus folder")
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{str(path)!r} is no table that vbx can read; it reads {', '.join(SUFFIXES)}")
    return path


def _rename(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns that have a meaning their names."""
    there: dict[str, str] = {}
    for name in frame.columns:
        there.setdefault(re.sub(r"[\s_-]", "", name).lower(), name)
    found = {ours: [there[s] for s in spellings if s in there] for ours, spellings in SPELLINGS.items()}
    if not found["file"]:
        names = ", ".join(repr(name) for name in frame.columns[:20]) or "none"
        raise CorpusError(f"no column of {str(path)!r} names the files; call one of them 'file': it has {names}")
    return frame.rename(columns={names[0]: ours for ours, names in found.items() if names and ours not in frame})


def _read_delimited(path: Path) -> tuple[pd.DataFrame, list[str]]:
    return read_delimited(path), []


def _read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        file = pq.ParquetFile(path)
        check_names(path, file.schema_arrow.names)
        left_out = [f.name for f in file.schema_arrow if pa.types.is_nested(f.type) or _is_bytes(f.type)]
        columns = [name for name in file.schema_arrow.names if name not in left_out]
        check_cells(path, file.metadata.num_rows, len(columns))  # a small file may well hold a billion equal rows
        cells = file.read(columns=columns).to_pydict()
    except CorpusError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # text that is no UTF-8, far-off dates
        raise CorpusError(f"{str(path)!r} cannot be read as Parquet: {error}") from None
    # Python objects, not pandas types, which would turn a column of integers with a gap into floats.
    index = pd.RangeIndex(1, file.metadata.num_rows + 1, name="row")
    return pd.DataFrame(cells, index=index, columns=columns, dtype=object), left_out


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _read_json_lines(path: Path) -> tuple[pd.DataFrame, list[str]]:
    lines, rows = [], []
    names: dict[str, None] = {}
    for line, text in enumerate(check_lines(path, read_text(path)), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text, object_pairs_hook=_object)
            if "\\u" in text:
                json.dumps(row, ensure_ascii=False).encode()  # half a character, which no table can hold
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"line {line} of {str(path)!r} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise CorpusError(f"line {line} of {str(path)!r} is not a JSON object with a key for each column")
        lines.append(line)
        rows.append(row)
        names.update(dict.fromkeys(row))
        if len(names) > MOST_COLUMNS:
            check_names(path, list(names))
    check_cells(path, len(rows), len(names))
    frame = pd.DataFrame(rows, index=pd.Index(lines, name="line"), dtype=object)
    left_out = [str(name) for name in frame if any(isinstance(value, (list, dict)) for value in frame[name])]
    return frame.drop(columns=left_out), left_out


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


_READ: Mapping[str, Callable[[Path], tuple[pd.DataFrame, list[str]]]] = MappingProxyType(
    {
        ".csv": _read_delimited,
        ".tsv": _read_delimited,
        ".parquet": _read_parquet,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
    }
)
