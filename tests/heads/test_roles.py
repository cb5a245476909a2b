"""Roles: the shares of an epoch, what a head may not depend on, and what attributes do to the trunk."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

from vbx.cache.vectors import Vectors
from vbx.errors import RecipeError, UnknownName
from vbx.heads.data import make_ready
from vbx.heads.draws import draw_weights
from vbx.heads.export import make_onnx
from vbx.heads.head import HeadModule, apply_head
from vbx.heads.model import forward, make_model, view_weights
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.roles import Share, check_roles, list_shares, settle
from vbx.heads.run import Run
from vbx.heads.stack import start_stack
from vbx.heads.training import train_heads


@pytest.fixture(autouse=True)
def torch_trains(monkeypatch):
    """The kernel is held against the same plain loop in test_native*.py."""
    monkeypatch.setenv("VBX_KERNEL", "none")


EMOTION = Task("emotion", ("emotion",), "cross_entropy", ("uar",), weight=0.8)
CORPUS = Task("corpus", ("corpus",), "cross_entropy", ("uar",), hidden=(8,), role="auxiliary")
SPEAKER = replace(CORPUS, name="speaker", columns=("speaker",), weight=2.0)
AGE = Task("age", ("age",), "mse", ("ccc", "mae"), hidden=(5,), role="discriminator")


def make_vectors(n=900, seed=0):
    """An attribute that is plain to see, and leaks into what tells two emotions apart."""
    random = np.random.default_rng(seed)
    emotion, corpus = random.integers(2, size=n), random.integers(2, size=n)
    x = random.standard_normal((n, 6))
    x[:, 0] += 1.5 * emotion + 0.9 * corpus
    x[:, 1] += 2 * corpus
    x[:, 2] += emotion
    labels = {"split": np.resize(["train", "train", "test", "dev"], n), "emotion": np.array(["a", "b"])[emotion]}
    labels |= {"corpus": np.array(["k", "l"])[corpus], "speaker": [f"s{i % 5}" for i in range(n)], "age": 30 + x[:, 3]}
    return Vectors.from_arrays(x.astype(np.float32), labels)


def make_run(tasks, trunk=None, seed=1, **fit):
    tasks, plan = tuple(tasks), {"epochs": 3, "batch_size": 16, "lr": 0.01, "patience": 0, "restore_best": False, **fit}
    return Run("", "", seed, tasks, trunk or Trunk((7,), "none", "tanh"), Fit(**plan), fit_score(Score(), tasks))


def test_alpha_is_the_papers_and_comes_to_be_as_its_schedule_says():
    fit = Fit(epochs=11)
    alphas = {
        ("auxiliary", None): [0.1, 0.1, 0.1],
        ("auxiliary", "linear"): [0.0, 0.05, 0.1],
        ("adversarial", None): [0.0, 0.25, 0.5],  # of the first, the sixth and the last epoch
        ("adversarial", "constant"): [0.5, 0.5, 0.5],
        ("discriminator", None): [0.5, 0.5, 0.5],
    }
    for (role, schedule), expected in alphas.items():
        tasks = [EMOTION, replace(CORPUS, role=role, schedule=schedule)]
        for epoch, alpha in zip((1, 6, 11), expected, strict=True):
            main, other = list_shares(tasks, fit, epoch)
            assert main == Share(pytest.approx((1 - alpha) * 0.8), 1.0)
            back = {"auxiliary": 1.0, "adversarial": -1.0, "discriminator": -alpha}[role]
            assert other == Share(pytest.approx(1.0 if role == "discriminator" else alpha), pytest.approx(back))
    ganin = replace(CORPUS, role="adversarial", schedule="ganin", weight=3.0)
    for epoch, expected in ((1, 0.0), (3, 2 / (1 + math.exp(-2)) - 1), (11, 2 / (1 + math.exp(-10)) - 1)):
        assert list_shares([EMOTION, ganin], fit, epoch) == [Share(0.8), Share(3.0, pytest.approx(-expected))]
        half = replace(ganin, alpha=0.5)
        assert list_shares([EMOTION, half], fit, epoch)[1].back == pytest.approx(-expected / 2)


def test_a_single_epoch_is_the_last_one():
    adversarial = replace(CORPUS, role="adversarial")
    assert list_shares([EMOTION, adversarial], Fit(epochs=1), 1) == [Share(0.4), Share(0.5, -1.0)]


def test_attributes_share_their_mean_alpha():
    ganin = replace(CORPUS, name="ganin", role="adversarial", schedule="ganin")
    tasks = [SPEAKER, EMOTION, ganin, replace(CORPUS, alpha=0.4), AGE]
    shares = list_shares(tasks, Fit(weighting="equal"), 1)  # Ganin's stands outside of the sum
    main = 1 - (0.1 + 0.4 + 0.5) / 3
    assert [share.loss for share in shares] == pytest.approx([2 * 0.1 / 3, main, 1.0, 0.4 / 3, 1.0])
    assert [share.back for share in shares] == pytest.approx([1, 1, 0, 1, -0.5 / 3])


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"role": "auxilary"}, UnknownName, "'auxiliary'"),
        ({"schedule": "linaer"}, UnknownName, "'linear'"),
        ({"role": "main", "alpha": 0.1}, RecipeError, "alpha of task 'corpus': only attributes"),
        ({"role": "main", "schedule": "linear"}, RecipeError, "schedule of task 'corpus': only attributes"),
        ({"alpha": 1.5}, RecipeError, "1.5; it must be from 0 to 1"),
        ({"schedule": "ganin"}, RecipeError, "needs role = 'adversarial', not 'auxiliary'"),
        ({"missing": "replace"}, RecipeError, "only numbers"),
        ({"missing": "maks"}, UnknownName, "'mask'"),
        ({"name": "*"}, RecipeError, "name"),
    ],
)
def test_a_role_that_makes_no_sense_is_refused(more, error, said):
    with pytest.raises(error, match=said.replace("*", r"\*")):
        replace(CORPUS, **more)
    with pytest.raises(RecipeError, match=r"no task is a main one, only corpus \(auxiliary\)"):
        check_roles([CORPUS])


def test_what_has_no_effect_is_settled():
    fit = Fit(discriminator_lr=0.1)
    same = replace(CORPUS, role="adversarial", alpha=0.5, schedule="linear")
    assert settle([EMOTION, same], fit) == ((EMOTION, replace(CORPUS, role="adversarial")), Fit())
    assert settle([replace(same, schedule="ganin", alpha=1.0), AGE], fit)[0][0].alpha is None
    other = replace(same, alpha=0.4, schedule="constant")
    assert settle([EMOTION, other, AGE], fit) == ((EMOTION, other, AGE), fit)


def gradients(tasks, epoch=1):
    """Gradient of each weight in one step of plain descent over all of train."""
    vectors, run = make_vectors(60), make_run(tasks, optimizer="sgd", lr=1.0, batch_size=99, epochs=1, dtype="float64")
    (result,) = train_heads([run], vectors)
    model = make_model(run, 6, make_ready(run, vectors).classes)
    start = draw_weights(model.layers, run.seed, torch.float64)
    return {name: start[name].numpy() - after for name, after in result.head.state.items()}


def test_reversal_changes_the_sign_of_what_reaches_the_trunk_and_nothing_else():
    alone = gradients([EMOTION])
    helped = gradients([EMOTION, replace(CORPUS, alpha=0.5)])
    opposed = gradients([EMOTION, replace(CORPUS, alpha=0.5, role="adversarial", schedule="constant")])
    ganin = gradients([EMOTION, replace(CORPUS, alpha=0.5, role="adversarial", schedule="ganin")])
    fade = 0.5 * (2 / (1 + math.exp(-10)) - 1)
    for name in helped:
        if name.startswith("trunk"):
            help_, opposition = helped[name] - alone[name] / 2, opposed[name] - alone[name] / 2
            assert np.abs(help_).max() > 1e-3
            np.testing.assert_allclose(opposition, -help_, rtol=0, atol=1e-14)
            np.testing.assert_allclose(ganin[name] - alone[name], -2 * fade * help_, rtol=0, atol=1e-14)
        else:
            np.testing.assert_array_equal(opposed[name], helped[name])
        if name.startswith("corpus"):
            np.testing.assert_allclose(ganin[name], 2 * helped[name], rtol=0, atol=1e-14)


def test_runs_of_other_alphas_share_a_stack_and_do_not_see_each_other():
    vectors, runs = make_vectors(150), []
    for i in range(7):
        tasks = (
            EMOTION,
            replace(CORPUS, role="adversarial", alpha=i / 7),
            replace(AGE, alpha=1 - i / 7),
            replace(SPEAKER, weight=i),
        )
        rate = None if i % 2 else 0.1 / (i + 1)
        trunk = Trunk((12, 10), dropout=(0.0, 0.5)[i % 2])
        runs.append(make_run(tasks, trunk, i, epochs=2 + i % 3, discriminator_lr=rate, weighting="druw"))
    assert len({run.shape for run in runs}) == 1 and len({run.key for run in runs}) == 7
    assert len({replace(runs[0], tasks=(EMOTION, replace(CORPUS, role=r))).shape for r in ("main", "adversarial")}) == 2
    together = train_heads(runs, vectors)
    for result, run in zip(together, runs, strict=True):
        (alone,) = train_heads([run], vectors)
        assert all(np.array_equal(alone.head.state[n], result.head.state[n]) for n in alone.head.state)
        assert [a.value for a in alone.rows] == [b.value for b in result.rows]
    assert not np.array_equal(together[0].head.state["age.0.weight"], together[1].head.state["age.0.weight"])


def test_discriminators_come_last_and_leave_the_draws_of_others_alone():
    run, vectors = make_run((AGE, EMOTION, CORPUS)), make_vectors(40)
    model = make_model(run, 6, make_ready(run, vectors).classes)
    names = [layer.name for layer in model.layers]
    assert names == ["trunk.0", "emotion.out", "corpus.0", "corpus.out", "age.0", "age.out"]
    assert [layer.width_in for layer in model.layers][-2:] == [2, 5]  # it sees the probabilities of two emotions
    dropped = []
    forward(
        model,
        view_weights(model, start_stack(model, [run], torch.device("cpu")).moving.numbers),
        torch.zeros(1, 4, 32),
        lambda h, place: dropped.append(names[place]) or h,
    )
    assert dropped == ["trunk.0", "corpus.0", "age.0"]
    other = make_model(make_run((EMOTION, CORPUS)), 6, make_ready(run, vectors).classes)
    less, more = (draw_weights(m.layers, 1, torch.float32) for m in (other, model))
    assert all(torch.equal(less[name], more[name]) for name in less)


def test_metrics_of_attributes_are_rows_and_do_not_count():
    vectors = make_vectors(200)
    vectors.labels.loc[vectors.labels.index[::3], "emotion"] = None
    (plain,), (result,) = (train_heads([make_run(tasks)], vectors) for tasks in ((EMOTION,), (EMOTION, CORPUS, AGE)))
    found = {(row.task, row.metric): row for row in result.rows if row.split == "test"}
    assert set(found) == {("emotion", "uar"), ("corpus", "uar"), ("age", "ccc"), ("age", "mae"), ("score", "hmean")}
    assert found["score", "hmean"].value == found["emotion", "uar"].value
    # Runs with and without attributes are scored on the same utterances, and on dev only main tasks lose.
    assert {r.n for r in result.rows if r.split == "test"} == {r.n for r in plain.rows if r.split == "test"}


@pytest.mark.parametrize("scale_targets", [False, True])
def test_a_kept_head_says_what_its_discriminators_said(scale_targets):
    vectors = make_vectors(120)
    main = replace(AGE, name="main_age", role="main", hidden=(4,))
    tasks = (AGE, EMOTION, replace(CORPUS, role="discriminator", hidden=()), main)
    run = make_run(tasks, epochs=2, scale_targets=scale_targets)
    (result,) = train_heads([run], vectors)
    head = replace(result.head, calibration=None)
    said = apply_head(head, vectors.x)
    test = (vectors.labels["split"] == "test").to_numpy()
    age = vectors.labels["age"][test].to_numpy()
    mae = {r.task: r.value for r in result.rows if r.metric == "mae" and r.split == "test"}
    for name in ("age", "main_age"):
        assert np.abs(said[name][test, 0] - age).mean() == pytest.approx(mae[name], rel=1e-5)
    assert said["corpus"].shape == (120, 2) and np.allclose(said["corpus"].sum(1), 1)
    session = pytest.importorskip("onnxruntime").InferenceSession(make_onnx(head).SerializeToString())
    for output in session.get_outputs():
        (theirs,) = session.run([output.name], {"feature": vectors.x})
        np.testing.assert_allclose(theirs, said[output.name], rtol=0, atol=1e-5, err_msg=output.name)


def test_attributes_change_what_can_be_read_from_the_trunk():
    vectors = make_vectors()
    corpus, test = (vectors.labels["corpus"] == "l").to_numpy(), (vectors.labels["split"] == "test").to_numpy()
    roles = {
        "none": (EMOTION,),
        "auxiliary": (EMOTION, replace(CORPUS, alpha=0.5)),
        "adversarial": (EMOTION, replace(CORPUS, role="adversarial")),
        "ganin": (EMOTION, replace(CORPUS, role="adversarial", schedule="ganin")),
    }
    found = {}
    for name, tasks in roles.items():
        runs = [make_run(tasks, Trunk((2,), "none", "tanh"), seed, epochs=20) for seed in range(1, 6)]
        probes = []
        for result in train_heads(runs, vectors):
            module = HeadModule(result.head)
            with torch.no_grad():
                shared = module.trunk((torch.from_numpy(vectors.x) - module.centre) / module.spread).numpy()
            probe = LogisticRegression().fit(shared[~test], corpus[~test])
            probes.append(recall_score(corpus[test], probe.predict(shared[test]), average="macro"))
            assert next(r.value for r in result.rows if r.task == "emotion") > 0.75  # it goes on learning its own
        found[name] = np.mean(probes)
    assert found["auxiliary"] > found["none"] + 0.15
    assert found["adversarial"] < found["none"] - 0.03 and found["ganin"] < found["none"] - 0.03


@pytest.mark.slow
def test_what_main_tasks_say_gives_less_away_beside_a_discriminator():
    random = np.random.default_rng(5)
    emotion = random.integers(2, size=1200)
    corpus = np.where(random.random(1200) < 0.8, emotion, 1 - emotion)  # they go together: to say one is to hint
    x = random.standard_normal((1200, 6))
    x[:, 0] += 1.5 * emotion
    x[:, 1] += 2 * corpus
    labels = {"split": np.resize(["train", "train", "test"], 1200), "emotion": np.array(["a", "b"])[emotion]}
    vectors = Vectors.from_arrays(x.astype(np.float32), labels | {"corpus": np.array(["k", "l"])[corpus]})
    test, found = (vectors.labels["split"] == "test").to_numpy(), {}
    for alpha in (0.0, 0.3, 0.6):
        tasks = (EMOTION, replace(CORPUS, role="discriminator", alpha=alpha))
        results = train_heads([make_run(tasks, seed=seed, epochs=20) for seed in (1, 2, 3)], vectors)
        logits = [np.log(apply_head(result.head, vectors.x)["emotion"])[:, :1] for result in results]
        probes = [LogisticRegression().fit(given[~test], corpus[~test]) for given in logits]
        said = [probe.predict(given[test]) for probe, given in zip(probes, logits, strict=True)]
        found[alpha] = np.mean([recall_score(corpus[test], guess, average="macro") for guess in said])
        assert all(r.value > 0.7 for result in results for r in result.rows if r.task == "emotion")
    assert found[0.0] > found[0.3] + 0.02 > found[0.6] + 0.06
