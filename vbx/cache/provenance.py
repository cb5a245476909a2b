"""Provenance: which utterances something was learnt from, so that a change of the split shows."""

import hashlib
from collections.abc import Mapping

from vbx.cache.files import read_sealed
from vbx.cache.labels import SPEC, LabelTable, read_labels
from vbx.cache.remote import Place
from vbx.cache.rows import identify, read_rows
from vbx.cache.spec import EncoderSpec
from vbx.errors import CacheError

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


def of_present_split(folder: Place, specs: Mapping[Place, EncoderSpec]) -> dict[Place, EncoderSpec]:
    """Of encoders that answer one name, those that were learnt from the present train split, or from none.

    Args:
        folder: of the corpus in the cache
        specs: folder of an encoder spec to the spec

    Raises:
        CacheError: if all were learnt from another train split: utterances of the present dev and test may be in it
    """
    learnt = {place: read_sealed(place / SPEC)["made_with"].get("train") for place in specs}
    if not any(learnt.values()):
        return dict(specs)
    present = digest_contents(split_contents(folder, read_labels(folder)))
    kept = {place: spec for place, spec in specs.items() if learnt[place] in (None, present)}
    if not kept:
        there, keys = ", ".join(place.name for place in specs), ", ".join(f"NAME#{s.key[:8]}" for s in specs.values())
        raise CacheError(
            f"corpus {folder.name!r}: what {there} holds was learnt from another train split than the present one; run "
            f"`vbx extract` again, or ask for it as {keys}"
        )
    return kept
