"""Do attributes help across corpora? Tables 2 and 3 of Parry et al. 2022: learnt, unlearnt or hidden, every subset.

    python benchmarks/compare_adversarial.py emodb+nemo+emogator --ood emogator [--cache DIR] [-f egemaps] [--json]

The recipe is `parry-2022` (`--recipe` takes another one, with a mapping of one's own labels): heads learn from all
corpora but those of `--ood` (the last, if it is left out) and are tested on these, and once more on the test splits of
the corpora they learn from. Attributes are those of the recipe that vary there. A cell is mean ± sd over seeds of a
head with these attributes; * differs from the head without any, by paired tests over speakers and over seeds,
corrected after Holm for the table.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from _compare import fail_in_words, list_at_hand, open_recipe, read_arguments, show_pages, train

import vbx
from vbx.commands.corpora import corpus_loader
from vbx.errors import RecipeError
from vbx.heads.axes import list_subsets
from vbx.heads.recipe import Recipe
from vbx.heads.statistics.published import find_published
from vbx.heads.statistics.settings import Setting, group_settings
from vbx.heads.statistics.significance import LEVEL, correct_holm

APPROACHES = {"auxiliary": "multitask", "adversarial": "gradient reversal", "discriminator": "discriminator"}


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(__doc__, argv, ood=True)
    corpora = args.corpus.split("+")
    outside = args.ood or corpora[-1:]
    learnt = [name for name in corpora if name not in outside]
    if not learnt or set(outside) - set(corpora):
        raise RecipeError(f"--ood {outside}: name some of the corpora {corpora}, and leave some to learn from")
    across = {"protocol.kind": "cross_corpus", "protocol.train": learnt, "protocol.test": outside}
    features = list_at_hand(args, only_one=True)
    recipe = choose_attributes(args, open_recipe(args, "parry-2022", across, needed=()), learnt, features[0])
    inside = argparse.Namespace(**{**vars(args), "corpus": "+".join(learnt)})
    home = train(inside, [replace(recipe, protocol=replace(recipe.protocol, kind="splits"))], features)
    away = train(args, [recipe], features)
    metric = f"test.{recipe.tasks[0].name}.{recipe.tasks[0].metrics[0]}"
    pages = [("in domain: " + ", ".join(learnt), tabulate(home.results, metric, recipe, ["in-domain"]))]
    pages.append(("out of domain: " + ", ".join(outside), tabulate(away.results, metric, recipe, outside)))
    for name in outside if len(outside) > 1 else ():
        pages.append((f"out of domain: {name} alone", tabulate_part(away.results, metric, name)))
    show_pages(args, [home, away], [(f"{metric} {title}; {features[0]}", table) for title, table in pages])


def choose_attributes(args: argparse.Namespace, recipe: Recipe, learnt: Sequence[str], feature: str) -> Recipe:
    """The recipe with every subset of those attributes that vary among what is learnt from."""
    vectors = corpus_loader(vbx.Store(args.cache), recipe)("+".join(learnt), feature)
    train = vectors.labels[vectors.labels["split"] == "train"]
    named = [task for task in recipe.tasks if task.name != recipe.tasks[0].name]
    vary = [t.name for t in named if t.columns[0] in train and train[t.columns[0]].nunique() > 1]
    if not vary:
        raise RecipeError(f"no attribute of {[t.name for t in named]} varies in train of {'+'.join(learnt)}")
    subsets = list_subsets(vary)
    if recipe.sweep.get("attributes") != list_subsets([task.name for task in named]):  # asked for
        subsets = tuple(names for names in recipe.sweep.get("attributes", subsets) if set(names) <= set(vary))
    kept = tuple(task for task in recipe.tasks if task not in named or task.name in vary)
    return replace(recipe, tasks=kept, sweep={**recipe.sweep, "attributes": subsets})


def describe(setting: Setting) -> tuple[tuple[str, ...], str]:
    """Attributes of a setting, and the approach; neither for the baseline."""
    names = tuple(json.loads(setting.about["tasks"])[1:])
    return names, APPROACHES[setting.about[f"task.{names[0]}.role"]] if names else ""


def tabulate(results: pd.DataFrame, metric: str, recipe: Recipe, corpora: Sequence[str]) -> list[dict[str, str]]:
    """Subsets by row, approaches by column; what differs from the baseline is marked, the paper's numbers beside."""
    settings = {describe(setting): setting for setting in group_settings(results)}
    bare = settings.pop(((), ""))
    tested = [setting.compare(metric, bare).p for setting in settings.values()]
    apart = dict(zip(settings, correct_holm(np.array(tested)) < LEVEL, strict=True))
    rows = {(): {"attributes": "none", **dict.fromkeys(APPROACHES.values(), tell(bare, metric))}}
    for (names, approach), setting in settings.items():
        row = rows.setdefault(names, {"attributes": ", ".join(names)})
        row[approach] = tell(setting, metric) + "*" * bool(apart[names, approach])
    for (names, approach), setting in {((), ""): bare, **settings}.items():
        theirs = find_published(recipe.published, {**setting.about, "feature": "mel"}, ["tasks"])
        said = [f"{theirs[name] / 100:.3f}" for name in corpora if name in theirs]
        if said:
            rows[names][f"published, {approach or 'baseline'}"] = ", ".join(said)
    return sorted(rows.values(), key=lambda row: (row["attributes"] != "none", row["attributes"].count(",")))


def tabulate_part(results: pd.DataFrame, metric: str, corpus: str) -> list[dict[str, str]]:
    """The same of one of several corpora outside, without tests."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    alone = results.assign(part=results["part"].where(results["part"] != f"corpus={corpus}", ""))[results["part"] != ""]
    for setting in group_settings(alone):
        names, approach = describe(setting)
        row = rows.setdefault(names, {"attributes": ", ".join(names) or "none"})
        row |= {name: tell(setting, metric) for name in ([approach] if approach else APPROACHES.values())}
    return sorted(rows.values(), key=lambda row: (row["attributes"] != "none", row["attributes"].count(",")))


def tell(setting: Setting, metric: str) -> str:
    """Mean and deviation over seeds, as far as there are several."""
    deviation = f" ± {setting.deviation(metric):.3f}" if setting.seeds > 1 else ""
    return f"{setting.mean(metric):.3f}{deviation}"


if __name__ == "__main__":
    fail_in_words(main)
