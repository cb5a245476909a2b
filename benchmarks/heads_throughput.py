"""How fast does one run train, beside the loops that people write? Ratios from one process, on one core.

    python benchmarks/heads_throughput.py [--dim 1024] [--batch 8] [--rounds 3] [--rows 19990] [--only vbx plain ...]

The head of `exvo-atmaja` (128-64, layer normalisation, three branches; MSE, cross-entropy, MSE; Adam) on made vectors.
Every contestant trains the same head on the same rows for some steps, in turn, several rounds of it; what counts is the
CPU time of the process, the median of the rounds. JAX takes part where it is installed; the perceptron of scikit-learn
has neither normalisation nor classes beside numbers, so it does less.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import vbx
from vbx.heads.engine import one_thread
from vbx.heads.fitting import Stack, start_stack, train_epoch
from vbx.heads.native import NativeRun, find_kernel
from vbx.heads.training import prepare_job

EMOTIONS, COUNTRIES = 10, 4
Contestant = Callable[[], Iterator[int]]
"""Trains for ever; yields the number of rows it has seen after each piece of work."""


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
    model = MLPRegressor((128, 64), batch_size=data.batch, shuffle=True)
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


def native(data: Data) -> Iterator[int]:
    """The kernel of vbx."""
    run, vectors = run_of(data)
    job = prepare_job(run, vectors, torch.device("cpu"))
    stack = start_stack(job.model, [run], job.device)
    with NativeRun(find_kernel(), job.model, job.train) as trained:
        yield from _epochs(trained.train_epoch, job, stack, 1)


def stack_of_8(data: Data) -> Iterator[int]:
    """Eight runs of vbx as one stack in torch, which trains where the kernel cannot."""
    run, vectors = run_of(data)
    job = prepare_job(run, vectors, torch.device("cpu"))
    stack = start_stack(job.model, [run] * 8, job.device)
    yield from _epochs(train_epoch, job, stack, 8)


def _epochs(see_train: Callable[..., None], job: object, stack: Stack, runs: int) -> Iterator[int]:
    epoch = 0
    while True:
        epoch += 1
        see_train(job.model, stack, job.train, epoch)
        yield runs * len(job.train.rows)
