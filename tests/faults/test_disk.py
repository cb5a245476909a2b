"""A disk that is full, read-only or forbidden, and memory that runs out: one sentence, and nothing is damaged."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vbx
from vbx.cache.check import check_cache
from vbx.extract.plan import Settings


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    for i in range(300):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, 800 + i)
        soundfile.write(folder / f"{i:03d}.wav", wave, 16000)
    return folder


def mount(where: Path, options: str) -> None:
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be made here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "disk"
    mount(where, "size=400k")
    yield where
    subprocess.run(["umount", where], check=True)


def extract(corpus: Path, cache: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vbx", "extract", str(corpus), "-f", "noise", "--cache", str(cache), *more]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def told_in_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line]
    for word in words:
        assert word in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("format", ["zarr", pytest.param("hdf5", marks=pytest.mark.slow)])
def test_a_full_disk(corpus: Path, small_disk: Path, tmp_path: Path, format: str) -> None:
    (small_disk / "ballast").write_bytes(bytes(300_000))
    done = extract(corpus, small_disk / "cache", "-f", "noise@frames", "--format", format)
    told_in_one_sentence(done, "No space left on device", "nothing in the cache is damaged")
    store = vbx.Store(small_disk / "cache", format)
    assert {f.problem for f in check_cache(store)} <= {"leftover", "missing"}
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert extract(corpus, small_disk / "cache", "-f", "noise@frames").returncode == 0
    vbx.extract_vectors(vbx.read_corpus(corpus), ["noise"], clean := vbx.Store(tmp_path / "clean"))
    assert check_cache(store) == []
    np.testing.assert_array_equal(store.load_vectors("toy", "noise").x, clean.load_vectors("toy", "noise").x)


def test_a_read_only_disk(corpus: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert extract(corpus, small_disk / "cache").returncode == 0
    before = vbx.Store(small_disk / "cache").load_vectors("toy", "noise").x
    (corpus / "new.wav").write_bytes((corpus / "000.wav").read_bytes()[:-2] + b"xx")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        told_in_one_sentence(extract(corpus, small_disk / "cache"), "Read-only file system")
        np.testing.assert_array_equal(vbx.Store(small_disk / "cache").load_vectors("toy", "noise").x, before)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


def test_a_folder_without_permission(corpus: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:  # who may do anything is made to be somebody who may not
        runner = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all"]
        if subprocess.run([*runner, sys.executable, "-c", "import vbx"], capture_output=True).returncode:
            pytest.skip("nobody else can run this Python here")
    else:
        runner = []
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o555)
    command = [*runner, sys.executable, "-m", "vbx", "extract", str(corpus), "-f", "noise", "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True)
    told_in_one_sentence(done, "Permission denied", str(cache))


def test_files_that_may_not_grow(corpus: Path, tmp_path: Path) -> None:
    """A quota: every write beyond some size fails."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000)); from vbx.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "extract", str(corpus), "-f", "noise", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    told_in_one_sentence(done, "File too large", "nothing in the cache is damaged")
    assert {f.problem for f in check_cache(vbx.Store(tmp_path / "cache"))} <= {"leftover", "missing"}


def test_a_clip_that_does_not_fit_into_memory_costs_no_other(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vbx.extract import work

    real = work.read_wave

    def hungry(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "007.wav":
            raise MemoryError
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "read_wave", hungry)
    store = vbx.Store(corpus.parent / "cache")
    report = vbx.extract_vectors(vbx.read_corpus(corpus), ["noise"], store, settings=Settings(workers=0))
    assert [(f.extracted, f.failed) for f in report.features] == [(299, 1)]
    assert "do not fit into memory" in report.failures[0]["reason"]
