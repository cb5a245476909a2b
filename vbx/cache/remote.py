"""RemotePath: an object in a store, under the part of `pathlib.Path` that the cache uses.

`s3://BUCKET/PREFIX` is a cache like any other. Where the store is and who asks is told by the usual variables:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, and AWS_ENDPOINT_URL for a store that is not
Amazon's; profiles in `~/.aws` are not read. VBX_REMOTE_PATIENCE_S (120) is for how long a failing request is tried
again; a single try may take half of that. The store must honour conditional puts; that is tried out. Only S3 is
tested, against moto; `gs://` and `az://` go the same way, untested. A writer that is killed may leave parts of an
upload that only a lifecycle rule of the bucket removes (`AbortIncompleteMultipartUpload`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from vbx.errors import CacheError, MissingExtra

if TYPE_CHECKING:  # obstore is optional
    from vbx.cache.bucket import Bucket

SCHEMES = ("s3", "gs", "az")
_SMALL = 2**16


@dataclass(frozen=True)
class Seen:
    """What an object looked like: a put may be made to depend on it."""

    size: int
    e_tag: str | None
    version: str | None


@dataclass(frozen=True)
class RemotePath:
    """The name of an object, or of a folder of them; what it is called is what `pathlib.Path` calls it.

    Attributes:
        bucket: where it lies
        key: its name there
        listed: what the listing that it came from said of it; an object that was read before is then not read again
    """

    bucket: "Bucket"
    key: str
    listed: Seen | None = field(default=None, compare=False, repr=False)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.bucket, f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"{self.bucket.url}/{self.key}".rstrip("/")

    def __lt__(self, other: "RemotePath") -> bool:
        return self.parts < other.parts

    @property
    def parts(self) -> tuple[str, ...]:
        """Names from the root of the cache to this."""
        return tuple(self.key.split("/"))

    @property
    def name(self) -> str:
        """The last name."""
        return self.parts[-1]

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The last name's suffix."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that this is in."""
        return RemotePath(self.bucket, self.key.rpartition("/")[0])

    def joinpath(self, *names: str) -> "RemotePath":
        """This and names below it."""
        return self / "/".join(names)

    def with_name(self, name: str) -> "RemotePath":
        """Another name in the same folder."""
        return self.parent / name

    def relative_to(self, other: "RemotePath") -> PurePosixPath:
        """The way from a folder to this."""
        return PurePosixPath(self.key).relative_to(PurePosixPath(other.key))

    # ------------------------------------------------------------ looking

    def exists(self) -> bool:
        """Whether there is such an object, or a folder of that name."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.listed is not None or self.bucket.head(self.key) is not None

    def is_dir(self) -> bool:
        """Whether there is any object below this."""
        if self.listed is not None:
            return False
        folders, objects = self.bucket.children(self.key)
        return bool(folders or objects)

    def iterdir(self) -> Iterator["RemotePath"]:
        """Objects and folders right in this."""
        folders, objects = self.bucket.children(self.key)
        yield from (RemotePath(self.bucket, key) for key in folders)
        yield from (RemotePath(self.bucket, key, seen) for key, seen in objects.items())

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Paths that match `NAME` or `FOLDER/NAME`, where `*` stands for part of a name."""
        first, _, rest = pattern.partition("/")
        found = [path for path in self.iterdir() if fnmatchcase(path.name, first)]
        if not rest:
            return iter(found)
        inside = [path / rest for path in found if path.listed is None]
        there = self.bucket.each(RemotePath.is_file, inside)
        return (path for path, here in zip(inside, there, strict=True) if here)

    def walk(self) -> list["RemotePath"]:
        """All objects below this."""
        return [RemotePath(self.bucket, key, seen) for key, seen in sorted(self.bucket.walk(self.key).items())]

    # ------------------------------------------------------------ reading and writing

    def read_bytes(self) -> bytes | bytearray:
        """The bytes of the object.

        Raises:
            FileNotFoundError: if there is none
        """
        tag = (self.key, self.listed.e_tag) if self.listed and self.listed.e_tag else None
        if tag in self.bucket.known:
            return self.bucket.known[tag]
        data, seen = self.bucket.get(self.key)
        if tag and tag[1] == seen.e_tag and seen.size <= _SMALL:
            self.bucket.known[tag] = bytes(data)
        return data

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object; one that is not there is no matter."""
        self.bucket.delete([self.key])


Place: TypeAlias = Path | RemotePath
"""A file or folder of the cache, wherever the cache lies."""


def open_place(root: str | Path) -> Place:
    """The root of a cache: a folder, or a prefix of an object store.

    Raises:
        CacheError: if it is a URL of another kind
        MissingExtra: if obstore is not installed

    Examples:
        >>> open_place("vbx-cache").name
        'vbx-cache'
    """
    # A Path has made one slash of two.
    url = re.fullmatch(r"([A-Za-z][A-Za-z0-9+]+):/{1,2}([^/]*)/?(.*)", str(root))
    if not url:
        return Path(root).expanduser()
    scheme, bucket, prefix = url.groups()
    if scheme == "file":
        raise CacheError(f"cache {str(root)!r}: give a local folder as a plain path")
    if scheme not in SCHEMES or not bucket:
        known = ", ".join(f"{s}://BUCKET/PREFIX" for s in SCHEMES)
        raise CacheError(f"cache {str(root)!r}: give a local folder, or one of {known}")
    try:
        from vbx.cache.bucket import open_bucket
    except ImportError as error:
        raise MissingExtra(f"a cache at {scheme}://", "remote") from error
    return RemotePath(open_bucket(scheme, bucket, prefix.strip("/")), "")


def read_many(paths: Sequence[Place]) -> Iterable[bytes | bytearray]:
    """The bytes of many files, in their order; those of an object store are fetched side by side."""
    if paths and isinstance(paths[0], RemotePath):
        return paths[0].bucket.each(lambda path: path.read_bytes(), paths)
    return (path.read_bytes() for path in paths)


def place_in(path: Place, folder: Place) -> PurePath:
    """The way from a folder to a path in it."""
    if isinstance(path, RemotePath) and isinstance(folder, RemotePath):
        return path.relative_to(folder)
    return Path(str(path)).relative_to(str(folder))


def find_places(folder: Place, pattern: str) -> list[Place]:
    """Paths in a folder that match a pattern, as `glob` understands it, in the order of their names."""
    return [*sorted(folder.glob(pattern))] if isinstance(folder, RemotePath) else [*sorted(folder.glob(pattern))]


def list_places(folder: Place) -> list[Place]:
    """Files and folders right in a folder, in the order of their names."""
    return [*sorted(folder.iterdir())] if isinstance(folder, RemotePath) else [*sorted(folder.iterdir())]


def list_files(folder: Place) -> list[Place]:
    """All files below a folder, in the order of their names."""
    if isinstance(folder, RemotePath):
        return [*folder.walk()]
    return sorted(path for path in folder.rglob("*") if path.is_file())
