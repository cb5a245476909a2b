"""How fast does one run train, beside the loops that people write? Ratios from one process, on one core.

    python benchmarks/heads_throughput.py [--dim 1024] [--batch 8] [--rounds 3] [--rows 19990] [--only vbx plain ...]

The head of `exvo-atmaja` (128-64, layer normalisation, three branches; MSE, cross-entropy, MSE; Adam) on made vectors.
Every contestant trains the same head on the same rows for a while, in turn, several rounds of it; what counts is the
CPU time of the process, the median of the rounds. JAX takes part where it is installed; the perceptron of scikit-learn
has neither normalisation nor classes beside numbers, so it does less.
"""

import argparse
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import vbx
from vbx.heads.data import Split, make_ready, make_split
from vbx.heads.engine import one_thread
from vbx.heads.model import Model, make_model
from vbx.heads.native import NativeRun, find_kernel
from vbx.heads.stack import Stack, start_stack
from vbx.heads.steps import train_epoch

EMOTIONS, COUNTRIES = 10, 4


@dataclass(frozen=True)
class Data:
    """Vectors `(N, D)` and labels."""

    x: np.ndarray
    emotion: np.ndarray
    country: np.ndarray
    age: np.ndarray
    batch: int

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [torch.from_numpy(v) for v in (self.x, self.emotion, self.country, self.age)]


class PlainHead(nn.Module):
    """The head as everybody writes it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(dim, 128), nn.LayerNorm(128), nn.LeakyReLU(), nn.Linear(128, 64), nn.LayerNorm(64), nn.LeakyReLU()
        )
        self.emotion = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, EMOTIONS), nn.Sigmoid())
        self.country = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, COUNTRIES))
        self.age = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.trunk(x)
        return self.emotion(h), self.country(h), self.age(h)[:, 0]


def loss_of(head: PlainHead, x: torch.Tensor, *truth: torch.Tensor) -> torch.Tensor:
    emotion, country, age = head(x)
    return F.mse_loss(emotion, truth[0]) + F.cross_entropy(country, truth[1]) + F.mse_loss(age, truth[2])


def plain(data: Data) -> Iterator[int]:
    """DataLoader, nn.Module, Adam."""
    head = PlainHead(data.x.shape[1])
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(*data.tensors), batch_size=data.batch, shuffle=True)
    while True:
        for batch in loader:
            optimiser.zero_grad()
            loss = loss_of(head, *batch)
            loss.backward()
            optimiser.step()
            loss.item()
            yield len(batch[0])


def tight(data: Data) -> Iterator[int]:
    """The same without a DataLoader, rows by index, the fused Adam."""
    head = PlainHead(data.x.shape[1])
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3, fused=True)
    tensors = data.tensors
    while True:
        for rows in torch.randperm(len(data.x)).split(data.batch):
            optimiser.zero_grad(set_to_none=True)
            loss_of(head, *(t[rows] for t in tensors)).backward()
            optimiser.step()
            yield len(rows)


def sklearn(data: Data) -> Iterator[int]:
    """A perceptron of scikit-learn with the trunk's widths: lighter, see above."""
    targets = np.column_stack([data.emotion, data.age])
    model = MLPRegressor(hidden_layer_sizes=(128, 64), batch_size=data.batch, shuffle=True)
    few = max(data.batch * 64, 512)
    while True:
        model.partial_fit(data.x[:few], targets[:few])
        yield few


def run_of(data: Data) -> tuple[vbx.Run, vbx.Vectors]:
    """The same head as a run of vbx."""
    plan = {"feature": "array", "fit.batch_size": data.batch, "fit.epochs": 1, "fit.patience": 0, "sweep.seed": [1]}
    plan |= {"fit.weighting": "equal", "fit.weight_decay": 0.0}
    recipe = vbx.read_recipe("exvo-atmaja", overrides=plan)
    columns = next(task.columns for task in recipe.tasks if task.name == "emotion")
    labels = {c: data.emotion[:, i] for i, c in enumerate(columns)}
    labels |= {"Age": data.age, "Country": [f"c{v}" for v in data.country]}
    (run,) = vbx.expand_runs(recipe)
    return run, vbx.Vectors.from_arrays(data.x, {"split": ["train"] * len(data.x), **labels})


def prepare(data: Data, runs: int) -> tuple[Model, Stack, Split]:
    """What trains that many runs of vbx: their shape, their stack, what they learn from."""
    run, vectors = run_of(data)
    ready = make_ready(run, vectors)
    model = make_model(run, data.x.shape[1], ready.classes)
    train = make_split(ready, run, vectors, "train", torch.device("cpu"))
    assert train is not None
    return model, start_stack(model, [run] * runs, torch.device("cpu")), train


def native(data: Data) -> Iterator[int]:
    """The kernel of vbx, one run."""
    model, stack, train = prepare(data, 1)
    with NativeRun(find_kernel(), model, train) as run:
        for epoch in itertools.count(1):
            run.train_epoch(model, stack, train, epoch)
            yield len(train.rows)


def stacked(data: Data) -> Iterator[int]:
    """Eight runs of vbx as one stack in torch, which trains what the kernel cannot."""
    model, stack, train = prepare(data, 8)
    few = replace(train, rows=train.rows[: data.batch * 32])
    for epoch in itertools.count(1):
        train_epoch(model, stack, few, epoch)
        yield 8 * len(few.rows)


CONTESTANTS: dict[str, Callable[[Data], Iterator[int]]] = {
    "vbx": native,
    "plain": plain,
    "tight": tight,
    "stack": stacked,
    "sklearn": sklearn,
}
if importlib.util.find_spec("jax"):
    from heads_jax import scan, vmap

    CONTESTANTS |= {"jax scan": scan, "jax vmap": vmap}


def make_data(rows: int, dim: int, batch: int) -> Data:
    """Vectors of noise, and labels that hang on them."""
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, dim), dtype=np.float32)
    signal = x[:, :64] @ random.standard_normal((64, EMOTIONS + COUNTRIES + 1), dtype=np.float32) / 8
    emotion = 1 / (1 + np.exp(-signal[:, :EMOTIONS]))
    return Data(x, emotion, signal[:, EMOTIONS:-1].argmax(1), 30 + 5 * signal[:, -1], batch)


def measure(contestants: dict[str, Iterator[int]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Rows a second of CPU time of each contestant in each round, after a first piece of work that does not count."""
    for work in contestants.values():
        next(work)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            began, rows = time.process_time(), 0
            while time.process_time() - began < seconds:
                rows += next(work)
            rates[name].append(rows / (time.process_time() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 4000), ("dim", 1024), ("batch", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seconds", type=float, default=1.0, help="of CPU time, a contestant a round")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    args = parser.parse_args()
    data = make_data(args.rows, args.dim, args.batch)
    with one_thread():
        rates = measure({name: CONTESTANTS[name](data) for name in args.only}, args.rounds, args.seconds)
    print(f"D={args.dim}, batch {args.batch}, {args.rows} rows, one core, kernel {find_kernel().path or 'absent'}")
    ours = statistics.median(rates[args.only[0]])
    for name, found in rates.items():
        middle = statistics.median(found)
        step = f"{1e6 * args.batch / middle:8.1f} us/step"
        print(
            f"{name:9} {middle:9.0f} rows/s ({min(found):8.0f} to {max(found):8.0f}) {step}  ratio {ours / middle:.2f}"
        )


if __name__ == "__main__":
    main()
