"""Folds: the train, dev and test of each training of a run, as its protocol says."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from vbx.cache.splits import make_splits
from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError, UnknownName
from vbx.heads.data import has_label, read_labels
from vbx.heads.protocol import CORPUS, Protocol, settle_protocol
from vbx.heads.protocols.cautions import list_cautions
from vbx.heads.run import Run

DEV_SHARE = 0.15
"""Share of a training corpus without a dev split that becomes its dev, no speaker in both."""

Names = NDArray[np.object_]
"""A name per utterance `(N,)`, None where it has none."""


@dataclass(frozen=True)
class Folds:
    """The trainings of a run.

    Attributes:
        names: of each fold: `speaker=03`, `fold=2`, `corpus=nemo`; one empty name where there is one training
        splits: `train`, `dev`, `test` or None of each utterance `(N,)`, for each fold
        parts: the part that each utterance is tested in `(N,)`; None where it is not, or where parts are not told apart
        notes: what one should know, in sentences
    """

    names: tuple[str, ...]
    splits: tuple[Names, ...]
    parts: Names
    notes: tuple[str, ...] = ()


def make_folds(run: Run, vectors: Vectors) -> Folds:
    """The folds of a run: a function of its protocol, its tasks and the labels, never of its seed.

    Utterances without a label of a main task are in none. Every other one is tested once, but for those of the
    training corpora of `cross_corpus`.

    Args:
        run: a run
        vectors: what it learns from

    Raises:
        UnknownName: if there is no such label column, or no such corpus in a joined one
        RecipeError: if the labels do not give the folds that are asked for
    """
    protocol = settle_protocol(run.protocol)
    if protocol.kind == "splits":
        nowhere = np.full(len(vectors.ids), None, object)
        own = vectors.labels["split"].to_numpy(object) if "split" in vectors.labels else nowhere
        return Folds(("",), (own,), nowhere)
    rows = _labelled(run, vectors)
    if protocol.kind == "cross_corpus" or (protocol.kind, protocol.group) == ("leave_one_group_out", CORPUS):
        folds = _across_corpora(protocol, vectors, rows)
    elif protocol.kind == "kfold":
        folds = _split_kfold(run, protocol, vectors, rows)
    else:
        folds = _leave_out(protocol, vectors, rows)
    _check_parts(folds, vectors)
    return replace(folds, notes=(*folds.notes, *list_cautions(run, vectors, folds.splits)))


def _labelled(run: Run, vectors: Vectors) -> NDArray[np.intp]:
    """Utterances that have a label of a main task: folds are the same whatever the attributes."""
    labels = {task.name: read_labels(vectors, task) for task in run.tasks if task.role == "main"}
    there = has_label(labels)
    if not there.any():
        raise RecipeError(f"no utterance of corpus {vectors.corpus!r} has a label of {list(labels)}")
    return np.flatnonzero(there)


def _split_kfold(run: Run, protocol: Protocol, vectors: Vectors, rows: NDArray[np.intp]) -> Folds:
    """Folds of utterances, or of groups of them, that share classes alike."""
    strata, groups = _strata(run, protocol, vectors, rows), None
    if protocol.group:
        groups = _groups(protocol, vectors, rows)
        there = len(set(groups))
        if there < protocol.folds:
            raise RecipeError(
                f"protocol.folds is {protocol.folds}, but corpus {vectors.corpus!r} has {there} of {protocol.group!r}; "
                f"ask for at most {there} folds, or leave groups out: protocol.group = ''"
            )
    make = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = make(protocol.folds, shuffle=True, random_state=protocol.seed)
    numbers = np.zeros(len(rows), dtype=np.intp)
    try:
        with warnings.catch_warnings(record=True) as rare:
            warnings.simplefilter("always", UserWarning)
            for k, (_, tested) in enumerate(splitter.split(rows, strata, groups)):
                numbers[tested] = k
    except ValueError as error:
        raise RecipeError(
            f"{protocol.folds} folds of {len(rows)} utterances of corpus {vectors.corpus!r} cannot be made: {error}; "
            "ask for fewer (protocol.folds), or do not stratify (protocol.stratify = 'none')"
        ) from error
    notes = ["some classes have fewer utterances than there are folds: not every fold has them"] if rare else []
    return _in_turn([f"fold={k + 1}" for k in range(protocol.folds)], numbers, vectors, rows, notes)


def _leave_out(protocol: Protocol, vectors: Vectors, rows: NDArray[np.intp]) -> Folds:
    """A fold for each group."""
    names, numbers = np.unique(_groups(protocol, vectors, rows), return_inverse=True)
    if len(names) < 2:
        raise RecipeError(
            f"corpus {vectors.corpus!r} has a single {protocol.group!r} ({names[0]!r}): there is nothing to learn from "
            "once it is left out; name another column (protocol.group), or use 'kfold' with protocol.group = ''"
        )
    return _in_turn([name_part(protocol.group, name) for name in names], numbers, vectors, rows, [])


def _in_turn(
    names: Sequence[str], numbers: NDArray[np.intp], vectors: Vectors, rows: NDArray[np.intp], notes: Sequence[str]
) -> Folds:
    """Fold k is tested, the next one is dev, the rest is train; of two folds none is left to be dev."""
    count, splits = len(names), []
    parts = np.full(len(vectors.ids), None, object)
    parts[rows] = np.array(names, object)[numbers]
    for k in range(count):
        split = np.full(len(vectors.ids), None, object)
        split[rows] = "train"
        if count > 2:
            split[rows[numbers == (k + 1) % count]] = "dev"
        split[rows[numbers == k]] = "test"
        splits.append(split)
    few = "two folds leave none for dev: no early stopping, the last epoch's weights count"
    return Folds(tuple(names), tuple(splits), parts, (*notes, *([few] if count == 2 else [])))


def _across_corpora(protocol: Protocol, vectors: Vectors, rows: NDArray[np.intp]) -> Folds:
    """Train and dev of some corpora, the whole of others to test: one training, or one for each corpus left out."""
    if CORPUS not in vectors.labels:
        raise RecipeError(
            f"the protocol tells corpora apart, and {vectors.corpus!r} is one corpus; join several: --corpus emodb+nemo"
        )
    of = vectors.labels[CORPUS].to_numpy(object)
    there = sorted(set(of[rows]))
    if len(there) < 2:
        raise RecipeError(f"labels of the tasks are in one corpus alone ({there[0]!r}): there is no other to test on")
    pairs = [([c for c in there if c != tested], [tested]) for tested in there]
    if protocol.kind == "cross_corpus":
        for key in ("train", "test"):
            for name in getattr(protocol, key):
                if name not in there:
                    raise UnknownName(f"corpus of protocol.{key}:", name, there, f"in {vectors.corpus!r}")
        pairs = [(list(protocol.train), list(protocol.test))]
    splits, notes = [], []
    for learnt, tested in pairs:
        split = np.full(len(of), None, object)
        for corpus in learnt:
            notes += _split_corpus(split, vectors, rows[of[rows] == corpus], corpus)
        split[rows[np.isin(of[rows], tested)]] = "test"
        splits.append(split)
        unused = sorted(set(there) - {*learnt, *tested})
        notes += [f"corpora that are neither learnt from nor tested on: {', '.join(unused)}"] if unused else []
    parts = np.full(len(of), None, object)
    for tested in {name for _, names in pairs for name in names}:
        parts[rows[of[rows] == tested]] = name_part(CORPUS, tested)
    names = ("",) if protocol.kind == "cross_corpus" else tuple(name_part(CORPUS, name) for name in there)
    return Folds(names, tuple(splits), parts, tuple(dict.fromkeys(notes)))


def _split_corpus(split: Names, vectors: Vectors, rows: NDArray[np.intp], corpus: str) -> list[str]:
    """Enter train and dev of a corpus that is learnt from; what one should know of it."""
    own = vectors.labels["split"].to_numpy(object)[rows] if "split" in vectors.labels else np.full(len(rows), "train")
    train, dev = rows[own == "train"], rows[own == "dev"]
    if not len(train):
        raise RecipeError(f"corpus {corpus!r} has no utterance in its split 'train', so there is nothing to learn from")
    notes = []
    if not len(dev):
        speakers = (
            vectors.labels["speaker"].iloc[train].tolist() if "speaker" in vectors.labels else [None] * len(train)
        )
        shares = {"train": 1 - DEV_SHARE, "dev": DEV_SHARE}
        made, how = make_splits(speakers, [vectors.ids[i] for i in train], shares)
        dev, train = train[np.array(made) == "dev"], train[np.array(made) == "train"]
        notes.append(
            f"corpus {corpus!r} brings no dev split: {how.replace('split made by vbx', 'one made of its train')}"
        )
    split[train], split[dev] = "train", "dev"
    spare = len(rows) - len(train) - len(dev)
    if spare:
        what = "which is learnt from, are in its own test split or in none"
        notes.append(f"{spare} utterances of corpus {corpus!r}, {what}: unused")
    return notes


def _groups(protocol: Protocol, vectors: Vectors, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    """Name of the group of each of some utterances."""
    column = protocol.group
    if column not in vectors.labels:
        raise UnknownName("label column of protocol.group:", column, vectors.schema, "(kfold can do without: '')")
    values = vectors.labels[column].iloc[rows]
    missing = int(values.isna().sum())
    if missing:
        raise RecipeError(
            f"{missing} of {len(rows)} labelled utterances of corpus {vectors.corpus!r} have no {column!r}, so no fold "
            f"is known to be free of theirs; fill the column in, or name another as protocol.group"
        )
    return np.array([f"{v:g}" if isinstance(v, float) else str(v) for v in values.tolist()])


def _strata(run: Run, protocol: Protocol, vectors: Vectors, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    """The class by which each utterance is dealt out; one for all where nothing is stratified."""
    column = protocol.stratify
    if not column:
        column = next((t.columns[0] for t in run.tasks if (t.kind, t.role) == ("classification", "main")), "none")
    if column == "none":
        return np.full(len(rows), "")
    if column not in vectors.schema:
        raise UnknownName("label column of protocol.stratify:", column, vectors.schema, "(or 'none')")
    if vectors.schema[column].kind != "class":
        raise RecipeError(
            f"protocol.stratify is {column!r}, a column of kind {vectors.schema[column].kind!r}; folds can share "
            "classes alike: name a column of classes, or 'none'"
        )
    return np.array(vectors.labels[column].iloc[rows].fillna("").tolist(), dtype=str)


def name_part(column: str, value: Any) -> str:
    """Name of what is left out: `speaker=03`; a slash, which separates the key of a run from its part, becomes `|`."""
    return f"{column}={value}".replace("/", "|")


def _check_parts(folds: Folds, vectors: Vectors) -> None:
    """Refuse folds of which one has no test or no train, or two have one name."""
    for name, split in zip(folds.names, folds.splits, strict=True):
        for part in ("train", "test"):
            if not (split == part).any():
                raise RecipeError(
                    f"fold {name!r} of corpus {vectors.corpus!r} has no utterance in {part}; ask for fewer folds, or "
                    "shuffle otherwise (protocol.seed)"
                )
    if len(set(folds.names)) < len(folds.names):
        twice = next(name for name in folds.names if folds.names.count(name) > 1)
        raise RecipeError(f"two groups of corpus {vectors.corpus!r} are both called {twice!r}; rename one of them")
