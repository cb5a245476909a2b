"""Power loss: after every single operation, whatever was not synced is lost; nothing acknowledged ever is."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import vbx
from tests.faults.disk import Disk, lay_down, watched
from vbx.cache.check import check_cache
from vbx.cache.layout import read_commits
from vbx.extract.plan import Settings


def make_corpus(folder: Path, clips: int) -> Path:
    folder.mkdir()
    for i in range(clips):
        wave = np.random.default_rng(i).uniform(-0.5, 0.5, 400 + 16 * i)
        soundfile.write(folder / f"{i:03d}.wav", wave, 16000)
    return folder


def extract(corpus: Path, store: vbx.Store) -> None:
    vbx.extract_vectors(vbx.read_corpus(corpus), ["noise", "noise@frames"], store, settings=Settings(workers=0))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("format", "every"),
    [
        ("zarr", 37),
        pytest.param("zarr", 3, marks=pytest.mark.slow),
        pytest.param("hdf5", 3, marks=pytest.mark.slow),
    ],
)
def test_every_prefix_of_what_was_done_to_the_disk_is_a_sound_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, every: int
) -> None:
    corpus = make_corpus(tmp_path / "toy", 130)
    monkeypatch.setattr("vbx.extract.passes.choose_unit_rows", lambda *_: 64)
    extract(corpus, clean := vbx.Store(tmp_path / "clean", format))
    wanted = clean.load_vectors("toy", "noise").x
    acknowledged: set[tuple[str, int]] = set()
    moments: list[tuple[set[tuple[str, int]], list[tuple[str, dict[str, bytes | None]]]]] = []
    write_unit = vbx.Store.write_unit

    def acknowledging(self: vbx.Store, folder: Any, layout: Any, block: Any, commit: Any) -> bool:
        done = write_unit(self, folder, layout, block, commit)
        acknowledged.add((commit.output, commit.unit))
        return done

    monkeypatch.setattr(vbx.Store, "write_unit", acknowledging)

    def after(disk: Disk) -> None:
        moments.append((set(acknowledged), list(disk.states())))

    with watched(tmp_path / "cache", after):
        extract(corpus, vbx.Store(tmp_path / "cache", format))
    assert len(acknowledged) == 6 and len(moments) > 100
    for number, (sure, states) in enumerate(moments):
        if number % every and number != len(moments) - 1:
            continue
        for how, state in states:
            store = vbx.Store(tmp_path / "after", format)
            lay_down(state, tmp_path / "after")
            sound(store, sure, f"operation {number}, {how}")
            extract(corpus, store)
            np.testing.assert_array_equal(store.load_vectors("toy", "noise").x, wanted, err_msg=f"{number} {how}")
            shutil.rmtree(tmp_path / "after")


def sound(store: vbx.Store, acknowledged: set[tuple[str, int]], when: str) -> None:
    """Nothing acknowledged is missing, and nothing is there that is not right."""
    problems = {f.problem for f in check_cache(store)} - {"leftover", "missing"}
    assert not problems, (when, check_cache(store))
    there = {
        (output, unit)
        for corpus in store.corpora()
        for folder in store.specs(corpus)
        for output in ("hidden", "frames")
        for unit in read_commits(folder, output)
    }
    assert acknowledged <= there, when
