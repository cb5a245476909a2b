"""Trials: what a search samples, and the runs that a sample stands for."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from vbx.cache.spec import canonical
from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError
from vbx.heads.ranges import Range
from vbx.heads.recipe import Recipe
from vbx.heads.run import Run
from vbx.heads.sweep import plan_runs

Load = Callable[[str, str], Vectors]
Place = tuple[str, str]


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        recipe: the experiment; its sweep says what is sampled, but for `seed`: every trial trains all seeds
        places: corpora and features; several of one are sampled as well
        load: corpus and feature to vectors
        trials: how many there are to be in all, those of earlier and of other processes included
        targets: label columns, as for `plan_sweep`
        device: torch device
        seed: of what is sampled
    """

    recipe: Recipe
    places: tuple[Place, ...]
    load: Load
    trials: int
    targets: tuple[str, ...] = ()
    device: str = "cpu"
    seed: int = 0


def list_axes(search: Search) -> dict[str, tuple[Any, ...]]:
    """What is sampled: axes of the recipe, and features and corpora where there are several.

    Raises:
        RecipeError: if there is nothing
    """
    axes = {path: values for path, values in search.recipe.sweep.items() if path not in ("seed", "feature", "corpus")}
    for path, names in zip(("corpus", "feature"), zip(*search.places, strict=True), strict=True):
        axes[path] = tuple(dict.fromkeys(names))
    axes = {path: values for path, values in axes.items() if len(values) > 1 or isinstance(values[0], Range)}
    if not axes:
        raise RecipeError(
            f"recipe {search.recipe.name!r} has nothing to search; name axes, as in "
            "--set 'fit.lr={low=1e-5, high=1e-2, log=true}' --set 'trunk.hidden=[[64],[128]]'"
        )
    for corpus in dict.fromkeys(corpus for corpus, _ in search.places):
        missing = [feature for feature in axes.get("feature", ()) if (corpus, feature) not in search.places]
        if missing:
            raise RecipeError(
                f"corpus {corpus!r} has no vectors of {missing}, which others have; name features with -f"
            )
    return axes


def sample_trial(trial: Trial, axes: Mapping[str, tuple[Any, ...]]) -> None:
    """Settings of a trial; those that it has already stay."""
    for path, values in axes.items():
        if not isinstance(values[0], Range):
            trial.suggest_categorical(path, [json.dumps(value) for value in values])
        elif values[0].whole:
            trial.suggest_int(path, int(values[0].low), int(values[0].high), log=values[0].log)
        else:
            trial.suggest_float(path, values[0].low, values[0].high, log=values[0].log)


def read_settings(trial: Trial | FrozenTrial, axes: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Settings of a trial as a recipe has them."""
    return {
        path: axes[path][0].rounded(value) if isinstance(axes[path][0], Range) else json.loads(value)
        for path, value in trial.params.items()
    }


def list_runs(search: Search, settings: Mapping[str, Any], vectors: Mapping[Place, Vectors]) -> tuple[Place, list[Run]]:
    """Runs of a trial, one a seed."""
    corpus, feature = search.places[0]
    place = settings.get("corpus", corpus), settings.get("feature", feature)
    axes = {path: values for path, values in search.recipe.sweep.items() if path not in ("corpus", "feature")}
    axes |= {path: (value,) for path, value in settings.items() if path in axes}
    return place, plan_runs(replace(search.recipe, sweep=axes), vectors[place], place, search.targets)


def name_study(search: Search, vectors: Mapping[Place, Vectors]) -> str:
    """Name of the study: the same for the same question about the same data."""
    recipe = {k: v for k, v in asdict(search.recipe).items() if k not in ("title", "source", "notes", "published")}
    asked = {
        "recipe": {**recipe, "sweep": {path: [str(v) for v in values] for path, values in search.recipe.sweep.items()}},
        "places": [[*place, vectors[place].fingerprint] for place in search.places],
        "targets": list(search.targets),
    }
    return f"{search.recipe.name}-{hashlib.sha256(canonical(asked)).hexdigest()[:16]}"


def draw_runs(search: Search) -> dict[Place, list[Run]]:
    """Runs that a search might train, drawn at random: for an estimate of its time."""
    axes = list_axes(search)
    vectors = {place: search.load(*place) for place in search.places}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(search.seed))
    drawn: dict[Place, list[Run]] = {}
    for _ in range(search.trials):
        trial = study.ask()
        sample_trial(trial, axes)
        place, runs = list_runs(search, read_settings(trial, axes), vectors)
        drawn.setdefault(place, []).extend(runs)
    return drawn
