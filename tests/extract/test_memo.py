"""The memory of digests: what is remembered is right, and what may have changed is read again."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from vbx.extract import memo
from vbx.extract.memo import remembered_digest

CONTENT = bytes(range(256)) * 8192


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(memo.REHASH, raising=False)
    return tmp_path / "home" / "vbx" / "digests"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 2 MB that has lain there for a while: the clock is set forward, since no file's change time is."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENT)
    later(monkeypatch, 60)
    return path


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.clock_gettime_ns
    monkeypatch.setattr(memo.time, "time_ns", lambda: now(time.CLOCK_REALTIME) + int(seconds * 1e9))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose content was read."""
    seen: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(memo.hashlib, "file_digest", lambda file, name: seen.append(file.name) or digest(file, name))
    return seen


def right(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_once(notes: Path, file: Path, reads: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    found = [remembered_digest(file), remembered_digest(file), remembered_digest(tmp_path / "link")]
    assert found == [right(file)] * 3 and len(reads) == 1 and len(list(notes.iterdir())) == 1


def test_a_file_that_was_touched_is_read_again(notes: Path, file: Path, reads: list[str]) -> None:
    remembered_digest(file)
    times = file.stat()
    changed = b"x" + CONTENT[1:]
    file.write_bytes(changed)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, and the old time put back
    assert remembered_digest(file) == hashlib.sha256(changed).hexdigest() and len(reads) == 2
    other = file.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert remembered_digest(file) == hashlib.sha256(CONTENT).hexdigest() and len(reads) == 3


@pytest.mark.parametrize("age_s", [0.0, 1.9, -30.0])
def test_a_file_that_was_just_touched_is_not_remembered(
    age_s: float, notes: Path, file: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) + int(age_s * 1e9)
    monkeypatch.setattr(memo.time, "time_ns", lambda: now)
    assert remembered_digest(file) == remembered_digest(file) == right(file)
    assert len(reads) == 2 and not notes.exists()


def test_a_file_that_grows_while_it_is_read_is_not_remembered(
    notes: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.file_digest

    def slow(opened: object, name: str) -> object:
        found = digest(opened, name)  # type: ignore[arg-type]
        file.write_bytes(CONTENT + b"more")
        return found

    monkeypatch.setattr(memo.hashlib, "file_digest", slow)
    remembered_digest(file)
    assert not notes.exists()


def test_a_damaged_note_counts_as_none(notes: Path, file: Path, reads: list[str]) -> None:
    remembered_digest(file)
    (note,) = notes.iterdir()
    whole = note.read_bytes()
    for content in (b"", whole[:-20], whole.replace(right(file)[:8].encode(), b"00000000"), b"[]", b"\xff\xfe"):
        note.write_bytes(content)
        assert remembered_digest(file) == right(file)
    assert len(reads) == 6 and note.read_bytes() == whole


@pytest.mark.parametrize(("value", "count"), [("1", 2), ("0", 1), ("", 1)])
def test_it_can_be_switched_off(
    value: str, count: int, notes: Path, file: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered_digest(file)
    monkeypatch.setenv(memo.REHASH, value)
    remembered_digest(file)
    assert len(reads) == count


def test_small_files_leave_no_note(notes: Path, file: Path) -> None:
    file.write_bytes(b"{}")
    assert remembered_digest(file) == right(file) and not notes.exists()


def test_a_home_that_cannot_be_written_costs_time_alone(notes: Path, file: Path) -> None:
    notes.parent.parent.mkdir(parents=True)
    notes.parent.write_text("a file in the way")
    assert remembered_digest(file) == remembered_digest(file) == right(file)


def test_a_file_that_is_not_there(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remembered_digest(tmp_path / "none")
