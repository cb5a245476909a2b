"""Writing a unit: its data, then the record that makes it count; whoever comes second writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from vbx.cache.files import locked
from vbx.cache.layout import Block, Commit, Layout, checksum, commit_path, write_commit
from vbx.cache.loading import ARRAYS
from vbx.cache.remote import Place, RemotePath, place_in
from vbx.cache.rows import read_rows
from vbx.cache.staging import discard, publish, stage

if TYPE_CHECKING:
    from vbx.cache.bucket import Bucket


def prepare_arrays(folder: Place, layouts: Sequence[Layout]) -> None:
    """Make the arrays of some outputs as long as their corpus has rows."""
    ready, rows = -1, int(read_rows(folder.parent)["row"].max()) + 1
    while ready < rows:
        for layout in layouts:
            ARRAYS[layout.format].prepare(folder, layout, rows)
        ready = rows
        if isinstance(folder, RemotePath):  # another writer may have added rows, and been overtaken by this one
            rows = int(read_rows(folder.parent)["row"].max()) + 1


def write_unit(folder: Place, layout: Layout, block: Block, commit: Commit) -> bool:
    """Write a unit, then its record; see `Store.write_unit`."""
    with locked(folder.parent):
        if commit_path(folder, commit.output, commit.unit).exists():
            return False
        if isinstance(folder, RemotePath):
            return _write_remote(folder, layout, block, commit)
        written = ARRAYS[layout.format].write_unit(folder, layout, commit.unit, block)
        data = {place_in(path, folder).as_posix(): path.read_bytes() for path in written}
        return write_commit(folder, _sealed(commit, data, folder, written))


def _write_remote(folder: RemotePath, layout: Layout, block: Block, commit: Commit) -> bool:
    """The three steps of `staging.py`."""
    tray = _Tray()
    # mypy: of a bucket, writing an array needs `put` alone
    home = RemotePath(cast("Bucket", tray), "")
    commit = _sealed(commit, tray.data, home, ARRAYS[layout.format].write_unit(home, layout, commit.unit, block))
    name = stage(folder, commit_path(folder, commit.output, commit.unit).stem, tray.data)
    if not write_commit(folder, replace(commit, staged=name)):
        discard(folder, name, list(tray.data))
        return False
    publish(folder, name, list(tray.data), tray.data)
    return True


def _sealed(commit: Commit, data: Mapping[str, bytes], home: Place, written: Mapping[Place, bytes]) -> Commit:
    """A record with the checksums of what was written: content by path, checksums of chunks by place."""
    return replace(
        commit,
        files={name: (len(content), checksum(content)) for name, content in data.items()},
        chunks={place_in(place, home).as_posix(): checksum(crcs) for place, crcs in written.items() if crcs},
    )


class _Tray:
    """A bucket that keeps what is put into it."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.data[key] = bytes(data)
