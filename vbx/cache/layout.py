"""Layout and Commit: how the array of one output is cut into units, and the record that says a unit is there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from vbx.cache.files import create_file, read_sealed, seal, unseal
from vbx.cache.remote import Place, RemotePath, find_places, read_many
from vbx.cache.staging import settle
from vbx.errors import CacheError

MIN_UNIT_ROWS, MAX_UNIT_ROWS = 64, 4096
COMMITS = "commits"


@dataclass(frozen=True)
class Layout:
    """How the array of one output lies on disk; fixed when the array is made.

    Attributes:
        output: name of the output, and of its folder
        columns: names of its D columns
        dtype: `float32`, `float16`
        frames: whether rows are frames, `(F, D)` with offsets per utterance, rather than `(N, D)`
        unit_rows: utterances in a unit of work, which is one shard
        format: `zarr` or `hdf5`
    """

    output: str
    columns: tuple[str, ...]
    dtype: str
    frames: bool
    unit_rows: int
    format: str

    @property
    def dim(self) -> int:
        """D."""
        return len(self.columns)


@dataclass(frozen=True)
class Block:
    """The vectors of one unit.

    Attributes:
        values: `(n, D)`, or `(F, D)` of all frames of the unit end to end; a row without vector is NaN
        offsets: `(n + 1,)` where each utterance's frames begin; None unless rows are frames
    """

    values: NDArray[np.floating[Any]]
    offsets: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Commit:
    """The record that a unit is there: written after its data, never changed.

    Attributes:
        output: name of the output
        unit: number of the unit; it holds rows `unit * unit_rows` and following
        rows: rows that were done, those that failed among them
        failures: row to reason
        silent: rows of digital silence
        files: path inside the spec's folder to (size in bytes, CRC-32C)
        chunks: path to the CRC-32C of the checksums of its chunks, of a file that bears such. The CRC of data that its
            own CRC follows is a constant, so that of the whole file would not tell one such file from another
        staged: on an object store, under which name they were put before this record; see `staging.py`
    """

    output: str
    unit: int
    rows: tuple[int, ...]
    failures: Mapping[int, str]
    silent: tuple[int, ...]
    files: Mapping[str, tuple[int, int]]
    chunks: Mapping[str, int] = field(default_factory=dict)
    staged: str = ""

    @property
    def present(self) -> list[int]:
        """Rows that have a vector."""
        return [row for row in self.rows if row not in self.failures]


def write_layout(folder: Place, layout: Layout) -> None:
    """Record the layout of an output of the spec in `folder`, if there is none yet."""
    create_file(folder / COMMITS / f"{layout.output}.json", seal(asdict(layout)))


def read_layouts(folder: Place) -> dict[str, Layout]:
    """Layouts of the outputs in a spec's folder, by name of the output.

    Raises:
        CacheError: if one is damaged
    """
    paths = [path for path in find_places(folder / COMMITS, "*.json") if not is_unit_record(path)]
    return {path.stem: _layout(unseal(data, path)) for path, data in zip(paths, read_many(paths), strict=True)}


def read_layout(path: Place) -> Layout:
    """Read the layout of one output."""
    return _layout(read_sealed(path))


def _layout(body: Mapping[str, Any]) -> Layout:
    return Layout(**{**body, "columns": tuple(body["columns"])})


def write_commit(folder: Place, commit: Commit) -> bool:
    """Record that a unit is there, if nobody has yet; returns whether this was the first."""
    failures = {str(row): reason for row, reason in commit.failures.items()}
    body = vars(commit) | {"failures": failures, "rows": _ranges(commit.rows), "silent": _ranges(commit.silent)}
    body = {name: value for name, value in body.items() if value or name not in ("chunks", "staged")}
    return create_file(commit_path(folder, commit.output, commit.unit), seal(body))


def read_commits(folder: Place, output: str) -> dict[int, Commit]:
    """Commit records of one output, by unit.

    Raises:
        CacheError: if a record is damaged
    """
    paths = [path for path in find_places(folder / COMMITS, f"{output}-*.json") if is_unit_record(path)]
    paths = [path for path in paths if path.stem.rpartition("-")[0] == output]
    found = [_commit(unseal(data, path), path) for path, data in zip(paths, read_many(paths), strict=True)]
    if isinstance(folder, RemotePath):
        unseen = settle(folder, {commit.staged: list(commit.files) for commit in found})
        found = [commit for commit in found if commit.staged not in unseen]
    return {commit.unit: commit for commit in found}


def read_commit(path: Place) -> Commit:
    """Read one commit record."""
    return _commit(read_sealed(path), path)


def _commit(body: Mapping[str, Any], path: Place) -> Commit:
    commit = Commit(
        output=body["output"],
        unit=body["unit"],
        rows=_spread(body["rows"]),
        failures={int(row): reason for row, reason in body["failures"].items()},
        silent=_spread(body["silent"]),
        files={name: (size, crc) for name, (size, crc) in body["files"].items()},
        chunks=body.get("chunks", {}),  # records of early versions have none
        staged=body.get("staged", ""),
    )
    if path.stem != _record_name(commit.output, commit.unit):
        raise CacheError(f"{path} is the record of another unit ({commit.output}, {commit.unit})")
    return commit


def commit_path(folder: Place, output: str, unit: int) -> Place:
    """Where the record of a unit lies."""
    return folder / COMMITS / f"{_record_name(output, unit)}.json"


def _record_name(output: str, unit: int) -> str:
    return f"{output}-{unit:06d}"


def checksum(data: bytes | memoryview) -> int:
    """CRC-32C of bytes, by hardware where there is any."""
    return int(crc32c.crc32c(data))


def choose_unit_rows(seconds: float, row_bytes: float, times_real_time: float) -> int:
    """Utterances in a unit: about half a minute of encoding, at most 128 MB, a power of two from 64 to 4,096.

    Args:
        seconds: mean length of an utterance, in seconds
        row_bytes: bytes of one utterance's largest output
        times_real_time: seconds of audio that the encoder does in a second, roughly

    Examples:
        >>> choose_unit_rows(2.2, 4096, 4.0), choose_unit_rows(2.2, 6373 * 4, 60.0)
        (64, 512)
    """
    wanted = min(30.0 * times_real_time / max(seconds, 0.1), 128e6 / max(row_bytes, 1.0))
    power = int(np.floor(np.log2(max(wanted, 1.0))))
    return int(np.clip(2**power, MIN_UNIT_ROWS, MAX_UNIT_ROWS))


def _ranges(rows: Sequence[int]) -> list[list[int]]:
    """Rows as [first, last] of each run of neighbours: a record of thousands of rows stays a line."""
    ranges: list[list[int]] = []
    for row in sorted(rows):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ranges


def _spread(ranges: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(row for first, last in ranges for row in range(first, last + 1))


def is_unit_record(path: Place) -> bool:
    """Whether a file of `commits` is the record of a unit, rather than a layout."""
    number = path.stem.rpartition("-")[2]
    return len(number) == 6 and number.isdigit()
