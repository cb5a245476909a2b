"""`vbx demo`: the whole path on a corpus made here, in under two minutes."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from vbx.commands.options import Json
from vbx.commands.output import note, print_json

SWEEP: dict[str, Any] = {
    "sweep.seed": [1, 2, 3],
    "sweep.trunk.hidden": [[64], [128, 64]],
    "fit.lr": 1e-3,  # the default suits real, noisy corpora; made-up ones are clean
    "trunk.dropout": 0.2,
}
EMOTIONS = (
    "Awe", "Excitement", "Amusement", "Awkwardness", "Fear", "Horror", "Distress", "Triumph", "Sadness", "Surprise",
)  # fmt: skip
NEXT = """
What to type next, with a folder of your own audio (labels.csv with a column `file` beside it, or a folder per class):

  vbx extract CORPUS                               what needs no download: egemaps and compare
  vbx heads train --target COLUMN --seeds 5        heads from what is cached
  vbx heads rank                                   the leaderboard
  vbx list features                                what else there is, w2v2-R-vad among it
"""


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for corpus, cache, results and report.")] = Path(
        "vbx-demo"
    ),
    json: Json = False,
) -> None:
    """Synthesise a small corpus of vocal bursts, extract two features, train, rank and write a report."""
    from vbx.cache.store import Store
    from vbx.commands.leaderboard import load_best
    from vbx.extract.corpus import read_corpus
    from vbx.extract.pipeline import extract_vectors
    from vbx.extract.plan import Settings
    from vbx.extract.synthesis import synthesise_corpus
    from vbx.heads.board import read_results
    from vbx.heads.graphics.figures import make_figures
    from vbx.heads.ranking import rank_results
    from vbx.heads.recipe import Task, make_tasks, read_recipe, with_tasks
    from vbx.heads.report import write_report
    from vbx.heads.sweep import plan_sweep, run_sweep
    from vbx.progress import Quiet, Shown

    began = time.monotonic()
    progress = Quiet() if json else Shown()
    features, store, out = ["egemaps", "compare"], Store(folder / "cache"), folder / "heads"
    say = (lambda text: None) if json else note
    say(f"1/4  a corpus of made-up vocal bursts in {folder / 'bursts'}")
    corpus = read_corpus(synthesise_corpus(folder / "bursts"))
    say(f"2/4  {len(corpus.utterances)} clips, features {' and '.join(features)}, into {store.root}")
    report = extract_vectors(corpus, features, store, device="cpu", settings=Settings(progress=progress))
    tasks = (Task("emotion", EMOTIONS, "ccc", ("ccc",)), *make_tasks(corpus.schema, ["country", "gender", "age"]))
    recipe = with_tasks(read_recipe("default", SWEEP), tasks)
    sweeps = plan_sweep(recipe, store.load_vectors, [(corpus.name, f) for f in features], out)
    say(f"3/4  {sum(len(s.todo) for s in sweeps)} multitask heads: ten emotions, country, gender, age")
    counts = run_sweep(sweeps, out, progress=progress)
    results = read_results(out)
    ranking = rank_results(results)
    figures = make_figures(*load_best(out, store, ranking, recipe), "dev")
    write_report(ranking, results, folder / "report.html", "vbx demo: made-up vocal bursts", figures=figures)
    say("4/4  the leaderboard")
    if json:
        print_json({**report.to_json(), **counts, "ranking": ranking.to_dict("records")})
        return
    from vbx.commands.heads import show_ranking

    show_ranking(ranking)
    note(f"report with plots: {folder / 'report.html'}; {time.monotonic() - began:.0f} s in all")
    print(NEXT)
