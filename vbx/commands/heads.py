"""`vbx heads …`: stage 2."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.leaderboard import DEFAULT_CACHE, DEFAULT_OUT, rank, report, show_ranking
from vbx.commands.options import Cache, Checkpoints, Device, Features, Json, only_corpus, read_pairs
from vbx.commands.output import note, print_json, print_rows

app = typer.Typer(help="Train heads from the cache, rank them, predict with them, export them.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", envvar="VBX_HEADS", help="Folder of results.")]
__all__ = ["app", "show_ranking"]


@app.command("train")
def train(
    feature: Features = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Corpus in the cache; repeatable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Label column to learn; repeatable: together.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe, or a .toml file (`vbx list recipes`).")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, as fit.lr=1e-4; a list is an axis.")
    ] = None,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    device: Device = "auto",
    seeds: Annotated[int | None, typer.Option(min=1, help="Train with seeds 1 to N.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained.")] = False,
    json: Json = False,
) -> None:
    """Train multitask heads; a run that is finished is not trained again.

    Without a recipe the tasks come from the labels: classes by cross-entropy and UAR, numbers by CCC. Without a target
    one is chosen and said.

    \b
    vbx heads train --feature w2v2-R-vad
    vbx heads train -f egemaps -f compare --target emotion --target age --seeds 5
    vbx heads train --recipe exvo-atmaja --set fit.batch_size=[2,4,8]
    """  # noqa: D301  (the b is click's mark for lines that stay as they are)
    from vbx.cache.store import Store
    from vbx.devices import pick_device
    from vbx.heads.ranking import rank_results
    from vbx.heads.recipe import read_recipe
    from vbx.heads.sweep import plan_sweep, run_sweep
    from vbx.progress import Quiet, Shown

    store, device = Store(cache), pick_device(device)
    overrides: dict[str, Any] = {key: _value(value) for key, value in read_pairs(set_, "--set").items()}
    if seeds:
        overrides["seed"] = list(range(1, seeds + 1))
    if feature:
        overrides["feature"] = feature if len(feature) > 1 else feature[0]
    page = read_recipe(recipe or "default", overrides)
    there = store.corpora()
    corpora = corpus or [page.corpus if page.corpus in there else only_corpus(there)]
    places = [(c, f) for c in corpora for f in _features(store, c, page, feature)]
    sweeps = plan_sweep(page, store.load_vectors, places, out, target or ())
    if not (target or page.tasks or json):
        note(f"no --target: learning {', '.join(t.name for t in sweeps[0].runs[0].tasks)}")
    plan = [_plan_row(sweep, device) for sweep in sweeps]
    if dry_run:
        print_rows(plan, json)
        return
    counts = run_sweep(sweeps, out, device=device, progress=Quiet() if json else Shown())
    keys = {run.key_on(s.vectors) for s in sweeps for run in s.runs}
    ranking = rank_results(_only(out, keys), published=page.published)
    if json:
        print_json({**counts, "out": str(out), "features": plan, "ranking": ranking.to_dict("records")})
        return
    show_ranking(ranking)
    note(f"{counts['trained']} runs trained, {counts['finished']} were finished before, {counts['diverged']} diverged")
    note(f"results are in {out}; `vbx heads rank` shows them again, `vbx heads predict best` uses them")


app.command("rank")(rank)
app.command("report")(report)


@app.command("predict")
def predict(
    run: Annotated[str, typer.Argument(help="Key of a run or the start of one, or `best`.")],
    audio: Annotated[list[Path] | None, typer.Argument(help="Audio files.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Corpus in the cache, instead of files.")] = None,
    split: Annotated[str | None, typer.Option(help="train, dev or test of the corpus; all if left out.")] = None,
    cache: Cache = DEFAULT_CACHE,
    out: Out = DEFAULT_OUT,
    checkpoint: Checkpoints = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict from audio files, or for a corpus in the cache, as CSV or JSON."""
    from vbx.cache.store import Store
    from vbx.commands.inference import encode_files, select_split
    from vbx.errors import RecipeError
    from vbx.heads.board import load_head
    from vbx.heads.predict import predict as predict_with

    head = load_head(out, run)
    if bool(audio) == bool(corpus):
        raise RecipeError("give either audio files or --corpus NAME")
    if corpus:
        vectors = select_split(Store(cache).load_vectors(corpus, head.feature), split)
    else:
        vectors, failures = encode_files(audio or [], head.feature, read_pairs(checkpoint, "--checkpoint"), device)
        for name, reason in failures.items():
            note(f"no prediction: {name}: {reason}")
    frame = predict_with(head, vectors)
    if json:
        print_json(frame.to_dict("records"))
    else:
        print(frame.to_csv(index=False), end="")


@app.command("export")
def export(
    run: Annotated[str, typer.Argument(help="Key of a run or the start of one, or `best`.")],
    to: Annotated[str, typer.Option(help="torch (safetensors and JSON) or onnx (readable by audonnx).")] = "torch",
    folder: Annotated[Path | None, typer.Option(help="Where to; head-RUN if left out.")] = None,
    out: Out = DEFAULT_OUT,
) -> None:
    """Export the head of a run, with its scaling and its classes."""
    from vbx.errors import UnknownName
    from vbx.heads.board import load_head
    from vbx.heads.export import export_onnx, export_torch

    exporters = {"torch": export_torch, "onnx": export_onnx}
    if to not in exporters:
        raise UnknownName("export format", to, exporters)
    target = folder or Path(f"head-{run[:12]}")
    exporters[to](load_head(out, run), target)
    note(f"exported to {target}")


def _value(text: str) -> Any:
    """A value of `--set` as TOML reads it; what is no TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _features(store: Any, corpus: str, recipe: Any, asked: Sequence[str] | None) -> list[str]:
    """Features that were asked for; else those of the recipe that the cache has; else all that it has."""
    from vbx.cache.feature import name_features
    from vbx.cache.layout import read_layouts
    from vbx.errors import CacheError

    if asked:
        return list(asked)
    specs = store.specs(corpus)
    there = name_features(specs.values(), {spec.key: read_layouts(folder) for folder, spec in specs.items()})
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


def _plan_row(sweep: Any, device: str) -> dict[str, Any]:
    from vbx.heads.engine import name_engines

    labels = sweep.vectors.labels["split"].value_counts()
    return {
        "corpus": sweep.corpus,
        "feature": sweep.feature,
        "dim": sweep.vectors.x.shape[1],
        "tasks": ", ".join(dict.fromkeys(task.name for run in sweep.runs for task in run.tasks)),
        "runs": len(sweep.runs),
        "to_train": len(sweep.todo),
        "shapes": len({run.shape for run in sweep.runs}),
        "epochs": sum(run.fit.epochs for run in sweep.todo),
        "engine": name_engines(sweep.todo, device),
        "train": int(labels.get("train", 0)),
        "dev": int(labels.get("dev", 0)),
        "test": int(labels.get("test", 0)),
        "without_vector": sweep.vectors.missing,
    }


def _only(out: Path, keys: set[str]) -> Any:
    from vbx.heads.board import read_results

    results = read_results(out)
    return results[results["key"].isin(keys)]
