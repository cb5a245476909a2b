"""Search: settings sampled by Optuna, several at a time, in place of every point of a grid.

    OUT/search.journal    trials: their settings and what they reached

Several processes may search together: each takes trials of the same study and trains them as it would a sweep. A trial
that was under way in a process that is gone is taken over; of its runs only those that are missing are trained.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import Trial, TrialState

from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError, VbxError
from vbx.heads.board import compact, pending, read_keys, read_scores
from vbx.heads.results.claims import Claims, open_claims
from vbx.heads.run import Run
from vbx.heads.sampling.journal import make_sampler, open_study
from vbx.heads.sampling.trials import Place, Search, list_axes, list_runs, name_study, read_settings, sample_trial
from vbx.heads.sweep import Sweep, run_sweep
from vbx.progress import Progress, Quiet

CUDA_TRIALS = 16
"""Trials that are asked for at once on a GPU, which needs many runs to be busy."""
POLL_S = 1.0
"""How often a process looks whether another one has finished a run that both need."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        counts: as of `run_sweep`, and `trials` and `complete`
        best: settings of the best trial; none if no trial has a score
        value: its score on dev, the mean over its seeds
        keys: of all runs of the search
    """

    counts: Mapping[str, int]
    best: Mapping[str, Any]
    value: float
    keys: frozenset[str]


@dataclass
class _Taken:
    """A trial that this process has taken."""

    trial: Trial
    vectors: Vectors
    place: Place
    keys: dict[Run, str] = field(default_factory=dict)


def run_search(search: Search, out: Path, progress: Progress | None = None) -> Found:
    """Sample settings and train them; what is best on dev, in the mean over the seeds, is looked for around.

    Args:
        search: what is searched
        out: folder of results, and of the search's journal
        progress: told of trials

    Raises:
        RecipeError: if there is nothing to sample, no dev split, or settings that go together with no others
        CacheError: if the folder cannot be written, or a file in it is damaged
    """
    axes = list_axes(search)
    vectors = {place: search.load(*place) for place in search.places}
    _check_dev(search, vectors)
    counts = dict.fromkeys(("trained", "diverged", "elsewhere"), 0)
    progress, waiting = progress or Quiet(), list[_Taken]()
    with open_claims(out, read_keys) as claims:
        claims.take(())
        study = open_study(out, name_study(search, vectors))
        done = len(study.get_trials(deepcopy=False))
        # Processes that begin together sample otherwise, one that begins anew goes on otherwise.
        study.sampler = make_sampler([search.seed, done, len(claims.living)])
        progress.start("searching", max(search.trials - done, 0), "trials")
        try:
            while True:
                fresh = _take_trials(study, axes, search, claims)
                if not fresh and not waiting:
                    break
                waiting += [_plan(study, trial, search, axes, vectors) for trial in fresh]
                made = run_sweep(_sweeps(waiting, out), out, device=search.device, claims=claims)
                counts = {name: counts[name] + made[name] for name in counts}
                told = _tell(study, waiting, claims, out)
                progress.advance(len(told))
                waiting = [taken for taken in waiting if taken not in told]
                if waiting and not fresh:
                    time.sleep(POLL_S)
        finally:
            progress.finish()
    if counts["trained"]:
        compact(out)
    return _sum_up(study, search, axes, vectors, counts)


def _check_dev(search: Search, vectors: Mapping[Place, Vectors]) -> None:
    """Refuse what has no dev split before anything is trained; folds bring their own."""
    if search.recipe.protocol.kind != "splits" or "protocol.kind" in search.recipe.sweep:
        return
    for (corpus, _), seen in vectors.items():
        if "split" not in seen.labels or not (seen.labels["split"] == "dev").any():
            raise RecipeError(
                f"a search goes by the score on dev, never by test, and corpus {corpus!r} has no dev split; give its "
                "labels one, or choose a protocol of folds: --set protocol.kind=kfold"
            )


def _take_trials(
    study: optuna.Study, axes: Mapping[str, tuple[Any, ...]], search: Search, claims: Claims
) -> list[Trial]:
    """Trials for this process: those of processes that are gone, then new ones, as many as keep the cores busy."""
    seeds = len(search.recipe.sweep.get("seed", (search.recipe.seed,)))
    on_cpu = torch.device(search.device).type == "cpu"
    most = max(1, math.ceil(2 * torch.get_num_threads() / seeds)) if on_cpu else CUDA_TRIALS
    taken = []
    with claims.looked():
        trials = study.get_trials(deepcopy=False)
        lost = [
            trial
            for trial in trials
            if trial.state == TrialState.RUNNING
            and trial.user_attrs.get("process") not in claims.living | {claims.name}
        ]
        new = max(0, min(most - len(lost), search.trials - len(trials)))
        for old in [*lost[:most], *[None] * new]:
            trial = Trial(study, old._trial_id) if old else study.ask()
            trial.set_user_attr("process", claims.name)
            sample_trial(trial, axes)
            taken.append(trial)
    return taken


def _plan(
    study: optuna.Study, trial: Trial, search: Search, axes: Mapping[str, Any], vectors: Mapping[Place, Vectors]
) -> _Taken:
    try:
        place, runs = list_runs(search, read_settings(trial, axes), vectors)
    except VbxError:
        study.tell(trial, state=TrialState.FAIL)  # else the next process would take it over and fail as well
        raise
    return _Taken(trial, vectors[place], place, {run: run.key_on(vectors[place]) for run in runs})


def _sweeps(taken: Sequence[_Taken], out: Path) -> list[Sweep]:
    """All runs of some trials, by feature and corpus."""
    sweeps = []
    for place in dict.fromkeys(one.place for one in taken):
        here = [one for one in taken if one.place == place]
        runs = list(dict.fromkeys(run for one in here for run in one.keys))
        sweeps.append(Sweep(*place, tuple(runs), tuple(pending(runs, here[0].vectors, out)), here[0].vectors))
    return sweeps


def _tell(study: optuna.Study, taken: Sequence[_Taken], claims: Claims, out: Path) -> list[_Taken]:
    """Tell the study of trials whose runs are all finished.

    Raises:
        RecipeError: if a run has no score on dev
    """
    claims.take(())
    told = [one for one in taken if claims.finished.issuperset(one.keys.values())]
    scores = read_scores(out, "dev") if told else {}
    for one in told:
        missing = [key for key in one.keys.values() if key not in scores]
        if missing:
            study.tell(one.trial, state=TrialState.FAIL)
            raise RecipeError(
                f"run {missing[0][:12]} has no score on dev, which a search goes by (never by test); choose another "
                "protocol, or more folds"
            )
        value = float(np.mean([scores[key] for key in one.keys.values()]))
        # A setting that diverged is worse than any other, and not to be tried again.
        if math.isfinite(value):
            study.tell(one.trial, value)
        else:
            study.tell(one.trial, state=TrialState.PRUNED)
    return told


def _sum_up(
    study: optuna.Study,
    search: Search,
    axes: Mapping[str, Any],
    vectors: Mapping[Place, Vectors],
    counts: Mapping[str, int],
) -> Found:
    trials = study.get_trials(deepcopy=False)
    whole = [t for t in trials if t.state != TrialState.FAIL and t.params.keys() == axes.keys()]
    keys = set()
    for trial in whole:
        place, runs = list_runs(search, read_settings(trial, axes), vectors)
        keys |= {run.key_on(vectors[place]) for run in runs}
    complete = [trial for trial in whole if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: -math.inf if trial.value is None else trial.value, default=None)
    under_way = sum(trial.state == TrialState.RUNNING for trial in trials)
    return Found(
        counts={**counts, "trials": len(trials), "complete": len(complete), "trials_under_way": under_way},
        best=read_settings(best, axes) if best else {},
        value=best.value if best and best.value is not None else math.nan,
        keys=frozenset(keys),
    )
