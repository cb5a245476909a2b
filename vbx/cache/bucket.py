"""Bucket: requests to an object store, patient with its faults, each other outcome one sentence.

A request that got no answer may have been carried out all the same. So after every conditional put that is refused,
what lies there is compared with what was to be put: the same bytes mean that an earlier try of ours came through.
"""

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from vbx.cache.ahead import Ahead
from vbx.cache.faults import NO_CONDITIONS, PATIENCE, PATIENCE_S, explain, first_line, is_final
from vbx.cache.remote import Seen
from vbx.errors import StoreError

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT")
"""Environment variables that may name a server; one named with `http://` is spoken to without TLS."""
PIECE = 5 * 2**20
"""Bytes of one request, the least that S3 takes; what is longer is moved in pieces, several at a time."""
READERS, PIECES = 16, 8
"""Requests at a time. With more, a slow line would let all of them run out of time."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Bucket:
    """A prefix of an object store.

    Attributes:
        url: such as `s3://bucket/prefix`
        prefix: the part of the URL after the bucket
        client: obstore's
        patience_s: for how long a failing request is tried again, in seconds
        known: small objects that were read, by key and ETag
        under_way: objects that are fetched ahead
        proven: not empty once conditional puts were tried out
    """

    url: str
    prefix: str = field(compare=False)
    client: Any = field(compare=False, repr=False)
    patience_s: float = field(compare=False)
    known: dict[tuple[str, str], bytes] = field(default_factory=dict, compare=False, repr=False)
    proven: list[str] = field(default_factory=list, compare=False, repr=False)
    under_way: list[Ahead[tuple[bytearray | bytes, Seen]]] = field(default_factory=list, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens its own."""
        scheme, _, rest = self.url.partition("://")
        return open_bucket, (scheme, rest.split("/", 1)[0], self.prefix)

    def get(self, key: str) -> tuple[bytearray | bytes, Seen]:
        """The bytes of an object, and what a later put may depend on.

        Raises:
            FileNotFoundError: if there is none
        """
        for ahead in self.under_way:
            if future := ahead.take(key):
                return future.result()
        return self._fetch(key)

    @contextmanager
    def ahead(self, wanted: Sequence[tuple[str, int]]) -> Iterator[None]:
        """Fetch objects ahead of their use: keys and sizes, in the order in which `get` will be asked for them."""
        ahead = Ahead(self._fetch, read_threads(), wanted)
        self.under_way.append(ahead)
        try:
            yield
        finally:
            self.under_way.remove(ahead)
            ahead.stop()

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Put an object, whatever was there."""
        # mypy: obstore takes any buffer, its stub of Buffer is not memoryview's on Python 3.11
        body: Any = data
        options: dict[str, Any] = {
            "use_multipart": len(data) > PIECE,
            "chunk_size": PIECE,
            "max_concurrency": PIECES // 2,
        }
        self._persist("write", key, lambda: obstore.put(self.client, self._at(key), body, **options))

    def replace(self, key: str, data: bytes, seen: Seen | None) -> Seen | None:
        """Put an object if it still is what was seen: not there at all, where that is None.

        Returns:
            what it looks like if these bytes are there now, else None
        """
        if not self.proven:
            self.proven.append(key)
            self._prove_conditions(f"{key.rpartition('/')[0]}/.{secrets.token_hex(4)}.partial".lstrip("/"))
        known = {"e_tag": seen.e_tag, "version": seen.version} if seen else {}
        mode: Any = {name: value for name, value in known.items() if value is not None} or "create"

        def attempt() -> Seen | None:
            while True:
                try:
                    put = obstore.put(self.client, self._at(key), data, mode=mode, use_multipart=False)
                    return Seen(len(data), put["e_tag"], put["version"])
                except (AlreadyExistsError, PreconditionError):
                    try:
                        there, look = self._get(key)
                        return look if there == data else None
                    except FileNotFoundError:
                        if seen is not None:
                            return None

        return self._persist("write", key, attempt)

    def copy(self, key: str, to: str) -> None:
        """Copy an object inside the store.

        Raises:
            FileNotFoundError: if there is none
        """
        self._persist("copy", key, lambda: obstore.copy(self.client, self._at(key), self._at(to)))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is no matter."""
        if keys:
            try:
                self._persist("delete", keys[0], lambda: obstore.delete(self.client, [self._at(k) for k in keys]))
            except FileNotFoundError:
                pass

    def head(self, key: str) -> Seen | None:
        """What an object looks like; None if there is none."""
        try:
            return _seen(self._persist("look at", key, lambda: obstore.head(self.client, self._at(key))))
        except FileNotFoundError:
            return None

    def walk(self, folder: str) -> dict[str, Seen]:
        """All objects below a folder, by key."""
        found = self._persist("list", folder, lambda: obstore.list(self.client, self._at(folder) or None).collect())
        return {self._key(meta["path"]): _seen(meta) for meta in found}

    def children(self, folder: str) -> tuple[list[str], dict[str, Seen]]:
        """Keys of the folders right in a folder, and its objects."""
        found = self._persist(
            "list", folder, lambda: obstore.list_with_delimiter(self.client, self._at(folder) or None)
        )
        objects = {self._key(meta["path"]): _seen(meta) for meta in found["objects"]}
        return [self._key(path) for path in found["common_prefixes"]], objects

    def each(self, act: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Do something with each of some items, side by side."""
        return list(read_threads().map(act, items)) if len(items) > 1 else [act(item) for item in items]

    # ------------------------------------------------------------ one request

    def _prove_conditions(self, key: str) -> None:
        """Try out conditional puts: some stores that speak S3 take no notice of the condition."""
        first = self.replace(key, b"1", None)
        held = first is not None and self.replace(key, b"2", None) is None
        held = held and self.replace(key, b"3", first) is not None and self.replace(key, b"4", first) is None
        self.delete([key])
        if not held:
            raise StoreError(f"{self.url}: {NO_CONDITIONS}")

    def _fetch(self, key: str) -> tuple[bytearray | bytes, Seen]:
        return self._persist("read", key, lambda: self._get(key))

    def _get(self, key: str) -> tuple[bytearray | bytes, Seen]:
        path = self._at(key)
        try:
            first = obstore.get(self.client, path, options={"range": (0, PIECE)})
        except BaseError as error:
            if "416 " not in str(error):  # an empty object has no range
                raise
            first = obstore.get(self.client, path)
        seen, data = _seen(first.meta), first.bytes()
        if seen.size <= PIECE:
            return data.to_bytes(), seen
        whole = bytearray(seen.size)
        view = memoryview(whole)  # unlike a bytearray it refuses what is too short
        view[:PIECE] = memoryview(data)

        def fill(at: int) -> None:
            # mypy: GetOptions is a TypedDict that cannot be imported at run time
            options: Any = {"range": (at, min(at + PIECE, seen.size)), "if_match": seen.e_tag}
            view[at : at + PIECE] = memoryview(obstore.get(self.client, path, options=options).bytes())

        list(_piece_threads().map(fill, range(PIECE, seen.size, PIECE)))
        return whole, seen

    def _at(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key) if part)

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self.prefix}/") if self.prefix else path

    def _persist(self, verb: str, key: str, act: Callable[[], _T]) -> _T:
        """Try until it works, or the store says why it never will, or patience is at its end."""
        began, wait = time.monotonic(), 0.1
        while True:
            try:
                return act()
            except FileNotFoundError as error:
                if "NoSuchBucket" not in str(error):
                    raise
                raise StoreError(f"cannot {verb} {self.url}/{key}: {explain(error, self.patience_s)}") from error
            except ValueError as error:
                raise StoreError(f"{self.url}/{key}: no name for an object ({first_line(error)})") from error
            except BaseError as error:
                if is_final(error) or time.monotonic() - began + wait > self.patience_s:
                    raise StoreError(f"cannot {verb} {self.url}/{key}: {explain(error, self.patience_s)}") from error
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, 5.0)


def open_bucket(scheme: str, name: str, prefix: str) -> Bucket:
    """Open a prefix of an object store; nothing is asked of it yet.

    Args:
        scheme: `s3`, `gs` or `az`
        name: of the bucket
        prefix: of the keys in it, perhaps empty

    Raises:
        StoreError: if the configuration in the environment does not do
    """
    url = f"{scheme}://{name}"
    try:
        patience_s = float(os.environ.get(PATIENCE, PATIENCE_S))
    except ValueError as error:
        raise StoreError(f"{PATIENCE}={os.environ[PATIENCE]!r}: give seconds, such as 120") from error
    try:
        # obstore tries again what surely may be tried again, `_persist` the rest.
        client = from_url(
            url,
            client_options={
                "timeout": timedelta(seconds=max(patience_s / 2, 1.0)),
                "connect_timeout": timedelta(seconds=10),
                "allow_http": any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS),
            },
            retry_config={
                "max_retries": 5,
                "retry_timeout": timedelta(seconds=patience_s),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError) as error:
        raise StoreError(f"cannot open {url}: {first_line(error)}") from error
    return Bucket(f"{url}/{prefix}".rstrip("/"), prefix, client, patience_s)


@cache
def read_threads() -> ThreadPoolExecutor:
    """Threads that each wait for one object."""
    return ThreadPoolExecutor(READERS, "vbx-read")


@cache
def _piece_threads() -> ThreadPoolExecutor:
    # apart from those that read objects: one of these waits for several of those
    return ThreadPoolExecutor(PIECES, "vbx-piece")


def _seen(meta: Any) -> Seen:
    return Seen(meta["size"], meta["e_tag"], meta["version"])
