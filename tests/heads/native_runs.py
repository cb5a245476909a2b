"""Runs and vectors for tests of the native kernel, and what its weights must equal."""

import numpy as np
import pandas as pd

from tests.heads.plain_loop import train_plainly
from vbx.cache.vectors import Vectors
from vbx.heads.losses import LOSSES
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.training import train_heads

NUMBERS = ("a", "b", "c")


def make_vectors(n=61, dim=9, missing=0.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, dim)) * 3 + 1
    signal = x @ random.standard_normal((dim, 5)) / (2 * dim**0.5)
    frame = pd.DataFrame({"split": np.resize(["train", "train", "dev", "test"], n)})
    frame["kind"] = np.array(["p", "q", "r"])[np.digitize(signal[:, 0], [-0.5, 0.5])]
    frame["who"] = np.array(list("stuv"))[np.digitize(signal[:, 4], [-0.7, 0.0, 0.7])]
    for k, name in enumerate(NUMBERS):
        frame[name] = 1 / (1 + np.exp(-signal[:, 1 + k]))
    for name in ("kind", "who", *NUMBERS):
        frame[name] = frame[name].astype(object).where(random.random(n) >= missing, None)
    return Vectors.from_arrays(x, frame)


def task_of(loss, name="t", **more):
    if LOSSES[loss].kind == "classification":
        columns = ("who",) if name == "who" else ("kind",)
        return Task(name, columns, loss, ("uar",), class_weights="inverse", **more)
    return Task(name, NUMBERS, loss, ("ccc",), output="sigmoid" if loss == "bce" else "linear", **more)


def make_run(tasks, trunk=None, seed=3, **fit):
    plan = {"dtype": "float64", "batch_size": 8, "epochs": 1, "patience": 0, "restore_best": False, **fit}
    return Run("", "", seed, tuple(tasks), trunk or Trunk((12, 10)), Fit(**plan), fit_score(Score(), tuple(tasks)))


MANY = [task_of("ccc", "ccc", hidden=(6,)), task_of("focal", "focal"), task_of("mse", "mse", hidden=(9, 4))]


def same_as_plain_loop(run, vectors, tolerance=1e-12):
    """Train with the kernel and plainly; weights must agree."""
    (result,) = train_heads([run], vectors)
    assert result.notes == ()  # else torch trained it
    net, _ = train_plainly(run, vectors)
    plain = [p.detach().numpy() for part in (net.trunk, net.branches, net.discriminators) for p in part.parameters()]
    assert len(plain) == len(result.head.state)
    for (name, ours), theirs in zip(result.head.state.items(), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=name)
    return result


def both(run, vectors, monkeypatch, path=None):
    """The kernel's result and torch's."""
    if path:
        monkeypatch.setenv("VBX_KERNEL", path)
    (ours,) = train_heads([run], vectors)
    monkeypatch.setenv("VBX_KERNEL", "none")
    (theirs,) = train_heads([run], vectors)
    return ours, theirs
