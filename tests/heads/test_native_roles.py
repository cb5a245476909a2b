"""Roles, learnt weightings and replaced labels in the native kernel, against the plain loop and torch's engine."""

import itertools

import numpy as np
import pytest

from tests.heads.native_runs import MANY, both, make_run, make_vectors, same_as_plain_loop, task_of
from vbx.errors import DeviceError
from vbx.heads.losses import LOSSES
from vbx.heads.native import build, find_kernel
from vbx.heads.native.build import find_compiler
from vbx.heads.parts import Trunk

pytestmark = [
    pytest.mark.usefixtures("kernel"),
    pytest.mark.skipif(not find_compiler() and find_kernel().library is None, reason="no C++ compiler and no kernel"),
]

ROLES = [
    ("auxiliary", None), ("auxiliary", "linear"), ("adversarial", "constant"), ("adversarial", None),
    ("adversarial", "ganin"), ("discriminator", None), ("discriminator", "linear"),
]  # fmt: skip
WEIGHTINGS = ("fixed", "equal", "uncertainty", "rruw", "druw")
TRUNKS = (Trunk((12, 10)), Trunk((), norm="none"), Trunk((33,), norm="none", activation="tanh"))
CASES = [
    (role, loss, WEIGHTINGS[(i + j) % 5], ("adam", "adamw", "sgd")[(i + j) % 3], (8, 2, 5, 20)[(2 * i + j) % 4],
     TRUNKS[(i + 2 * j) % 3], 0.4 * (i % 2))
    for (i, role), (j, loss) in itertools.product(enumerate(ROLES), enumerate(LOSSES))
]  # fmt: skip


@pytest.mark.parametrize(("role", "loss", "weighting", "optimizer", "batch_size", "trunk", "missing"), CASES)
def test_epochs_equal_those_of_a_plain_loop(role, loss, weighting, optimizer, batch_size, trunk, missing):
    name = "who" if LOSSES[loss].kind == "classification" else "also"
    more = {"role": role[0], "schedule": role[1], "alpha": 0.7, "weight": 1.3, "gamma": 1.5}
    one = task_of(loss, name, hidden=((7,), (), (6, 20))[batch_size % 3], **more)
    fit = {"weighting": weighting, "optimizer": optimizer, "batch_size": batch_size, "weight_decay": 0.01}
    fit |= {"momentum": 0.9, "discriminator_lr": 0.01, "uncertainty_lr": 0.02, "epochs": 3, "lr": 3e-3}
    tasks = [MANY[0], one, task_of("bce", "sure", weight=0.8), MANY[1]]
    same_as_plain_loop(make_run(tasks, trunk, **fit), make_vectors(missing=missing))


def one_of_each():
    return [
        task_of("cross_entropy", "who", role="discriminator", alpha=0.9, hidden=(5,)),
        *MANY,
        task_of("mae", "shown", role="auxiliary", missing="replace"),
        task_of("ccc", "hidden", role="adversarial", schedule="ganin", hidden=(4,)),
        task_of("mse", "judged", role="discriminator", missing="replace"),
    ]


@pytest.mark.parametrize("path", list(build.list_paths()))
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_all_roles_together_and_with_dropout(weighting, path, monkeypatch):
    run = make_run(one_of_each(), Trunk((12, 40), dropout=0.3), weighting=weighting, epochs=3)
    try:
        ours, theirs = both(run, make_vectors(missing=0.2), monkeypatch, path)
    except DeviceError as error:
        pytest.skip(str(error))
    for name in ours.head.state:
        np.testing.assert_allclose(ours.head.state[name], theirs.head.state[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("loss", ["mse", "mae", "ccc", "bce"])
@pytest.mark.parametrize("role", ["main", "adversarial", "discriminator"])
def test_missing_numbers_may_be_replaced_by_predictions(loss, role):
    one = task_of(loss, "one", role=role, missing="replace", hidden=(7,))
    same_as_plain_loop(make_run([MANY[1], one], epochs=2, lr=0.05), make_vectors(missing=0.5))


def test_float32_agrees_in_metrics(monkeypatch):
    run = make_run(one_of_each(), Trunk((32, 16)), dtype="float32", weighting="druw", epochs=6, lr=3e-3)
    ours, theirs = both(run, make_vectors(n=600, dim=20, missing=0.1), monkeypatch)
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        assert (a.split, a.task, a.column, a.metric, a.n) == (b.split, b.task, b.column, b.metric, b.n)
        assert a.value == pytest.approx(b.value, abs=0.03)
