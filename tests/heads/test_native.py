"""The native kernel against a plain PyTorch loop over the whole family of heads, against torch's engine, and alone."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vbx.cache.vectors import Vectors
from vbx.errors import DeviceError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.data import Split, make_ready, make_split
from vbx.heads.draws import draw_order
from vbx.heads.engine import name_engines
from vbx.heads.losses import LOSSES
from vbx.heads.model import forward, make_model, view_weights
from vbx.heads.native import NativeRun, build, explain_outside, find_kernel, predict_native
from vbx.heads.native.build import build_kernel, find_compiler
from vbx.heads.objective import task_losses, total_loss
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.stack import start_stack
from vbx.heads.training import train_heads

pytestmark = pytest.mark.skipif(
    not find_compiler() and find_kernel().library is None, reason="no C++ compiler and no kernel"
)

NUMBERS = ("a", "b", "c")


@pytest.fixture(autouse=True, scope="module")
def kernel():
    """Built from the sources as they are now."""
    libraries, trouble = build_kernel()
    assert not trouble and libraries
    find_kernel.__globals__["_find"].cache_clear()
    assert find_kernel().library is not None


def make_vectors(n=61, dim=9, missing=0.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, dim)) * 3 + 1
    signal = x @ random.standard_normal((dim, 4)) / (2 * dim**0.5)
    frame = pd.DataFrame({"split": np.resize(["train", "train", "dev", "test"], n)})
    frame["kind"] = np.array(["p", "q", "r"])[np.digitize(signal[:, 0], [-0.5, 0.5])]
    for k, name in enumerate(NUMBERS):
        frame[name] = 1 / (1 + np.exp(-signal[:, 1 + k]))
    for name in ("kind", *NUMBERS):
        frame[name] = frame[name].astype(object).where(random.random(n) >= missing, None)
    return Vectors.from_arrays(x, frame)


def task_of(loss, name="t", **more):
    if LOSSES[loss].kind == "classification":
        return Task(name, ("kind",), loss, ("uar",), class_weights="inverse", **more)
    return Task(name, NUMBERS, loss, ("ccc",), output="sigmoid" if loss == "bce" else "linear", **more)


def make_run(tasks, trunk=None, seed=3, **fit):
    plan = {"dtype": "float64", "batch_size": 8, "epochs": 1, "patience": 0, "restore_best": False, **fit}
    return Run("", "", seed, tuple(tasks), trunk or Trunk((12, 10)), Fit(**plan), fit_score(Score(), tuple(tasks)))


# A plain loop ---------------------------------------------------------------------------------------------------------

MODULES = {
    "elu": nn.ELU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, run, dim, outputs):
        super().__init__()
        trunk, width = [], dim
        for wider in run.trunk.hidden:
            norm = [nn.LayerNorm(wider)] if run.trunk.norm == "layer" else []
            trunk += [nn.Linear(width, wider), *norm, MODULES[run.trunk.activation]()]
            width = wider
        self.trunk, self.branches = nn.Sequential(*trunk), nn.ModuleList()
        for task, k in zip(run.tasks, outputs, strict=True):
            layers, w = [], width
            for wider in task.hidden:
                layers, w = [*layers, nn.Linear(w, wider), MODULES[run.trunk.activation]()], wider
            final = [nn.Sigmoid()] if task.output == "sigmoid" else []
            self.branches.append(nn.Sequential(*layers, nn.Linear(w, k), *final))
        self.log_variances = nn.Parameter(torch.tensor([t.log_variance for t in run.tasks], dtype=torch.float64))

    def forward(self, x):
        return [branch(self.trunk(x)) for branch in self.branches]


def loss_of(task, out, truth, class_weights):
    """From torch.nn.functional on what is labelled."""
    if task.kind == "classification":
        there = truth >= 0
        if not there.any():
            return out.sum() * 0
        out, truth = out[there], truth[there]
        if task.loss == "cross_entropy":
            return F.cross_entropy(out, truth, weight=class_weights)
        nll, w = F.cross_entropy(out, truth, reduction="none"), class_weights[truth]
        return (w * (1 - (-nll).exp()) ** task.gamma * nll).sum() / w.sum()
    there = ~truth.isnan()
    if task.loss == "ccc":
        parts = []
        for p, t, here in zip(out.T, truth.T, there.T, strict=True):
            if here.sum() >= 2:
                p, t = p[here], t[here]
                both = p.var(unbiased=False) + t.var(unbiased=False) + (p.mean() - t.mean()) ** 2
                parts.append(1 - 2 * ((p - p.mean()) * (t - t.mean())).mean() / (both + 1e-8))
        return sum(parts) / len(parts) if parts else out.sum() * 0
    if not there.any():
        return out.sum() * 0
    plain = {"mse": F.mse_loss, "mae": F.l1_loss, "bce": F.binary_cross_entropy}[task.loss]
    return plain(out[there], truth[there])


def labels_of(run, vectors):
    """Vectors and labels of train as tensors: scaled vectors; truths, class weights and outputs of each task."""
    used = [column for task in run.tasks for column in task.columns]
    table = vectors.labels
    keep = ((table["split"] == "train") & table[used].notna().any(axis=1)).to_numpy()
    x = vectors.x[keep].astype(np.float64)
    truths, weights, outputs = [], [], []
    for task in run.tasks:
        if task.kind == "classification":
            codes = pd.Categorical(table.loc[keep, "kind"], categories=["p", "q", "r"]).codes.astype(np.int64)
            counts = np.bincount(codes[codes >= 0], minlength=3)
            weights.append(torch.tensor(counts.sum() / (3 * np.maximum(counts, 1))))
            truths.append(torch.tensor(codes))
            outputs.append(3)
        else:
            truths.append(torch.tensor(table.loc[keep, list(task.columns)].to_numpy(np.float64)))
            weights.append(None)
            outputs.append(len(task.columns))
    return torch.tensor((x - x.mean(0)) / x.std(0)), truths, weights, outputs


def plain_weights(run, vectors):
    x, truths, weights, outputs = labels_of(run, vectors)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(run.seed)
        net, fit = Net(run, x.shape[1], outputs), run.fit
    finally:
        torch.set_default_dtype(torch.float32)
    groups = [{"params": [p for n, p in net.named_parameters() if n != "log_variances"]}]
    if fit.weighting == "uncertainty":
        groups.append({"params": [net.log_variances], "lr": fit.uncertainty_lr or fit.lr})
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[fit.optimizer]
    more = {"momentum": fit.momentum} if fit.optimizer == "sgd" else {}
    optimiser = make(groups, lr=fit.lr, weight_decay=fit.weight_decay, **more)
    for epoch in range(1, fit.epochs + 1):
        for rows in draw_order(run.seed, epoch, len(x)).split(fit.batch_size):
            total = 0
            for t, (task, out) in enumerate(zip(run.tasks, net(x[rows]), strict=True)):
                loss = loss_of(task, out, truths[t][rows], weights[t])
                loss = loss * len(task.columns) if task.reduce == "sum" else loss
                s = net.log_variances[t]
                of = {"equal": lambda x: x, "fixed": lambda x, t=task: t.weight * x}
                of["uncertainty"] = lambda x, s=s: x / (2 * s.exp()) + s / 2
                total = total + of[fit.weighting](loss)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
    return [p.detach().numpy() for n, p in net.named_parameters() if n != "log_variances"]


# The family -----------------------------------------------------------------------------------------------------------


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
    (result,) = train_heads([member.run], vectors)
    assert result.notes == ()  # else torch trained it
    plain = plain_weights(member.run, vectors)
    for (name, ours), theirs in zip(result.head.state.items(), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=name)


def both(run, vectors, monkeypatch, path=None):
    """The kernel's result and torch's."""
    if path:
        monkeypatch.setenv("VBX_KERNEL", path)
    (ours,) = train_heads([run], vectors)
    monkeypatch.setenv("VBX_KERNEL", "none")
    (theirs,) = train_heads([run], vectors)
    return ours, theirs


MANY = [task_of("ccc", "ccc", hidden=(6,)), task_of("focal", "focal"), task_of("mse", "mse", hidden=(9, 4))]


@pytest.mark.parametrize("batch", [2, 8, 13])
@pytest.mark.parametrize("rate", [0.5, 0.17])
def test_dropout_drops_what_torch_drops(batch, rate, monkeypatch):
    run = make_run(MANY, Trunk((12, 150), dropout=rate), batch_size=batch, epochs=2)
    ours, theirs = both(run, make_vectors(missing=0.1), monkeypatch)
    for name in ours.head.state:
        np.testing.assert_allclose(ours.head.state[name], theirs.head.state[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("path", list(build.list_paths()))
def test_every_path_computes_the_same(path, monkeypatch):
    run = make_run(MANY, Trunk((40, 33), dropout=0.2, activation="tanh"), batch_size=20, epochs=2)
    try:
        ours, theirs = both(run, make_vectors(dim=200), monkeypatch, path)
    except DeviceError as error:
        pytest.skip(str(error))
    for name in ours.head.state:
        np.testing.assert_allclose(ours.head.state[name], theirs.head.state[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("path", list(build.list_paths()))
def test_float32_agrees_in_metrics(path, activation, monkeypatch):
    trunk = Trunk((32, 16), activation=activation)
    run = make_run(MANY, trunk, dtype="float32", epochs=5, patience=3, restore_best=True, lr=3e-3)
    try:
        ours, theirs = both(run, make_vectors(n=600, dim=20), monkeypatch, path)
    except DeviceError as error:
        pytest.skip(str(error))
    assert ours.key == theirs.key and ours.epochs == theirs.epochs and ours.best_epoch == theirs.best_epoch
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        assert (a.split, a.task, a.column, a.metric, a.n) == (b.split, b.task, b.column, b.metric, b.n)
        assert a.value == pytest.approx(b.value, abs=0.02)
    score = [row.value for row in ours.rows if row.task == "score"]
    assert min(score) > 0.4  # it has learnt something


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations_are_as_exact_near_0_as_far_from_it(activation, dtype):
    # A head that only applies its activation: every weight matrix is the unit matrix.
    random = np.random.default_rng(0)
    x = random.standard_normal((4000, 3)) * 10.0 ** random.uniform(-9, 3, (4000, 3))
    x[:8] = np.array([0.0, -0.0, 88, -88, 1e4, -1e4, np.inf, -np.inf])[:, None]
    trunk = Trunk((3,), norm="none", activation=activation)
    run = make_run([task_of("mse")], trunk, dtype=dtype)
    model = make_model(run, 3, {})
    numbers = torch.zeros(1, model.size, dtype=getattr(torch, dtype))
    for view in view_weights(model, numbers).values():
        if view.shape[1:] == (32, 32):
            view[0].fill_diagonal_(1.0)
    given = torch.zeros(len(x), 32, dtype=numbers.dtype)
    given[:, :3] = torch.from_numpy(x)
    (ours,) = predict_native(find_kernel(), model, numbers, Split("test", np.arange(len(x)), given, (), ()))
    expected = ACTIVATIONS[activation](given[:, :3].double())
    exact = torch.finfo(numbers.dtype)
    # A value below 0 of gelu or silu is a difference of like numbers; torch's own float32 is no nearer.
    loose = 1e-6 if activation in ("gelu", "silu") and dtype == "float32" else exact.tiny * 4
    torch.testing.assert_close(ours[0].double()[:6], expected[:6], rtol=8 * exact.eps, atol=max(loose, 1e-30))
    torch.testing.assert_close(ours[0].double()[8:], expected[8:], rtol=8 * exact.eps, atol=max(loose, 1e-30))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_slopes_of_the_loss(loss):
    # One step of plain descent over all of train moves the weights by the gradient; the loss is torch's.
    vectors = make_vectors(missing=0.3)
    run = make_run([task_of(loss, hidden=(4,))], Trunk((5,), activation="tanh"), optimizer="sgd", lr=1.0, batch_size=99)
    ready = make_ready(run, vectors)
    train = make_split(ready, run, vectors, "train", torch.device("cpu"))
    model = make_model(run, vectors.x.shape[1], ready.classes)
    stack = start_stack(model, [run], torch.device("cpu"))
    start = stack.moving.numbers.clone()
    with NativeRun(find_kernel(), model, train) as native:
        native.train_epoch(model, stack, train, 1)
    gradient = (start - stack.moving.numbers)[0]

    def loss_at(numbers):
        outputs = forward(model, view_weights(model, numbers), train.x.unsqueeze(0))
        truth, weight = [t.unsqueeze(0) for t in train.truth], [w.unsqueeze(0) for w in train.weight]
        return float(total_loss(model, {}, stack.task_weights, task_losses(model, outputs, truth, weight)))

    random = np.random.default_rng(1)
    places = random.choice(np.flatnonzero(start[0].numpy()), 40, replace=False)
    assert (gradient[places] != 0).sum() > 20
    for place in places:
        step = torch.zeros_like(start)
        step[0, place] = 1e-6
        slope = (loss_at(start + step) - loss_at(start - step)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-7)


def varied_runs(count=9):
    runs = []
    for i in range(count):
        fit = {"lr": 10 ** (-2 - i % 3), "epochs": 3 + i % 4, "patience": i % 3, "monitor": ("loss", "score")[i % 2]}
        trunk = Trunk((12, 10), dropout=(0.0, 0.5, 0.2)[i % 3])
        runs.append(make_run(MANY, trunk, seed=i, dtype="float32", restore_best=True, **fit))
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


def test_without_a_compiler_building_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    libraries, trouble = build_kernel(tmp_path)
    assert libraries == [] and "no C++ compiler" in trouble


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    bad = tmp_path / "badc++"
    bad.write_text("#!/bin/sh\necho 'cannot do that' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    libraries, trouble = build_kernel(tmp_path)
    assert libraries == [] and "cannot do that" in trouble and not list(tmp_path.glob("*.so"))


def test_other_sources_give_another_library(tmp_path, monkeypatch):
    before = build.library_of("portable")
    (tmp_path / "interface.cpp").write_text("int x;")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert build.library_of("portable") != before
