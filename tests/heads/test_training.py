"""Training against a plain PyTorch loop, and what a run may not depend on."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError, DeviceError, RecipeError, UnknownName
from vbx.heads.draws import draw_order
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.training import each_stack, train_heads


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def engine(request, monkeypatch):
    """All of this holds whichever engine trains; without a kernel both are torch."""
    if request.param == "torch":
        monkeypatch.setenv("VBX_KERNEL", "none")


EMOTION = Task("emotion", ("awe", "fear", "joy"), "mse", ("ccc",), hidden=(6,), output="sigmoid", weight=0.7)
COUNTRY = Task("country", ("country",), "cross_entropy", ("uar", "accuracy"), hidden=(5,), weight=1.3)
AGE = Task("age", ("age",), "mse", ("ccc", "mae", "inverse_mae"), hidden=(7, 4), weight=0.1)


def make_vectors(n=61, dim=9, missing=0.0, seed=0, splits=("train", "train", "dev", "test")):
    """Vectors that say something about their labels, from a few speakers."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, dim)).astype(np.float32) * 3 + 1
    signal = x @ random.standard_normal((dim, 5)) / 6
    labels = {
        "split": np.resize(splits, n),
        "speaker": [f"s{i % 7}" for i in range(n)],
        "country": np.array(["cn", "us", "za"])[np.digitize(signal[:, 0], [-0.5, 0.5])],
        "age": 30 + 5 * signal[:, 1],
    }
    for k, name in enumerate(EMOTION.columns):
        labels[name] = 1 / (1 + np.exp(-signal[:, 2 + k]))
    frame = pd.DataFrame(labels)
    for name in ("country", "age", *EMOTION.columns):
        frame[name] = frame[name].astype(object).where(random.random(n) >= missing, None)
    return Vectors.from_arrays(x, frame)


def make_run(tasks=(EMOTION, COUNTRY, AGE), trunk=None, seed=1, score=None, **fit):
    tasks = tuple(tasks)
    fit = Fit(**{"dtype": "float64", "batch_size": 8, "epochs": 1, "patience": 0, "restore_best": False, **fit})
    trunk = trunk or Trunk(hidden=(12, 10))
    return Run("", "", seed, tasks, trunk, fit, fit_score(score or Score(), tasks))


class Plain(nn.Module):
    """The usual way to write such a head."""

    def __init__(self, run, dim, outputs):
        super().__init__()
        self.trunk, self.heads, width = nn.ModuleList(), nn.ModuleList(), dim
        for wider in run.trunk.hidden:
            layers = [nn.Linear(width, wider)]
            layers += [nn.LayerNorm(wider)] if run.trunk.norm == "layer" else []
            self.trunk.append(nn.Sequential(*layers, self.activation(run)))
            width = wider
        for task, k in zip(run.tasks, outputs, strict=True):
            layers, w = [], width
            for wider in task.hidden:
                layers += [nn.Linear(w, wider), self.activation(run)]
                w = wider
            layers += [nn.Linear(w, k)] + ([nn.Sigmoid()] if task.output == "sigmoid" else [])
            self.heads.append(nn.Sequential(*layers))
        self.s = nn.Parameter(torch.tensor([task.log_variance for task in run.tasks]))

    @staticmethod
    def activation(run):
        return {"leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[run.trunk.activation]()

    def forward(self, x):
        for layer in self.trunk:
            x = layer(x)
        return [head(x) for head in self.heads]


def plain_loss(task, out, truth, class_weights):
    """A task's loss from `torch.nn.functional`, on what is labelled; 0, not absent, where nothing is."""
    nothing = 0 * out.sum()
    if task.kind == "classification":
        there = truth >= 0
        if not there.any():
            return nothing
        if task.loss == "focal":
            logp = out[there].log_softmax(1)[torch.arange(int(there.sum())), truth[there]]
            w = class_weights[truth[there]]
            return (w * -((1 - logp.exp()) ** task.gamma) * logp).sum() / w.sum()
        return nn.functional.cross_entropy(out[there], truth[there], weight=class_weights)
    there = ~truth.isnan()
    if task.loss == "ccc":
        columns = []
        for k in range(truth.shape[1]):
            p, t = out[there[:, k], k], truth[there[:, k], k]
            if len(t) >= 2:
                cov = ((p - p.mean()) * (t - t.mean())).mean()
                spread = p.var(unbiased=False) + t.var(unbiased=False) + (p.mean() - t.mean()) ** 2
                columns.append(1 - 2 * cov / (spread + 1e-8))
        return torch.stack(columns).mean() if columns else nothing
    if not there.any():
        return nothing
    functions = {"mse": nn.functional.mse_loss, "mae": nn.functional.l1_loss, "bce": nn.functional.binary_cross_entropy}
    return functions[task.loss](out[there], truth[there])


def plain_weights(run, vectors):
    """Train one run in a plain loop with torch.optim, on scaled float64 vectors; its weights in order."""
    torch.set_default_dtype(torch.float64)
    try:
        labels = vectors.labels
        used = [c for task in run.tasks for c in task.columns]
        keep = ((labels["split"] == "train") & labels[used].notna().any(axis=1)).to_numpy()
        x = vectors.x[keep].astype(np.float64)
        x = torch.from_numpy((x - x.mean(0)) / x.std(0))
        truths, class_weights, outputs = [], [], []
        for task in run.tasks:
            if task.kind == "classification":
                classes = vectors.schema[task.columns[0]].classes
                index = {c: i for i, c in enumerate(classes)}
                values = [index.get(c, -1) for c in labels.loc[keep, task.columns[0]]]
                truths.append(torch.tensor(values))
                counts = torch.bincount(truths[-1][truths[-1] >= 0], minlength=len(classes))
                inverse = counts.sum() / (len(classes) * counts.clamp_min(1))
                class_weights.append(inverse if task.class_weights == "inverse" else torch.ones(len(classes)))
                outputs.append(len(classes))
            else:
                truths.append(torch.from_numpy(labels.loc[keep, list(task.columns)].to_numpy(np.float64, copy=True)))
                class_weights.append(None)
                outputs.append(len(task.columns))
        torch.manual_seed(run.seed)
        net, fit = Plain(run, x.shape[1], outputs), run.fit
        groups = [{"params": [p for n, p in net.named_parameters() if n != "s"]}]
        if fit.weighting == "uncertainty":
            groups.append({"params": [net.s], "lr": fit.uncertainty_lr or fit.lr})
        make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(fit.optimizer)
        options = {"lr": fit.lr, "weight_decay": fit.weight_decay}
        optimizer = make(groups, **options) if make else torch.optim.SGD(groups, momentum=fit.momentum, **options)
        for epoch in range(1, fit.epochs + 1):
            for rows in draw_order(run.seed, epoch, len(x)).split(fit.batch_size):
                total = torch.zeros(())
                for t, (task, out) in enumerate(zip(run.tasks, net(x[rows]), strict=True)):
                    loss = plain_loss(task, out, truths[t][rows], class_weights[t])
                    loss = loss * len(task.columns) if task.reduce == "sum" else loss
                    if fit.weighting == "uncertainty":
                        total = total + loss / (2 * net.s[t].exp()) + net.s[t] / 2
                    else:
                        total = total + loss * (task.weight if fit.weighting == "fixed" else 1.0)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
        return [p.detach().numpy() for n, p in net.named_parameters() if n != "s"]
    finally:
        torch.set_default_dtype(torch.float32)


def with_loss(loss, **more):
    if loss in ("cross_entropy", "focal"):
        return (Task("country", ("country",), loss, ("uar",), hidden=(5,), **more),)
    output = "sigmoid" if loss == "bce" else "linear"
    return (Task("emotion", EMOTION.columns, loss, ("ccc",), hidden=(6,), output=output, **more),)


CASES = {
    "adam": make_run(optimizer="adam", weight_decay=1e-2, epochs=3),
    "adamw": make_run(optimizer="adamw", weight_decay=0.3, epochs=3),
    "sgd": make_run(optimizer="sgd", momentum=0.9, weight_decay=1e-2, lr=0.01, epochs=3),
    "equal": make_run(weighting="equal"),
    "uncertainty": make_run(weighting="uncertainty", weight_decay=1e-2, epochs=3),
    "uncertainty lr": make_run(weighting="uncertainty", uncertainty_lr=0.1, epochs=2),
    "log variance": make_run([Task("age", ("age",), "mse", ("ccc",), log_variance=-0.34)], weighting="uncertainty"),
    "no norm": make_run(trunk=Trunk((12,), norm="none", activation="gelu")),
    "no trunk": make_run(trunk=Trunk(())),
    "widths in order": make_run(trunk=Trunk((7, 33, 12, 40), activation="tanh")),
    "mae": make_run(with_loss("mae")),
    "ccc": make_run(with_loss("ccc")),
    "bce": make_run(with_loss("bce")),
    "sum": make_run(with_loss("mse", reduce="sum")),
    "inverse": make_run(with_loss("cross_entropy", class_weights="inverse")),
    "focal": make_run(with_loss("focal", gamma=2.5, class_weights="inverse")),
    "batch of 1": make_run(batch_size=1),
    "one batch": make_run(batch_size=1000, epochs=3),
}


@pytest.mark.parametrize("missing", [0.0, 0.4], ids=["labelled", "masked"])
@pytest.mark.parametrize("name", CASES)
def test_run_equals_plain_torch(name, missing):
    run, vectors = CASES[name], make_vectors(missing=missing)
    (result,) = train_heads([run], vectors)
    ours = list(result.head.state.values())
    plain = plain_weights(run, vectors)
    assert [w.shape for w in ours] == [w.shape for w in plain]
    for name_, a, b in zip(result.head.state, ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12, err_msg=name_)


def scores(result, split="test"):
    return {(r.task, r.column, r.metric): r.value for r in result.rows if r.split == split}


def same_result(a, b):
    """Bit for bit the same weights, epochs and metrics."""
    assert (a.key, a.status, a.epochs, a.best_epoch) == (b.key, b.status, b.epochs, b.best_epoch)
    assert all(np.array_equal(a.head.state[n], b.head.state[n], equal_nan=True) for n in a.head.state)
    for ours, theirs in zip(a.rows, b.rows, strict=True):
        assert np.array_equal(ours.value, theirs.value, equal_nan=True)
        if ours.replicates is not None:
            assert np.array_equal(ours.replicates, theirs.replicates, equal_nan=True)


def varied_runs(count=9, **more):
    """Runs of one shape that differ in all that may differ within it."""
    runs = []
    for i in range(count):
        tasks = (EMOTION, COUNTRY, replace(AGE, weight=0.1 * i, loss="ccc"))
        fit = {"lr": 10 ** (-2 - i % 3), "weight_decay": 0.05 * i, "epochs": 3 + i % 4, "patience": i % 3}
        fit |= {"restore_best": i % 2 == 0, "monitor": ("loss", "score")[i % 2], "optimizer": "adamw", **more}
        trunk = Trunk((12, 10), dropout=(0.0, 0.5, 0.2)[i % 3])
        runs.append(make_run(tasks, trunk, seed=i, dtype="float32", **fit))
    return runs


def test_a_result_is_bit_for_bit_the_same_in_whatever_stack():
    vectors, runs = make_vectors(missing=0.2), varied_runs()
    together = train_heads(runs, vectors)
    assert len({r.epochs for r in together}) > 2  # runs leave the stack one after the other
    for size in (1, 2, 4):
        for a, b in zip(train_heads(runs, vectors, max_stack=size), together, strict=True):
            same_result(a, b)
    for a, b in zip(train_heads(runs[::-1], vectors)[::-1], together, strict=True):
        same_result(a, b)


def test_a_result_does_not_depend_on_threads_or_the_global_seed():
    vectors, runs = make_vectors(), varied_runs(3)
    first = train_heads(runs, vectors)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.manual_seed(99)
        again = train_heads(runs, vectors)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    for a, b in zip(first, again, strict=True):
        same_result(a, b)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", ["mse", "ccc"])
def test_a_run_that_diverges_is_said_so_and_harms_no_neighbour(loss):
    vectors = make_vectors()
    tasks = (replace(AGE, loss=loss), COUNTRY)
    bad = make_run(tasks, Trunk((12,), norm="none"), lr=1e200, epochs=4, optimizer="sgd", seed=5)
    good = [make_run(tasks, Trunk((12,), norm="none"), lr=1e-3, epochs=4, optimizer="sgd", seed=s) for s in (1, 2)]
    first, diverged, second = train_heads([good[0], bad, good[1]], vectors)
    assert (diverged.status, first.status, second.status) == ("diverged", "ok", "ok")
    assert len(diverged.rows) == len(first.rows) and all(math.isnan(r.value) for r in diverged.rows)
    assert all(np.isnan(r.replicates).all() for r in diverged.rows if r.replicates is not None)
    assert [r.n for r in diverged.rows] == [r.n for r in first.rows]
    for a, b in zip((first, second), train_heads(good, vectors), strict=True):
        same_result(a, b)


@pytest.mark.parametrize("monitor", ["loss", "score"])
def test_d3_nothing_before_the_end_looks_at_test_labels(monitor):
    vectors = make_vectors(n=120)
    runs = [make_run(seed=s, epochs=8, patience=2, monitor=monitor, restore_best=True, lr=0.02) for s in (1, 2, 3)]
    labels, test = vectors.labels.copy(), (vectors.labels["split"] == "test").to_numpy()
    for column in ("country", "age", *EMOTION.columns):
        labels.loc[test, column] = labels.loc[test, column].to_numpy()[::-1]
    shuffled = Vectors.from_arrays(vectors.x, labels)
    for a, b in zip(train_heads(runs, vectors), train_heads(runs, shuffled), strict=True):
        assert all(np.array_equal(a.head.state[n], b.head.state[n]) for n in a.head.state)
        assert (a.epochs, a.best_epoch) == (b.epochs, b.best_epoch)
        assert scores(a, "dev") == scores(b, "dev")
        assert scores(a) != scores(b)


def test_the_best_epoch_on_dev_is_kept():
    vectors = make_vectors(n=120)
    plan = {"epochs": 12, "lr": 0.05, "optimizer": "adamw", "monitor": "score"}
    (best,) = train_heads([make_run(restore_best=True, **plan)], vectors)
    assert 1 <= best.best_epoch < best.epochs == 12
    (stopped,) = train_heads([make_run(**{**plan, "epochs": best.best_epoch})], vectors)
    assert all(np.array_equal(best.head.state[n], stopped.head.state[n]) for n in best.head.state)
    (last,) = train_heads([make_run(**plan)], vectors)
    assert last.best_epoch == 12
    assert scores(last, "dev")["score", "", "hmean"] < scores(best, "dev")["score", "", "hmean"]
    (patient,) = train_heads([make_run(restore_best=True, patience=3, **plan)], vectors)
    assert patient.epochs <= min(12, patient.best_epoch + 3)


def test_without_a_dev_split_the_last_epoch_counts_and_that_is_said():
    vectors = make_vectors(splits=("train", "train", "test"))
    (result,) = train_heads([make_run(epochs=4, patience=1, restore_best=True, min_delta=100.0)], vectors)
    assert (result.epochs, result.best_epoch) == (4, 4)
    assert "no dev split" in result.notes[0] and {r.split for r in result.rows} == {"test"}
    (with_dev,) = train_heads([make_run(epochs=4, patience=1, restore_best=True, min_delta=100.0)], make_vectors())
    assert (with_dev.epochs, with_dev.best_epoch, with_dev.notes) == (2, 1, ())


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_d8_every_utterance_with_a_vector_and_a_label_is_evaluated(missing):
    vectors = make_vectors(n=97, missing=missing)
    (result,) = train_heads([make_run()], vectors)
    for split in ("dev", "test"):
        labels = vectors.labels[vectors.labels["split"] == split]
        n = {(r.task, r.column, r.metric): r.n for r in result.rows if r.split == split}
        assert n["country", "", "uar"] == labels["country"].notna().sum()
        assert n["age", "", "mae"] == labels["age"].notna().sum()
        assert n["emotion", "fear", "ccc"] == labels["fear"].notna().sum()
        assert n["emotion", "", "ccc"] == labels[list(EMOTION.columns)].notna().any(axis=1).sum()
        used = ["country", "age", *EMOTION.columns]
        assert n["score", "", "hmean"] == labels[used].notna().any(axis=1).sum()


def test_d5_runs_of_another_feature_are_refused():
    vectors = make_vectors()
    named = replace(vectors, feature="compare")
    run = make_run()
    with pytest.raises(CacheError, match="'egemaps'"):
        train_heads([replace(run, feature="egemaps")], named)
    both = [replace(run, feature=f) for f in ("egemaps", "compare")]
    for v in (named, vectors):
        with pytest.raises(CacheError, match="compare"):
            train_heads(both, v)
    (result,) = train_heads([replace(run, feature="compare")], named)
    assert result.head.feature == "compare" and result.head.state["trunk.0.weight"].shape[1] == len(named.x[0])


def test_rows_of_a_result():
    vectors = make_vectors(n=200)
    (result,) = train_heads([make_run(epochs=3)], vectors)
    test = scores(result)
    emotions = [test["emotion", c, "ccc"] for c in EMOTION.columns]
    assert test["emotion", "", "ccc"] == pytest.approx(np.mean(emotions), abs=1e-15)
    parts = test["emotion", "", "ccc"], test["country", "", "uar"], test["age", "", "ccc"]
    expected = 3 / sum(1 / p for p in parts) if min(parts) > 0 else 0.0
    assert test["score", "", "hmean"] == pytest.approx(expected)
    assert test["age", "", "inverse_mae"] == pytest.approx(1 / test["age", "", "mae"])
    for row in result.rows:
        assert (row.replicates is None) == (row.column != "")
        if row.replicates is not None and row.metric in ("mae", "accuracy", "uar"):
            assert row.replicates.shape == (1000 + 7,) and row.replicates.dtype == np.float32
            assert row.replicates.min() <= row.value <= row.replicates.max()
    assert result.seconds > 0 and result.key == result.run.key_on(vectors)


def test_targets_may_be_standardised_and_keep_their_unit():
    vectors = make_vectors(n=300)
    mean = np.abs(vectors.labels["age"] - vectors.labels["age"].mean()).mean()
    plan = {"epochs": 5, "lr": 3e-3, "optimizer": "adamw"}
    (scaled,) = train_heads([make_run([replace(AGE, loss="ccc")], scale_targets=True, **plan)], vectors)
    (raw,) = train_heads([make_run([replace(AGE, loss="ccc")], **plan)], vectors)
    assert scores(scaled)["age", "", "mae"] < mean < 10 < scores(raw)["age", "", "mae"]


def test_what_does_not_fit_is_refused():
    vectors = make_vectors()
    with pytest.raises(RecipeError, match="no run"):
        train_heads([], vectors)
    with pytest.raises(DeviceError, match="tpu"):
        train_heads([make_run()], vectors, device="tpu")
    with pytest.raises(DeviceError, match="cuda:99"):
        train_heads([make_run()], vectors, device="cuda:99")
    with pytest.raises(UnknownName, match="'age'"):
        train_heads([make_run([replace(AGE, columns=("aeg",))])], vectors)
    with pytest.raises(RecipeError, match="--label age:class"):
        train_heads([make_run([replace(COUNTRY, columns=("age",))])], vectors)
    with pytest.raises(RecipeError, match="'bce'"):
        train_heads([make_run([replace(AGE, loss="bce", output="sigmoid")])], vectors)
    for labels in (vectors.labels.drop(columns="split"), vectors.labels.assign(split="test")):
        with pytest.raises(RecipeError, match="train"):
            train_heads([make_run()], Vectors.from_arrays(vectors.x, labels))


def test_results_are_handed_over_stack_by_stack():
    runs, seen, vectors = varied_runs(5), [], make_vectors()

    class Stop(Exception):
        pass

    def stop(results):
        seen.append(len(results))
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        train_heads(runs, vectors, max_stack=2, on_results=stop)
    assert seen in ([2, 2], [1, 1])  # the kernel hands over run by run
    handed = []
    results = train_heads(runs, vectors, max_stack=2, on_results=handed.extend)
    assert [r.run for r in results] == runs
    assert sorted(handed, key=lambda r: r.run.seed) == results


def test_only_runs_that_are_claimed_are_trained():
    runs, asked = varied_runs(6), []

    def claim(stack):
        asked.extend(stack)
        return [run for run in stack if run.seed % 3]

    trained = [r.run for done in each_stack(runs, make_vectors(), max_stack=2, claim=claim) for r in done]
    assert asked == runs and sorted(trained, key=lambda run: run.seed) == [runs[i] for i in (1, 2, 4, 5)]


class Count:
    """Progress that is whole at the end."""

    total = done = 0.0

    def start(self, what, total, unit):
        self.total = total

    def advance(self, amount=1.0, note=""):
        self.done += amount

    def finish(self):
        assert self.done == self.total


def test_progress_counts_every_epoch_once():
    runs, count = varied_runs(), Count()
    train_heads(runs, make_vectors(), max_stack=4, progress=count)
    assert count.total == sum(run.fit.epochs for run in runs) == count.done
