"""What the comparisons share: a recipe on one corpus of the cache, its runs trained, ranked, and printed as a table."""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import vbx
from vbx.commands.corpora import corpus_loader, stored_features
from vbx.errors import CacheError, VbxError
from vbx.heads.board import read_results
from vbx.heads.parts import Score
from vbx.heads.recipe import Recipe
from vbx.heads.report import list_notes
from vbx.heads.sweep import TARGETS, choose_targets, plan_sweep, run_sweep
from vbx.heads.table import list_metrics, word_ranking
from vbx.progress import Shown

MOST_TASKS = 3
"""Label columns that are learnt together where nobody names any: as many as the papers have."""
FEWEST_VALUES = 12
"""A number with fewer in train says little but who speaks: the ages of six speakers, say."""
_ENDS = ("", ".sd", ".low", ".high", ".published", ".minus_published")


@dataclass(frozen=True)
class Trained:
    """What the runs of a comparison reached.

    Attributes:
        results: of `read_results`: of these runs and no others
        dims: width of each feature
        counts: `runs`, `trained`, `finished` before, `diverged`, and `seconds` that the training took
    """

    results: pd.DataFrame
    dims: Mapping[str, int]
    counts: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """One table of a comparison: a heading, what `rank_results` made, and sentences below it."""

    title: str
    ranking: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_arguments(doc: str, argv: Sequence[str] | None = None, *, ood: bool = False) -> argparse.Namespace:
    """What every comparison asks for; corpora that are out of domain where there are some."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="corpus in the cache; several joined by + train together")
    parser.add_argument("--cache", default="vbx-cache", help="folder of the cache")
    parser.add_argument("--out", type=Path, default=Path("vbx-heads"), help="folder of results; finished runs stay")
    parser.add_argument("--recipe", help="recipe or .toml; else the paper's if the corpus has its labels, or `default`")
    parser.add_argument("--feature", "-f", action="append", help="repeatable; else what the cache has")
    parser.add_argument("--target", action="append", help=f"label column, repeatable; else up to {MOST_TASKS} found")
    parser.add_argument("--seeds", type=int, help="train with seeds 1 to N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, as fit.lr=1e-4")
    if ood:
        parser.add_argument("--ood", action="append", help="corpus that is tested on alone; repeatable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON, every column and digit")
    return parser.parse_args(argv)


def open_recipe(
    args: argparse.Namespace,
    paper: str,
    axes: Mapping[str, Any] | None = None,
    needed: Sequence[str] | None = None,
) -> Recipe:
    """The recipe that is asked for; else the paper's where the corpus has its labels; else the default one.

    Args:
        args: of `read_arguments`
        paper: name of the recipe that follows the paper
        axes: what the comparison sweeps; `--seeds` and `--set` come after
        needed: label columns without which the paper's recipe makes no sense; those of all its tasks if left out
    """
    overrides = {**(axes or {})}
    if args.seeds:
        overrides["sweep.seed"] = list(range(1, args.seeds + 1))
    for pair in args.set:
        key, _, text = pair.partition("=")
        try:
            overrides[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key] = text
    schema = vbx.Store(args.cache).label_table(args.corpus.split("+")[0]).schema
    columns = [column for task in vbx.read_recipe(paper).tasks for column in task.columns]
    known = set(columns if needed is None else needed) <= set(schema)
    name = args.recipe or (paper if known and not args.target else "default")
    recipe = vbx.read_recipe(name, overrides)
    if recipe.tasks and not args.target:
        return recipe
    vectors = corpus_loader(vbx.Store(args.cache), recipe)(args.corpus, list_at_hand(args)[0])
    targets = args.target or list_targets(vectors)
    bare = replace(recipe, tasks=(), score=Score(), published={})
    return vbx.with_tasks(bare, vbx.make_tasks(vectors.schema, targets))


def list_targets(vectors: vbx.Vectors) -> list[str]:
    """Up to three of the usual label columns that have something to learn, in train and where heads are scored."""
    scored = vectors.labels["split"].isin(["dev", "test"])
    found = []
    for name in (name for name in TARGETS if name in vectors.labels):
        values = vectors.labels[name][vectors.labels["split"] == "train"].nunique()
        least = {"class": 2, "number": FEWEST_VALUES}.get(vectors.schema[name].kind)
        if least and values >= least and vectors.labels[name][scored].notna().any():
            found.append(name)
    return found[:MOST_TASKS] or choose_targets(vectors)


def list_at_hand(args: argparse.Namespace, wanted: Sequence[str] = (), only_one: bool = False) -> list[str]:
    """Features that are asked for; else those of `wanted` that the cache has; else all of them, or the first one."""
    if args.feature:
        return list(args.feature)
    there = stored_features(vbx.Store(args.cache), args.corpus)
    if not there:
        raise CacheError(f"the cache {args.cache!r} has no feature of corpus {args.corpus!r}; `vbx extract` makes them")
    found = [feature for feature in wanted if feature in there] or there
    return found[:1] if only_one else found


def rank_by(recipe: Recipe) -> str:
    """What settings are ranked by: the combined score, or the metric of the one task that there is."""
    tasks = [task for task in recipe.tasks if getattr(task, "role", "main") == "main"]
    return "score" if len(tasks) > 1 else f"{tasks[0].name}.{tasks[0].metrics[0]}"


def train(args: argparse.Namespace, recipes: Sequence[Recipe], features: Sequence[str]) -> Trained:
    """Train what is not finished yet of some recipes, one feature after the other."""
    store, keys, dims = vbx.Store(args.cache), set(), {}
    counts = dict.fromkeys(("runs", "trained", "finished", "diverged", "seconds"), 0.0)
    for recipe in recipes:
        for feature in features:
            sweeps = plan_sweep(recipe, corpus_loader(store, recipe), [(args.corpus, feature)], args.out)
            dims[feature] = sweeps[0].vectors.x.shape[1]
            keys |= {run.key_on(sweep.vectors) for sweep in sweeps for run in sweep.runs}
            began = time.perf_counter()
            done = run_sweep(sweeps, args.out, device=args.device, progress=Shown())
            counts = {k: counts[k] + done.get(k, 0) for k in counts}
            counts["seconds"] += time.perf_counter() - began if done["trained"] else 0.0
    results = read_results(args.out, parts=True)
    return Trained(results[results["key"].isin(keys)], dims, counts)


def join(parts: Sequence[Trained]) -> Trained:
    """What several calls of `train` reached, together."""
    results = pd.concat([part.results for part in parts])
    results = results.drop_duplicates([name for name in results if name not in ("replicates", "curve")])
    counts = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
    return Trained(results, {name: dim for part in parts for name, dim in part.dims.items()}, counts)


def show(args: argparse.Namespace, trained: Trained, tables: Sequence[Table]) -> None:
    """Print tables: in words as Markdown, or everything as JSON."""
    notes = list(dict.fromkeys(note for t in tables for note in (*list_notes(t.ranking, trained.results), *t.notes)))
    if args.json:
        found = [{"title": t.title, "ranking": t.ranking.to_dict("records"), "notes": list(t.notes)} for t in tables]
        page = {"corpus": args.corpus, "dims": trained.dims, **trained.counts, "tables": found, "notes": notes}
        print(json.dumps(_plain(page), ensure_ascii=False, allow_nan=False))
        return
    for table in tables:
        print(f"\n{table.title}\n\n{write_table(table.ranking, trained.dims)}")
        print("".join(f"{note}\n" for note in table.notes))
    print("".join(f"- {note}\n" for note in notes if not any(note in table.notes for table in tables)))
    counts, seeds = trained.counts, sorted({int(n) for t in tables for n in t.ranking["seeds"]})
    print(
        f"{counts['runs']:.0f} runs, {counts['trained']:.0f} trained now in {counts['seconds']:.0f} s. Mean ± sd over "
        f"seeds ({' or '.join(map(str, seeds))} a row) [95 % interval over speakers; over utterances, if these are "
        "fewer than 6]; p: of being as good as the best, corrected for the table."
    )


def keep_task(ranking: pd.DataFrame, task: str) -> pd.DataFrame:
    """A ranking without what it has of other tasks."""
    others = [f"{what}{end}" for what in list_metrics(ranking) if what.split(".")[1] != task for end in _ENDS]
    return ranking.drop(columns=[name for name in others if name in ranking])


def write_table(ranking: pd.DataFrame, dims: Mapping[str, int], digits: int = 3) -> str:
    """A ranking as Markdown, aligned: widths of features, and intervals of what it is ranked by alone."""
    words = word_ranking(ranking, digits)
    by = str(ranking["ranked_by"].iloc[0]).partition(".")[2]
    for name in words.columns:
        what = name.split(" ")[0]
        if what.startswith(("dev.", "test.")) and what.partition(".")[2] != by and name == what:
            words[name] = [text.partition(" [")[0] for text in words[name]]
    if by != "score":  # the score of a single task is its metric once more
        words = words[[name for name in words if not name.startswith(("dev.score", "test.score"))]]
    if "tasks" in words:
        words["tasks"] = [", ".join(json.loads(tasks)) for tasks in words["tasks"]]
    words.insert(words.columns.get_loc("feature") + 1, "dims", [str(dims.get(f, "–")) for f in ranking["feature"]])
    constant = [name for name in ("feature", "dims", "seeds") if words[name].nunique() == 1 and len(words) > 1]
    return align(words.drop(columns=constant).to_dict("records"))


def align(rows: Sequence[Mapping[Any, str]]) -> str:
    """Rows as a table of Markdown that can be read as it is."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(name) for name in names], *([str(row.get(name, "–")) for name in names] for row in rows)]
    cells = [[text.replace("|", "\\|") for text in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (n + 2) for n in widths) + "|", *lines[1:]]) + "\n"


def show_pages(
    args: argparse.Namespace, trained: Sequence[Trained], pages: Sequence[tuple[str, Sequence[Mapping[str, str]]]]
) -> None:
    """Print tables that are no rankings: a heading and rows of texts each."""
    counts = {name: sum(part.counts[name] for part in trained) for name in trained[0].counts}
    runs = pd.concat([part.results for part in trained]).drop_duplicates("key")
    notes = list(dict.fromkeys(note for text in runs["notes"] for note in json.loads(text)))
    if args.json:
        tables = [{"title": title, "rows": rows} for title, rows in pages]
        print(json.dumps(_plain({"corpus": args.corpus, **counts, "tables": tables, "notes": notes}), allow_nan=False))
        return
    for title, rows in pages:
        print(f"\n{title}\n\n{align(rows)}")
    print("".join(f"- {note if len(note) < 300 else note[:297] + '...'}\n" for note in notes))
    print(f"{counts['runs']:.0f} runs, {counts['trained']:.0f} trained now in {counts['seconds']:.0f} s.")


def fail_in_words(main: Any) -> None:
    """Run a comparison; what vbx refuses is told in one sentence."""
    try:
        main()
    except VbxError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _plain(value: Any) -> Any:
    """What JSON has words for; null for a number that is none."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value - value != 0.0 else value
