"""How many runs a minute does a GPU train, and how near is that to what its memory allows?

    python benchmarks/heads_gpu.py [--runs 64 128 256 512] [--rows 19990] [--epochs 20]
    python benchmarks/heads_gpu.py --device cpu --rows 200 --runs 4 --epochs 2    # the script itself, without a GPU

The head of `exvo-atmaja` (128-64, layer normalisation, three branches; Adam, batch 8) on made vectors, 1024 wide, with
a dev split as large as train. First four runs are trained on both devices and compared. Then, for each size of stack:
`train_heads` end to end (wall time; dev evaluated after every epoch, bootstrap at the end), one step recorded and not
recorded, and what share of the memory's bandwidth it reaches. At last the loop that everybody writes, there as well.

Written without a GPU at hand: on one, this script is not yet run.
"""

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from heads_throughput import EMOTIONS, PlainHead, loss_of, make_data
from torch.utils.data import DataLoader, TensorDataset

import vbx
from vbx.heads import one_pass
from vbx.heads.captured import open_captured
from vbx.heads.data import Split, make_ready, make_split
from vbx.heads.engine import one_thread
from vbx.heads.model import Model, make_model
from vbx.heads.native.library import VARIABLE
from vbx.heads.one_pass import moves_in_one_pass, takes_products
from vbx.heads.stack import Stack, start_stack
from vbx.heads.steps import count_rows, train_epoch

SPEAKERS = 500
SAME_WEIGHTS, SAME_SCORE = 1e-10, 0.02
"""Largest difference between a GPU and a CPU: of weights in float64, of dev scores in float32."""


@dataclass(frozen=True)
class Place:
    """Where all is measured."""

    device: torch.device

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall time of one call, until the device has done with it."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began


def make_vectors(rows: int, dim: int) -> vbx.Vectors:
    """Train and dev of as many rows each, of a few hundred speakers."""
    data = make_data(2 * rows, dim, 8)
    columns = next(task.columns for task in vbx.read_recipe("exvo-atmaja").tasks if task.name == "emotion")
    assert len(columns) == EMOTIONS
    labels: dict[str, Any] = {column: data.emotion[:, i] for i, column in enumerate(columns)}
    labels |= {"Age": data.age, "Country": [f"c{v}" for v in data.country]}
    labels |= {"split": ["train"] * rows + ["dev"] * rows, "speaker": [f"s{i % SPEAKERS}" for i in range(2 * rows)]}
    return vbx.Vectors.from_arrays(data.x, labels)


def make_runs(count: int, **fit: Any) -> list[vbx.Run]:
    """Runs of one shape that differ in seed and learning rate."""
    plan = {"feature": "array", "sweep.seed": list(range(count)), "fit.batch_size": 8, "fit.patience": 0}
    runs = vbx.expand_runs(vbx.read_recipe("exvo-atmaja", overrides=plan))
    rates = (1e-3, 5e-4, 2e-3, 1e-4)
    return [replace(run, fit=replace(run.fit, **{"lr": rates[i % 4], **fit})) for i, run in enumerate(runs)]


def compare(place: Place, rows: int, dim: int) -> None:
    """Train four runs on both devices; end here if they differ."""
    vectors = make_vectors(min(rows, 512), dim)
    for dtype in ("float64", "float32"):
        runs = make_runs(4, epochs=2, dtype=dtype)
        with stacks_on_cpu():
            ours = vbx.train_heads(runs, vectors, device=str(place.device))
        theirs = vbx.train_heads(runs, vectors)
        wrong = score = 0.0
        for a, b in zip(ours, theirs, strict=True):
            wrong = max([wrong, *(float(np.abs(a.head.state[n] - b.head.state[n]).max()) for n in a.head.state)])
            score = max(score, abs(dev_score(a) - dev_score(b)))
        print(
            f"{dtype}: two epochs on {place.device} and on the CPU: weights differ by {wrong:.1e}, scores {score:.1e}"
        )
        if not (wrong <= SAME_WEIGHTS if dtype == "float64" else score <= SAME_SCORE):
            sys.exit("that is too much, so nothing is measured")


@contextlib.contextmanager
def stacks_on_cpu() -> Iterator[None]:
    """Have a CPU train stacks as well, and not the native kernel."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "none"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def dev_score(result: Any) -> float:
    return next(float(row.value) for row in result.rows if row.split == "dev" and row.task == "score")


def prepare(place: Place, runs: list[vbx.Run], vectors: vbx.Vectors) -> tuple[Model, Stack, Split]:
    """What trains these runs: their shape, their stack, what they learn from."""
    ready = make_ready(runs[0], vectors)
    model = make_model(runs[0], vectors.x.shape[1], ready.classes)
    train = make_split(ready, runs[0], vectors, "train", place.device)
    assert train is not None
    return model, start_stack(model, runs, place.device), train


def recorded_step(place: Place, model: Model, stack: Stack, train: Split) -> float:
    """Seconds of a step in the second epoch, when all full ones are replayed."""
    with open_captured(place.device) as steps:
        steps.train_epoch(model, stack, train, 1)
        return place.seconds(lambda: steps.train_epoch(model, stack, train, 2)) / count_steps(model, train)


@contextlib.contextmanager
def without_products() -> Iterator[None]:
    """Have the gradient of the first layer made by a product of its own."""
    before, one_pass.MOST_ROWS = one_pass.MOST_ROWS, 0
    try:
        yield
    finally:
        one_pass.MOST_ROWS = before


def plain_step(place: Place, model: Model, stack: Stack, train: Split, most: int = 200) -> float:
    """Seconds of a step that is made kernel by kernel."""
    few = replace(train, rows=train.rows[: most * model.run.fit.batch_size])
    train_epoch(model, stack, few, 1)
    return place.seconds(lambda: train_epoch(model, stack, few, 2)) / count_steps(model, few)


def count_steps(model: Model, train: Split) -> int:
    return len(count_rows(len(train.rows), model.run.fit.batch_size))


def bytes_of_step(model: Model, stack: Stack) -> int:
    """What a step must move: weights 7 times (forward, Adam reads 3 and writes 3), gradients twice, vectors 4 times.

    The gradient of the first layer is in memory only where the one pass does not make it.
    """
    numbers = stack.moving.numbers
    first = model.slots[0].stop if moves_in_one_pass("adam", numbers) and takes_products(model) else 0
    inputs = model.run.fit.batch_size * model.layers[0].width_in
    return len(stack.runs) * (9 * model.size - 2 * first + 4 * inputs) * numbers.element_size()


def bandwidth(place: Place) -> float:
    """Bytes read and written a second by a copy, the best of ten."""
    source = torch.ones((1 << 30 if place.cuda else 1 << 26) // 4, device=place.device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / min(place.seconds(lambda: target.copy_(source)) for _ in range(10))


def everybody(place: Place, rows: int, dim: int, most: int = 300) -> float:
    """Seconds of a step of the usual loop: DataLoader, nn.Module, Adam, a batch at a time to the device."""
    data, head = make_data(rows, dim, 8), PlainHead(dim).to(place.device)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
    batches = endless(DataLoader(TensorDataset(*data.tensors), batch_size=8, shuffle=True))

    def steps(count: int) -> None:
        for _ in range(count):
            batch = [tensor.to(place.device) for tensor in next(batches)]
            optimiser.zero_grad()
            loss = loss_of(head, *batch)
            loss.backward()
            optimiser.step()
            loss.item()

    steps(10)
    return place.seconds(lambda: steps(most)) / most


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def measure(place: Place, count: int, vectors: vbx.Vectors, args: argparse.Namespace) -> float:
    """Print what a stack of some runs reaches; its runs a minute, end to end."""
    runs = make_runs(count, epochs=args.epochs)
    model, stack, train = prepare(place, runs, vectors)
    memory = bandwidth(place)
    moved = bytes_of_step(model, stack)
    with one_thread():
        alone = plain_step(place, model, stack, train)
        step = recorded_step(place, model, stack, train) if place.cuda else alone
        with without_products():
            apart = recorded_step(place, model, stack, train) if place.cuda else plain_step(place, model, stack, train)
    del stack, train
    if place.cuda:
        torch.cuda.empty_cache()
    with stacks_on_cpu():
        spent = place.seconds(lambda: vbx.train_heads(runs, vectors, device=str(place.device), max_stack=count))
    steps = args.epochs * -(-args.rows // 8)
    rate = 60 * count / spent
    print(
        f"R={count:4d} {rate:7.1f} runs/min end to end; step {1e3 * step:.3f} ms ({1e3 * apart:.3f} with the first "
        f"gradient in memory, {1e3 * alone:.3f} not recorded), {1e6 * step / count:.2f} us a run, "
        f"{moved / step / 1e12:.3f} TB/s, {100 * moved / step / memory:.0f} % of a copy's; "
        f"steps are {100 * steps * step / spent:.0f} % of the time"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[64, 128, 256, 512])
    for name, value in (("rows", 19990), ("dim", 1024), ("epochs", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            "heads_gpu.py needs a CUDA device; --device cpu --rows 200 --runs 4 --epochs 2 tries the script itself"
        )
    place = Place(torch.device(args.device))
    with torch.cuda.device(place.device) if place.cuda else contextlib.nullcontext():
        card = torch.cuda.get_device_name() if place.cuda else platform.machine()
        rule = "one pass" if moves_in_one_pass("adam", torch.empty(0, device=place.device)) else "several passes"
        print(f"{card}; Python {platform.python_version()}, torch {torch.__version__}; Adam in {rule}")
        compare(place, args.rows, args.dim)
        print(f"a copy moves {bandwidth(place) / 1e12:.2f} TB/s")
        vectors = make_vectors(args.rows, args.dim)
        rates = [measure(place, count, vectors, args) for count in args.runs]
        each = everybody(place, args.rows, args.dim)
    usual = 60 / (each * args.epochs * -(-args.rows // 8))
    print(f"the usual loop: {1e3 * each:.3f} ms a step, {usual:.2f} runs/min without evaluation, by 300 steps")
    print(f"best of ours against it: {max(rates) / usual:.0f} times")


if __name__ == "__main__":
    main()
