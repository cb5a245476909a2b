"""Folder of results: parts of two files each, appended and merged so that a kill at any moment loses none.

    OUT/runs-STEM.parquet         one row per run, split, task, column and metric
    OUT/heads-STEM.safetensors    weights of the same runs

A part is there when its `runs-` file is, which is renamed last. Writers hold the folder's lock; readers need none.
"""

import contextlib
import functools
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
from vbx.heads.results.weights import check_heads, merge_heads, write_heads

HANDFUL, FEW = 8, 4
"""How many small parts may lie in a folder, and how many of one size while a sweep goes on, before they are merged."""
FULL, FULL_BYTES = 4096, 2**30
"""Runs, or bytes of weights, that make a part large: it is not merged again, so that each run is copied a few times."""
GROUP_BYTES = 32 * 2**20
"""Results that are merged at once."""
LATER = ("curve", "part")
"""Columns that came after results were first kept: where they are missing they are empty."""

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
        parts = list_parts(out)
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
    nothing = schema.empty_table().select(columns or schema.names)
    return pa.concat_tables([nothing, *_each_group(part, schema, columns or schema.names)])


def heads_of(part: Path) -> Path:
    """The file of weights beside a `runs-` file."""
    return part.with_name("heads-" + part.stem.removeprefix("runs-") + ".safetensors")


def compact_parts(out: Path, schema: pa.Schema, *, on_the_way: bool = False) -> None:
    """Merge small parts, if there are more than a handful.

    The merged part is there before the old ones go: who reads in between sees runs twice, and counts them once.

    Args:
        out: folder of results
        schema: what its parts hold
        on_the_way: merge only parts of like size: a long sweep, where parts keep coming, copies each run a few times

    Raises:
        CacheError: if a file there is damaged, half there or not of vbx, or the folder cannot be written
    """
    if not out.is_dir():
        return
    with locked(out):
        while small := _crowded(out, schema, on_the_way):
            while small:
                batch, runs, size = [], 0, 0
                while small and runs < FULL and size < FULL_BYTES:
                    batch.append(small.pop())
                    runs += _count_runs(batch[-1], schema)
                    size += heads_of(batch[-1]).stat().st_size
                _merge(out, batch, schema)


def part_keys(part: Path, schema: pa.Schema) -> set[str]:
    """Keys of the runs of a part; raises as `read_part` does."""
    return set(read_part(part, schema, ["key"])["key"].unique().to_pylist())


def _crowded(out: Path, schema: pa.Schema, on_the_way: bool) -> list[Path]:
    """Small parts that are too many, all or those of one size; none, if they are few."""
    parts = list_parts(out)
    if len(parts) <= (FEW if on_the_way else HANDFUL):
        return []
    sizes: dict[int, list[Path]] = {}
    for part in parts:
        if not on_the_way:
            check_heads(heads_of(part))
        runs = _count_runs(part, schema)
        if runs < FULL and heads_of(part).stat().st_size < FULL_BYTES:
            sizes.setdefault(runs.bit_length() // 3 if on_the_way else 0, []).append(part)
    return next((found for found in sizes.values() if len(found) > (FEW if on_the_way else HANDFUL)), [])


@functools.lru_cache(4096)
def _count_runs(part: Path, schema: pa.Schema) -> int:
    """Runs of a part, which never changes."""
    return len(part_keys(part, schema))


def _merge(out: Path, parts: Sequence[Path], schema: pa.Schema) -> None:
    """One part in place of several, in memory a group of rows at a time."""
    seen: set[str] = set()
    with _new_part(out) as (runs_file, heads_file):
        merge_heads([heads_of(part) for part in parts], heads_file)
        with _writer(runs_file, schema) as file:
            waiting = []
            for part in parts:
                fresh = part_keys(part, schema) - seen
                seen |= fresh
                for group in _each_group(part, schema, schema.names):
                    waiting.append(group.filter(pc.is_in(group["key"], pa.array(fresh, pa.string()))))
                    if sum(table.nbytes for table in waiting) > GROUP_BYTES:
                        file.write_table(pa.concat_tables(waiting))
                        waiting = []
            if waiting:
                file.write_table(pa.concat_tables(waiting))
    for part in parts:
        part.unlink()
        heads_of(part).unlink()


def _each_group(part: Path, schema: pa.Schema, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of a part, a group at a time; columns that came later are empty where they are missing."""
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            there = file.schema_arrow.names
            lacking = [name for name in schema.names if name not in there]
            known = pa.schema([schema.field(name) for name in schema.names if name in there])
            if not file.schema_arrow.equals(known) or not set(lacking) <= set(LATER):
                raise CacheError(
                    f"{part} does not hold the columns of results of this version of vbx; move it to another folder"
                )
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, [name for name in names if name in there])
                for name in set(names) & set(lacking):
                    table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
                yield table.select(names)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{part} is damaged ({error}); move it away, or train its runs again") from error


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


def list_parts(out: Path) -> list[Path]:
    """The `runs-` files of a folder, in order of name.

    Raises:
        CacheError: if a file there is not of vbx
    """
    for kind, prefix in (("*.parquet", "runs-"), ("*.safetensors", "heads-")):
        for path in sorted(out.glob(kind)):
            if not path.name.startswith(prefix):
                raise CacheError(f"{path} is not a file of results of vbx; move it to another folder")
    return sorted(out.glob("runs-*.parquet"))


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
