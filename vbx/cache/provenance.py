"""Provenance: which utterances something was learnt from, so that a change of the split shows."""

import hashlib

from vbx.cache.labels import LabelTable
from vbx.cache.remote import Place
from vbx.cache.rows import identify, read_rows

CODEBOOKS = "codebooks"
"""Folder beside the encoders' in a corpus: what was learnt from its train split."""


def split_contents(folder: Place, table: LabelTable, split: str = "train") -> dict[int, str]:
    """Row to content of the readable utterances of a split; audio that is in several splits is in each of them.

    Args:
        folder: of the corpus in the cache
        table: its utterances and labels
        split: name of the split
    """
    frame = read_rows(folder)
    contents = dict(zip(frame["row"].tolist(), identify(frame), strict=True))
    chosen = {row for row, name in zip(table.rows.tolist(), table.labels["split"], strict=True) if name == split}
    return {row: contents[row] for row in sorted(chosen - {-1})}


def digest_contents(contents: dict[int, str]) -> str:
    """SHA-256, in hex, of a set of contents: neither names, nor rows, nor order count.

    Examples:
        >>> digest_contents({0: "a", 1: "b"}) == digest_contents({3: "b", 9: "a"})
        True
    """
    return hashlib.sha256("\n".join(sorted(set(contents.values()))).encode()).hexdigest()
