"""Training against a plain PyTorch loop, and what a run may not depend on."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from vbx.cache.vectors import Vectors
from vbx.heads.draws import draw_order
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.training import train_heads

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
