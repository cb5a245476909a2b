"""Which batch size is best? Table III of Atmaja et al. 2022 for any corpus of the cache.

python benchmarks/compare_batch_sizes.py CORPUS [--cache DIR] [-f w2v2-R-vad] [--target emotion] [--json]
"""

from _compare import Table, fail_in_words, list_at_hand, open_recipe, rank_by, read_arguments, show, train

import vbx


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(__doc__, argv)
    recipe = open_recipe(args, "exvo-atmaja", {"sweep.fit.batch_size": [2, 4, 8, 16, 32]})
    trained = train(args, [recipe], list_at_hand(args, ["w2v2-R-vad"], only_one=True))
    ranking = vbx.rank_results(trained.results, by=rank_by(recipe), published=recipe.published)
    show(args, trained, [Table(f"Batch sizes on {args.corpus}, {', '.join(trained.dims)}", ranking)])


if __name__ == "__main__":
    fail_in_words(main)
