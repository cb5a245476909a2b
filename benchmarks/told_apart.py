"""How often does a table tell apart what is alike, and how often what is not? Simulated settings, 5 seeds, 20 speakers.

    python benchmarks/told_apart.py [--tables 400] [--seeds 5] [--speakers 20] [--heavy]

A score is the setting's own level, what a speaker adds to it, what a seed adds and what both add; the shares vary by
row. `alike`: tables in which any setting is told apart from the best although none differs. `found`: how often a
setting is told apart that is worse by 6 standard deviations of a setting's mean (4.2 of a difference). Holm is the
correction for pairs named beforehand (`p_holm`), ours allows for the best being chosen from the same table (`p`).
"""

import argparse

import numpy as np

from vbx.heads.statistics.contrasts import tell_apart
from vbx.heads.statistics.settings import Setting
from vbx.heads.statistics.significance import LEVEL, correct_holm

SHARES = {"speakers": (1, 0.02, 0.1), "seeds": (0.02, 1, 0.1), "both": (1, 1, 0.3), "neither": (0.02, 0.02, 1)}
"""What varies: standard deviations of what a speaker adds, a seed, and both together."""
WORSE = 6.0


def simulate(random: np.random.Generator, count: int, args: argparse.Namespace, shares: tuple) -> np.ndarray:
    """What each block adds for each seed, settings first `(M, S, B)`; a setting's mean has a deviation of 1."""
    s, b = args.seeds, args.speakers
    draw = (lambda *shape: random.standard_t(4, shape) / np.sqrt(2)) if args.heavy else random.standard_normal
    shape = (lambda *shape: shape) if args.heavy else (lambda *shape: (shape,))
    of_speakers, of_seeds, of_both = shares
    spread = np.exp(random.normal(0, 0.5, (count, 1, 1))) if args.heavy else 1.0
    x = of_speakers * draw(*shape(count, 1, b)) + of_seeds * spread * draw(*shape(count, s, 1))
    x = x + of_both * draw(*shape(count, s, b))
    return x / np.sqrt(of_speakers**2 / b + of_seeds**2 / s + of_both**2 / (s * b))


def test_table(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corrected p of each setting, after Holm and ours; 1 for the best."""
    order = np.argsort(-parts.mean((1, 2)))
    keys = {seed: str(seed) for seed in range(parts.shape[1])}
    table = [Setting({"corpus": ""}, keys, 0, {"x": parts[i].mean(1)}, {}, {"x": parts[i]}, {"x": 100}) for i in order]
    holm = correct_holm(np.array([np.nan, *(setting.compare("x", table[0]).p for setting in table[1:])]))
    found = []
    for p in (holm, tell_apart(table, "x")):
        placed = np.empty(len(parts))
        placed[order] = np.nan_to_num(p, nan=1.0)
        found.append(placed)
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speakers", type=int, default=20)
    parser.add_argument("--heavy", action="store_true", help="t with 4 degrees, and seeds matter more to some settings")
    args = parser.parse_args()
    print(f"{'settings':>8} {'what varies':<12} {'alike: Holm':>12} {'ours':>6} {'found: Holm':>12} {'ours':>6}")
    for count in (2, 10, 40):
        for what, shares in SHARES.items():
            random, seen = np.random.default_rng(0), np.zeros(4)
            for _ in range(args.tables):
                parts = simulate(random, count, args, shares)
                seen[:2] += [(p < LEVEL).any() for p in test_table(parts)]
                parts[0] -= WORSE
                seen[2:] += [p[0] < LEVEL for p in test_table(parts)]
            alike_holm, alike, found_holm, found = seen / args.tables
            print(
                f"{count:>8} {what:<12} {alike_holm:>12.3f} {alike:>6.3f} {found_holm:>12.2f} {found:>6.2f}", flush=True
            )


if __name__ == "__main__":
    main()
