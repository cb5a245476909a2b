"""Options that several commands share, said once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from vbx.errors import CacheError, UnknownName, VbxError

Cache: TypeAlias = Annotated[
    Path,
    typer.Option("--cache", envvar="VBX_CACHE", help="Folder of the cache, or s3://BUCKET/PREFIX.", show_default=True),
]
Features: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--feature", "-f", help="Feature, such as egemaps or w2v2-R-vad (`vbx list features`); repeatable."),
]
Checkpoints: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        help="Where weights lie: NAME=PATH or NAME=HUB_ID[@REVISION]; NAME is a feature, encoder or model; repeatable.",
    ),
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0; never silently another.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_pairs(pairs: Sequence[str] | None, option: str, separator: str = "=") -> dict[str, str]:
    """Parse `NAME=VALUE` options.

    Raises:
        VbxError: if one has no separator
    """
    found = {}
    for pair in pairs or []:
        name, found_separator, value = pair.partition(separator)
        if not found_separator or not name or not value:
            raise VbxError(f"{option} {pair!r}: write it as NAME{separator}VALUE")
        found[name] = value
    return found


def only_corpus(corpora: Sequence[str]) -> str:
    """The corpus that is meant where nobody names one.

    Raises:
        CacheError: if the cache has none, or several
    """
    if not corpora:
        raise CacheError("the cache has no corpus yet; `vbx extract CORPUS` fills it")
    if len(corpora) > 1:
        raise CacheError(f"the cache has {len(corpora)} corpora ({', '.join(corpora)}); say which with --corpus")
    return corpora[0]


def read_part(text: str) -> tuple[int, int]:
    """Parse `I/N`.

    Raises:
        UnknownName: if it is not of that form, or I is not from 1 to N
    """
    first, _, last = text.partition("/")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise UnknownName("part", text, ["1/4", "2/4", "3/4", "4/4"], "(I/N with I from 1 to N)")
    return int(first), int(last)
