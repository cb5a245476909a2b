"""Tidying the cache: leftovers collected, vectors dropped, damage cut out so that extraction can mend it."""

from vbx.cache.check import Finding, check_cache
from vbx.cache.files import locked, remove_tree
from vbx.cache.layout import COMMITS, Commit, commit_path, is_unit_record, read_commit, read_layouts
from vbx.cache.loading import ARRAYS
from vbx.cache.remote import Place, RemotePath, find_places, place_in
from vbx.cache.rows import UTTERANCES, read_rows
from vbx.cache.staging import discard
from vbx.cache.store import SPEC, Store
from vbx.errors import CacheError

_UNIT_RECORDS = "*-[0-9][0-9][0-9][0-9][0-9][0-9].json"


def collect_leftovers(store: Store) -> list[Finding]:
    """Remove what killed processes left behind; committed and foreign files are never touched.

    Returns:
        what was removed
    """
    removed = []
    for name in sorted({f.path.split("/", 1)[0] for f in check_cache(store) if f.problem == "leftover"}):
        with locked(store.root / name):  # nobody is writing a unit now
            for finding in check_cache(store, name):
                if finding.problem == "leftover":
                    (store.root / finding.path).unlink(missing_ok=True)
                    removed.append(finding)
    return removed


def drop_units(folder: Place, *, failed_only: bool = False) -> int:
    """Drop the vectors of one encoder, or only the units that hold failures, so that they are extracted again.

    The record goes first: at every moment what is visible is whole.

    Args:
        folder: folder of the spec
        failed_only: drop only units in which an utterance failed

    Returns:
        how many units were dropped
    """
    dropped = 0
    with locked(folder.parent):
        for path in find_places(folder / COMMITS, _UNIT_RECORDS):
            commit = read_commit(path)
            if commit.failures or not failed_only:
                _drop_unit(folder, commit)
                dropped += 1
        if not failed_only:
            remove_tree(folder)
    return dropped


def drop_corpus(store: Store, corpus: str) -> None:
    """Drop a corpus with all its vectors."""
    remove_tree(store.folder(corpus))


def drop_damaged(store: Store) -> list[Finding]:
    """Cut out what is damaged, and no more; extraction then makes it again.

    A unit with a damaged or missing file loses its record and its files. A damaged table of rows costs its corpus,
    for nothing else says whose the vectors are.

    Returns:
        what was damaged
    """
    findings = [f for f in check_cache(store) if f.problem in {"damaged", "missing"}]
    for finding in findings:
        path = store.root / finding.path
        corpus = store.root / finding.path.split("/", 1)[0]
        if corpus.exists():
            with locked(corpus):
                _cut_out(path, corpus)
    return findings


def _cut_out(path: Place, corpus: Place) -> None:
    inside = place_in(path, corpus).parts
    if path.name.startswith(UTTERANCES):
        remove_tree(corpus)
        return
    if len(inside) > 1:
        folder = corpus / inside[0]
        if path.name == SPEC or (inside[1] == COMMITS and not is_unit_record(path)):
            remove_tree(folder)  # nothing else says what its vectors are
            return
        for unit in _units_with(path, folder):
            _drop_unit(folder, unit)
        layout = read_layouts(folder).get(inside[1]) if folder.exists() and len(inside) == 3 else None
        if layout and path.name == "zarr.json":
            path.unlink(missing_ok=True)
            rows = int(read_rows(corpus)["row"].max()) + 1
            ARRAYS[layout.format].prepare(folder, layout, rows)
            return
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".sha256").unlink(missing_ok=True)


def _units_with(path: Place, folder: Place) -> list[Commit]:
    """Units of a spec that say a file is theirs."""
    name = place_in(path, folder).as_posix()
    found = []
    for record in find_places(folder / COMMITS, _UNIT_RECORDS):
        try:
            commit = read_commit(record)
        except CacheError:  # this record has a finding of its own
            continue
        if name in commit.files:
            found.append(commit)
    return found


def _drop_unit(folder: Place, commit: Commit) -> None:
    commit_path(folder, commit.output, commit.unit).unlink(missing_ok=True)
    if isinstance(folder, RemotePath):
        folder.bucket.delete([(folder / name).key for name in commit.files])
        discard(folder, commit.staged, list(commit.files))
        return
    for name in commit.files:
        (folder / name).unlink(missing_ok=True)
