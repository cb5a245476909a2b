"""Folder of results: parts of two files each, appended and merged so that a kill at any moment loses none.

    OUT/runs-STEM.parquet         one row per run, split, task, column and metric
    OUT/heads-STEM.safetensors    weights of the same runs

A part is there when its `runs-` file is, which is renamed last. Writers hold the folder's lock; readers need none.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError

from vbx.cache.files import PARTIAL, locked, sync_folder
from vbx.errors import CacheError
from vbx.heads.head import Head
from vbx.heads.weights import check_heads, merge_heads, write_heads

HANDFUL = 8
"""How many small parts may lie in a folder before `compact` merges them."""
FULL = 4096
"""Runs that make a part large: it is not merged again, so that a sweep of any length copies each run a few times."""

_Read = TypeVar("_Read")


def append_part(out: Path, table: pa.Table, heads: Mapping[str, Head]) -> None:
    """Add a part; what earlier kills left half-written is removed.

    Args:
        out: folder of results; made if it is not there
        table: rows, with a column `key`
        heads: key of each run to its head

    Raises:
        CacheError: if the folder cannot be written; what was there before is not touched
    """
    with locked(out), _new_part(out) as (runs_file, heads_file):
        write_heads(heads_file, heads)
        with _writer(runs_file, table.schema) as file:
            file.write_table(table)


def each_part(out: Path, read: Callable[[Path], _Read]) -> list[_Read]:
    """Read every part.

    Args:
        out: folder of results; need not be there
        read: what to do with the `runs-` file of a part

    Raises:
        CacheError: if a file is damaged, half there or not of vbx
    """
    while True:
        parts = _list_parts(out)
        try:
            for part in parts:
                check_heads(heads_of(part))
            return [read(part) for part in parts]
        except FileNotFoundError:
            # Either another process merged parts meanwhile, or one has lost its weights.
            for part in parts:
                if not heads_of(part).exists() and part.exists():
                    raise CacheError(
                        f"{heads_of(part)} is missing: {part.name} has lost its weights; move {part.name} away, "
                        "or train its runs again"
                    ) from None


def read_part(part: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read rows of a part, every checksum verified.

    Args:
        part: its `runs-` file
        schema: what it must hold
        columns: which to read; None for all

    Raises:
        CacheError: if it is damaged or holds something else
        FileNotFoundError: if another process has merged it
    """
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            there = file.schema_arrow
            if not (there.equals(schema) or there.equals(schema.remove(len(schema) - 1))):  # the last one is new
                raise CacheError(
                    f"{part} does not hold the columns of results of this version of vbx; move it to another folder"
                )
            names = columns or schema.names
            table = file.read(columns=[name for name in names if name in there.names])
            for name in set(names) - set(there.names):
                table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
            return table.select(names)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{part} is damaged ({error}); move it away, or train its runs again") from error


def heads_of(part: Path) -> Path:
    """The file of weights beside a `runs-` file."""
    return part.with_name("heads-" + part.stem.removeprefix("runs-") + ".safetensors")


def compact_parts(out: Path, schema: pa.Schema) -> None:
    """Merge small parts, if there are more than a handful.

    The merged part is there before the old ones go: who reads in between sees runs twice, and counts them once.

    Args:
        out: folder of results
        schema: what its parts hold

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx, or the folder cannot be written
    """
    if not out.is_dir():
        return
    with locked(out):
        sizes = dict(each_part(out, lambda part: (part, len(part_keys(part, schema)))))
        small = [part for part, size in sizes.items() if size < FULL]
        if len(small) <= HANDFUL:
            return
        while small:
            batch, runs = [], 0
            while small and runs < FULL:
                batch.append(small.pop())
                runs += sizes[batch[-1]]
            _merge(out, batch, schema)


def part_keys(part: Path, schema: pa.Schema) -> set[str]:
    """Keys of the runs of a part; raises as `read_part` does."""
    return set(read_part(part, schema, ["key"])["key"].unique().to_pylist())


def _merge(out: Path, parts: Sequence[Path], schema: pa.Schema) -> None:
    """One part in place of several, in memory one at a time."""
    seen: set[str] = set()
    with _new_part(out) as (runs_file, heads_file):
        merge_heads([heads_of(part) for part in parts], heads_file)
        with _writer(runs_file, schema) as file:
            for part in parts:
                table = read_part(part, schema)
                fresh = set(table["key"].unique().to_pylist()) - seen
                file.write_table(table.filter(pc.is_in(table["key"], pa.array(fresh, pa.string()))))
                seen |= fresh
    for part in parts:
        part.unlink()
        heads_of(part).unlink()


@contextlib.contextmanager
def _new_part(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two files to write, results and weights, that get their names when the block ends. The folder is locked."""
    _remove_leftovers(out)
    runs = out / f"runs-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    asides = {path: path.with_name(f".{path.name}{PARTIAL}") for path in (heads_of(runs), runs)}
    try:
        yield asides[runs], asides[heads_of(runs)]
        for path, aside in asides.items():
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        sync_folder(out)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"cannot write results in {out}: {error}; what was there before is not touched") from error
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)


def _remove_leftovers(out: Path) -> None:
    """What a killed writer left: files that got no name, and weights whose results got none.

    Nobody else is writing: the lock is ours.
    """
    for path in [*out.glob(f".runs-*{PARTIAL}"), *out.glob(f".heads-*{PARTIAL}")]:
        path.unlink()
    whole = {heads_of(part) for part in out.glob("runs-*.parquet")}
    for path in set(out.glob("heads-*.safetensors")) - whole:
        path.unlink()


def _list_parts(out: Path) -> list[Path]:
    """The `runs-` files of a folder, in order of name."""
    for kind, prefix in (("*.parquet", "runs-"), ("*.safetensors", "heads-")):
        for path in sorted(out.glob(kind)):
            if not path.name.startswith(prefix):
                raise CacheError(f"{path} is not a file of results of vbx; move it to another folder")
    return sorted(out.glob("runs-*.parquet"))


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
