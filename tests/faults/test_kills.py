"""Kills: a process killed at any moment loses nothing it acknowledged, and costs at most the units under way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vbx
from vbx.cache.check import check_cache
from vbx.cache.layout import read_commits
from vbx.cache.tidy import collect_leftovers
from vbx.extract.plan import Settings

CLIPS, UNIT_ROWS = 640, 64

RUN = """
import os, sys, time
import vbx
from vbx.extract import passes
from vbx.extract.encoders import noise
from vbx.extract.plan import Settings

os.environ["VBX_WORKERS"] = sys.argv[4]
real, written = noise.Noise.encode, vbx.Store.write_unit

def slow(self, waves, wanted):
    time.sleep(0.002 * len(waves))
    print("encoded", len(waves), flush=True)
    return real(self, waves, wanted)

def acknowledging(self, folder, layout, block, commit):
    mine = written(self, folder, layout, block, commit)
    print("written" if mine else "was there", commit.unit, flush=True)
    return mine

noise.Noise.encode, vbx.Store.write_unit = slow, acknowledging
noise.Noise.batch_s = 2.0
passes.choose_unit_rows = lambda *_: 64
print("ready", flush=True)
store = vbx.Store(sys.argv[2], sys.argv[3])
settings = Settings(workers=int(sys.argv[4]), part=tuple(map(int, sys.argv[5].split("/"))))
report = vbx.extract_vectors(vbx.read_corpus(sys.argv[1]), ["noise"], store, device="cpu", settings=settings)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "toy"
    folder.mkdir()
    for i in range(CLIPS):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, 1000 + i)
        soundfile.write(folder / f"{i:03d}.wav", wave, 16000)
    return folder


@pytest.fixture(scope="module")
def clean(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> vbx.Vectors:
    store = vbx.Store(tmp_path_factory.mktemp("clean"))
    vbx.extract_vectors(vbx.read_corpus(corpus), ["noise"], store, settings=Settings(workers=0))
    return store.load_vectors("toy", "noise")


def start(corpus: Path, store: vbx.Store, workers: int, part: str = "1/1") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(corpus), str(store.root), store.format, str(workers), part]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_lines(process: subprocess.Popen[str]) -> list[list[str]]:
    assert process.stdout is not None
    lines = [line.split() for line in process.stdout.read().splitlines()]
    process.wait()
    return lines


def units_of(store: vbx.Store) -> set[int]:
    return {unit for c in store.corpora() for folder in store.specs(c) for unit in read_commits(folder, "hidden")}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("format", "workers", "kills"),
    [
        ("zarr", 0, 3),
        ("hdf5", 2, 3),
        pytest.param("zarr", 0, 100, marks=pytest.mark.slow),
        pytest.param("hdf5", 0, 30, marks=pytest.mark.slow),
        pytest.param("zarr", 2, 30, marks=pytest.mark.slow),
    ],
)
def test_a_kill_loses_nothing_that_was_acknowledged(
    corpus: Path, clean: vbx.Vectors, tmp_path: Path, format: str, workers: int, kills: int
) -> None:
    rng, store, round_ = np.random.default_rng(kills), vbx.Store(tmp_path / "cache", format), 0
    killed = 0
    while killed < kills:
        acknowledged: set[int] = set()
        round_ += 1
        store = vbx.Store(tmp_path / f"cache{round_}", format)
        while killed < kills:
            process = start(corpus, store, workers)
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.8))
            os.kill(process.pid, signal.SIGKILL)
            lines = read_lines(process)
            killed += 1
            written = {int(unit) for what, *unit_ in lines if what == "written" for unit in unit_}
            encoded = sum(int(n) for what, *rest in lines if what == "encoded" for n in rest)
            assert not written & acknowledged, "a unit was done twice"
            acknowledged |= written
            assert acknowledged <= units_of(store)
            # Lost are at most the unit that was being written and the one that was being encoded.
            assert encoded - len(written) * UNIT_ROWS <= 2 * UNIT_ROWS + 32
            assert [f for f in check_cache(store) if f.problem not in ("leftover", "missing")] == []
            if store.corpora() and units_of(store):
                seen = store.load_vectors("toy", "noise")
                right = dict(zip(clean.ids, clean.x, strict=True))
                assert all((right[name] == x).all() for name, x in zip(seen.ids, seen.x, strict=True))
            if ["done"] in lines:
                break
        lines = read_lines(start(corpus, store, workers))
        assert lines[-1] == ["done"]
        collect_leftovers(store)
        assert check_cache(store) == []
        whole = store.load_vectors("toy", "noise")
        assert whole.ids == clean.ids and (whole.x == clean.x).all()


@pytest.mark.parametrize("format", ["zarr", pytest.param("hdf5", marks=pytest.mark.slow)])
@pytest.mark.parametrize("parts", [["1/1"] * 4, ["1/4", "2/4", "3/4", "4/4"]], ids=["same work", "parts"])
def test_four_writers_do_every_row_once(
    corpus: Path, clean: vbx.Vectors, tmp_path: Path, format: str, parts: list[str]
) -> None:
    store = vbx.Store(tmp_path / "cache", format)
    processes = [start(corpus, store, 0, part) for part in parts]
    lines = [line for process in processes for line in read_lines(process)]
    assert lines.count(["done"]) == 4
    written = [int(unit) for what, *rest in lines if what == "written" for unit in rest]
    assert sorted(written) == list(range(CLIPS // UNIT_ROWS))
    assert check_cache(store) == []
    whole = store.load_vectors("toy", "noise")
    assert whole.ids == clean.ids and (whole.x == clean.x).all()
