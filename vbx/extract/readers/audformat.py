"""audformat: a database folder with `db.yaml`, as audb publishes them. Needs the extra `audformat`.

All tables become one: a row for each segment, or for each file that is not cut into segments, which take over the
labels of their file. Tables that differ only in their split (`emotion.train`, `emotion.test`) are parts of one. Where
several hold the same column, those called `gold_standard` count; where these contradict each other, each column keeps
the name of its table: `emotion.voice.emotion`. What the scheme `speaker` knows of a speaker (age, gender, ...) becomes
columns. `--reader audformat:files,emotion` reads these tables alone, with those whose names begin with `emotion.`.

Conventions: https://audeering.github.io/audformat/data-conventions.html
"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from vbx.cache.schema import Column
from vbx.errors import CorpusError, MissingExtra, UnknownName
from vbx.extract.corpus import Listing
from vbx.extract.readers._files import read_text

order = 20

HEADER = "db.yaml"
GOLD = "gold_standard"
KEYS = ("file", "start", "end")
Values: TypeAlias = NDArray[np.object_]
Found: TypeAlias = dict[str, tuple[Values, str | None]]
"""Columns by name: values, one an utterance, and the scheme they follow."""


@dataclass(frozen=True)
class _Table:
    """A table whose parts, one for each split, have been put together.

    Attributes:
        name: its id without the splits
        cells: its columns and its `split`, indexed by file, start and end (s; infinite for the end of the file)
        schemes: scheme of each column that has one
    """

    name: str
    cells: pd.DataFrame
    schemes: dict[str, str]


def recognises(root: Path) -> bool:
    """Whether it is a folder with `db.yaml`."""
    return (root / HEADER).is_file()


def read(root: Path, argument: str | None) -> Listing:
    """Read a database.

    Args:
        root: its folder
        argument: ids of tables, or beginnings of ids, with commas between; None for all tables

    Raises:
        MissingExtra: if audformat is not installed
        CorpusError: if audformat cannot load it, or an utterance is in two splits
        UnknownName: if there is no such table
    """
    database = _load(root)
    tables = _join_parts(database, _choose(list(database.tables), argument))
    if not tables:
        raise CorpusError(f"the audformat database {str(root)!r} has no tables of files")
    index, notes = _utterances(tables)
    tables = [_align(table, index) for table in tables]
    found: Found = {}
    for name in dict.fromkeys(str(name) for table in tables for name in table.cells):
        merged, more = _merge(name, [table for table in tables if name in table.cells])
        found |= merged
        notes += more
    found = {**_speaker_facts(database, found), **found}
    keys = {key: index.get_level_values(key) for key in KEYS}
    frame = pd.DataFrame({**keys, **{name: values for name, (values, _) in found.items()}}, dtype=object)
    frame["end"] = frame["end"].where(frame["end"] != np.inf, None)
    # Speakers are names, and splits get our spelling: neither keeps the classes of its scheme.
    stated = {n: _column(database, s) for n, (_, s) in found.items() if s and n.lower() not in ("speaker", "split")}
    return Listing(frame, {name: column for name, column in stated.items() if column}, tuple(notes))


def _load(root: Path) -> Any:
    """The database, loaded from its header and its CSV and Parquet tables."""
    try:
        import audformat
    except ImportError:
        raise MissingExtra("reader 'audformat'", "audformat") from None
    if not recognises(root):
        raise CorpusError(f"reader 'audformat' needs {HEADER!r}, which is not in {str(root)!r}")
    tables = [path for suffix in ("csv", "parquet") for path in root.glob(f"db.*.{suffix}")]
    pickles = {path.stem for path in root.glob("db.*.pkl")} - {path.stem for path in tables}
    if pickles:
        raise CorpusError(
            f"table {min(pickles)!r} of {str(root)!r} is there as a pickle only, which could run any code; "
            "save the database with storage_format='parquet'"
        )
    header = read_text(root / HEADER)
    try:
        # audformat's own loader runs code that a header holds, and unpickles a table wherever there is a pickle of it.
        yaml.load(header, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        with tempfile.TemporaryDirectory() as folder:
            for path in (root / HEADER, *tables):
                shutil.copyfile(path, Path(folder) / path.name)
            return audformat.Database.load(folder, load_data=True)
    except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CorpusError(f"the audformat database {str(root)!r} cannot be read: {error}") from error


def _choose(names: list[str], argument: str | None) -> list[str]:
    """Ids of the tables to read."""
    if not argument:
        return names
    chosen = []
    for wanted in (part.strip() for part in argument.split(",")):
        found = [name for name in names if name == wanted or name.startswith(wanted + ".")]
        if not found:
            raise UnknownName("audformat table", wanted, names)
        chosen += found
    return list(dict.fromkeys(chosen))


def _join_parts(database: Any, names: list[str]) -> list[_Table]:
    """Put the parts of each table together."""
    parts: dict[str, list[str]] = {}
    for name in names:
        split = database[name].split_id
        parts.setdefault(".".join(word for word in name.split(".") if word != split) or name, []).append(name)
    tables = []
    for name, ids in parts.items():
        cells = pd.concat([_cells(database, table) for table in ids])
        # Numbered, because a column may have the name of a key.
        cells = cells[~cells.set_axis(range(cells.shape[1]), axis=1).reset_index().duplicated().to_numpy()]
        twice = cells.index[cells.index.duplicated()]
        if len(twice):
            raise CorpusError(f"audformat tables {', '.join(ids)} list {twice[0][0]!r} twice with different labels")
        columns = {key: column for table in ids for key, column in database[table].columns.items()}
        tables.append(_Table(name, cells, {key: c.scheme_id for key, c in columns.items() if c.scheme_id}))
    return tables


def _cells(database: Any, name: str) -> pd.DataFrame:
    """One table as Python objects, with its split, indexed by file, start and end (s)."""
    table = database[name]
    frame = table.df
    files = frame.index.get_level_values("file").astype(object)
    starts, ends = np.zeros(len(frame)), np.full(len(frame), np.inf)
    if table.is_segmented:
        starts = frame.index.get_level_values("start").total_seconds().fillna(0.0)
        ends = frame.index.get_level_values("end").total_seconds().fillna(np.inf)
    index = pd.MultiIndex.from_arrays([files, starts, ends], names=KEYS)
    cells = {key: _objects(frame[key]) for key in frame}
    if table.split_id and "split" not in cells:
        kind = database.splits[table.split_id].type
        cells["split"] = np.full(len(frame), None if kind == "other" else kind, dtype=object)
    return pd.DataFrame(cells, index=index, dtype=object)


def _objects(values: "pd.Series[Any]") -> Values:
    """Values as Python objects, None where missing, durations in seconds."""
    if pd.api.types.is_timedelta64_dtype(values):
        values = values.dt.total_seconds()
    values = values.astype(object)
    return values.where(values.notna(), None).to_numpy()


def _utterances(tables: list[_Table]) -> tuple[pd.MultiIndex, list[str]]:
    """Keys of all utterances: files that are cut into segments are no utterances themselves."""
    keys = pd.concat([table.cells.index.to_frame(index=False) for table in tables]).drop_duplicates()
    whole = (keys["start"] == 0) & (keys["end"] == np.inf)
    cut = whole & keys["file"].isin(keys["file"][~whole])
    note = f"{int(cut.sum())} files are cut into segments, and are no utterances as a whole"
    return pd.MultiIndex.from_frame(keys[~cut]), [note] if cut.any() else []


def _align(table: _Table, index: pd.MultiIndex) -> _Table:
    """The same table with a row for each utterance: its own, or else that of its file."""
    files = index.get_level_values("file")
    of_file = pd.MultiIndex.from_arrays([files, np.zeros(len(files)), np.full(len(files), np.inf)])
    own = table.cells.index.get_indexer(index)
    place = np.where(own >= 0, own, table.cells.index.get_indexer(of_file))
    cells = {name: np.array([*table.cells[name], None], dtype=object)[place] for name in table.cells}
    return replace(table, cells=pd.DataFrame(cells, dtype=object))


def _merge(name: str, tables: list[_Table]) -> tuple[Found, list[str]]:
    """One column, with its scheme, from all tables that hold it; one from each where they contradict each other."""
    gold = [table for table in tables if GOLD in table.name.split(".") and name != "split"]
    notes = [f"{name!r} is read from {_names(gold)} alone"] if 0 < len(gold) < len(tables) else []
    tables = gold or tables
    merged = tables[0].cells[name].to_numpy()
    clash = len({table.schemes.get(name) for table in tables}) > 1
    for table in tables[1:]:
        other = table.cells[name].to_numpy()
        clash |= bool((pd.notna(merged) & pd.notna(other) & (merged != other)).any())
        merged = np.where(pd.isna(merged), other, merged)
    if not clash and name not in KEYS:
        return {name: (merged, tables[0].schemes.get(name))}, notes
    if name == "split":
        raise CorpusError(
            f"audformat tables {_names(tables)} put a file into different splits; choose among them by "
            "`--reader audformat:TABLE,TABLE`"
        )
    notes.append(f"{name!r} is not the same in {_names(tables)}: each became a column of its own, 'TABLE.{name}'")
    return {f"{t.name}.{name}": (t.cells[name].to_numpy(), t.schemes.get(name)) for t in tables}, notes


def _names(tables: list[_Table]) -> str:
    return ", ".join(repr(table.name) for table in tables)


def _speaker_facts(database: Any, columns: Found) -> Found:
    """The speaker of each utterance, and what the scheme of speakers says about them, with the schemes of that."""
    name = next((key for key, (_, scheme) in columns.items() if scheme == "speaker"), None)
    if name is None:
        return {}
    labels = database.schemes["speaker"].labels
    facts, known = pd.DataFrame(), {}
    if isinstance(labels, str):
        facts = database[labels].df
        known = {key: column.scheme_id for key, column in database[labels].columns.items()}
    elif isinstance(labels, dict):
        facts = pd.DataFrame.from_dict({k: v for k, v in labels.items() if isinstance(v, dict)}, orient="index")
    place = pd.Index(facts.index, dtype=object).get_indexer(pd.Index(columns[name][0], dtype=object))
    found = {str(key): (np.array([*_objects(facts[key]), None], dtype=object)[place], known.get(key)) for key in facts}
    return {"speaker": columns[name], **found}


def _column(database: Any, scheme: str) -> Column | None:
    """The schema that a scheme states, None if it states none."""
    labels, kind = database.schemes[scheme].labels, database.schemes[scheme].dtype
    if labels is not None:
        names = database[labels].index if isinstance(labels, str) else labels
        return Column("class", classes=tuple(sorted(str(name) for name in names)))
    if kind == "bool":
        return Column("class", classes=("False", "True"))
    if kind in ("int", "float"):
        return Column("number", low=database.schemes[scheme].minimum, high=database.schemes[scheme].maximum)
    return Column("number", unit="s") if kind == "time" else None
