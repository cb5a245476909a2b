"""Protocol: which utterances a run learns from, is chosen on and is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from vbx.errors import RecipeError, UnknownName
from vbx.heads.values import later

USES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "splits": (),
        "kfold": ("group", "folds", "seed", "stratify"),
        "leave_one_group_out": ("group",),
        "cross_corpus": ("train", "test"),
    }
)
"""Kinds of protocol, and the keys that each of them uses."""
CORPUS = "corpus"
"""Label column of a joined corpus, `emodb+nemo`: where each utterance comes from."""


@dataclass(frozen=True)
class Protocol:
    """Which utterances a run learns from, is chosen on and is tested on.

    In fold k of F, fold k is tested, fold k + 1 (after the last, the first) is dev, and the rest is train. Where only
    corpora are told apart (`cross_corpus`, or `group = "corpus"`), dev is that of the training corpora.

    Attributes:
        kind: `splits` (the corpus's own), `kfold`, `leave_one_group_out` or `cross_corpus`
        group: label column whose utterances stay together (`kfold`) or are left out in turn (`leave_one_group_out`);
            `corpus` in a joined corpus; empty for none
        folds: how many, of `kfold`
        seed: of the shuffle of `kfold`; a run's own seed never moves an utterance
        stratify: label column of classes that the folds of `kfold` share alike; empty for that of the first
            classification, `none` for none
        train: corpora that `cross_corpus` learns from: their train and dev
        test: corpora that it tests on, whole

    Examples:
        >>> Protocol("leave_one_group_out", group="session").folds
        5
    """

    kind: str = later("splits")
    group: str = later("speaker")
    folds: int = later(5)
    seed: int = later(1)
    stratify: str = later("")
    train: tuple[str, ...] = later(())
    test: tuple[str, ...] = later(())

    def __post_init__(self) -> None:
        if self.kind not in USES:
            raise UnknownName("kind of protocol:", self.kind, USES)
        if self.folds < 2:
            raise RecipeError(f"folds of the protocol is {self.folds}; it must be 2 or more")


def settle_protocol(protocol: Protocol) -> Protocol:
    """A protocol as it counts: keys that its kind does not use are at their defaults.

    So that `folds` of a run that has none makes no other run of it. What does not go together is refused only here, for
    keys are set one at a time.

    Raises:
        RecipeError: if a key that the kind needs is empty, or a corpus is both learnt from and tested on

    Examples:
        >>> settle_protocol(Protocol("splits", folds=10)) == Protocol()
        True
    """
    if protocol.kind == "leave_one_group_out" and not protocol.group:
        raise RecipeError(
            "protocol.kind 'leave_one_group_out' needs protocol.group: a label column such as 'speaker' or 'session'"
        )
    if protocol.kind == "cross_corpus":
        for key in ("train", "test"):
            if not getattr(protocol, key):
                raise RecipeError(
                    f"protocol.kind 'cross_corpus' needs protocol.{key}: a list of corpora, as in "
                    f"--set 'protocol.{key}=[\"emodb\"]'"
                )
        both = sorted({*protocol.train} & {*protocol.test})
        if both:
            raise RecipeError(f"corpus {both[0]!r} is in protocol.train and in protocol.test; it can be in one of them")
    used = {key: getattr(protocol, key) for key in USES[protocol.kind]}
    for key in {"train", "test"} & used.keys():
        used[key] = tuple(sorted(set(used[key])))  # the order of corpora changes nothing
    return replace(Protocol(), kind=protocol.kind, **used)


def check_mapping(table: Mapping[str, object], where: str) -> dict[str, dict[str, str]]:
    """The table `[mapping]` of a recipe: label column to what its classes become.

    Raises:
        RecipeError: if it is anything else than texts to texts

    Examples:
        >>> check_mapping({"emotion": {"joy": "happiness", "nemo:fear": ""}}, "recipe 'mine'")
        {'emotion': {'joy': 'happiness', 'nemo:fear': ''}}
    """
    checked: dict[str, dict[str, str]] = {}
    for column, names in table.items():
        if not isinstance(names, Mapping):
            raise RecipeError(f"[mapping] of {where}: {column!r} is {names!r}; it must be a table, [mapping.{column}]")
        checked[column] = {}
        for name, becomes in names.items():
            if not isinstance(becomes, str) or not name:
                raise RecipeError(
                    f"[mapping.{column}] of {where}: {name!r} becomes {becomes!r}; a class becomes a text, "
                    "empty to leave it out"
                )
            checked[column][name] = becomes
    return checked
