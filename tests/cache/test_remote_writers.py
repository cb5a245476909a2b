"""Many writers of one cache in an object store, racing, dying at any moment: no row lost, no wrong row visible."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pandas as pd
import pytest

from vbx.cache.check import check_cache
from vbx.cache.layout import Block, Commit, Layout, read_commits
from vbx.cache.rows import read_rows
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.cache.tidy import collect_leftovers
from vbx.errors import VbxError
from vbx.extract.corpus import read_corpus
from vbx.extract.pipeline import extract_vectors
from vbx.extract.synthesis import synthesise_corpus

ROWS, UNIT, DIM = 64 * 12, 64, 8
SPEC = EncoderSpec("noise", "sha256")


class Writers:
    """The program `remote_writer.py`."""

    def __init__(self, *words: str) -> None:
        program = [sys.executable, str(Path(__file__).with_name("remote_writer.py")), *(words or ("light",))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def run(self, url: str, writers: int, seed: int, seconds: float = 0.0) -> set[tuple[str, int]]:
        """Units that were acknowledged; writers that were not killed must have ended well."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{writers} {seed} {seconds} {url}\n")
        acknowledged = set()
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "end":
                assert rest == ["0"], "a writer failed"
                return acknowledged
            acknowledged.add((rest[0], int(rest[1])))
        raise AssertionError("the program died")

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture
def writers() -> Iterator[Callable[..., Writers]]:
    made: list[Writers] = []

    def make(*words: str) -> Writers:
        made.append(Writers(*words))
        return made[-1]

    yield make
    for program in made:
        program.close()


def verify_light(url: str, killed: bool = False) -> set[tuple[str, int]]:
    """Whatever is visible is right, and each unit of one writer; returns the units that are there."""
    store = Store(url)
    rows = read_rows(store.folder("toy"))
    assert not rows["row"].duplicated().any()
    assert not rows["content"].duplicated().any()
    folder = store.folder("toy") / SPEC.folder
    commits = read_commits(folder, "hidden")
    table = store.label_table("toy")
    if not killed:
        assert set(table.labels["writer"]) == set(table.schema["writer"].classes), "labels and schema are of one writer"
    if commits:
        vectors = store.load_vectors("toy", "noise")
        place = dict(zip(table.ids, table.rows.tolist(), strict=True))
        at = np.array([place[name] for name in vectors.ids])
        assert np.array_equal(vectors.x[:, 0], at)
        for unit, commit in commits.items():
            (wrote,) = {reason.removeprefix("writer ") for reason in commit.failures.values()}
            assert (vectors.x[at // UNIT == unit, 1:] == float(wrote)).all(), "a torn unit"
    return {("hidden", unit) for unit in commits}


@pytest.mark.parametrize("share", [0.0, pytest.param(0.04, marks=pytest.mark.slow)])
def test_four_racing_writers_with_other_bytes_and_other_subsets_tear_nothing(
    bucket: str, writers: Callable[..., Writers], proxy: Callable[[Any], Any], faults: Callable[..., Any], share: float
) -> None:
    met = proxy(faults(dict.fromkeys(("503", "slow", "before", "after", "cut"), share)))
    acknowledged = writers().run(bucket, 4, seed=0)
    met.shares = {}
    there = verify_light(bucket)
    assert acknowledged <= there
    rows = read_rows(Store(bucket).folder("toy"))
    assert sorted(rows["content"]) == [f"{i:04d}" for i in range(ROWS)], "nobody's rows are lost"
    writers().run(bucket, 1, seed=0)
    assert {unit for _, unit in verify_light(bucket)} == {row // UNIT for row in rows["row"]}
    assert check_cache(Store(bucket)) == [], "losers remove what they staged"


@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 4), *(pytest.param(seed, 20, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_writers_killed_at_random_points_lose_nothing(
    bucket: str, writers: Callable[..., Writers], seed: int, kills: int
) -> None:
    draw, program, cut_short = random.Random(seed), writers(), 0
    began = time.monotonic()
    program.run(f"{bucket}/whole", 1, seed=0)
    whole_s = time.monotonic() - began
    for i in range(kills // 2):
        url, acknowledged = f"{bucket}/{i}", set[tuple[str, int]]()
        for j in range(2):
            acknowledged |= program.run(
                url, draw.choice([1, 2, 3]), seed=3 * i + j, seconds=draw.uniform(0.01, whole_s)
            )
            cut_short += len(acknowledged) < ROWS // UNIT
            if "toy" in Store(url).corpora():
                assert acknowledged <= verify_light(url, killed=True)
        program.run(url, 1, seed=0)
        assert acknowledged <= verify_light(url)
        rows = read_rows(Store(url).folder("toy"))
        assert sorted(rows["content"]) == [f"{i:04d}" for i in range(ROWS)]
        assert {unit for _, unit in verify_light(url)} == {row // UNIT for row in rows["row"]}
        collect_leftovers(Store(url))
        assert check_cache(Store(url)) == []
    assert cut_short or kills < 10, "of many, some come before the work is done"


@pytest.mark.slow
@pytest.mark.parametrize("parts", [(), ("parts",)])
def test_four_extractions_at_once_of_the_same_work_or_of_its_parts(
    bucket: str, writers: Callable[..., Writers], tmp_path: Path, parts: tuple[str, ...]
) -> None:
    folder = synthesise_corpus(tmp_path / "bursts", speakers=20, clips_per_speaker=16)
    local = Store(tmp_path / "cache")
    extract_vectors(read_corpus(folder), ["noise", "noise@frames"], local)
    assert len(writers(str(folder), *parts).run(bucket, 4, seed=0)) == 10
    store = Store(bucket)
    assert np.array_equal(store.load_vectors("bursts", "noise").x, local.load_vectors("bursts", "noise").x)
    assert len(store.load_frames("bursts", "noise@frames")) == 320
    assert check_cache(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_an_extraction_killed_at_random_points_loses_nothing(
    bucket: str, writers: Callable[..., Writers], tmp_path: Path, seed: int
) -> None:
    """Ten times ten kills."""
    folder = synthesise_corpus(tmp_path / "bursts", speakers=20, clips_per_speaker=16)
    local = Store(tmp_path / "cache")
    extract_vectors(read_corpus(folder), ["noise", "noise@frames"], local)
    vectors, frames = local.load_vectors("bursts", "noise"), local.load_frames("bursts", "noise@frames")
    draw, program = random.Random(seed), writers(str(folder))
    began = time.monotonic()
    units = program.run(f"{bucket}/whole", 1, seed=0)
    whole_s = time.monotonic() - began
    assert len(units) == 10
    for i in range(5):
        url, acknowledged = f"{bucket}/{i}", set[tuple[str, int]]()
        for _ in range(2):
            acknowledged |= program.run(url, draw.choice([1, 2]), seed=0, seconds=draw.uniform(0.2, whole_s))
            if acknowledged:
                there = Store(url).load_vectors("bursts", "noise")
                place = dict(zip(vectors.ids, vectors.x, strict=True))
                assert all(np.array_equal(x, place[name]) for name, x in zip(there.ids, there.x, strict=True))
        assert not program.run(url, 1, seed=0) & acknowledged, "what was acknowledged is not made again"
        store = Store(url)
        assert np.array_equal(store.load_vectors("bursts", "noise").x, vectors.x)
        again = store.load_frames("bursts", "noise@frames")
        assert all(np.array_equal(values, again[name]) for name, values in frames.items())
        collect_leftovers(store)
        assert check_cache(store) == []


# ------------------------------------------------------------------ every request is a point to die at


class Dead(BaseException):
    """The writer is no more."""


def write_all(store: Store) -> Iterator[tuple[str, int]]:
    """Write a small cache, whatever of it is there; yields what is acknowledged."""
    n = 2 * UNIT
    names = [f"{i:04d}" for i in range(n)]
    files = pd.DataFrame({"content": names, "start_s": 0.0, "end_s": np.nan, "header_s": 1.0, "path": names})
    schema = {"split": Column("class", ("train",))}
    labels = pd.DataFrame({"split": ["train"] * n})
    about: dict[str, Any] = {"root": "/x", "split": "given"}
    store.put_corpus(LabelTable("toy", tuple(names), np.zeros(0, np.int64), labels, schema, about), files)
    columns = tuple(f"c{i}" for i in range(DIM))
    layouts = [
        Layout("hidden", columns, "float32", False, UNIT, "zarr"),
        Layout("frames", columns, "float32", True, UNIT, "zarr"),
    ]
    folder = store.open_spec("toy", SPEC, {}, layouts)
    for layout in layouts:
        for unit in sorted({0, 1} - set(read_commits(folder, layout.output))):
            rows = tuple(range(unit * UNIT, (unit + 1) * UNIT))
            values = np.repeat(np.array(rows, np.float32)[:, None], DIM, axis=1)
            offsets = np.arange(UNIT + 1, dtype=np.int64) if layout.frames else None
            store.write_unit(folder, layout, Block(values, offsets), Commit(layout.output, unit, rows, {}, (), {}))
            yield layout.output, unit
    store.write_failures(folder)


def die_at(stop: int, late: bool, url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, set[tuple[str, int]]]:
    """Run until the given request that changes something, which is still done if `late`."""
    requests, died, acknowledged = 0, False, set[tuple[str, int]]()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def request(*words: Any, **options: Any) -> Any:
            nonlocal requests, died
            requests += 1
            if requests < stop:
                return real(*words, **options)
            if requests == stop and late:
                real(*words, **options)
            died = True
            raise Dead

        return request

    with monkeypatch.context() as patch:
        for name in ("put", "copy", "delete"):
            patch.setattr(obstore, name, dying(getattr(obstore, name)))
        try:
            for done in write_all(Store(url)):
                acknowledged.add(done)
        except Dead:
            pass
    return died, acknowledged


@pytest.mark.parametrize(
    ("step", "late"),
    [(7, None), *(pytest.param(1, late, marks=pytest.mark.slow, id=f"all-{late}") for late in (False, True))],
)
def test_a_writer_may_die_before_or_after_any_request(
    bucket: str, step: int, late: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, died = 1, True
    while died:
        url = f"{bucket}/{stop}"
        died, acknowledged = die_at(stop, stop % 2 == 0 if late is None else late, url, monkeypatch)
        try:
            vectors = Store(url).load_vectors("toy", "noise")
            assert np.array_equal(vectors.x[:, 0], [float(name) for name in vectors.ids])
        except VbxError:
            assert not any(output == "hidden" for output, _ in acknowledged)
        if stop % 3 == 0 and died:
            collect_leftovers(Store(url))
        repeated = set(write_all(Store(url)))
        assert not repeated & acknowledged, "what was acknowledged is not made again"
        store = Store(url)
        assert store.load_vectors("toy", "noise").x[:, 0].tolist() == list(range(2 * UNIT))
        assert [f[0, 0] for f in store.load_frames("toy", "noise@frames").values()] == list(range(2 * UNIT))
        collect_leftovers(store)
        assert check_cache(store) == []
        stop += step
    assert stop > 20
