"""Contents: a file whose size and times are unchanged is not read again, any other is."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vbx
from vbx.extract import contents
from vbx.extract.contents import Stamp, digest_file, digest_files, read_known, write_known
from vbx.extract.plan import Settings


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read whole."""
    seen: list[str] = []
    real = contents.digest_file

    def counting(path: str | Path) -> contents.Content:
        seen.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(contents, "digest_file", counting)
    return seen


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files just written count as old."""
    monkeypatch.setattr(contents, "_FRESH_NS", -(10**12))


def test_a_file_just_written_is_not_trusted_to_its_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert not digest_file(path).settled
    old = time.time_ns() - 10**10
    os.utime(path, ns=(old, old))
    assert not digest_file(path).settled  # nobody can set back the time of its last change of any kind


def test_known_files_are_not_read_again(tmp_path: Path, reads: list[str], settled: None) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 10)
    paths = [tmp_path / name for name in "abc"]
    first = digest_files(paths, 1)
    write_known(tmp_path, {}, first)
    known = read_known(tmp_path)
    assert set(known) == set(map(str, paths))
    reads.clear()
    assert {p: c.digest for p, c in digest_files(paths, 1, known=known).items()} == {
        p: c.digest for p, c in first.items()
    }
    assert reads == []
    (tmp_path / "b").write_bytes(b"B" * 10)  # the same size
    (tmp_path / "c").unlink()
    again = digest_files(paths, 1, known=known)
    assert sorted(reads) == ["b", "c"]
    assert again[str(tmp_path / "b")].digest != first[str(tmp_path / "b")].digest
    assert again[str(tmp_path / "c")].digest is None and "no such file" in again[str(tmp_path / "c")].problem


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path, reads: list[str], settled: None) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = os.stat(path)
    known = {str(path): (*Stamp.of(before), "digest of one")}
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert digest_files([path], 1, known=known)[str(path)].digest == digest_file(path).digest
    assert reads[:1] == ["a"]


def test_a_damaged_memory_of_files_costs_a_reading(tmp_path: Path, settled: None) -> None:
    (tmp_path / "a").write_bytes(b"x")
    write_known(tmp_path, {}, digest_files([tmp_path / "a"], 1))
    table = tmp_path / "files.parquet"
    table.write_bytes(table.read_bytes()[:-7] + b"garbage")
    assert read_known(tmp_path) == {}


def test_an_extraction_reads_what_is_new_and_all_on_demand(tmp_path: Path, reads: list[str], settled: None) -> None:
    folder, store = tmp_path / "toy", vbx.Store(tmp_path / "cache")
    folder.mkdir()
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", np.full(1600, 0.1 * (i + 1)), 16000)
    for expected in (["0.wav", "1.wav", "2.wav", "3.wav"], []):
        reads.clear()
        vbx.extract_vectors(vbx.read_corpus(folder), ["noise"], store)
        assert sorted(reads) == expected
    vbx.extract_vectors(vbx.read_corpus(folder), ["noise"], store, settings=Settings(rehash=True))
    assert sorted(reads) == ["0.wav", "1.wav", "2.wav", "3.wav"]
