"""Do tasks help each other? Tables 2 and 3 of Baird et al. 2022: each task alone, then all together, by width.

    python benchmarks/compare_stl_mtl.py CORPUS [--cache DIR] [-f compare] [--target emotion --target age ...] [--json]

One table per task, for only one metric can be compared between heads that learn it alone and heads that learn more.
Every task is learnt alone at every width, too: a difference of widths is no difference of tasks.
"""

import json
from dataclasses import replace

from _compare import Table, fail_in_words, keep_task, list_at_hand, open_recipe, read_arguments, show, train

import vbx
from vbx.errors import RecipeError

WIDTHS = [[64], [128, 128], [256, 256, 256]]


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(__doc__, argv)
    alone = open_recipe(args, "exvo-baird-stl", {"sweep.trunk.hidden": WIDTHS})
    together = open_recipe(args, "exvo-baird-mtl", {"sweep.trunk.hidden": WIDTHS})
    names = [task.name for task in together.tasks]
    if len(names) < 2:
        raise RecipeError(f"corpus {args.corpus!r} has one task, {names[0]!r}; name more with --target")
    alone = replace(alone, sweep={**alone.sweep, "tasks": tuple((name,) for name in names)})
    trained = train(args, [alone, together], list_at_hand(args, ["compare", "boaw-2000", "egemaps"]))
    published = {f"{key}, tasks = {json.dumps(names)}": numbers for key, numbers in together.published.items()}
    for key, numbers in alone.published.items():
        published |= {f"{key}, trunk.hidden = [128, 128], tasks = {json.dumps([name])}": numbers for name in names}
    tables = []
    for task in together.tasks:
        learns = trained.results["settings"].map(lambda text, name=task.name: name in list_tasks(text))
        ranking = vbx.rank_results(trained.results[learns], by=f"{task.name}.{task.metrics[0]}", published=published)
        tables.append(Table(f"{task.name} on {args.corpus}", keep_task(ranking, task.name)))
    show(args, trained, tables)


def list_tasks(settings: str) -> list[str]:
    """Names of what a run learns."""
    return [task["name"] for task in json.loads(settings)["tasks"]]


if __name__ == "__main__":
    fail_in_words(main)
