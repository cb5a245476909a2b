"""`vbx heads rank` and `vbx heads report`: what runs reached, for a terminal, a program or a browser."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.options import Cache, Json
from vbx.commands.output import note, print_json, print_rows

DEFAULT_CACHE, DEFAULT_OUT = Path("vbx-cache"), Path("vbx-heads")
Results = Annotated[Path, typer.Argument(envvar="VBX_HEADS", help="Folder of results.")]
By = Annotated[str, typer.Option(help="score, or TASK.METRIC such as emotion.uar.")]
OfRecipe = Annotated[
    str | None, typer.Option(help="Only runs of this recipe: its name, or its .toml file where it is not one of vbx's.")
]
FOLDED = '"kind":"(?:kfold|leave_one_group_out)"'
"""What the settings of cross-validated runs have in them."""
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
    parts: Annotated[
        bool, typer.Option("--parts", help="Also show the folds, or held-out corpora, of the first three settings.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the leaderboard and its plots to this page too (see `vbx heads report`).")
    ] = None,
    format: Annotated[str, typer.Option(help="table, csv, json or md.")] = "table",
    json: Json = False,
) -> None:
    """Rank settings by their mean over seeds on dev, with what other seeds and other speakers would change.

    Within noise: other speakers or other seeds might well have put it first (p of 0.05 or more, corrected for the table
    and for the best being chosen from it).
    """
    from vbx.heads.board import read_results
    from vbx.heads.ranking import format_ranking, rank_parts, rank_results
    from vbx.heads.report import write_report
    from vbx.heads.statistics.nested import choose_in_folds, tell_nested

    results, page = _read(out, recipe)
    numbers = page.published if published else {}
    if published and not numbers:
        note("no published numbers: the results are of several recipes, or of a file; say which with --recipe")
    ranking = rank_results(results, by=by, published=numbers, best_seed=best_seed)
    if html:
        write_report(ranking, results, html, "Leaderboard")
        note(f"report written to {html}")
    if json and parts:
        every = rank_parts(read_results(out, parts=True), ranking)
        print_json({"ranking": ranking.to_dict("records"), "parts": every.to_dict("records")})
        return
    if json or format != "table":
        print(format_ranking(ranking, "json" if json else format).rstrip("\n"))
    else:
        show_ranking(ranking)
    if parts:
        every = read_results(out, parts=True)
        _show_parts(rank_parts(every, ranking))
        nested = choose_in_folds(every, ranking)
        if len(nested):
            note(tell_nested(nested, by))
    elif len(ranking) > 1 and results["settings"].str.contains(FOLDED).any():
        note(
            "dev and test of a cross-validation are the same utterances, each in turn: the first of several settings "
            "was chosen with labels that test it; --parts says what choosing within each fold gives"
        )
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
    map_with: Annotated[str, typer.Option("--map", help="tsne, umap (needs vbx[umap]) or pca.")] = "tsne",
) -> None:
    """Write one HTML page that needs no network: leaderboard, learning curves, confusions, predicted against true, map.

    The last three are of the best setting's run that is nearest to its mean, and need the cache.
    """
    from vbx.cache.store import Store
    from vbx.errors import VbxError
    from vbx.heads.graphics.figures import make_figures
    from vbx.heads.ranking import rank_results
    from vbx.heads.report import write_report

    results, page = _read(out, recipe)
    ranking = rank_results(results, by=by, published=page.published, best_seed=best_seed)
    notes, figures = [], []
    try:
        heads, vectors = load_best(out, Store(cache), ranking, page)
    except VbxError as error:
        notes.append(f"Confusions, predictions and the map are left out: {error}.")
        note(notes[-1])
    else:
        split = str(ranking["ranked_by"].iloc[0]).partition(".")[0]
        figures = make_figures(heads, vectors, split, colour_by=colour_by or (), map_with=map_with)
    path = html or out / "report.html"
    write_report(ranking, results, path, f"Leaderboard: {', '.join(results['corpus'].unique())}", notes, figures)
    note(f"report written to {path}")


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


def _read(out: Path, recipe: str | None) -> tuple[Any, Any]:
    """Results, of one recipe if that is asked for, and that recipe; a bare one where there are several, or a file.

    Without the file of a recipe neither its published numbers nor its mapping of classes are known.
    """
    from vbx.errors import UnknownName
    from vbx.heads.board import read_results
    from vbx.heads.recipe import Recipe, list_recipes, read_recipe

    results = read_results(out)
    names = sorted(set(results["recipe"]))
    if recipe is not None:
        page = read_recipe(recipe) if recipe.endswith(".toml") else None
        name = page.name if page else recipe
        if name not in names:
            raise UnknownName("recipe", name, names, f"among the results in {str(out)!r}")
        results, names = results[results["recipe"] == name], [name]
        if page:
            return results, page
    known = len(names) == 1 and names[0] in list_recipes()
    return results, read_recipe(names[0]) if known else Recipe()


def _show_parts(parts: Any) -> None:
    """Scores of folds or corpora, less their deviations."""
    if parts.empty:
        note("no folds or held-out corpora: the runs have one test split")
        return
    print()
    print_rows(parts[[name for name in parts if not name.endswith(".sd")]].to_dict("records"), as_json=False)


def load_best(out: Path, store: Any, ranking: Any, page: Any) -> tuple[Any, Any]:
    """The heads, by fold, of the run that stands for the best setting, and the vectors it learnt from."""
    from vbx.commands.corpora import corpus_loader
    from vbx.errors import CacheError
    from vbx.heads.board import load_head, read_results

    key = ranking["run"].iloc[0]
    if not key:
        raise CacheError("every run of the best setting diverged")
    rows = read_results(out, parts=True)
    rows = rows[rows["key"] == key]
    names = sorted(set(rows["part"]) - {""}) if is_cross_validated(rows["settings"].iloc[0]) else [""]
    heads = {name: load_head(out, f"{key}/{name}" if name else key) for name in names}
    head = heads[names[0]]
    vectors = corpus_loader(store, page)(head.corpus, head.feature)
    if vectors.fingerprint != head.vectors_key:
        raise CacheError(
            f"vectors or labels of {head.feature!r} on {head.corpus!r} in {str(store.root)!r} are no longer those that "
            f"run {key[:12]} learnt from"
        )
    return heads, vectors


def is_cross_validated(settings: str) -> bool:
    """Whether each fold of a run has a head of its own."""
    from json import loads

    return loads(settings).get("protocol", {}).get("kind") in ("kfold", "leave_one_group_out")
