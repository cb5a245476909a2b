"""Mapping: data files as memory, and the pieces of them that are verified before a value is used.

Only `map_file` reads a data file. It reads nothing itself: the kernel brings in the pages that are touched.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vbx.cache.layout import checksum
from vbx.cache.remote import Place, RemotePath
from vbx.errors import CacheError


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Rows that are verified together: a chunk of Zarr, the dataset of an HDF5 file.

    Attributes:
        path: the file that holds them
        data: the bytes that `crc` covers; none where the whole file has been verified
        crc: CRC-32C that they must have
        rows: `(n, D)`, read-only, a view of the file
    """

    path: Place
    data: memoryview
    crc: int
    rows: NDArray[Any]

    def verify(self) -> None:
        """Compare the bytes with their checksum.

        Raises:
            CacheError: if they differ
        """
        if checksum(self.data) != self.crc:
            raise damaged(self.path)


@dataclass(frozen=True, eq=False, slots=True)
class MappedUnit:
    """A unit as it lies on disk.

    Attributes:
        pieces: its rows (or frames) in order; all have as many but for the last
        offsets: `(n + 1,)` where each utterance's frames begin; None unless rows are frames
    """

    pieces: tuple[Piece, ...]
    offsets: NDArray[np.int64] | None = None


def map_file(path: Place) -> memoryview:
    """Map a file into memory, unverified; one of an object store is fetched.

    Arrow maps it rather than `mmap`, which would hold a file open for each unit: a thousand is the usual limit.

    Raises:
        CacheError: if it is missing or empty
    """
    try:
        if isinstance(path, RemotePath):
            view = memoryview(path.read_bytes()).toreadonly()
        else:
            with pa.memory_map(str(path)) as file:
                view = memoryview(file.read_buffer()).cast("B")
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing (`vbx cache check`)") from error
    if not len(view):
        raise CacheError(f"{path} is damaged: it is empty (`vbx cache check`)")
    return view


def map_verified(path: Place, size: int, crc: int) -> memoryview:
    """Map a file and verify all of it.

    Args:
        path: the file
        size: in bytes
        crc: its CRC-32C

    Raises:
        CacheError: if it is missing, or its size or checksum differs
    """
    view = map_file(path)
    if len(view) != size or checksum(view) != crc:
        raise damaged(path)
    return view


def damaged(path: Place) -> CacheError:
    """What to raise where bytes are not those that were committed."""
    return CacheError(f"{path} is damaged: its bytes are not those that were committed (`vbx cache check`)")


def view_rows(data: memoryview, dtype: str, dim: int) -> NDArray[Any]:
    """Little-endian bytes as `(n, dim)`, without a copy."""
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(-1, dim)
