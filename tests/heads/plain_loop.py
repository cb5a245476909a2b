"""Heads with roles as people write them in PyTorch: modules, a gradient reversal, two optimisers, formulas as printed.

It shares with vbx the order of utterances, which is drawn, and no arithmetic.
"""

import math

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from vbx.heads.draws import draw_order

MODULES = {
    "elu": nn.ELU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Reversal(torch.autograd.Function):
    """The gradient reversal layer of Ganin et al."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.scale * gradient, None


class Net(nn.Module):
    def __init__(self, run, dim, outputs):
        super().__init__()
        self.run, trunk, width = run, [], dim
        for wider in run.trunk.hidden:
            norm = [nn.LayerNorm(wider)] if run.trunk.norm == "layer" else []
            trunk += [nn.Linear(width, wider), *norm, MODULES[run.trunk.activation]()]
            width = wider
        self.trunk, self.branches, self.discriminators = nn.Sequential(*trunk), nn.ModuleDict(), nn.ModuleDict()
        for task in run.tasks:
            if task.role != "discriminator":
                self.branches[task.name] = self.make_branch(task, width, outputs[task.name])
        said = sum(outputs[task.name] for task in run.tasks if task.role == "main")
        for task in run.tasks:
            if task.role == "discriminator":
                self.discriminators[task.name] = self.make_branch(task, said, outputs[task.name])

    def make_branch(self, task, width, k):
        layers = []
        for wider in task.hidden:
            layers, width = [*layers, nn.Linear(width, wider), MODULES[self.run.trunk.activation]()], wider
        return nn.Sequential(*layers, nn.Linear(width, k), *([nn.Sigmoid()] if task.output == "sigmoid" else []))

    def forward(self, x, reversal):
        """Outputs of all but discriminators, and what these are told."""
        shared, out = self.trunk(x), {}
        for task in self.run.tasks:
            if task.role in ("main", "auxiliary"):
                out[task.name] = self.branches[task.name](shared)
            elif task.role == "adversarial":
                out[task.name] = self.branches[task.name](Reversal.apply(shared, reversal[task.name]))
        mains = [task for task in self.run.tasks if task.role == "main"]
        said = [F.softmax(out[t.name], 1) if t.kind == "classification" else out[t.name] for t in mains]
        return out, torch.cat(said, 1)


def loss_of(task, out, label, limits):
    """A task's loss from `torch.nn.functional` on what is labelled; `label` is (truth, class weights)."""
    truth, class_weights = label
    if task.kind == "classification":
        there = truth >= 0
        if not there.any():
            return out.sum() * 0
        if task.loss == "cross_entropy":
            return F.cross_entropy(out[there], truth[there], weight=class_weights)
        nll, w = F.cross_entropy(out[there], truth[there], reduction="none"), class_weights[truth[there]]
        return (w * (1 - (-nll).exp()) ** task.gamma * nll).sum() / w.sum()
    there = ~truth.isnan()
    if task.missing == "replace":
        guess = torch.minimum(torch.maximum(out.detach(), limits[0]), limits[1])
        truth, there = torch.where(there, truth, guess), torch.ones_like(there)
    if task.loss == "ccc":
        parts = []
        for p, t, here in zip(out.T, truth.T, there.T, strict=True):
            if here.sum() >= 2:
                p, t = p[here], t[here]
                both = p.var(unbiased=False) + t.var(unbiased=False) + (p.mean() - t.mean()) ** 2
                parts.append(1 - 2 * ((p - p.mean()) * (t - t.mean())).mean() / (both + 1e-8))
        return sum(parts) / len(parts) * (len(task.columns) if task.reduce == "sum" else 1) if parts else out.sum() * 0
    if not there.any():
        return out.sum() * 0
    plain = {"mse": F.mse_loss, "mae": F.l1_loss, "bce": F.binary_cross_entropy}[task.loss]
    return plain(out[there], truth[there]) * (len(task.columns) if task.reduce == "sum" else 1)


def read(run, vectors, scale_targets=False):
    """Scaled vectors of train; of each task its outputs, truth with class weights, and limits."""
    table = vectors.labels
    used = [column for task in run.tasks for column in task.columns]
    keep = ((table["split"] == "train") & table[used].notna().any(axis=1)).to_numpy()
    x, outputs, labels, limits = vectors.x[keep].astype(np.float64), {}, {}, {}
    for task in run.tasks:
        if task.kind == "classification":
            classes = sorted(table[task.columns[0]].dropna().unique())
            codes = torch.tensor([classes.index(c) if pd.notna(c) else -1 for c in table.loc[keep, task.columns[0]]])
            counts = torch.bincount(codes[codes >= 0], minlength=len(classes))
            weights = counts.sum() / (len(classes) * counts.clamp_min(1)).double()
            weights = weights if task.class_weights == "inverse" else torch.ones(len(classes), dtype=torch.float64)
            outputs[task.name], labels[task.name], limits[task.name] = len(classes), (codes, weights), None
        else:
            truth = table.loc[keep, list(task.columns)].to_numpy(np.float64, copy=True)
            if scale_targets and task.output == "linear":
                truth = (truth - np.nanmean(truth, 0)) / np.nanstd(truth, 0)
            ends = torch.tensor(np.stack([np.nanmin(truth, 0), np.nanmax(truth, 0)]))
            outputs[task.name], labels[task.name] = len(task.columns), (torch.tensor(truth), None)
            limits[task.name] = ends
    return torch.tensor((x - x.mean(0)) / x.std(0)), outputs, labels, limits


def alphas_at(run, epoch):
    """Parry's alpha of each attribute that has one, and Ganin's lambda of each that has that."""
    p, alphas, lambdas = (epoch - 1) / (run.fit.epochs - 1) if run.fit.epochs > 1 else 1.0, {}, {}
    for task in run.tasks:
        alpha = {"auxiliary": 0.1}.get(task.role, 0.5) if task.alpha is None else task.alpha
        if task.schedule == "ganin":
            lambdas[task.name] = (1 if task.alpha is None else task.alpha) * (2 / (1 + math.exp(-10 * p)) - 1)
        elif task.schedule == "linear" or (task.role == "adversarial" and task.schedule is None):
            alphas[task.name] = alpha * p
        elif task.role != "main":
            alphas[task.name] = alpha
    return alphas, lambdas


class Weighting(nn.Module):
    """What is made of the main tasks' losses; `before` holds those of the two steps before."""

    def __init__(self, run):
        super().__init__()
        self.run, self.before = run, []
        self.mains = [task for task in run.tasks if task.role == "main"]
        start = [t.log_variance if run.fit.weighting == "uncertainty" else 1 / len(self.mains) for t in self.mains]
        self.numbers = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, losses):
        n, kind, total = len(losses), self.run.fit.weighting, 0
        if kind in ("fixed", "equal"):
            return sum(
                (task.weight if kind == "fixed" else 1) * loss for task, loss in zip(self.mains, losses, strict=True)
            )
        if kind == "uncertainty":
            return sum(loss / (2 * s.exp()) + s / 2 for s, loss in zip(self.numbers, losses, strict=True))
        dynamic = [1.0] * n
        if kind == "druw" and len(self.before) >= 2:
            powers = [math.exp(a / b / 10) if b > 0 else math.exp(0.1) for b, a in zip(*self.before[-2:], strict=True)]
            dynamic = [n * power / sum(powers) for power in powers]
        self.before.append([loss.item() for loss in losses])
        for k, (c, loss) in enumerate(zip(self.numbers, losses, strict=True)):
            total = total + ((dynamic[k] if kind == "druw" else 0) + 1 / (n * c**2)) * loss + torch.log(1 + c**2)
        gap = 1 - sum(c.abs() for c in self.numbers)
        return total + (gap.abs() if gap.abs() > 1e-6 else 0)


@threadpool_limits.wrap(1)
def train_plainly(run, vectors, scale_targets=False):
    """A trained net and its weighting."""
    x, outputs, labels, limits = read(run, vectors, scale_targets)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(run.seed)
        net, weighting, fit = Net(run, x.shape[1], outputs), Weighting(run), run.fit
    finally:
        torch.set_default_dtype(torch.float32)
    body, others = [*net.trunk.parameters(), *net.branches.parameters()], list(net.discriminators.parameters())
    learnt = [weighting.numbers] if fit.weighting not in ("fixed", "equal") else []
    more = {"weight_decay": fit.weight_decay, **({"momentum": fit.momentum} if fit.optimizer == "sgd" else {})}
    rate = fit.lr if fit.uncertainty_lr is None else fit.uncertainty_lr
    groups = [{"params": body, "lr": fit.lr}, *([{"params": learnt, "lr": rate}] if learnt else [])]
    first = OPTIMISERS[fit.optimizer](groups, **more)
    rate = fit.lr if fit.discriminator_lr is None else fit.discriminator_lr
    second = OPTIMISERS[fit.optimizer](others, lr=rate, **more) if others else None
    for epoch in range(1, fit.epochs + 1):
        alphas, lambdas = alphas_at(run, epoch)
        n = max(len(alphas), 1)
        for rows in draw_order(run.seed, epoch, len(x)).split(fit.batch_size):
            some = {name: (truth[rows], w) for name, (truth, w) in labels.items()}
            out, said = net(x[rows], {task.name: lambdas.get(task.name, 1.0) for task in run.tasks})
            losses = {t.name: loss_of(t, out[t.name], some[t.name], limits[t.name]) for t in run.tasks if t.name in out}
            total = (1 - sum(alphas.values()) / n) * weighting([losses[t.name] for t in weighting.mains])
            own = torch.zeros(())
            for task in run.tasks:
                if task.role in ("auxiliary", "adversarial"):
                    share = 1 if task.name in lambdas else alphas[task.name] / n
                    total = total + share * task.weight * losses[task.name]
                if task.role == "discriminator":
                    branch, given = net.discriminators[task.name], (some[task.name], limits[task.name])
                    total = total - alphas[task.name] / n * task.weight * loss_of(task, branch(said), *given)
                    own = own + task.weight * loss_of(task, branch(said.detach()), *given)
            gradients = torch.autograd.grad(total, [*body, *learnt], retain_graph=True)
            owns = torch.autograd.grad(own, others) if others else ()
            for weight, gradient in zip([*body, *learnt, *others], [*gradients, *owns], strict=True):
                weight.grad = gradient
            first.step()
            if second:
                second.step()
    return net, weighting
