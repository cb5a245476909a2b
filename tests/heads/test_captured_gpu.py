"""Stacks on a GPU against the same on a CPU. Written without a GPU at hand: not yet run."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.heads.test_captured import RUNS, prepare
from tests.heads.test_training import make_vectors, scores, varied_runs
from vbx.heads import sums
from vbx.heads.captured import CapturedSteps, open_captured
from vbx.heads.one_pass import moves_in_one_pass
from vbx.heads.stack import start_stack
from vbx.heads.steps import draw_orders, fill_buffers, make_buffers, train_epoch, train_step
from vbx.heads.training import train_heads

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DEVICE = torch.device("cuda", 0)


def is_recorded(steps: CapturedSteps) -> bool:
    return steps._replay is not None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RUNS)
def test_replayed_steps_are_those_made_one_by_one(name):
    model, train = prepare(RUNS[name], make_vectors(n=100, missing=0.2), DEVICE)
    ours, theirs = (start_stack(model, RUNS[name], DEVICE) for _ in range(2))
    with open_captured(DEVICE) as steps:
        for epoch in (1, 2, 3):
            steps.train_epoch(model, ours, train, epoch)
            train_epoch(model, theirs, train, epoch)
            assert torch.equal(ours.moving.numbers, theirs.moving.numbers)
        assert is_recorded(steps) == (name != "one batch")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_makes_one_pass(dtype):
    pytest.importorskip("triton")
    assert moves_in_one_pass("adam", torch.empty(0, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize("name", RUNS)
def test_a_step_does_not_wait_for_the_device(name):
    model, train = prepare(RUNS[name], make_vectors(n=100, missing=0.2), DEVICE)
    stack = start_stack(model, RUNS[name], DEVICE)
    order = draw_orders(model, stack.runs, len(train.rows), 1)
    buffers = make_buffers(model, stack, order)
    fill_buffers(model, stack, buffers, order, 1)
    rows = min(model.run.fit.batch_size, len(train.rows))
    train_step(model, stack, train, buffers, rows)  # libraries may wait when they are first used
    buffers.at.zero_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(model, stack, train, buffers, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_as_a_cpu(name):
    runs = [replace(run, fit=replace(run.fit, dtype="float64", patience=0)) for run in RUNS[name]]
    vectors = make_vectors(n=200, missing=0.2)
    for a, b in zip(train_heads(runs, vectors, device="cuda"), train_heads(runs, vectors), strict=True):
        assert (a.status, a.epochs) == (b.status, b.epochs)
        for weight in a.head.state:
            np.testing.assert_allclose(a.head.state[weight], b.head.state[weight], rtol=0, atol=1e-9, err_msg=weight)
        assert scores(a) == pytest.approx(scores(b), rel=1e-6, abs=1e-9, nan_ok=True)


def test_a_run_is_the_same_alone_and_among_others_but_for_rounding():
    vectors = make_vectors(n=200, missing=0.2)
    runs = [replace(run, fit=replace(run.fit, dtype="float64")) for run in varied_runs(9)]
    together = train_heads(runs, vectors, device="cuda")
    assert len({result.epochs for result in together}) > 2  # some stop early, and stacks shrink
    for a, b in zip(train_heads(runs, vectors, device="cuda", max_stack=1), together, strict=True):
        assert (a.status, a.epochs, a.best_epoch) == (b.status, b.epochs, b.best_epoch)
        for weight in a.head.state:
            np.testing.assert_allclose(a.head.state[weight], b.head.state[weight], rtol=0, atol=1e-9)


def test_memory_is_given_back():
    vectors, runs = make_vectors(n=100), varied_runs(6)
    train_heads(runs, vectors, device="cuda")  # what libraries keep, they have now
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        train_heads(runs, vectors, device="cuda")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (4 << 20)


def test_a_neighbour_that_diverges_does_no_harm():
    vectors, good = make_vectors(n=200), RUNS["sgd"]
    bad = replace(good[0], seed=5, fit=replace(good[0].fit, lr=1e200))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, diverged, second = train_heads([good[0], bad, good[1]], vectors, device="cuda")
    assert (first.status, diverged.status, second.status) == ("ok", "diverged", "ok")
    for a, b in zip((first, second), train_heads(good, vectors), strict=True):
        for weight in a.head.state:
            np.testing.assert_allclose(a.head.state[weight], b.head.state[weight], rtol=0, atol=1e-9)


def test_statistics_on_a_gpu_are_those_on_a_cpu():
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(70, 1001, 4, generator=generator)
    true = torch.randn(1001, 4, generator=generator).double()
    true[::7, 1] = torch.nan
    scale = torch.tensor([1.0, 2, 3, 4]).double(), torch.tensor([0.0, 1, -1, 2]).double()
    ours = sums.sum_moments(said.to(DEVICE), true.to(DEVICE), tuple(part.to(DEVICE) for part in scale))
    torch.testing.assert_close(ours.cpu(), sums.sum_moments(said, true, scale), rtol=1e-12, atol=1e-9)
    classes = torch.randint(-1, 4, (1001,), generator=generator)
    ours = sums.count_confusions(said.to(DEVICE), classes.to(DEVICE))
    assert torch.equal(ours.cpu(), sums.count_confusions(said, classes))
