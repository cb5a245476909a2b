"""What runs with roles and learnt weightings minimise, against a plain loop that was written from the formulas."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.heads.plain_loop import train_plainly
from vbx.cache.vectors import Vectors
from vbx.heads.data import Split, make_ready, make_split
from vbx.heads.losses import LOSSES
from vbx.heads.model import forward, make_model, view_weights
from vbx.heads.objective import dynamic_weights, main_loss, make_shares, replace_missing, task_losses, total_loss
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.stack import start_stack
from vbx.heads.training import train_heads


@pytest.fixture(autouse=True)
def torch_trains(monkeypatch):
    """The kernel is held against the same plain loop in test_native*.py."""
    monkeypatch.setenv("VBX_KERNEL", "none")


EMOTION = Task("emotion", ("emotion",), "cross_entropy", ("uar",), hidden=(6,), class_weights="inverse", weight=0.8)
VALENCE = Task("valence", ("v",), "ccc", ("ccc",), hidden=(5,), weight=1.4)


def make_vectors(n=61, dim=9, missing=0.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, dim)) * 3 + 1
    signal = x @ random.standard_normal((dim, 6)) / (2 * dim**0.5)
    frame = pd.DataFrame({"split": np.resize(["train", "train", "dev", "test"], n)})
    for k, (name, classes) in enumerate({"emotion": "pqr", "corpus": "kl", "speaker": "abcd"}.items()):
        cuts = np.quantile(signal[:, k], np.linspace(0, 1, len(classes) + 1)[1:-1])
        frame[name] = np.array(list(classes))[np.digitize(signal[:, k], cuts)]
    for k, name in enumerate(("v", "age", "pitch")):
        frame[name] = 1 / (1 + np.exp(-signal[:, 3 + k]))
    for name in frame.columns[1:]:
        frame[name] = frame[name].astype(object).where(random.random(n) >= missing, None)
    return Vectors.from_arrays(x, frame)


def attribute(name, loss, role, **more):
    columns = {"corpus": ("corpus",), "speaker": ("speaker",), "age": ("age", "pitch")}[name]
    kind = LOSSES[loss].kind
    metrics, output = ("uar",) if kind == "classification" else ("ccc",), "sigmoid" if loss == "bce" else "linear"
    return Task(name, columns, loss, metrics, role=role, output=output, **more)


def make_run(tasks, trunk=None, seed=3, **fit):
    plan = {"dtype": "float64", "batch_size": 8, "epochs": 3, "patience": 0, "restore_best": False, "lr": 3e-3, **fit}
    tasks = tuple(tasks)
    return Run("", "", seed, tasks, trunk or Trunk((12, 10), activation="tanh"), Fit(**plan), fit_score(Score(), tasks))


def same_weights(run, vectors):
    """Train with vbx and plainly; weights must agree."""
    (result,) = train_heads([run], vectors)
    net, _ = train_plainly(run, vectors)
    plain = [p.detach().numpy() for part in (net.trunk, net.branches, net.discriminators) for p in part.parameters()]
    assert len(plain) == len(result.head.state)
    for (name, ours), theirs in zip(result.head.state.items(), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=name)
    return result


ROLES = [
    ("auxiliary", "constant"), ("auxiliary", "linear"), ("adversarial", "constant"), ("adversarial", "linear"),
    ("adversarial", "ganin"), ("discriminator", "constant"), ("discriminator", "linear"),
]  # fmt: skip
WEIGHTINGS = ("fixed", "equal", "uncertainty", "rruw", "druw")
CASES = [
    (*role, loss, WEIGHTINGS[(i + j) % 5], ("adam", "adamw", "sgd")[(i + j) % 3], 0.4 * ((i + j) % 2))
    for (i, role), (j, loss) in itertools.product(enumerate(ROLES), enumerate(LOSSES))
]


@pytest.mark.parametrize(("role", "schedule", "loss", "weighting", "optimizer", "missing"), CASES)
def test_epochs_equal_those_of_a_plain_loop(role, schedule, loss, weighting, optimizer, missing):
    name = "speaker" if LOSSES[loss].kind == "classification" else "age"
    one = attribute(name, loss, role, schedule=schedule, alpha=0.7, hidden=(7,), weight=1.3, gamma=1.5)
    fit = {"weighting": weighting, "optimizer": optimizer, "weight_decay": 0.01, "momentum": 0.9, "batch_size": 7}
    more = {"discriminator_lr": 0.01, "uncertainty_lr": 0.02}
    same_weights(make_run([EMOTION, one, VALENCE], **fit, **more), make_vectors(missing=missing))


MIXED = {
    "three of a kind": ["auxiliary"] * 3,
    "reversed": ["adversarial"] * 3,
    "judged": ["discriminator"] * 3,
    "one of each": ["discriminator", "adversarial", "auxiliary"],
}


TURNS = [(name, WEIGHTINGS[(2 * i + k) % 5], epochs) for i, name in enumerate(MIXED) for k, epochs in enumerate((1, 4))]


@pytest.mark.parametrize(("name", "weighting", "epochs"), TURNS)
def test_several_attributes_of_several_roles(name, weighting, epochs):
    first, second, third = MIXED[name]
    tasks = [
        attribute("corpus", "cross_entropy", first, alpha=0.9),
        EMOTION,
        attribute("speaker", "focal", second, schedule="ganin" if name == "one of each" else None, hidden=(4, 3)),
        VALENCE,
        attribute("age", "mse", third, weight=0.5, reduce="sum"),
    ]
    same_weights(make_run(tasks, weighting=weighting, epochs=epochs), make_vectors(missing=0.1))


@pytest.mark.parametrize("trunk", [Trunk(()), Trunk((33,), norm="none", activation="gelu"), Trunk((7, 40, 3))])
def test_other_trunks(trunk):
    judges = [attribute("speaker", "focal", "discriminator", hidden=(33,)), attribute("age", "ccc", "discriminator")]
    same_weights(
        make_run([EMOTION, attribute("corpus", "cross_entropy", "adversarial"), *judges], trunk), make_vectors()
    )


@pytest.mark.parametrize("loss", ["mse", "mae", "ccc", "bce"])
@pytest.mark.parametrize("role", ["main", "adversarial", "discriminator"])
def test_missing_numbers_may_be_replaced_by_predictions(loss, role):
    one = attribute("age", loss, role, missing="replace", hidden=(7,))
    tasks = [EMOTION, one] if role != "main" else [replace(one, role="main"), EMOTION]
    same_weights(make_run(tasks, epochs=2, lr=0.05), make_vectors(missing=0.5))


@pytest.mark.parametrize("weighting", ["rruw", "druw"])
@pytest.mark.parametrize("mains", [1, 3, 6])
def test_learnt_deviations_equal_those_of_a_plain_loop(weighting, mains):
    tasks = [EMOTION, VALENCE, *(replace(VALENCE, name=f"v{i}", loss="mse", hidden=(i + 1,)) for i in range(4))][:mains]
    run, vectors = make_run(tasks, weighting=weighting, uncertainty_lr=0.02, batch_size=4), make_vectors(missing=0.3)
    same_weights(run, vectors)
    ready = make_ready(run, vectors)
    model = make_model(run, vectors.x.shape[1], ready.classes)
    start = view_weights(model, start_stack(model, [run], torch.device("cpu")).moving.numbers)["deviation"][0]
    assert start[:mains].tolist() == [1 / mains] * mains and not start[mains:].any()
    _, plain = train_plainly(run, vectors)
    assert (plain.numbers.detach() - 1 / mains).abs().max() > 5e-3  # they are learnt


def test_dynamic_weights_from_the_two_steps_before():
    previous = torch.tensor([[[2.0, 1.0, 4.0], [1.0, 1.0, 8.0]], [[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]]])
    found = dynamic_weights(previous.double())
    powers = np.exp(np.array([0.5, 1.0, 2.0]) / 10)
    np.testing.assert_allclose(found[0], 3 * powers / powers.sum(), rtol=1e-12)
    np.testing.assert_allclose(found[1], [1, 1, 1], rtol=1e-12)  # in the second step nothing is two steps back


def test_targets_are_standardised_for_discriminators_as_well():
    age = attribute("age", "mse", "main")
    judged = [attribute("corpus", "cross_entropy", "discriminator", hidden=h) for h in ((5,), ())]
    for judge in judged:
        run = make_run([EMOTION, age, judge], scale_targets=True)
        vectors = make_vectors(missing=0.2)
        vectors.labels["age"] = vectors.labels["age"] * 40 + 20
        (result,) = train_heads([run], vectors)
        net, _ = train_plainly(run, vectors, scale_targets=True)
        first = result.head.state["corpus.0.weight" if judge.hidden else "corpus.out.weight"]
        np.testing.assert_allclose(
            first[:, :3], net.discriminators["corpus"][0].weight[:, :3].detach(), rtol=0, atol=1e-12
        )
        spread = np.nanstd(vectors.labels.loc[vectors.labels["split"] == "train", "age"].astype(float))
        plain = net.discriminators["corpus"][0].weight[:, 3].detach() / spread
        np.testing.assert_allclose(first[:, 3], plain, rtol=0, atol=1e-12)


def test_dev_is_watched_by_what_the_main_tasks_lose():
    vectors = make_vectors()
    plan = {"patience": 5, "epochs": 1, "restore_best": True}
    judge = attribute("corpus", "cross_entropy", "discriminator", alpha=0.5)
    for weighting in WEIGHTINGS:
        run = make_run([EMOTION, judge, VALENCE], weighting=weighting, **plan)
        (result,) = train_heads([run], vectors)
        model = make_model(run, 9, make_ready(run, vectors).classes)
        dev = make_split(make_ready(run, vectors), run, vectors, "dev", torch.device("cpu"))
        stack = start_stack(model, [run], torch.device("cpu"))
        named = view_weights(model, stack.moving.numbers)
        outputs = forward(model, named, dev.x.unsqueeze(0))
        args = [t.unsqueeze(0) for t in dev.truth], [w.unsqueeze(0) for w in dev.weight]
        losses = task_losses(model, outputs, *args)
        first, _, last = losses[0].tolist()
        s, c = named.get("log_variance", torch.zeros(1, 2)), 0.5
        expected = {
            "fixed": 0.8 * first + 1.4 * last,
            "equal": first + last,
            "uncertainty": (first + last) / 2 + float(s.sum()) / 2,
            "rruw": (first + last) / (2 * c**2) + 2 * np.log(1 + c**2),
            "druw": (first + last) * (1 + 1 / (2 * c**2)) + 2 * np.log(1 + c**2),
        }[weighting]
        assert main_loss(model, named, stack.task_weights, losses).item() == pytest.approx(expected, abs=1e-12)
        shares, _ = make_shares([run], 1, stack.dropout)
        total = total_loss(model, named, shares, losses).item()
        assert total == pytest.approx(expected / 2 + losses[0, 1].item(), abs=1e-12)
        assert len(result.curve) == 1


@pytest.mark.parametrize(
    ("share", "masked", "replaced"), [(0.25, 0.371, 0.624), (0.5, 0.402, 0.735), (0.75, 0.698, 0.932)]
)
def test_replacing_flatters_ccc_and_only_scales_mse(share, masked, replaced):
    # Numbers of a computation apart from vbx: 32 utterances, labels from 1 to 4, a range from 0 to 4.
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(32, generator=generator) * 3 + 1
    said = 0.4 * truth + 1.2 + 0.6 * torch.randn(32, generator=generator)
    said, truth = said.double().view(1, -1, 1).requires_grad_(), truth.double().view(1, -1, 1)
    there = (torch.arange(32) < int(32 * (1 - share))).double().view(1, -1, 1)
    found = {}
    for loss, missing in itertools.product(("ccc", "mse"), ("mask", "replace")):
        run = make_run([Task("v", ("v",), loss, ("ccc",), missing=missing)])
        split = Split("train", np.arange(32), said, (truth,), (there,), (torch.tensor([[0.0], [4.0]]).double(),))
        labels = replace_missing(make_model(run, 2, {}), split, [said], ([truth], [there]))
        value = task_losses(make_model(run, 2, {}), [said], *labels)
        found[loss, missing] = value.item(), torch.autograd.grad(value.sum(), said)[0]
    assert found["ccc", "mask"][0] == pytest.approx(1 - masked, abs=6e-4)
    assert found["ccc", "replace"][0] == pytest.approx(1 - replaced, abs=6e-4)
    assert not found["ccc", "mask"][1][there == 0].any() and (found["ccc", "replace"][1][there == 0] != 0).all()
    assert found["mse", "replace"][0] == pytest.approx(found["mse", "mask"][0] * there.mean().item(), abs=1e-14)
    torch.testing.assert_close(found["mse", "replace"][1], found["mse", "mask"][1] * there.mean(), rtol=0, atol=1e-15)
