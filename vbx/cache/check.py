"""Checking the cache: every byte is read, and each damaged, missing or foreign file is named with its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vbx.cache.files import LOCK, PARTIAL, read_sealed, read_table
from vbx.cache.layout import COMMITS, Commit, Layout, is_unit_record, read_commit, read_layout
from vbx.cache.rows import UTTERANCES
from vbx.cache.store import CORPUS, FAILURES, LABELS, SPEC, Store, read_spec
from vbx.cache.zarr_arrays import map_verified, unseal_metadata
from vbx.errors import CacheError, VbxError


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        path: the file or folder, relative to the cache
        problem: `damaged`, `missing`, `foreign` or `leftover`
        detail: what is wrong, and which rows it touches
    """

    path: str
    problem: str
    detail: str


def check_cache(store: Store, corpus: str | None = None) -> list[Finding]:
    """Read every byte of a cache, or of one corpus, and name what is not as it was written.

    Leftovers of a killed process (`leftover`) are harmless; `gc` collects them. Everything else is refused by loading.
    """
    found: list[Finding] = []
    if not store.root.is_dir():
        return found
    for path in sorted(store.root.iterdir()):
        if corpus and path.name != corpus:
            continue
        if not path.is_dir():
            found.append(Finding(path.name, "foreign", "no part of the cache"))
        elif (path / CORPUS).exists():
            found += _check_corpus(path)
        elif (path / UTTERANCES).exists():
            found += [Finding(f"{path.name}/{CORPUS}", "missing", "run `vbx extract` again"), *_check_corpus(path)]
        else:
            found.append(Finding(path.name, "foreign", f"a folder without {CORPUS}"))
    return found


def _check_corpus(folder: Path) -> Iterator[Finding]:
    place = folder.parent
    expected = {folder / LOCK, folder / CORPUS}
    try:
        if (folder / CORPUS).exists():
            read_sealed(folder / CORPUS)
    except CacheError as error:
        yield Finding(_at(folder / CORPUS, place), "damaged", str(error))
    for name in (UTTERANCES, LABELS):
        expected |= {folder / name, folder / f"{name}.sha256"}
        yield from _check_table(folder / name, place)
    specs = sorted(p for p in folder.iterdir() if p.is_dir())
    for path in sorted(p for p in folder.iterdir() if not p.is_dir()):
        yield from _stray(path, expected, place)
    for path in specs:
        if (path / SPEC).exists():
            yield from _check_spec(path, place)
        else:
            yield Finding(_at(path, place), "foreign", "a folder without spec.json")


def _check_spec(folder: Path, place: Path) -> Iterator[Finding]:
    expected = {folder / SPEC, folder / FAILURES, folder / f"{FAILURES}.sha256"}
    try:
        read_spec(folder)
    except VbxError as error:
        yield Finding(_at(folder / SPEC, place), "damaged", str(error))
    if (folder / FAILURES).exists() or (folder / f"{FAILURES}.sha256").exists():
        yield from _check_table(folder / FAILURES, place)
    layouts: dict[str, Layout] = {}
    begun: set[str] = set()
    for path in sorted((folder / COMMITS).glob("*.json")):
        expected.add(path)
        try:
            if is_unit_record(path):
                commit = read_commit(path)
                begun.add(commit.output)
                expected |= {folder / name for name in commit.files}
                yield from _check_unit(folder, commit, place)
            else:
                layouts[path.stem] = read_layout(path)
        except (CacheError, KeyError, TypeError, ValueError) as error:
            yield Finding(_at(path, place), "damaged", str(error))
            # What a damaged record would have named cannot be told from leftovers: it counts as neither.
            expected |= _files_of(folder, path)
    for layout in layouts.values():
        if layout.format == "zarr":
            metadata = folder / layout.output / "zarr.json"
            expected.add(metadata)
            if layout.output in begun or metadata.exists():  # before the first unit it may not be there yet
                yield from _check_metadata(metadata, place)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield from _stray(path, expected, place, within=layouts)


def _check_unit(folder: Path, commit: Commit, place: Path) -> Iterator[Finding]:
    rows = f"rows {commit.rows[0]} to {commit.rows[-1]}" if commit.rows else "no rows"
    for name, known in commit.files.items():
        try:
            map_verified(folder / name, *known)
        except (CacheError, OSError) as error:
            problem = "damaged" if (folder / name).exists() else "missing"
            yield Finding(_at(folder / name, place), problem, f"{commit.output}, {rows}: {error}")


def _check_metadata(path: Path, place: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(_at(path, place), "missing", "the array cannot be opened without it")
        return
    try:
        unseal_metadata(path.read_bytes(), path)
    except CacheError as error:
        yield Finding(_at(path, place), "damaged", str(error))


def _check_table(path: Path, place: Path) -> Iterator[Finding]:
    try:
        read_table(path)
    except CacheError as error:
        yield Finding(_at(path, place), "damaged" if path.exists() else "missing", str(error))


def _stray(path: Path, expected: set[Path], place: Path, within: dict[str, Layout] | None = None) -> Iterator[Finding]:
    if path in expected:
        return
    if path.name.endswith(PARTIAL):
        yield Finding(_at(path, place), "leftover", "half-written by a process that was killed (`vbx cache gc`)")
    elif within and path.relative_to(place).parts[2] in within:
        yield Finding(_at(path, place), "leftover", "written but never committed (`vbx cache gc`)")
    else:
        yield Finding(_at(path, place), "foreign", "no part of the cache")


def _files_of(folder: Path, record: Path) -> set[Path]:
    output, _, unit = record.stem.rpartition("-")
    if not is_unit_record(record):
        return set((folder / record.stem).rglob("*"))
    home = folder / output
    return {home / "c" / str(int(unit)) / "0", home / f"{unit}.h5", *(home / unit).rglob("*")}


def _at(path: Path, place: Path) -> str:
    return path.relative_to(place).as_posix()
