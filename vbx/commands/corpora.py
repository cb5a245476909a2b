"""Which corpora a command means, several joined by `+` included, and how their vectors are loaded."""

from collections.abc import Callable, Sequence
from typing import Any

from vbx.commands.options import only_corpus
from vbx.commands.output import note


def choose_corpora(asked: Sequence[str] | None, recipe: Any, there: Sequence[str]) -> list[str]:
    """Corpora to train on: those that were asked for; else the recipe's, those its protocol names, or the only one."""
    if asked:
        return list(asked)
    if recipe.corpus and all(name.strip() in there for name in recipe.corpus.split("+")):
        return [recipe.corpus]
    sides = []
    for key in ("train", "test"):
        values = recipe.sweep.get(f"protocol.{key}", (getattr(recipe.protocol, key),))
        sides.append({name for names in values for name in names})
    if all(sides):
        return ["+".join(sorted(sides[0] | sides[1]))]
    return [recipe.corpus if recipe.corpus in there else only_corpus(there)]


def corpus_loader(store: Any, recipe: Any, targets: Sequence[str] = ()) -> Callable[[str, str], Any]:
    """What loads a corpus, or several as one, and a feature; what the recipe's mapping does is told once."""
    from vbx.heads.protocols.corpora import load_corpora

    known, told = store.corpora(), set()
    columns = {column for task in recipe.tasks for column in task.columns} | {*targets}
    columns |= {recipe.protocol.group, recipe.protocol.stratify} - {"speaker"}

    def load(corpus: str, feature: str) -> Any:
        vectors, notes = load_corpora(
            lambda name: store.load_vectors(name, feature), known, corpus, recipe.mapping, columns
        )
        for sentence in notes:
            if sentence not in told:
                note(sentence)
            told.add(sentence)
        return vectors

    return load


def stored_features(store: Any, corpus: str) -> list[str]:
    """Features that the cache has of a corpus, or of all that are joined."""
    from vbx.cache.feature import name_features
    from vbx.cache.layout import read_layouts

    names = [corpus] if corpus in store.corpora() else [name.strip() for name in corpus.split("+")]
    found = []
    for name in names:
        specs = store.specs(name)
        outputs = {spec.key: read_layouts(folder) for folder, spec in specs.items()}
        found.append(name_features(specs.values(), outputs))
    return [feature for feature in found[0] if all(feature in features for features in found)]
