"""Writers for tests, run as a program: each line of stdin starts some, side by side, and perhaps kills them.

Usage: remote_writer.py light|CORPUS [parts], then lines `WRITERS SEED SECONDS URL`; `kill -9` after SECONDS, 0: never.
A writer prints `ack OUTPUT UNIT` once a unit is acknowledged; `end` follows when all writers are gone.
"""

import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from vbx.cache.layout import Block, Commit, Layout, read_commits
from vbx.cache.rows import read_rows
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.extract import passes
from vbx.extract.corpus import read_corpus
from vbx.extract.pipeline import extract_vectors
from vbx.extract.plan import Settings
from vbx.progress import Quiet

ROWS, UNIT, DIM = 64 * 12, 64, 8


def write_light(url: str, seed: int) -> None:
    """Rows of a corpus, then each unit that is not there, in an order and with bytes of this writer's own.

    A third of the writers knows only some of the utterances.
    """
    store = Store(url)
    names = [f"{i:04d}" for i in range(ROWS)][:: 2 if seed % 3 == 2 else 1]
    files = pd.DataFrame({"content": names, "start_s": 0.0, "end_s": np.nan, "header_s": 1.0, "path": names})
    labels = pd.DataFrame({"split": ["train"] * len(names), "writer": [str(seed)] * len(names)})
    schema = {"split": Column("class", ("train",)), "writer": Column("class", (str(seed),))}
    table = LabelTable("toy", tuple(names), np.zeros(0, np.int64), labels, schema, {"root": "/x", "split": "given"})
    table = store.put_corpus(table, files)
    layout = Layout("hidden", tuple(f"c{i}" for i in range(DIM)), "float32", False, UNIT, "zarr")
    folder = store.open_spec("toy", EncoderSpec("noise", "sha256"), {"writer": seed}, [layout])
    rows = read_rows(folder.parent)["row"].tolist()
    units = sorted({row // UNIT for row in rows} - set(read_commits(folder, "hidden")))
    random.Random(seed).shuffle(units)
    for unit in units:
        inside = [row for row in rows if row // UNIT == unit]
        values = np.full((max(inside) - unit * UNIT + 1, DIM), np.nan, np.float32)
        bad = inside[seed % len(inside)]
        good = [row for row in inside if row != bad]
        values[[row - unit * UNIT for row in good]] = [[row, *([seed] * (DIM - 1))] for row in good]
        commit = Commit("hidden", unit, tuple(inside), {bad: f"writer {seed}"}, (), {})
        store.write_unit(folder, layout, Block(values), commit)
    store.write_failures(folder)


def extract(url: str, corpus: str, part: tuple[int, int]) -> None:
    """The real thing, in units of 64."""
    passes.choose_unit_rows = lambda *_: UNIT  # type: ignore[attr-defined]
    extract_vectors(
        read_corpus(corpus),
        ["noise", "noise@frames"],
        Store(url),
        settings=Settings(workers=1, part=part, progress=Quiet()),
    )


def main() -> None:
    """Start writers as told."""
    work = sys.argv[1]
    real = Store.write_unit

    def acknowledged(self: Store, folder: Any, layout: Layout, block: Block, commit: Commit) -> bool:
        first = real(self, folder, layout, block, commit)
        os.write(1, f"ack {commit.output} {commit.unit}\n".encode())
        return first

    Store.write_unit = acknowledged  # type: ignore[method-assign]
    for line in sys.stdin:
        writers, seed, seconds, url = line.rstrip().split(maxsplit=3)
        children = []
        for i in range(int(writers)):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    if work == "light":
                        write_light(url, int(seed) + i)
                    else:
                        extract(url, work, (i + 1, int(writers)) if sys.argv[2:] else (1, 1))
                    code = 0
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        if float(seconds):
            time.sleep(float(seconds))
            for child in children:
                os.kill(child, signal.SIGKILL)
        codes = [os.waitpid(child, 0)[1] for child in children]
        os.write(1, f"end {sum(code not in (0, signal.SIGKILL) for code in codes)}\n".encode())


if __name__ == "__main__":
    main()
