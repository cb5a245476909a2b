"""Checking the cache: every byte is read, and each damaged, missing or foreign file is named with its rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vbx.cache.ahead import reading_ahead
from vbx.cache.files import LOCK, PARTIAL, read_sealed
from vbx.cache.layout import COMMITS, Commit, Layout, is_unit_record, read_commit, read_layout
from vbx.cache.loading import ARRAYS
from vbx.cache.mapping import map_verified
from vbx.cache.provenance import CODEBOOKS
from vbx.cache.remote import Place, RemotePath, find_places, list_files, list_places, place_in, read_many
from vbx.cache.rows import FILES, UTTERANCES
from vbx.cache.staging import STAGING, settle
from vbx.cache.store import CORPUS, FAILURES, LABELS, SPEC, Store, read_spec
from vbx.cache.tables import read_table
from vbx.cache.zarr_arrays import unseal_metadata
from vbx.errors import CacheError, StoreError, VbxError


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
    for path in list_places(store.root):
        if corpus and path.name != corpus:
            continue
        if not path.is_dir():
            found.append(Finding(path.name, "foreign", "no part of the cache"))
        elif (path / CORPUS).exists():
            found += _check_corpus(path)
        elif (path / UTTERANCES).exists():
            found += [Finding(f"{path.name}/{CORPUS}", "missing", "run `vbx extract` again"), *_check_corpus(path)]
        else:
            found += _check_begun(path, f"a folder without {CORPUS}", store.root)
    return found


def _check_corpus(folder: Place) -> Iterator[Finding]:
    place = folder.parent
    expected = {folder / LOCK, folder / CORPUS}
    try:
        if (folder / CORPUS).exists():
            read_sealed(folder / CORPUS)
    except CacheError as error:
        yield Finding(_at(folder / CORPUS, place), "damaged", str(error))
    for name in (UTTERANCES, LABELS, FILES):
        table, side = folder / name, folder / f"{name}.sha256"
        expected |= {table, side}
        if name != FILES or table.exists() or side.exists():  # what is known of files may be absent
            yield from _check_table(table, place)
    inside = [(path, path.is_dir()) for path in list_places(folder)]
    for path in (p for p, is_folder in inside if not is_folder):
        yield from _stray(path, expected, place)
    for path in (p for p, is_folder in inside if is_folder):
        if path.name == CODEBOOKS:
            yield from _check_codebooks(path, place)
        elif (path / SPEC).exists():
            yield from _check_spec(path, place)
        else:
            yield from _check_begun(path, f"a folder without {SPEC}", place)


def _check_begun(folder: Place, what: str, place: Place) -> Iterator[Finding]:
    """A folder without the file that says what it is: foreign, unless a killed process had only begun it."""
    inside = [path for path in list_files(folder) if path.name != LOCK]
    if all(path.name.endswith((PARTIAL, ".sha256")) for path in inside):
        for path in inside:
            yield Finding(_at(path, place), "leftover", "begun by a process that was killed (`vbx cache gc`)")
    else:
        yield Finding(_at(folder, place), "foreign", what)


def _check_spec(folder: Place, place: Place) -> Iterator[Finding]:
    expected = {folder / SPEC, folder / FAILURES, folder / f"{FAILURES}.sha256"}
    yield from _check_spec_record(folder, place)
    if (folder / FAILURES).exists() or (folder / f"{FAILURES}.sha256").exists():
        yield from _check_table(folder / FAILURES, place)
    layouts: dict[str, Layout] = {}
    begun, damaged = set[str](), set[str]()
    units: list[Commit] = []
    records = find_places(folder / COMMITS, "*.json")
    read_many(records)  # of an object store, side by side: they are known then
    for path in records:
        expected.add(path)
        try:
            if is_unit_record(path):
                commit = read_commit(path)
                begun.add(commit.output)
                expected |= {folder / name for name in commit.files}
                units.append(commit)
            else:
                layouts[path.stem] = read_layout(path)
        except (CacheError, KeyError, TypeError, ValueError) as error:
            damaged.add(path.stem)
            yield Finding(_at(path, place), "damaged", str(error))
            # What a damaged record would have named cannot be told from leftovers: it counts as neither.
            expected |= _files_of(folder, path)
    yield from _check_units(folder, units, layouts, place)
    for output in sorted(begun - {*layouts, *damaged}):
        yield Finding(_at(folder / COMMITS / f"{output}.json", place), "missing", "what its units are cannot be told")
    for layout in layouts.values():
        if layout.format == "zarr":
            metadata = folder / layout.output / "zarr.json"
            expected.add(metadata)
            if layout.output in begun or metadata.exists():  # before the first unit it may not be there yet
                yield from _check_metadata(metadata, place)
    for path in list_files(folder):
        yield from _stray(path, expected, place, within=layouts)


def _check_spec_record(folder: Place, place: Place) -> Iterator[Finding]:
    try:
        read_spec(folder)
    except StoreError:
        raise
    except VbxError as error:
        yield Finding(_at(folder / SPEC, place), "damaged", str(error))


def _check_units(
    folder: Place, units: Sequence[Commit], layouts: Mapping[str, Layout], place: Place
) -> Iterator[Finding]:
    if isinstance(folder, RemotePath):
        settle(folder, {commit.staged: list(commit.files) for commit in units})
    with reading_ahead((folder / name, size) for commit in units for name, (size, _) in commit.files.items()):
        for commit in units:
            yield from _check_unit(folder, commit, layouts.get(commit.output), place)


def _check_unit(folder: Place, commit: Commit, layout: Layout | None, place: Place) -> Iterator[Finding]:
    rows = f"rows {commit.rows[0]} to {commit.rows[-1]}" if commit.rows else "no rows"
    for name, known in commit.files.items():
        try:
            map_verified(folder / name, *known)
        except (CacheError, OSError) as error:
            problem = "damaged" if (folder / name).exists() else "missing"
            yield Finding(_at(folder / name, place), problem, f"{commit.output}, {rows}: {error}")
            layout = None
    try:
        if layout:  # each file is whole in itself; are they those of this unit?
            ARRAYS[layout.format].open_unit(folder, layout, commit)
    except CacheError as error:
        name = next((name for name in commit.files if str(folder / name) in str(error)), next(iter(commit.files)))
        yield Finding(_at(folder / name, place), "damaged", f"{commit.output}, {rows}: {error}")


def _check_metadata(path: Place, place: Place) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(_at(path, place), "missing", "the array cannot be opened without it")
        return
    try:
        unseal_metadata(path.read_bytes(), path)
    except CacheError as error:
        yield Finding(_at(path, place), "damaged", str(error))


def _check_codebooks(folder: Place, place: Place) -> Iterator[Finding]:
    for path in list_places(folder):
        if not path.name.endswith(".json"):
            yield from _stray(path, set(), place)
            continue
        try:
            read_sealed(path)
        except CacheError as error:
            yield Finding(_at(path, place), "damaged", str(error))


def _check_table(path: Place, place: Place) -> Iterator[Finding]:
    try:
        read_table(path)
    except CacheError as error:
        yield Finding(_at(path, place), "damaged" if path.exists() else "missing", str(error))


def _stray(
    path: Place, expected: set[Place], place: Place, within: dict[str, Layout] | None = None
) -> Iterator[Finding]:
    if path in expected:
        return
    if path.name.endswith(PARTIAL):
        yield Finding(_at(path, place), "leftover", "half-written by a process that was killed (`vbx cache gc`)")
    elif within is not None and place_in(path, place).parts[2] in {*within, STAGING}:
        yield Finding(_at(path, place), "leftover", "written but never committed (`vbx cache gc`)")
    else:
        yield Finding(_at(path, place), "foreign", "no part of the cache")


def _files_of(folder: Place, record: Place) -> set[Place]:
    output, _, unit = record.stem.rpartition("-")
    if not is_unit_record(record):
        return set(list_files(folder / record.stem))
    home = folder / output
    return {home / "c" / str(int(unit)) / "0", home / f"{unit}.h5", *list_files(home / unit)}


def _at(path: Place, place: Place) -> str:
    return place_in(path, place).as_posix()
