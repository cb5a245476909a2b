"""How fast does the cache write, open and read, beside zarr-python, h5py, .npy and Lance? All from one run.

    python benchmarks/cache_io.py [--rows 60000] [--dim 1024] [--clips 200] [--rounds 5] [--cores 1] [--of median]

CPU time in ms, files in the page cache, contestants in turn. zarr-python reads the files that vbx
wrote. `flipped`: what comes of one flipped bit in the largest file. Lance takes part if pylance is installed.
"""

import argparse
import gc
import importlib.util
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import zarr

from vbx.cache.layout import Block, Commit, Layout
from vbx.cache.schema import Column
from vbx.cache.spec import EncoderSpec
from vbx.cache.store import LabelTable, Store
from vbx.errors import VbxError

UNIT_ROWS = {"hidden": 512, "frames": 64}
GATHERED = 256


class Contestant:
    """One way to keep rows, or clips of rows that end where `ends` says.

    `write`, `open`, then `read` all rows, `some` of them, or one `clip`; here: a plain .npy file and a map of it.
    """

    name = "npy memmap"

    def __init__(self, folder: Path, ends: np.ndarray | None) -> None:
        self.path, self.ends, self.array = folder / self.name.replace(" ", "-"), ends, None

    def write(self, x: np.ndarray) -> None:
        np.save(self.path.with_suffix(".npy"), x)

    def open(self) -> None:
        self.array = np.load(self.path.with_suffix(".npy"), mmap_mode="r")

    def read(self) -> np.ndarray:
        return np.array(self.array[:])

    def some(self, numbers: np.ndarray) -> np.ndarray:
        return self.array[numbers]

    def clip(self, number: int) -> np.ndarray:
        return np.array(self.array[self.ends[number] : self.ends[number + 1]])


class Vbx(Contestant):
    """Ours: a corpus of which the order is not that of its rows, as it is where clips differ in length."""

    name, kind = "vbx zarr", "zarr"

    def write(self, x: np.ndarray) -> None:
        store, n = Store(self.path, self.kind), len(x) if self.ends is None else len(self.ends) - 1
        utterances = np.argsort(store.put_corpus(*_corpus(n)).rows)
        output, columns = ("hidden" if self.ends is None else "frames"), tuple(map(str, range(x.shape[1])))
        layout = Layout(output, columns, str(x.dtype), self.ends is not None, UNIT_ROWS[output], self.kind)
        folder = store.open_spec("bench", EncoderSpec("noise", "sha256"), {}, [layout])
        for first in range(0, n, layout.unit_rows):
            inside = utterances[first : first + layout.unit_rows]
            if self.ends is None:
                block = Block(x[inside])
            else:
                clips = [x[self.ends[i] : self.ends[i + 1]] for i in inside]
                block = Block(np.concatenate(clips), np.cumsum([0, *map(len, clips)]))
            rows = tuple(range(first, first + len(inside)))
            store.write_unit(folder, layout, block, Commit(output, first // layout.unit_rows, rows, {}, (), {}))

    def open(self) -> None:
        self.array = Store(self.path).open_rows("bench", "noise" if self.ends is None else "noise@frames")

    def read(self) -> np.ndarray:
        return self.array.load()

    def some(self, numbers: np.ndarray) -> np.ndarray:
        return self.array.gather(numbers)

    def clip(self, number: int) -> np.ndarray:
        return np.array(self.array.frames(number))  # a copy, as the others make one


class VbxHdf5(Vbx):
    """Ours, as HDF5."""

    name, kind = "vbx hdf5", "hdf5"


class ZarrPython(Contestant):
    """The files of `Vbx`; which row an utterance has is asked of the store."""

    name = "vbx zarr"

    def __init__(self, folder: Path, ends: np.ndarray | None) -> None:
        super().__init__(folder, ends)
        self.name = "zarr-python, same files"

    def open(self) -> None:
        self.rows = Store(self.path).label_table("bench").rows
        self.array = zarr.open(
            str(next(self.path.glob(f"bench/*/{'hidden' if self.ends is None else 'frames'}"))), mode="r"
        )
        if self.ends is not None:
            self.units = {int(name): (unit["values"], unit["offsets"][:]) for name, unit in self.array.groups()}

    def read(self) -> np.ndarray:
        return self.array[:][self.rows]

    def some(self, numbers: np.ndarray) -> np.ndarray:
        return self.array.oindex[self.rows[numbers]]

    def clip(self, number: int) -> np.ndarray:
        unit, inside = divmod(int(self.rows[number]), UNIT_ROWS["frames"])
        values, offsets = self.units[unit]
        return values[offsets[inside] : offsets[inside + 1]]


class H5(Contestant):
    """One HDF5 dataset."""

    name, chunk = "h5py contiguous", 0

    def write(self, x: np.ndarray) -> None:
        with h5py.File(self.path, "w") as file:
            file.create_dataset("x", data=x, chunks=(min(self.chunk, len(x)), x.shape[1]) if self.chunk else None)

    def open(self) -> None:
        self.array = h5py.File(self.path)["x"]

    def some(self, numbers: np.ndarray) -> np.ndarray:
        rows, back = np.unique(numbers, return_inverse=True)  # it wants them in order, and once
        return self.array[rows][back]


class H5Chunks(H5):
    """The same in chunks."""

    name, chunk = "h5py chunks of 256", 256


class Lance(Contestant):
    """A column of lists of fixed size."""

    name = "Lance"

    def write(self, x: np.ndarray) -> None:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        importlib.import_module("lance").write_dataset(pa.table({"x": flat}), str(self.path))

    def open(self) -> None:
        self.array = importlib.import_module("lance").dataset(str(self.path))

    def read(self) -> np.ndarray:
        return self._values(self.array.to_table())

    def some(self, numbers: np.ndarray) -> np.ndarray:
        return self._values(self.array.take(numbers))

    def clip(self, number: int) -> np.ndarray:
        return self._values(self.array.take(range(self.ends[number], self.ends[number + 1])))

    @staticmethod
    def _values(table: pa.Table) -> np.ndarray:
        column = table["x"].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _corpus(n: int) -> tuple[LabelTable, pd.DataFrame]:
    names, numbers = [f"{i:06d}.wav" for i in range(n)], np.arange(n)
    files = pd.DataFrame({"content": names, "start_s": 0.0, "end_s": np.nan, "path": names})
    labels = pd.DataFrame({"split": np.where(numbers % 5, "train", "test"), "age": numbers % 60 + 20.0})
    schema = {"split": Column("class", ("test", "train")), "age": Column("number")}
    table = LabelTable("bench", tuple(names), np.zeros(0, np.int64), labels, schema, {"root": "", "split": "given"})
    return table, files.assign(header_s=1.0 + numbers * 7919 % n)


class Clock(list[tuple[str, str, float]]):
    """CPU times in ms, by contestant and by what it did."""

    def run(self, name: str, what: str, call: Callable[..., Any], *args: Any) -> Any:
        began = time.process_time()
        result = call(*args)
        self.append((name, what, (time.process_time() - began) * 1e3))
        return result

    def table(self, columns: list[str], against: list[str], what: str) -> pd.DataFrame:
        """The medians or minima, and those of some columns as multiples of the first contestant's."""
        frame = pd.DataFrame(list(self), columns=["name", "what", "ms"])
        table = frame.pivot_table("ms", "name", "what", what).loc[list(dict.fromkeys(frame["name"])), columns]
        for column in against:
            table.insert(list(table).index(column) + 1, f"{column} ratio", table[column] / table[column].iloc[0])
        return table.rename_axis(index=None, columns=None)


def race_vectors(clock: Clock, entries: list[Contestant], x: np.ndarray, rounds: int) -> None:
    rng, store = np.random.default_rng(1), Store(entries[0].path)
    some = rng.integers(0, len(x), GATHERED)
    for entry in entries:
        if not isinstance(entry, ZarrPython):
            clock.run(entry.name, "write", entry.write, x)
        entry.open()
        assert np.array_equal(clock.run(entry.name, "first", entry.some, some), x[some])
        assert np.array_equal(entry.read(), x), entry.name
        entry.some(np.arange(0, len(x), 64))  # from here on every piece of every file was touched
    reads = {entry.name: entry.read for entry in entries} | {"a copy in memory": x.copy}
    reads["vbx zarr, load_vectors"] = lambda: store.load_vectors("bench", "noise")
    for _ in range(rounds):
        for name, read in reads.items():
            np.ones_like(x)  # memory that is new to a virtual machine would be charged to whoever comes first
            clock.run(name, "read", read)
        for entry in entries:
            clock.run(entry.name, "open", type(entry)(entry.path.parent, None).open)
            for _ in range(3):
                clock.run(entry.name, "some", entry.some, rng.integers(0, len(x), GATHERED))


def race_clips(clock: Clock, entries: list[Contestant], x: np.ndarray, ends: np.ndarray, rounds: int) -> None:
    rng, n = np.random.default_rng(1), len(ends) - 1
    for entry in entries:
        if not isinstance(entry, ZarrPython):
            clock.run(entry.name, "write", entry.write, x)
        clock.run(entry.name, "open", entry.open)
        clock.run(entry.name, "first", entry.clip, n // 2)
        for number in range(n):
            assert np.array_equal(entry.clip(number), x[ends[number] : ends[number + 1]]), entry.name
    for _ in range(rounds):
        for entry, number in itertools.product(entries, rng.integers(0, n, 50).tolist()):
            clock.run(entry.name, "clip", entry.clip, number)


def flipped(entry: Contestant, x: np.ndarray) -> str:
    """What reading makes of one flipped bit."""
    files = [f for top in entry.path.parent.glob(f"{entry.path.name}*") for f in (top, *top.rglob("*")) if f.is_file()]
    path, entry.array = max(files, key=lambda file: file.stat().st_size), None
    gc.collect()  # HDF5 would answer from what it has open
    data = np.memmap(path, np.uint8, "r+")
    data[len(data) // 2] ^= 64
    try:
        entry.open()
        return "unharmed" if np.array_equal(entry.read(), x) else "wrong value"
    except (VbxError, ValueError, OSError, RuntimeError):
        return "refused"
    finally:
        data[len(data) // 2] ^= 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 60000, "dim": 1024, "clips": 200, "rounds": 5, "cores": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--of", default="median", choices=["median", "min"], help="of the rounds; default median")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    kinds = [Vbx, VbxHdf5, ZarrPython, H5, H5Chunks, Contestant]
    packages = ["numpy", "zarr", "h5py", "pyarrow", "crc32c"]
    if importlib.util.find_spec("lance"):
        kinds, packages = [*kinds, Lance], [*packages, "pylance"]
    else:
        print("Lance is left out: pylance is not installed")
    print(", ".join(f"{package} {version(package)}" for package in packages), end=", ")
    print(f"Python {platform.python_version()}, {platform.platform()}, cores used: {args.cores}")
    rng, clock, style = np.random.default_rng(0), Clock(), {"float_format": "{:.3f}".format, "na_rep": ""}
    with tempfile.TemporaryDirectory() as tmp:
        x = rng.standard_normal((args.rows, args.dim), dtype=np.float32)
        entries = [kind(Path(tmp), None) for kind in kinds]
        race_vectors(clock, entries, x, args.rounds)
        table = clock.table(["write", "open", "read", "first", "some"], ["read", "some"], args.of)
        table.insert(2, "GB/s", x.nbytes / table["read"] / 1e6)
        table["flipped"] = pd.Series({entry.name: flipped(entry, x) for entry in entries})
        print(f"\n{args.rows} x {args.dim} float32; `some`: {GATHERED} random rows; `first`: the first of them")
        print(table.to_string(**style))
    clock = Clock()
    with tempfile.TemporaryDirectory() as tmp:
        ends = np.cumsum([0, *np.exp(rng.normal(np.log(100), 0.5, args.clips)).clip(15, 400).astype(int)])
        x = rng.standard_normal((ends[-1], args.dim), dtype=np.float32).astype(np.float16)
        entries = [kind(Path(tmp), ends) for kind in kinds if kind is not H5Chunks]
        race_clips(clock, entries, x, ends, args.rounds)
        print(f"\n{args.clips} clips of {np.diff(ends).mean():.0f} frames x {args.dim} float16; `clip`: one of them")
        print(clock.table(["write", "open", "first", "clip"], ["clip"], args.of).to_string(**style))


if __name__ == "__main__":
    main()
