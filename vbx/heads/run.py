"""Run: one point of a recipe's sweep, fully determined. Its hash says which results are the same."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vbx.cache.spec import canonical
from vbx.cache.vectors import Vectors
from vbx.heads.parts import Fit, Score, Task, Trunk
from vbx.heads.protocol import Protocol
from vbx.heads.values import build, later, plain

TRAINER_VERSION = 1
"""Raised when the same run on the same vectors would give other numbers than before, but for rounding."""


@dataclass(frozen=True)
class Run:
    """One point of a recipe's sweep, fully determined.

    Attributes:
        feature: name of the feature; empty for whichever vectors it is given
        corpus: name of the corpus; empty for whichever
        seed: seed of its initial weights, its order of batches and its dropout
        tasks: what it learns
        trunk: what the tasks share
        fit: how it is trained
        score: what it is ranked by
        recipe: name of the recipe it comes from; does not count towards its key
        protocol: what it learns from, is chosen on and is tested on
    """

    feature: str
    corpus: str
    seed: int
    tasks: tuple[Task, ...]
    trunk: Trunk
    fit: Fit
    score: Score
    recipe: str = ""
    protocol: Protocol = later(Protocol())

    @property
    def key(self) -> str:
        """SHA-256, in hex, of all of the run that can change its result, defaults included."""
        settings = {k: v for k, v in self.to_json().items() if k != "recipe"}
        return hashlib.sha256(canonical(settings)).hexdigest()

    def key_on(self, vectors: Vectors) -> str:
        """SHA-256, in hex, of the run, of what it learns from and of the version of the trainer."""
        seen = {"run": self.key, "vectors": vectors.fingerprint, "trainer": TRAINER_VERSION}
        return hashlib.sha256(canonical(seen)).hexdigest()

    @property
    def shape(self) -> Hashable:
        """Equal for runs that can train as one stack: all but what each run of a stack has for itself."""
        return replace(
            self,
            seed=0,
            tasks=tuple(replace(task, weight=1.0, log_variance=0.0, alpha=None) for task in self.tasks),
            trunk=replace(self.trunk, dropout=0.0),
            fit=replace(
                self.fit,
                lr=1.0,
                uncertainty_lr=None,
                weight_decay=0.0,
                momentum=0.0,
                epochs=1,
                patience=0,
                min_delta=0.0,
                monitor="loss",
                restore_best=True,
                discriminator_lr=None,
            ),
            score=Score(),
            recipe="",
        )

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them, but for those that came `later` and are at their defaults."""
        fields: dict[str, Any] = plain(self)
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Run":
        """The inverse of `to_json`."""
        return build(cls, fields, "run")


def group_shapes(runs: Iterable[Run]) -> dict[Hashable, list[Run]]:
    """Runs by shape, in the order in which the shapes first appear."""
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.shape, []).append(run)
    return groups
