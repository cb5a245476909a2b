"""Does it help to normalise the waveform? Table IV of Atmaja et al. 2022: a feature beside its `-norm`.

    python benchmarks/compare_normalisation.py CORPUS [--cache DIR] [--target emotion] [--json]

Pairs such as w2v2-R-er and w2v2-R-er-norm are taken from the cache, each also compared by itself. On the ExVo corpus
batches are as large as in the paper: 8 utterances of w2v2-R-er, 2 of w2v2-R-vad.
"""

from dataclasses import replace

import pandas as pd
from _compare import Table, fail_in_words, join, list_at_hand, open_recipe, rank_by, read_arguments, show, train

import vbx
from vbx.errors import CacheError

BATCH_SIZES = {"w2v2-R-er": [8], "w2v2-R-vad": [2]}


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(__doc__, argv)
    there = list_at_hand(args)
    plain = [feature for feature in there if f"{feature}-norm" in there]
    if not plain:
        raise CacheError(f"no feature with its -norm in the cache {args.cache!r}, such as w2v2-R-er and w2v2-R-er-norm")
    recipe = open_recipe(args, "exvo-atmaja")
    # Table II has the same features at other batch sizes.
    published = {key: numbers for key, numbers in recipe.published.items() if "fit.batch_size" in key}
    done, notes = [], []
    for feature in plain:
        sizes = {"fit.batch_size": BATCH_SIZES[feature]} if published and feature in BATCH_SIZES else {}
        done.append(train(args, [replace(recipe, sweep={**sizes, **recipe.sweep})], [feature, f"{feature}-norm"]))
        notes.append(compare_pair(feature, vbx.rank_results(done[-1].results, by=rank_by(recipe))))
    trained = join(done)
    ranking = vbx.rank_results(trained.results, by=rank_by(recipe), published=published)
    show(args, trained, [Table(f"With and without normalisation on {args.corpus}", ranking, tuple(notes))])


def compare_pair(feature: str, ranking: pd.DataFrame) -> str:
    """What normalisation changes, in a sentence: the two are tested by themselves."""
    best, other = ranking.to_dict("records")
    sign = 1 if other["feature"] == feature else -1  # to_best is the other less the best
    change, low, high = (-sign * other[f"to_best{end}"] for end in ("", ".low", ".high"))
    low, high = sorted((low, high))
    what = f"normalising changes {best['ranked_by']} of {feature} by {change:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"{what}, p = {other['p']:.3f}."


if __name__ == "__main__":
    fail_in_words(main)
