"""A model of what a disk may hold after the power fails: only what was synced is sure, and names apart from data."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vbx.cache import files


@dataclass(eq=False)
class Inode:
    """A file: what a program reads of it now, and what is on the disk for sure."""

    now: bytes = b""
    sure: bytes | None = None


@dataclass
class Disk:
    """Names and data, as a program sees them and as they are on the disk for sure.

    Attributes:
        root: the folder that is modelled; names are relative to it
        now: name to file (None for a folder), as a program sees it
        sure: the same, as far as the folder that holds it was synced
    """

    root: Path
    now: dict[str, Inode | None] = field(default_factory=lambda: {"": None})
    sure: dict[str, Inode | None] = field(default_factory=lambda: {"": None})

    def states(self) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """What may be found after a failure at this moment: the worst cases of what was not synced."""
        yield "all", {n: i if i is None else i.now for n, i in self.now.items()}
        yield "synced alone", self._reachable({n: i if i is None else i.sure or b"" for n, i in self.sure.items()})
        yield "names without data", {n: i if i is None else i.sure or b"" for n, i in self.now.items()}

    @staticmethod
    def _reachable(state: dict[str, bytes | None]) -> dict[str, bytes | None]:
        """Without files of which a folder above them is not on the disk."""
        return {n: d for n, d in state.items() if all(str(p) in state or str(p) == "." for p in Path(n).parents)}


def lay_down(state: dict[str, bytes | None], folder: Path) -> None:
    """Make real files of a state."""
    folder.mkdir(parents=True)
    for name, data in sorted(state.items()):
        if data is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


@contextlib.contextmanager
def watched(root: Path, after: Any) -> Iterator[Disk]:
    """Follow all that the cache does to the files below a folder.

    Args:
        root: the folder, empty
        after: called with the disk after each operation
    """
    disk, lock = Disk(root), threading.RLock()
    real: dict[str, Any] = {n: getattr(os, n) for n in ("replace", "link", "fsync")}
    real_open, real_mkdir, real_unlink = open, Path.mkdir, Path.unlink

    def name(path: Any) -> str | None:
        path = Path(path)
        if path == root:
            return ""
        return path.relative_to(root).as_posix() if root in path.parents else None

    def record(done: Any) -> None:
        with lock:
            done()
            after(disk)

    class File:
        def __init__(self, path: Path) -> None:
            self.path, self.file = path, real_open(path, "wb")
            record(lambda: disk.now.__setitem__(name(path) or "", Inode()))

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: Any) -> None:
            self.file.write(data)
            inode = disk.now[name(self.path) or ""]
            assert inode is not None
            record(lambda: setattr(inode, "now", inode.now + bytes(data)))

        def flush(self) -> None:
            self.file.flush()

        def fileno(self) -> int:
            return self.file.fileno()

    def opened(path: Any, mode: str = "r", **more: Any) -> Any:
        return File(Path(path)) if mode == "wb" and name(path) is not None else real_open(path, mode, **more)

    def fsync(handle: int) -> None:
        real["fsync"](handle)
        where = name(os.readlink(f"/proc/self/fd/{handle}"))
        if where is None:
            return

        def sync() -> None:
            inode = disk.now.get(where)
            if inode is not None:
                inode.sure = inode.now
                return
            inside = {n for n in {*disk.now, *disk.sure} if n and str(Path(n).parent).removeprefix(".") == where}
            for n in inside:
                disk.sure.pop(n, None)
                if n in disk.now:
                    disk.sure[n] = disk.now[n]

        record(sync)

    def replace(old: Any, new: Any) -> None:
        real["replace"](old, new)
        record(lambda: disk.now.__setitem__(name(new) or "", disk.now.pop(name(old) or "")))

    def link(old: Any, new: Any) -> None:
        real["link"](old, new)
        record(lambda: disk.now.__setitem__(name(new) or "", disk.now[name(old) or ""]))

    def unlink(self: Path, missing_ok: bool = False) -> None:
        real_unlink(self, missing_ok)
        if name(self) in disk.now:
            record(lambda: disk.now.pop(name(self) or ""))

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        new = [p for p in (*reversed(self.parents), self) if name(p) is not None and not p.exists()]
        real_mkdir(self, mode, parents, exist_ok)
        for path in new:
            record(lambda path=path: disk.now.__setitem__(name(path) or "", None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        for attribute, function in (("replace", replace), ("link", link), ("fsync", fsync)):
            patch.setattr(os, attribute, function)
        patch.setattr(Path, "unlink", unlink)
        patch.setattr(Path, "mkdir", mkdir)
        yield disk
