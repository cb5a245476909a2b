"""The native kernel against a plain PyTorch loop over the whole family of heads."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from tests.heads.native_runs import make_run, make_vectors, same_as_plain_loop, task_of
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.losses import LOSSES
from vbx.heads.native import explain_outside, find_kernel
from vbx.heads.native.build import find_compiler
from vbx.heads.parts import Trunk
from vbx.heads.run import Run
from vbx.heads.training import train_heads

pytestmark = [
    pytest.mark.usefixtures("kernel"),
    pytest.mark.skipif(not find_compiler() and find_kernel().library is None, reason="no C++ compiler and no kernel"),
]


@dataclass(frozen=True)
class Member:
    """One head of the family and the vectors it learns from."""

    run: Run
    dim: int
    missing: float
    name: str


def list_family():
    """Every loss with every weighting, norm and mask; all else takes turns, each value with each of the others."""
    turns = {
        "activation": list(ACTIVATIONS),
        "optimizer": ["adam", "adamw", "sgd"],
        "batch_size": [8, 1, 2, 3, 33, 5, 16, 1000],
        "hidden": [(12, 10), (), (33,), (7, 130, 5), (16, 16), (3,), (17, 64, 32)],
        "own": [(6,), (), (20, 3), (33,)],
        "dim": [9, 1, 130, 30, 257],
    }
    axes = itertools.product(LOSSES, ("fixed", "equal", "uncertainty"), ("layer", "none"), (0.0, 0.4))
    for i, (loss, weighting, norm, missing) in enumerate(axes):
        # Steps that share no factor with the lengths: neighbours differ, and in time everything meets.
        take = {
            name: values[(i * (2 * j + 5) + i // 7) % len(values)] for j, (name, values) in enumerate(turns.items())
        }
        other = "cross_entropy" if LOSSES[loss].kind == "regression" else "mse"
        tasks = [
            task_of(loss, hidden=take["own"], weight=0.7, log_variance=-0.3, reduce=("mean", "sum")[i % 2], gamma=1.5),
            task_of(other, "other", hidden=(5,), weight=1.3),
        ]
        fit = {name: take[name] for name in ("optimizer", "batch_size")}
        fit |= {"weighting": weighting, "weight_decay": (0.0, 0.02)[i % 5 > 1], "momentum": 0.9 * (i % 2), "lr": 3e-3}
        fit |= {"uncertainty_lr": (None, 0.02)[i % 3 == 0], "epochs": 2 if take["batch_size"] == 1000 else 1}
        run = make_run(tasks, Trunk(take["hidden"], norm=norm, activation=take["activation"]), **fit)
        name = "-".join(map(str, (loss, weighting, norm, missing, *take.values())))
        yield Member(run, take["dim"], missing, name)


FAMILY = list(list_family())


def test_the_family_is_whole():
    runs = [member.run for member in FAMILY]
    assert {run.trunk.activation for run in runs} == set(ACTIVATIONS)
    assert {run.fit.optimizer for run in runs} == {"adam", "adamw", "sgd"}
    assert {task.loss for run in runs for task in run.tasks} == set(LOSSES)
    assert not any(explain_outside(run) for run in runs)


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.name)
def test_an_epoch_equals_that_of_a_plain_loop(member):
    vectors = make_vectors(dim=member.dim, missing=member.missing)
    same_as_plain_loop(member.run, vectors)


def test_moments_are_kept_small_on_the_way():
    # More steps than a stretch of the kernel's, after which it takes their growth out of the moments.
    fit = {"epochs": 40, "lr": 1e-4, "batch_size": 1, "weighting": "uncertainty"}
    run = make_run([task_of("mse"), task_of("cross_entropy", "kind")], Trunk((5,), activation="tanh"), **fit)
    vectors = make_vectors()
    steps = 40 * (vectors.labels["split"] == "train").sum()
    assert steps > 1024
    same_as_plain_loop(run, vectors)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_rate_of_0_moves_nothing(optimizer):
    tasks = [task_of("mse"), task_of("cross_entropy", "who", role="discriminator")]
    fit = {"weighting": "uncertainty", "uncertainty_lr": 0.0, "discriminator_lr": 0.0, "optimizer": optimizer}
    still = same_as_plain_loop(make_run(tasks, **fit, epochs=2), make_vectors()).head.state
    single = same_as_plain_loop(make_run(tasks, **fit, epochs=1), make_vectors()).head.state
    assert np.array_equal(still["who.out.weight"], single["who.out.weight"])
    assert not np.array_equal(still["trunk.0.weight"], single["trunk.0.weight"])
    for dtype in ("float32", "float64"):
        (result,) = train_heads([make_run(tasks, **fit, dtype=dtype)], make_vectors())
        assert result.status == "ok"
