"""Tables: Parquet with a digest beside it; changed under a lock on a disk, by compare-and-swap on an object store.

There a table and its digest file are two objects, and any number of writers may replace them, and die, at any time.
What holds at every moment: the digest of the table is among those that its digest file names.

1. A writer adds the digest of its new table to the digest file, by compare-and-swap.
2. It replaces the table that it has read, by compare-and-swap. Where that fails, another was faster: all is done
   again, from reading on, so that nobody's rows are lost.
3. It cuts the digest file down to its own digest, on condition that this file is still as step 1 left it: nobody who
   has read the new table can have announced another yet.

A mark of random bytes makes each table unlike any before, so that an ETag never comes back and no condition holds by
chance. A reader gets table and digest file a moment apart; where they do not fit it reads them again.
"""

import hashlib
import io
import secrets
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vbx.cache.files import write_file
from vbx.cache.remote import Place, RemotePath, Seen
from vbx.errors import CacheError

SIDE = ".sha256"
"""Suffix of the file beside a table that holds its digest."""
ROUNDS = 200
"""How often a writer on an object store tries again because another was faster."""
Change = Callable[[pd.DataFrame | None], pd.DataFrame | None]


def write_table(path: Place, frame: pd.DataFrame) -> None:
    """Write a Parquet file and, beside it, its digest in the form of `sha256sum`.

    While the file is being replaced the digest file names both the old and the new one, so that a kill at any moment
    leaves a table that is known.
    """
    if isinstance(path, RemotePath):
        replace_table(path, lambda: frame)
        return
    data = encode_table(frame)
    digests = [hashlib.sha256(data).hexdigest()]
    side = side_path(path)
    if path.exists() and side.exists() and (known := side_digests(side.read_bytes())):
        there = hashlib.sha256(path.read_bytes()).hexdigest()
        if [there] == digests == known:
            return
        write_file(side, side_lines([*digests, there], path))
    else:
        write_file(side, side_lines(digests, path))
    write_file(path, data)
    write_file(side, side_lines(digests, path))


def read_table(path: Place) -> pd.DataFrame:
    """Read a Parquet file that `write_table` or `swap_table` wrote.

    Raises:
        CacheError: if it is missing or a byte differs from what was written
    """
    return _decode(read_verified(path))


def read_verified(path: Place) -> bytes | bytearray:
    """The bytes of a table, verified but not decoded; see `read_table`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error
    side = side_path(path)
    while True:
        try:
            _verify(data, side.read_bytes(), path)
            return data
        except FileNotFoundError as error:
            raise CacheError(f"{side} is missing: {path.name} cannot be trusted (`vbx cache check`)") from error
        except CacheError:
            # On an object store another writer may have replaced both in between.
            before, data = data, path.read_bytes() if isinstance(path, RemotePath) else data
            if data == before:
                raise


def encode_table(frame: pd.DataFrame, mark: str = "") -> bytes:
    """A table as Parquet; a mark makes its bytes differ from those of any other."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if mark:
        table = table.replace_schema_metadata({**table.schema.metadata, b"vbx": mark.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode_table(data: bytes | bytearray, side: bytes | bytearray, path: Place) -> pd.DataFrame:
    """The inverse of `encode_table`.

    Raises:
        CacheError: if the digest of the table is not among those that its digest file names
    """
    _verify(data, side, path)
    return _decode(data)


def _verify(data: bytes | bytearray, side: bytes | bytearray, path: Place) -> None:
    digests = side_digests(side)
    if hashlib.sha256(data).hexdigest() not in digests or side != side_lines(digests, path):
        raise CacheError(f"{path} is damaged: it does not match {side_path(path).name} (`vbx cache check`)")


def _decode(data: bytes | bytearray) -> pd.DataFrame:
    """A table with text as Python strings and None where missing, whatever pandas would make of it."""
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    text = [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if _is_text(kind)]
    plain = table.drop_columns(text).to_pandas()
    columns = {
        name: pd.Series(table.column(name).to_numpy(), dtype=object) if name in text else plain[name]
        for name in table.column_names
    }
    return pd.DataFrame(columns, copy=False)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def side_path(path: Place) -> Place:
    """Where the digest of a table lies."""
    return path.with_name(path.name + SIDE)


def side_lines(digests: list[str], path: Place) -> bytes:
    """Digests in the form of `sha256sum`."""
    return "".join(f"{digest}  {path.name}\n" for digest in digests).encode()


def side_digests(side: bytes | bytearray) -> list[str]:
    """The inverse of `side_lines`."""
    text = side.decode("ascii", errors="replace")
    return [line.split("  ", 1)[0] for line in text.splitlines() if line]


# ------------------------------------------------------------------ changing what is there


def swap_table(path: Place, change: Change) -> pd.DataFrame | None:
    """Change a table, or make it.

    Args:
        path: the Parquet file; on a disk its folder is locked by the caller
        change: given the table, None where there is none, the one to put, or None to leave it as it is; on an object
            store it may be asked several times

    Returns:
        the table that is there now

    Raises:
        CacheError: if the table that is there is damaged
    """
    if isinstance(path, RemotePath):
        return _swap_remote(path, change)
    old = read_table(path) if path.exists() else None
    new = change(old)
    if new is None:
        return old
    write_table(path, new)
    return new


def replace_table(path: Place, make: Callable[[], pd.DataFrame]) -> bool:
    """Put a table, whatever was there; on an object store only if it says something else.

    Args:
        path: the Parquet file
        make: makes the table; on an object store it may be asked several times, after what is there was read

    Returns:
        whether it was put
    """
    if not isinstance(path, RemotePath):
        write_table(path, make())
        return True
    put = False

    def change(old: pd.DataFrame | None) -> pd.DataFrame | None:
        nonlocal put
        new = make()
        put = old is None or not _same(old, new, path)
        return new if put else None

    _swap_remote(path, change, mend=True)
    return put


def _swap_remote(path: RemotePath, change: Change, mend: bool = False) -> pd.DataFrame | None:
    for _ in range(ROUNDS):
        old, seen = _read_remote(path, mend)
        new = change(old)
        if new is None:
            return old
        data = encode_table(new, mark=secrets.token_hex(8))
        digest = hashlib.sha256(data).hexdigest()
        announced, alone = _announce(path, digest)
        if path.bucket.replace(path.key, data, seen) is not None:
            if not alone:
                path.bucket.replace(_side(path).key, side_lines([digest], path), announced)
            return new
    raise crowded(path)


def _read_remote(path: RemotePath, mend: bool) -> tuple[pd.DataFrame | None, Seen | None]:
    """A table and what a put in its place may depend on; a damaged table counts as none where it is to be mended."""
    for _ in range(ROUNDS):
        try:
            data, seen = path.bucket.get(path.key)
        except FileNotFoundError:
            return None, None
        try:
            return decode_table(data, _side(path).read_bytes(), path), seen
        except (CacheError, FileNotFoundError) as error:
            now = path.bucket.head(path.key)
            if now is None or now.e_tag != seen.e_tag:  # another has replaced it meanwhile
                continue
            if mend:
                return None, seen
            raise CacheError(f"{path} does not match {_side(path).name} (`vbx cache check`)") from error
    raise crowded(path)


def _announce(path: RemotePath, digest: str) -> tuple[Seen, bool]:
    """Add a digest to those that the digest file of a table names.

    Returns:
        what the file then looks like, and whether it names this digest alone
    """
    side = _side(path)
    for _ in range(ROUNDS):
        try:
            there, seen = side.bucket.get(side.key)
        except FileNotFoundError:
            there, seen = b"", None
        now = side.bucket.replace(side.key, side_lines([*side_digests(there), digest], path), seen)
        if now is not None:
            return now, not there
    raise crowded(path)


def _side(path: RemotePath) -> RemotePath:
    return path.with_name(path.name + SIDE)


def _same(old: pd.DataFrame, new: pd.DataFrame, path: RemotePath) -> bool:
    """Whether a table says what another will say once it has been written and read."""
    data = encode_table(new)
    return decode_table(data, side_lines([hashlib.sha256(data).hexdigest()], path), path).equals(old)


def crowded(path: RemotePath) -> CacheError:
    """What to raise after so many."""
    return CacheError(f"{path} was changed by others {ROUNDS} times in a row; run the same command again")
