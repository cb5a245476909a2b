"""Units on an object store: no lock, any number of writers of the same unit, any of which may die at any time.

Zarr wants a shard at a fixed key, and two writers may have different bytes for it: another CPU, a file that only one
of them could read. Were they to put it there directly, the second would tear what the first has committed. So:

1. A writer puts its files under a name of its own, `staging/OUTPUT-UNIT-RANDOM/…`. Nobody else ever writes there.
2. It puts the commit record if absent. The record names the staged files, their sizes and checksums: whoever puts it
   first has decided, once and for all, which bytes the unit has. Whoever comes second removes what it staged.
3. The staged files are copied to their fixed keys, inside the store, then removed. Only now is the unit acknowledged.

A fixed key is written by step 3 alone, and only with the bytes that the record names, so it does not matter how often,
by whom, or in which order that happens: a reader that finds a record whose staged files are still there does step 3
itself. A reader that may not write leaves such a unit out, unless the files are at their place already.

A writer killed before step 2 leaves staged files that no record names: `gc` removes them. One that is alive and loses
them to `gc` has them in memory and puts them at their place itself. Dropping a unit, as on a disk, is not for times
when others write.
"""

import contextlib
import secrets
from collections.abc import Mapping, Sequence

from vbx.cache.remote import RemotePath
from vbx.errors import StoreError

STAGING = "staging"


def stage(folder: RemotePath, unit: str, data: Mapping[str, bytes]) -> str:
    """Step 1.

    Args:
        folder: of the spec
        unit: name of the unit
        data: path inside the spec's folder to content

    Returns:
        the name under which they are staged
    """
    name = f"{unit}-{secrets.token_hex(8)}"
    home = folder / STAGING / name
    folder.bucket.each(lambda item: folder.bucket.put((home / item[0]).key, item[1]), list(data.items()))
    return name


def publish(folder: RemotePath, name: str, files: Sequence[str], data: Mapping[str, bytes] | None = None) -> None:
    """Step 3.

    Args:
        folder: of the spec
        name: under which they are staged
        files: paths inside the spec's folder
        data: their content, where it is at hand
    """
    home = folder / STAGING / name

    def put_in_place(file: str) -> None:
        try:
            folder.bucket.copy((home / file).key, (folder / file).key)
        except FileNotFoundError:  # another has done this step, or `gc` took it away
            if data is not None:
                folder.bucket.put((folder / file).key, data[file])

    folder.bucket.each(put_in_place, list(files))
    discard(folder, name, files)


def discard(folder: RemotePath, name: str, files: Sequence[str]) -> None:
    """Remove what is staged under a name."""
    folder.bucket.delete([(folder / STAGING / name / file).key for file in files])


def settle(folder: RemotePath, committed: Mapping[str, Sequence[str]]) -> set[str]:
    """Do step 3 for committed units of which it has not been done to its end.

    Args:
        folder: of the spec
        committed: names under which the files of committed units were staged, with their paths inside the folder

    Returns:
        names of which it cannot be done, for want of permission
    """
    prefix = (folder / STAGING).key + "/"
    waiting = {key.removeprefix(prefix).split("/", 1)[0] for key in folder.bucket.walk(prefix.rstrip("/"))}
    unseen = set()
    for name in waiting & set(committed):
        try:
            publish(folder, name, committed[name])
        except StoreError:
            with contextlib.suppress(StoreError):
                if all((folder / file).is_file() for file in committed[name]):
                    continue
            unseen.add(name)
    return unseen
