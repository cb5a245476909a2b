"""Splits: their names, how disjoint they are, and making them where a corpus brings none."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from vbx.errors import CorpusError

SPLITS = ("train", "dev", "test")
SHARES: Mapping[str, float] = MappingProxyType({"train": 0.7, "dev": 0.15, "test": 0.15})
SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training", "trn"), "train"),
        **dict.fromkeys(("dev", "devel", "development", "val", "valid", "validation"), "dev"),
        **dict.fromkeys(("test", "tst", "testing", "eval", "evaluation"), "test"),
    }
)
"""Names of splits in lower case, as corpora spell them, to ours."""


def normal_splits(labels: pd.DataFrame) -> pd.DataFrame:
    """The label table with its `split` column, if any, spelt train, dev, test (None where missing).

    Raises:
        CorpusError: if a split has another name, or two columns are called `split` but for their case

    Examples:
        >>> list(normal_splits(pd.DataFrame({"split": ["Train", "Val", "Test", None]}))["split"])
        ['train', 'dev', 'test', None]
    """
    columns = [c for c in labels.columns if str(c).lower() == "split"]
    if not columns:
        return labels
    if len(columns) > 1:
        raise CorpusError(f"columns {columns[0]!r} and {columns[1]!r} both name the split; leave one of them out")
    column = columns[0]
    names: list[str | None] = []
    for value in labels[column]:
        text = "" if pd.isna(value) else str(value).strip()
        if text and text.lower() not in SPELLINGS:
            raise CorpusError(f"split {text!r} is none of train, dev, test; rename the column or its values")
        names.append(SPELLINGS.get(text.lower()))
    labels = labels.drop(columns=[column])
    if any(names):
        labels.insert(0, "split", pd.Series(names, index=labels.index, dtype=object))
    return labels


def groups_of(speakers: Sequence[str | None], contents: Sequence[str]) -> list[str]:
    """Name of the group of each utterance: those that share a speaker or the audio itself belong together."""
    if not any(map(_is_known, speakers)):
        return [f"c:{content}" for content in contents]
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for speaker, content in zip(speakers, contents, strict=True):
        if _is_known(speaker):
            parent[max(root(f"s:{speaker}"), root(f"c:{content}"))] = min(root(f"s:{speaker}"), root(f"c:{content}"))
        else:
            root(f"c:{content}")
    return [root(f"c:{content}") for content in contents]


def _is_known(speaker: str | None) -> bool:
    return speaker is not None and not pd.isna(speaker)


def make_splits(
    speakers: Sequence[str | None],
    contents: Sequence[str],
    shares: Mapping[str, float] = SHARES,
    known: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], str]:
    """Split utterances so that no speaker and no audio is in two splits.

    Groups are dealt out, the largest first, to the split that lacks most; ties are broken by digests of the group
    names, so the split is a function of its input alone.

    Args:
        speakers: speaker of each utterance, None where unknown
        contents: digest of each utterance's audio
        shares: share of the utterances each split should get
        known: content to split, where one was dealt before: a group that holds such a content stays there

    Returns:
        the split of each utterance, and a sentence that says how it was made

    Examples:
        >>> make_splits(["a", "a", "b", "c"], ["1", "2", "3", "4"])[0]
        ['train', 'train', 'dev', 'test']
    """
    groups = groups_of(speakers, contents)
    how = "disjoint in speakers and audio"
    if not any(map(_is_known, speakers)):
        how = "disjoint in audio (the corpus names no speakers)"
    elif len(set(groups)) < len(shares):
        how = f"disjoint in audio only: {len(set(groups))} separate speakers are too few for {len(shares)} splits"
        groups = [f"c:{content}" for content in contents]
    sizes = Counter(groups)
    given = dict.fromkeys(shares, 0.0)
    split_of = {group: known[content] for group, content in zip(groups, contents, strict=True) if content in known}
    fresh = [group for group in sizes if group not in split_of]
    fresh.sort(key=lambda g: (-sizes[g], hashlib.sha256(str(g).encode()).hexdigest()))
    for group in split_of:
        given[split_of[group]] += sizes[group]
    for group in fresh:
        # An empty split comes first, else few large speakers would leave dev or test without one.
        empty = [
            s for s in shares if given[s] == 0 and len(sizes) - len(split_of) <= sum(v == 0 for v in given.values())
        ]
        split = empty[0] if empty else max(shares, key=lambda s: shares[s] * len(groups) - given[s])
        split_of[group] = split
        given[split] += sizes[group]
    counts = ", ".join(f"{int(given[s])} {s}" for s in shares)
    return [split_of[g] for g in groups], f"split made by vbx, {how}: {counts}"


def count_overlap(labels: pd.DataFrame, contents: Sequence[str]) -> dict[str, int]:
    """How many speakers, and how many pieces of audio, are in more than one split.

    Args:
        labels: with `split`, perhaps `speaker`
        contents: digest of each utterance's audio

    Returns:
        `speakers` and `audio`: the counts
    """
    table = pd.DataFrame({"split": labels["split"].to_numpy(), "audio": list(contents)})
    table["speakers"] = labels["speaker"].to_numpy() if "speaker" in labels else None
    table = table.dropna(subset=["split"])
    return {
        what: int((table.dropna(subset=[what]).groupby(what)["split"].nunique() > 1).sum())
        for what in ("speakers", "audio")
    }
