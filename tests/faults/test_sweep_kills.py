"""Sweeps that are killed: nothing that was saved is lost or trained again, and what is there can always be read."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vbx.errors import CacheError
from vbx.heads.board import SCHEMA, load_head, read_results
from vbx.heads.results.folder import part_keys

RUNS = 48

SWEEP = """
import os
import sys
from pathlib import Path
import numpy as np
import torch
from vbx.cache.vectors import Vectors
from vbx.heads import sweep
from vbx.heads import outbox
from vbx.heads.recipe import make_tasks, read_recipe, with_tasks

torch.set_num_threads(1)
out, pace = Path(arguments[0]), float(arguments[1])
rng = np.random.default_rng(0)
labels = {"split": ["train", "train", "dev", "test"] * 20, "age": rng.standard_normal(80).tolist()}
vectors = Vectors.from_arrays(rng.standard_normal((80, 6)), labels, feature="toy", corpus="c")
recipe = read_recipe("default", {"sweep.seed": list(range(RUNS // 2)), "trunk.hidden": [[4], [5]], "fit.epochs": 2})
recipe = with_tasks(recipe, make_tasks(vectors.schema, ["age"]))
real = outbox.append_results

def say(word, results):
    os.write(told, "".join(f"{word} {result.key}\\n" for result in results).encode())

def append_results(out, results, vectors, device):
    real(out, results, vectors, device=device)
    say("saved", results)

class Slow(outbox.Outbox):
    def put(self, results, vectors):
        say("trained", results)
        super().put(results, vectors)
        import time
        time.sleep(pace)

outbox.append_results, outbox.Outbox, outbox.EVERY_S = append_results, Slow, 0.05
os.write(told, b"ready -\\n")
sweeps = sweep.plan_sweep(recipe, lambda *_: vectors, [("c", "toy")], out)
counts = sweep.run_sweep(sweeps, out)
os.write(told, f"done {counts['trained']}\\n".encode())
"""


class Process:
    """A sweep in a process of its own, forked or begun anew, and what it tells."""

    def __init__(self, out: Path, forked: bool, pace: float = 0.005) -> None:
        code, arguments = SWEEP.replace("RUNS", str(RUNS)), [str(out), str(pace)]
        self.read, write = os.pipe()
        self.popen: subprocess.Popen[bytes] | None = None
        if not forked:
            head = "import sys\narguments, told = sys.argv[1:3], int(sys.argv[3])\n"
            command = [sys.executable, "-c", head + code, *arguments, str(write)]
            self.popen = subprocess.Popen(command, pass_fds=[write])
            self.pid = self.popen.pid
        elif (pid := os.fork()) == 0:
            status = 1
            try:
                os.close(self.read)
                exec(code, {"arguments": arguments, "told": write})
                status = 0
            finally:
                os._exit(status)
        else:
            self.pid = pid
        os.close(write)
        self.lines = os.fdopen(self.read)
        assert self.lines.readline() == "ready -\n"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> dict[str, list[str]]:
        """What it told until its end."""
        told: dict[str, list[str]] = {"trained": [], "saved": [], "done": []}
        for line in self.lines:
            if line.endswith("\n"):
                word, what = line.split()
                told[word].append(what)
        self.lines.close()
        if self.popen:
            self.popen.wait()
        else:
            os.waitpid(self.pid, 0)
        return told


def keys_of(out: Path) -> set[str]:
    """Keys of all that can be read; no results are no error."""
    try:
        return set(read_results(out)["key"])
    except CacheError as error:
        assert "no results" in str(error)
        return set()


def rows_of(out: Path) -> Counter[str]:
    """How often each run lies in the folder."""
    return Counter(key for part in out.glob("runs-*.parquet") for key in part_keys(part, SCHEMA))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kills", "forked"),
    [(5, True), pytest.param(40, True, marks=pytest.mark.slow), pytest.param(8, False, marks=pytest.mark.slow)],
)
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, kills: int, forked: bool) -> None:
    rng, killed, round_ = np.random.default_rng(kills), 0, 0
    while killed < kills:
        out, saved = tmp_path / f"out{round_}", set[str]()
        round_ += 1
        while killed < kills:
            process = Process(out, forked)
            began, until = time.monotonic(), rng.uniform(0.0, 0.5)
            while time.monotonic() - began < until:
                assert saved <= keys_of(out)
            process.kill()
            told = process.end()
            killed += 1
            assert not set(told["trained"]) & saved, "what was saved is trained again"
            saved |= set(told["saved"])
            assert saved <= keys_of(out), "what was saved is lost"
            if told["done"]:
                break
        told = Process(out, forked, pace=0.0).end()
        assert told["done"] and not set(told["trained"]) & saved
        assert len(keys_of(out)) == RUNS and set(rows_of(out).values()) == {1}
        assert len(list(out.iterdir())) < 20 and not list(out.glob(".*partial"))
        if told["trained"]:
            assert not list(out.glob(".claims-*"))
        for key in list(keys_of(out))[::13]:
            assert load_head(out, key).run.seed >= 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("rounds", "forked"),
    [(2, True), pytest.param(12, True, marks=pytest.mark.slow), pytest.param(3, False, marks=pytest.mark.slow)],
)
def test_two_processes_share_and_one_is_killed(tmp_path: Path, rounds: int, forked: bool) -> None:
    rng = np.random.default_rng(rounds)
    for round_ in range(rounds):
        out = tmp_path / f"out{round_}"
        victim, other = Process(out, forked, pace=0.02), Process(out, forked, pace=0.02)
        time.sleep(rng.uniform(0.05, 0.5))
        victim.kill()
        first, second = victim.end(), other.end()
        assert second["done"] == [str(len(second["trained"]))]
        # The survivor trains whatever the victim did not save, and nothing else of its runs.
        assert len(keys_of(out)) == RUNS and set(rows_of(out).values()) == {1}
        assert set(first["saved"]).isdisjoint(second["trained"])
        assert len(second["trained"]) == len(set(second["trained"]))
        assert set(first["trained"]) & set(second["trained"]) <= set(first["trained"]) - set(first["saved"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("count", "forked"), [(2, True), (4, True), pytest.param(3, False, marks=pytest.mark.slow)])
def test_living_processes_train_each_run_once(tmp_path: Path, count: int, forked: bool) -> None:
    processes = [Process(tmp_path, forked, pace=0.02) for _ in range(count)]
    told = [process.end() for process in processes]
    trained = [key for one in told for key in one["trained"]]
    assert len(trained) == len(set(trained)) == RUNS == len(keys_of(tmp_path))
    assert sum(int(one["done"][0]) for one in told) == RUNS
    assert set(rows_of(tmp_path).values()) == {1} and not list(tmp_path.glob(".claims-*"))
