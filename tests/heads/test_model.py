"""The stack: what it is made of, and that a run's numbers do not depend on who shares it."""

import pytest
import torch

from vbx.heads.activations import ACTIVATIONS
from vbx.heads.draws import draw_weights
from vbx.heads.losses import LOSSES
from vbx.heads.model import forward, make_model, pack_weights, padded, unpack_weights, view_weights
from vbx.heads.optim import OPTIMIZERS
from vbx.heads.parts import Fit, Score, Task, Trunk
from vbx.heads.run import Run
from vbx.heads.stack import start_stack

TASKS = (
    Task("emotion", ("awe", "fear", "joy"), "mse", ("ccc",), hidden=(33,), output="sigmoid"),
    Task("country", ("country",), "cross_entropy", ("uar",), hidden=(32,)),
    Task("age", ("age",), "ccc", ("ccc",), hidden=(32, 16)),
)


def make_run(hidden=(128, 64), activation="leaky_relu", tasks=TASKS, **fit):
    return Run("", "", 1, tasks, Trunk(hidden, activation=activation), Fit(**fit), Score())


@pytest.mark.parametrize("hidden", [(3, 50, 7), (256, 256, 256), (7, 200, 33, 40), ()])
def test_d2_the_layers_built_are_those_asked_for_in_their_order(hidden):
    model = make_model(make_run(hidden), 19, {"country": ("a", "b")})
    built = [(x.width_in, x.width_out) for x in model.layers if x.name.startswith("trunk.")]
    assert built == list(zip((19, *hidden), hidden, strict=False))
    state = unpack_weights(model, pack_weights(model, draw_weights(model.layers, 1, torch.float32)))
    assert [tuple(state[f"trunk.{i}.weight"].shape) for i in range(len(hidden))] == [(b, a) for a, b in built]
    last = hidden[-1] if hidden else 19
    shapes = [tuple(state[f"age.{i}.weight"].shape) for i in (0, 1, "out")]
    assert shapes == [(32, last), (16, 32), (1, 16)]
    assert state["country.out.weight"].shape == (2, 32) and state["emotion.out.weight"].shape == (3, 33)


def test_the_exvo_head_has_as_many_weights_as_its_paper_says():
    # 128-64 trunk, 32 before each task and 16 more for age: counted by hand for D = 1024.
    emotion = Task("emotion", tuple("abcdefghij"), "mse", ("ccc",), hidden=(32,))
    model = make_model(make_run(tasks=(emotion, *TASKS[1:])), 1024, {"country": tuple("abcd")})
    count = sum(torch.Size(s.shape).numel() for s in model.slots)
    trunk = 1024 * 128 + 3 * 128 + 128 * 64 + 3 * 64
    heads = 3 * (64 * 32 + 32) + 32 * 10 + 10 + 32 * 4 + 4 + 32 * 16 + 16 + 16 + 1
    assert count == trunk + heads


def test_weights_come_out_as_they_went_in():
    model = make_model(make_run((50, 7)), 19, {"country": ("a", "b")})
    weights = draw_weights(model.layers, 3, torch.float64)
    row = pack_weights(model, weights)
    back = unpack_weights(model, row)
    assert list(back) == list(weights) and all(torch.equal(back[n], weights[n]) for n in weights)
    assert (row != 0).sum() == sum((w != 0).sum() for w in weights.values())  # all else is padding
    assert all(s.start % 32 == 0 for s in model.slots) and model.size % 32 == 0


def steps(model, runs, x, truth, count=3):
    """A few optimiser steps of a stack, each run on its own batch; its numbers and outputs."""
    stack = start_stack(model, runs, torch.device("cpu"))
    leaves = {n: v.detach().requires_grad_() for n, v in view_weights(model, stack.moving.numbers).items()}
    for step in range(1, count + 1):
        outputs = forward(model, leaves, x)
        loss = torch.zeros(len(runs), dtype=x.dtype)
        for task, output, t in zip(model.run.tasks, outputs, truth, strict=True):
            weight = torch.ones(t.shape, dtype=x.dtype)
            weight[:, ::3] = 0
            loss = loss + LOSSES[task.loss].function(output, t, weight)
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
        gradient = torch.cat([g.flatten(1) for g in gradients], 1)
        OPTIMIZERS[model.run.fit.optimizer](stack.moving, gradient, step)
    return stack.moving.numbers, forward(model, view_weights(model, stack.moving.numbers), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("dim", "batch", "hidden", "activation", "optimizer"),
    [
        (1027, 2, (128, 64), "leaky_relu", "adam"),
        (88, 1, (128, 64), "gelu", "adamw"),
        (125, 7, (130, 33), "silu", "sgd"),
        (30, 13, (33,), "elu", "adam"),
        (5, 3, (1, 2), "tanh", "adamw"),
        (1024, 8, (), "relu", "adam"),
    ],
)
def test_a_run_is_bit_for_bit_the_same_alone_and_in_any_stack(dim, batch, hidden, activation, optimizer, dtype):
    # Plain stacks of matrices break this on MKL: unaligned ones are summed in another order.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = [{"lr": 1e-3 * (r + 1), "weight_decay": 0.1 * r, "momentum": 0.9} for r in range(17)]
        runs = [make_run(hidden, activation, optimizer=optimizer, dtype=dtype, **s) for s in settings]
        runs = [Run("", "", r, run.tasks, run.trunk, run.fit, run.score) for r, run in enumerate(runs)]
        model = make_model(runs[0], dim, {"country": ("a", "b", "c", "d")})
        generator = torch.Generator().manual_seed(0)
        x = torch.zeros(17, batch, padded(dim), dtype=getattr(torch, dtype))
        x[..., :dim] = torch.randn(17, batch, dim, generator=generator)
        truth = [torch.rand(17, batch, 3, generator=generator, dtype=x.dtype)]
        truth += [torch.randint(4, (17, batch), generator=generator)]
        truth += [torch.rand(17, batch, 1, generator=generator, dtype=x.dtype)]

        def pick(rows):
            return steps(model, [runs[r] for r in rows], x[rows], [t[rows] for t in truth])

        numbers, outputs = pick(list(range(17)))
        everyone = forward(model, view_weights(model, numbers), x[:1].expand(17, -1, -1))
        for rows in ([0], [5], [16], [5, 16], [16, 3, 5], list(range(3, 11))):
            some, said = pick(rows)
            assert torch.equal(some, numbers[rows])
            shared = forward(model, view_weights(model, some), x[:1].expand(len(rows), -1, -1))
            assert all(torch.equal(a, b[rows]) for a, b in zip(shared, everyone, strict=True))
            assert all(torch.equal(a, b[rows]) for a, b in zip(said, outputs, strict=True))
    finally:
        torch.set_num_threads(before)


def test_every_activation_keeps_the_padding_at_0():
    for name, activation in ACTIVATIONS.items():
        assert (activation(torch.zeros(32)) == 0).all(), name
