"""The native kernel as an engine: what a result depends on, what ends early, what is left to torch."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.heads.native_runs import MANY, both, make_run, make_vectors, task_of
from vbx.errors import DeviceError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.engine import name_engines
from vbx.heads.losses import LOSSES
from vbx.heads.native import explain_outside, find_kernel
from vbx.heads.native.build import find_compiler
from vbx.heads.parts import Fit, Trunk
from vbx.heads.training import train_heads

pytestmark = [
    pytest.mark.usefixtures("kernel"),
    pytest.mark.skipif(not find_compiler() and find_kernel().library is None, reason="no C++ compiler and no kernel"),
]


ATTRIBUTES = [
    task_of("cross_entropy", "who", role="discriminator", hidden=(5,)),
    task_of("mse", "gone", role="adversarial", missing="replace"),
]


def varied_runs(count=9):
    runs = []
    for i in range(count):
        fit = {"lr": 10 ** (-2 - i % 3), "epochs": 3 + i % 4, "patience": i % 3, "monitor": ("loss", "score")[i % 2]}
        fit["weighting"] = ("fixed", "druw", "rruw")[i % 3]
        trunk = Trunk((12, 10), dropout=(0.0, 0.5, 0.2)[i % 3])
        tasks = [*MANY, *([], ATTRIBUTES)[i % 2]]
        runs.append(make_run(tasks, trunk, seed=i, dtype="float32", restore_best=True, **fit))
    return runs


def same(a, b):
    assert (a.key, a.status, a.epochs, a.best_epoch) == (b.key, b.status, b.epochs, b.best_epoch)
    assert all(np.array_equal(a.head.state[n], b.head.state[n], equal_nan=True) for n in a.head.state)
    assert all(np.array_equal(x.value, y.value, equal_nan=True) for x, y in zip(a.rows, b.rows, strict=True))


def test_a_result_depends_on_its_run_alone():
    vectors, runs = make_vectors(n=150, missing=0.2), varied_runs()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(train_heads(runs, vectors))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    found.append(train_heads(runs[::-1], vectors)[::-1])
    found.append([train_heads([run], vectors)[0] for run in runs])
    assert len({result.epochs for result in found[0]}) > 2  # some stop early
    for results in found[1:]:
        for a, b in zip(found[0], results, strict=True):
            same(a, b)


@pytest.mark.timeout(60)
def test_an_error_ends_what_is_under_way():
    class Enough(Exception):
        pass

    def fail(results):
        raise Enough

    short, endless = make_run(MANY), make_run(MANY, epochs=10**7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(Enough):
            train_heads([short, endless], make_vectors(), on_results=fail)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dtype", "optimizer", "lr"), [("float32", "sgd", 1e30), ("float64", "sgd", 1e200), ("float32", "adam", 1e38)]
)
def test_a_run_that_diverges_is_said_so(dtype, optimizer, lr):
    runs = [make_run([task_of("mse")], Trunk((5,), norm="none"), dtype=dtype, lr=r, epochs=9, optimizer=optimizer)
            for r in (1e-3, lr)]  # fmt: skip
    good, bad = train_heads(runs, make_vectors())
    assert (good.status, bad.status) == ("ok", "diverged")
    assert all(math.isnan(row.value) for row in bad.rows) and bad.epochs < 9


def test_what_is_outside_the_family_is_trained_by_torch_and_says_so(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "mine", lambda x: x.clamp(-1, 1))
    vectors = make_vectors()
    (result,) = train_heads([make_run(MANY, Trunk((5,), activation="mine"))], vectors)
    assert result.status == "ok" and "'mine'" in result.notes[0] and "torch" in result.notes[0]
    # A known name with another meaning is not the kernel's either.
    monkeypatch.setitem(ACTIVATIONS, "relu", lambda x: x.clamp_min(0.1))
    assert "'relu'" in explain_outside(make_run(MANY, Trunk((5,), activation="relu")))
    monkeypatch.setitem(LOSSES, "mse", replace(LOSSES["mse"], function=lambda p, t, w: (p - t).pow(4).sum((1, 2))))
    assert "'mse'" in explain_outside(make_run(MANY))


def test_a_setting_the_kernel_has_never_heard_of_is_outside():
    @dataclass(frozen=True)
    class NewFit(Fit):
        noise: float = 0.0

    run = make_run(MANY)
    assert explain_outside(replace(run, fit=NewFit())) == ""
    assert "fit.noise" in explain_outside(replace(run, fit=NewFit(noise=0.1)))


def test_without_the_kernel_torch_trains_and_the_key_is_the_same(monkeypatch):
    ours, theirs = both(make_run(MANY), make_vectors(), monkeypatch)
    assert ours.key == theirs.key and ours.notes == theirs.notes == ()
    kernel = find_kernel()
    assert kernel.library is None and "VBX_KERNEL" in kernel.missing


def test_dry_run_and_doctor_name_the_engine(monkeypatch):
    from vbx.commands.health import _kernel

    live = find_kernel().path
    assert name_engines([make_run(MANY)], "cpu") == f"native {live}"
    assert _kernel()["state"] == "ok" and live in _kernel()["detail"]
    monkeypatch.setitem(ACTIVATIONS, "mine", torch.sign)
    runs = [make_run(MANY), make_run(MANY, Trunk((5,), activation="mine"))]
    assert name_engines(runs, "cpu") == f"native {live} and torch (it does not know the activation 'mine')"
    monkeypatch.setenv("VBX_KERNEL", "none")
    assert name_engines(runs, "cpu").startswith("torch")
    assert _kernel()["state"] == "absent" and "torch trains" in _kernel()["detail"]


def test_a_path_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("VBX_KERNEL", "avx9")
    with pytest.raises(DeviceError, match="'avx9'"):
        train_heads([make_run(MANY)], make_vectors())
