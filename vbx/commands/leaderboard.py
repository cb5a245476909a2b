"""`vbx heads rank` and `vbx heads report`: what runs reached, for a terminal, a program or a browser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.options import Cache, Json
from vbx.commands.output import note, print_rows

DEFAULT_CACHE, DEFAULT_OUT = Path("vbx-cache"), Path("vbx-heads")
Results = Annotated[Path, typer.Argument(envvar="VBX_HEADS", help="Folder of results.")]
By = Annotated[str, typer.Option(help="score, or TASK.METRIC such as emotion.uar.")]
OfRecipe = Annotated[str | None, typer.Option(help="Only runs of this recipe.")]
BestSeed = Annotated[
    bool, typer.Option("--best-seed", help="Also show the best seed of each setting, which is no estimate of anything.")
]


def rank(
    out: Results = DEFAULT_OUT,
    by: By = "score",
    published: Annotated[
        bool, typer.Option("--published", help="Show the numbers of the recipe's paper beside.")
    ] = False,
    recipe: OfRecipe = None,
    best_seed: BestSeed = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the leaderboard and its plots to this page too (see `vbx heads report`).")
    ] = None,
    format: Annotated[str, typer.Option(help="table, csv, json or md.")] = "table",
    json: Json = False,
) -> None:
    """Rank settings by their mean over seeds on dev, with what other seeds and other speakers would change.

    Within noise: not told apart from the best by paired tests over speakers and over seeds, corrected for all settings.
    """
    from vbx.heads.ranking import format_ranking, rank_results
    from vbx.heads.report import write_report

    results, names = _read(out, recipe)
    numbers = _published(names) if published else {}
    if published and not numbers:
        note(f"no published numbers: the results are of {len(names)} recipes; choose one with --recipe")
    ranking = rank_results(results, by=by, published=numbers, best_seed=best_seed)
    if html:
        write_report(ranking, results, html, "Leaderboard")
        note(f"report written to {html}")
    if json or format != "table":
        print(format_ranking(ranking, "json" if json else format).rstrip("\n"))
    else:
        show_ranking(ranking)
    if ranking["selected_on_test"].any():
        note("settings are ranked on test, because nothing was scored on dev: the best one's score is optimistic")


def report(
    out: Results = DEFAULT_OUT,
    html: Annotated[Path | None, typer.Option(help="The page; OUT/report.html if left out.")] = None,
    cache: Cache = DEFAULT_CACHE,
    by: By = "score",
    recipe: OfRecipe = None,
    best_seed: BestSeed = False,
    colour_by: Annotated[
        list[str] | None, typer.Option("--colour-by", help="Label column to colour the map by; repeatable.")
    ] = None,
    map_with: Annotated[str, typer.Option("--map", help="tsne or pca.")] = "tsne",
) -> None:
    """Write one HTML page that needs no network: leaderboard, learning curves, confusions, predicted against true, map.

    The last three are of the best setting's run that is nearest to its mean, and need the cache.
    """
    from vbx.errors import VbxError
    from vbx.heads.figures import make_figures
    from vbx.heads.ranking import rank_results
    from vbx.heads.report import write_report

    results, names = _read(out, recipe)
    ranking = rank_results(results, by=by, published=_published(names), best_seed=best_seed)
    notes, figures = [], []
    try:
        head, vectors = _load_best(out, cache, ranking)
    except VbxError as error:
        notes.append(f"Confusions, predictions and the map are left out: {error}.")
        note(notes[-1])
    else:
        split = str(ranking["ranked_by"].iloc[0]).partition(".")[0]
        figures = make_figures(head, vectors, split, colour_by=colour_by or (), map_with=map_with)
    page = html or out / "report.html"
    write_report(ranking, results, page, f"Leaderboard: {', '.join(results['corpus'].unique())}", notes, figures)
    note(f"report written to {page}")


def show_ranking(ranking: Any, most: int = 8) -> None:
    """Two tables: settings with what they are ranked by, then each metric of the first few settings."""
    from vbx.heads.ranking import list_metrics, list_settings
    from vbx.heads.table import word_ranking

    words: list[dict[Any, Any]] = word_ranking(ranking).to_dict("records")
    metrics = list_metrics(ranking)
    by = ranking["ranked_by"].iloc[0].partition(".")[2]
    parts = [column for column in words[0] if column.split(" ")[0] in metrics]
    rest = [column for column in parts if column.split(" ")[0].partition(".")[2] != by]
    print_rows([{name: text for name, text in row.items() if name not in rest} for row in words], as_json=False)
    rows = []
    for record in words[:most]:
        name = " ".join(record[setting] for setting in list_settings(ranking))
        for metric in dict.fromkeys(column.partition(".")[2] for column in rest):
            scores = {split: record[f"{split}.{metric}"] for split in ("dev", "test") if f"{split}.{metric}" in record}
            rows.append({"rank": record["rank"], "setting": name, "metric": metric, **scores})
    if rows:
        print()
        print_rows(rows, as_json=False)


def _read(out: Path, recipe: str | None) -> tuple[Any, list[str]]:
    """Results, of one recipe if that is asked for, and the names of their recipes."""
    from vbx.errors import UnknownName
    from vbx.heads.board import read_results

    results = read_results(out)
    names = sorted(set(results["recipe"]))
    if recipe is None:
        return results, names
    if recipe not in names:
        raise UnknownName("recipe", recipe, names, f"among the results in {str(out)!r}")
    return results[results["recipe"] == recipe], [recipe]


def _published(names: Sequence[str]) -> Any:
    """Numbers of the paper that the one recipe follows; none where there are several, or the recipe is a file."""
    from vbx.heads.recipe import list_recipes, read_recipe

    return read_recipe(names[0]).published if len(names) == 1 and names[0] in list_recipes() else {}


def _load_best(out: Path, cache: Path, ranking: Any) -> tuple[Any, Any]:
    """The head that stands for the best setting, and the vectors it learnt from."""
    from vbx.cache.store import Store
    from vbx.errors import CacheError
    from vbx.heads.board import load_head

    best = ranking.iloc[0]
    if not best["run"]:
        raise CacheError("every run of the best setting diverged")
    head = load_head(out, best["run"])
    vectors = Store(cache).load_vectors(head.corpus, head.feature)
    if vectors.fingerprint != head.vectors_key:
        raise CacheError(
            f"vectors or labels of {head.feature!r} on {head.corpus!r} in {str(cache)!r} are no longer those that run "
            f"{best['run'][:12]} learnt from"
        )
    return head, vectors
