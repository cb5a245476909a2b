"""ExVo: the release of HUME-VB for the ExVo 2022 challenge: `data_info.csv` beside a folder of WAV files.

Columns are found by name, whatever their case and order, because the scripts of the challenge disagree on their places.
`Country` holds numbers and `Country_string` names; either may be absent, and the names are kept where they are there.
Labels of the test split may be missing.

Baird et al. 2022, "The ICML 2022 Expressive Vocalizations Workshop and Competition".
"""

import os
from pathlib import Path

import pandas as pd

from vbx.cache.schema import Column
from vbx.errors import CorpusError
from vbx.extract.corpus import Listing
from vbx.extract.readers._files import check_names, read_delimited

order = 10

TABLE = "data_info.csv"
AUDIO_FOLDERS = ("wav", "audio", "")
EMOTIONS = (
    *("Awe", "Excitement", "Amusement", "Awkwardness", "Fear"),
    *("Horror", "Distress", "Triumph", "Sadness", "Surprise"),
)
"""The ten emotions, each 0 to 1, in the order of the release and of its submissions."""
CLIPS = 59_201
"""Rows of the release as published."""


def recognises(root: Path) -> bool:
    """Whether it is `data_info.csv` or a folder that holds it."""
    return (root / TABLE).is_file() or (root.name == TABLE and root.is_file())


def read(root: Path, argument: str | None) -> Listing:
    """Read the release.

    Args:
        root: the folder of `data_info.csv`, or that file
        argument: there is none

    Raises:
        CorpusError: if an argument is given, columns are missing, or the two spellings of the country contradict each
            other
    """
    if argument:
        raise CorpusError(f"reader 'exvo' takes no argument, and was given {argument!r}")
    folder = root if root.is_dir() else root.parent
    path = folder / TABLE
    if not path.is_file():
        raise CorpusError(f"reader 'exvo' needs {TABLE!r}, which is not in {str(folder)!r}")
    table = _named_columns(path)
    ids = table["File_ID"].str.strip().str.removeprefix("[").str.removesuffix("]")
    if (ids.fillna("") == "").any():
        raise CorpusError(f"line {ids.index[ids.fillna('') == ''][0]} of {str(path)!r} has no File_ID")
    files, notes = _find_audio(folder, ids + ".wav")
    frame = pd.DataFrame({"file": files, "split": table["Split"]})
    frame["speaker"] = table["Subject_ID"]
    frame["Country"] = _countries(path, table)
    frame[["Age", *EMOTIONS]] = table[["Age", *EMOTIONS]]
    schema = {"Country": Column("class"), "Age": Column("number", unit="years")}
    schema |= {emotion: Column("number", low=0.0, high=1.0) for emotion in EMOTIONS}
    if len(frame) != CLIPS:
        notes = (f"HUME-VB as published has {CLIPS:,} clips, {TABLE} here has {len(frame):,}", *notes)
    return Listing(frame, schema, notes)


def _named_columns(path: Path) -> pd.DataFrame:
    """The table, its columns spelt as the release spells them."""
    table = read_delimited(path)
    there = {name.lower(): name for name in table.columns}
    check_names(path, [name.lower() for name in table.columns])
    needed = ("File_ID", "Split", "Subject_ID", "Age", *EMOTIONS)
    missing = [name for name in needed if name.lower() not in there]
    if "country" not in there and "country_string" not in there:
        missing.append("Country")
    if missing:
        raise CorpusError(
            f"{str(path)!r} lacks the columns {', '.join(missing)} of the ExVo release; "
            f"a table of another kind is read by `--reader table:{TABLE}`"
        )
    names = (*needed, "Country", "Country_string")
    return table.rename(columns={there[name.lower()]: name for name in names if name.lower() in there})


def _countries(path: Path, table: pd.DataFrame) -> "pd.Series[str]":
    """Names of the countries where they are there, else their numbers; names and numbers must agree."""
    if "Country" not in table or "Country_string" not in table:
        return table["Country_string"] if "Country_string" in table else table["Country"]
    pairs = table[["Country", "Country_string"]].dropna().drop_duplicates()
    for one, other in (("Country", "Country_string"), ("Country_string", "Country")):
        clash = pairs[pairs[one].duplicated(keep=False)]
        if len(clash):
            value = clash[one].iloc[0]
            both = " and ".join(repr(name) for name in clash[other][clash[one] == value][:2])
            raise CorpusError(f"in {str(path)!r} {one} {value!r} stands with {other} {both}; it must be one to one")
    return table["Country_string"] if len(pairs) else table["Country"]


def _find_audio(folder: Path, names: "pd.Series[str]") -> "tuple[pd.Series[str], tuple[str, ...]]":
    """Paths from the corpus folder, in the first of the usual folders that holds most of the files, and a note.

    Labels are of use without audio too, beside vectors from elsewhere; extraction counts the files that are not there.
    """
    wanted = set(names)
    there = {place: len(wanted.intersection(_listed(folder / place))) for place in AUDIO_FOLDERS}
    place = max(AUDIO_FOLDERS, key=there.__getitem__)
    if wanted and not there[place]:
        note = (
            f"none of the {len(wanted):,} files of {TABLE} lies in {str(folder)!r} or in its folders 'wav' and 'audio'"
        )
        return "wav/" + names, (note,)
    return (names if not place else place + "/" + names), ()


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
