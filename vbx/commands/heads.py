"""`vbx heads …`: stage 2."""

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.apply import Out, export, predict
from vbx.commands.corpora import choose_corpora, corpus_loader, stored_features
from vbx.commands.leaderboard import DEFAULT_CACHE, DEFAULT_OUT, rank, report, show_ranking
from vbx.commands.options import Cache, Device, Features, Json, read_pairs
from vbx.commands.output import note, print_json
from vbx.commands.sweeping import plan_row, search_settings, tell_plan, train_grid

app = typer.Typer(help="Train heads from the cache, rank them, predict with them, export them.", no_args_is_help=True)

__all__ = ["app", "show_ranking"]


@app.command("train")
def train(
    feature: Features = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Corpus in the cache, or NAME+NAME; repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Label column to learn; repeatable: together.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe, or a .toml file (`vbx list recipes`).")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, as fit.lr=1e-4; a list is an axis.")
    ] = None,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    device: Device = "auto",
    seeds: Annotated[int | None, typer.Option(min=1, help="Train with seeds 1 to N.")] = None,
    search: Annotated[str | None, typer.Option(help="Sample the axes instead of the whole grid: optuna.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="With --search: how many settings, earlier ones included.")] = 50,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and how long it would take.")
    ] = False,
    json: Json = False,
) -> None:
    """Train multitask heads; a run that is finished is not trained again.

    Without a recipe the tasks come from the labels: classes by cross-entropy and UAR, numbers by CCC. Without a target
    one is chosen and said.

    \b
    vbx heads train --feature w2v2-R-vad
    vbx heads train -f egemaps -f compare --target emotion --target age --seeds 5
    vbx heads train --recipe exvo-atmaja --set fit.batch_size=[2,4,8]
    vbx heads train --corpus emodb+nemo --set protocol.kind=leave_one_group_out --set protocol.group=corpus
    vbx heads train --search optuna --trials 50 --set 'fit.lr={low=1e-5, high=1e-2, log=true}'
    """  # noqa: D301  (the b is click's mark for lines that stay as they are)
    from vbx.cache.store import Store
    from vbx.devices import pick_device
    from vbx.heads.recipe import read_recipe
    from vbx.heads.sweep import plan_sweep

    store, device = Store(cache), pick_device(device)
    overrides: dict[str, Any] = {key: _value(value) for key, value in read_pairs(set_, "--set").items()}
    if seeds:
        overrides["seed"] = list(range(1, seeds + 1))
    if feature:
        overrides["feature"] = feature if len(feature) > 1 else feature[0]
    page = read_recipe(recipe or "default", overrides)
    corpora = choose_corpora(corpus, page, store.corpora())
    places = [(c, f) for c in corpora for f in _features(store, c, page, feature)]
    load, targets = functools.cache(corpus_loader(store, page, target or ())), tuple(target or ())
    if search:
        done = search_settings(_search(search)(page, tuple(places), load, trials, targets, device), out, json, dry_run)
        plan = []
    else:
        sweeps = plan_sweep(page, load, places, out, targets)
        if not (target or page.tasks or json):
            note(f"no --target: learning {', '.join(t.name for t in sweeps[0].runs[0].tasks)}")
        plan = [plan_row(sweep, device) for sweep in sweeps]
        if dry_run:
            tell_plan(sweeps, device, json)
            return
        done = train_grid(sweeps, out, device, json)
    if done:
        _tell_results(*done, page, (out, plan, json))


def _tell_results(counts: dict[str, Any], keys: set[str], page: Any, shown: tuple[Path, list[Any], bool]) -> None:
    """Print how runs compare, if any is finished: other processes may be at them all."""
    from vbx.heads.ranking import rank_results

    out, plan, json = shown
    there = not counts.get("under_way") or counts["runs"] > counts["under_way"]
    ranking = rank_results(_only(out, keys), published=page.published) if there else None
    if json:
        rows = [] if ranking is None else ranking.to_dict("records")
        print_json({**counts, "out": str(out), "features": plan, "ranking": rows})
        return
    if ranking is not None:
        show_ranking(ranking)
    before = f", {counts['finished']} were finished before" if "finished" in counts else ""
    note(f"{counts['trained']} runs trained{before}, {counts['diverged']} diverged")
    # A run with folds has a head of each, so that `best` alone is none.
    own = page.protocol.kind in ("splits", "cross_corpus") and "protocol.kind" not in page.sweep
    use = "`vbx heads predict best` uses them" if own else "`--parts` shows each fold"
    note(f"results are in {out}; `vbx heads rank` shows them again, {use}")


def _search(name: str) -> Any:
    """What makes a search, if its package is there."""
    from vbx.errors import MissingExtra, UnknownName

    if name != "optuna":
        raise UnknownName("search", name, ["optuna"])
    try:
        from vbx.heads.sampling.trials import Search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise MissingExtra("--search optuna", "search") from None
    return Search


app.command("rank")(rank)
app.command("report")(report)
app.command("predict")(predict)
app.command("export")(export)


def _value(text: str) -> Any:
    """A value of `--set` as TOML reads it; what is no TOML is text, also in a list, whose quotes a shell has eaten."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        words = text[1:-1]
        if (text[:1], text[-1:]) == ("[", "]") and not set("[]{}") & set(words):
            return [_value(word.strip()) for word in words.split(",")]
        return text


def _features(store: Any, corpus: str, recipe: Any, asked: Sequence[str] | None) -> list[str]:
    """Features that were asked for; else those of the recipe that the cache has; else all that it has."""
    from vbx.errors import CacheError

    if asked:
        return list(asked)
    there = stored_features(store, corpus)
    named = recipe.sweep.get("feature") or ([recipe.feature] if recipe.feature else there)
    found = [feature for feature in named if feature in there]
    absent = [feature for feature in named if feature not in there]
    if not found:
        what = f"none of {', '.join(absent)}" if absent else "no feature"
        raise CacheError(
            f"corpus {corpus!r} has {what} in the cache, only {', '.join(there) or 'nothing'}; "
            "run `vbx extract`, or name a feature with -f"
        )
    if absent:
        note(f"{len(absent)} features of the recipe are left out, for the cache has none of them: {', '.join(absent)}")
    return found


def _only(out: Path, keys: set[str]) -> Any:
    from vbx.heads.board import read_results

    results = read_results(out)
    return results[results["key"].isin(keys)]
