"""Which feature is best? Table II of Atmaja et al. 2022 for any corpus of the cache, told apart by paired tests.

    python benchmarks/compare_features.py CORPUS [--cache DIR] [-f egemaps -f compare ...] [--target emotion] [--json]

Where the corpus has the labels of the ExVo challenge it is the paper's head, with its numbers beside; elsewhere the
default recipe, on up to three label columns together.
"""

from _compare import Table, fail_in_words, list_at_hand, open_recipe, rank_by, read_arguments, show, train

import vbx


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(__doc__, argv)
    recipe = open_recipe(args, "exvo-atmaja")
    trained = train(args, [recipe], list_at_hand(args))
    ranking = vbx.rank_results(trained.results, by=rank_by(recipe), published=recipe.published)
    show(args, trained, [Table(f"Features on {args.corpus}", ranking)])


if __name__ == "__main__":
    fail_in_words(main)
