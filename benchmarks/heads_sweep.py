"""How fast is a stack of heads beside the loop that people write? Ratios from one run; nothing here is tuned yet.

    python benchmarks/heads_sweep.py [--rows 4000] [--dim 1024] [--runs 8] [--epochs 2]

The ExVo head of `exvo-atmaja` on vectors of noise: DataLoader, nn.Module and Adam, one run after the other, beside
`train_heads` with all runs in one stack.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import vbx

EMOTIONS = 10


class PlainHead(nn.Module):
    """The head as everybody writes it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(dim, 128), nn.LayerNorm(128), nn.LeakyReLU(), nn.Linear(128, 64), nn.LayerNorm(64), nn.LeakyReLU()
        )
        self.emotion = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, EMOTIONS), nn.Sigmoid())
        self.country = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, 4))
        self.age = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.trunk(x)
        return self.emotion(h), self.country(h), self.age(h)[:, 0]


def plain_loop(tensors: list[torch.Tensor], batch: int, epochs: int, seed: int) -> None:
    """Train one run."""
    torch.manual_seed(seed)
    head = PlainHead(tensors[0].shape[1])
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-4)
    loader = DataLoader(TensorDataset(*tensors), batch_size=batch, shuffle=True)
    for _ in range(epochs):
        for x, emotion, country, age in loader:
            optimiser.zero_grad()
            predicted = head(x)
            loss = F.mse_loss(predicted[0], emotion) + F.cross_entropy(predicted[1], country)
            (loss + F.mse_loss(predicted[2], age)).backward()
            optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 4000), ("dim", 1024), ("runs", 8), ("epochs", 2), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((args.rows, args.dim), dtype=np.float32)
    emotion, country = rng.random((args.rows, EMOTIONS), dtype=np.float32), rng.integers(0, 4, args.rows)
    age = rng.uniform(20, 40, args.rows).astype(np.float32)
    tensors = [torch.from_numpy(v) for v in (x, emotion, country, age)]
    recipe = vbx.read_recipe(
        "exvo-atmaja",
        overrides={
            "feature": "array",
            "fit.batch_size": args.batch,
            "fit.epochs": args.epochs,
            "fit.patience": 0,
            "fit.weighting": "equal",
            "sweep.seed": list(range(args.runs)),
        },
    )
    columns = next(task.columns for task in recipe.tasks if task.name == "emotion")
    labels = {c: emotion[:, i] for i, c in enumerate(columns)} | {"Age": age, "Country": [f"c{v}" for v in country]}
    vectors = vbx.Vectors.from_arrays(x, {"split": ["train"] * (args.rows - 8) + ["test"] * 8, **labels})
    began = time.perf_counter()
    plain_loop(tensors, args.batch, args.epochs, 0)
    plain = time.perf_counter() - began
    began = time.perf_counter()
    results = vbx.train_heads(vbx.expand_runs(recipe), vectors)
    stack = (time.perf_counter() - began) / len(results)
    rate = args.rows * args.epochs
    print(f"D={args.dim}, batch {args.batch}, {args.runs} runs, one core")
    print(f"plain loop  {plain:8.2f} s a run   {rate / plain:10.0f} samples/s")
    print(f"vbx stack   {stack:8.2f} s a run   {rate / stack:10.0f} samples/s   ratio {plain / stack:.1f}")


if __name__ == "__main__":
    main()
