"""The one-pass kernel against torch.optim: on a GPU, or in Triton's interpreter.

Triton comes with the CUDA builds of torch. With `pip install triton` and TRITON_INTERPRET=1 this runs without a GPU.
"""

import os
from dataclasses import fields, replace

import pytest
import torch

triton = pytest.importorskip("triton")
interpreted = bool(os.environ.get("TRITON_INTERPRET"))
pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() or interpreted), reason="needs TRITON_INTERPRET=1")

from tests.heads.test_captured import RUNS, prepare  # noqa: E402
from tests.heads.test_training import make_vectors  # noqa: E402
from vbx.heads import one_pass, steps  # noqa: E402
from vbx.heads.one_pass import move_in_one_pass  # noqa: E402
from vbx.heads.optim import OPTIMIZERS, Moving, list_factors  # noqa: E402
from vbx.heads.stack import start_stack  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTHS = (1500, 7, 32)
RATES, DECAYS = (1e-3, 3e-2, 0.1), (0.0, 0.1, 0.3)


@pytest.mark.parametrize("own", [False, True], ids=["one rate", "own rate of the last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rule", ["adam", "adamw"])
def test_a_run_moves_as_with_torch_optim(rule, dtype, own):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, sum(WIDTHS), dtype=dtype, generator=generator)
    gradients = torch.randn(40, 3, sum(WIDTHS), dtype=dtype, generator=generator)
    gradients[:, 1] *= 1e-7  # near epsilon
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[rule]
    expected = []
    for run in range(3):
        parts = [torch.nn.Parameter(part.clone()) for part in numbers[run].split(WIDTHS)]
        groups = [{"params": parts[:-1]}, {"params": parts[-1:], "lr": RATES[run] * (0.3 if own else 1)}]
        optimizer = make(groups, lr=RATES[run], weight_decay=DECAYS[run])
        for gradient in gradients[:, run]:
            for part, slope in zip(parts, gradient.split(WIDTHS), strict=True):
                part.grad = slope.clone()
            optimizer.step()
        expected.append(torch.cat([part.detach() for part in parts]))
    rates, decays = (torch.tensor(values, dtype=dtype, device=DEVICE).unsqueeze(1) for values in (RATES, DECAYS))
    if own:
        rates = rates.repeat(1, sum(WIDTHS))
        rates[:, -WIDTHS[-1] :] *= 0.3
    ours = numbers.to(DEVICE)
    moving = Moving(ours, ours * 0, ours * 0, ours * 0, rates, decays, decays * 0)
    factors = list_factors(range(1, 41), ours)
    for step, gradient in enumerate(gradients.to(DEVICE)):
        move_in_one_pass(rule, moving, gradient.split(WIDTHS, dim=1), factors[step])
    tolerance = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.cpu(), torch.stack(expected), **tolerance)


@pytest.mark.parametrize("rows", [1, 6, 32])
@pytest.mark.parametrize(("inputs", "width"), [(37, 32), (9, 160), (3, 1024)])
def test_the_gradient_of_the_first_layer_may_be_left_to_it(inputs, width, rows):
    generator = torch.Generator().manual_seed(1)
    size = inputs * width + 33
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    numbers, x, given, others = draw(3, size), draw(3, rows, inputs), draw(3, rows + 2, width), draw(3, 33)
    slope = given[:, :rows]  # a batch that is not full
    rates, decays = (torch.tensor(values, dtype=torch.float64).unsqueeze(1) for values in (RATES, DECAYS))
    both = [Moving(numbers.clone(), numbers / 9, numbers**2, numbers * 0, rates, decays, decays) for _ in range(2)]
    factors = list_factors([7], numbers)[0]
    gradient = torch.einsum("rbi,rbo->rio", x, slope).flatten(1)
    OPTIMIZERS["adamw"](both[0], torch.cat([gradient, others], dim=1), factors)
    ours = Moving(**{f.name: getattr(both[1], f.name).to(DEVICE) for f in fields(Moving)})
    device_slope = given.to(DEVICE)[:, :rows]
    split = [part.to(DEVICE) for part in others.split((1, 32), dim=1)]
    move_in_one_pass("adamw", ours, split, factors.to(DEVICE), (x.to(DEVICE), device_slope))
    for f in ("numbers", "first", "second"):
        torch.testing.assert_close(getattr(ours, f).cpu(), getattr(both[0], f), rtol=1e-13, atol=1e-13)


NAMES = ["varied", "roles", "adam", "uncertainty lr", "no trunk", "widths in order", "inverse"]


@pytest.mark.parametrize("name", NAMES)
def test_epochs_are_those_of_several_passes(name, monkeypatch):
    runs = [replace(run, fit=replace(run.fit, dtype="float64")) for run in RUNS[name]]
    model, train = prepare(runs, make_vectors(n=50, missing=0.2), DEVICE)
    ours, theirs = (start_stack(model, runs, DEVICE) for _ in range(2))
    asked = []
    for one_pass_is_there, stack in ((True, ours), (False, theirs)):
        monkeypatch.setattr(steps, "moves_in_one_pass", lambda *_, there=one_pass_is_there: asked.append(1) or there)
        for epoch in (1, 2):
            steps.train_epoch(model, stack, train, epoch)
    torch.testing.assert_close(ours.moving.numbers, theirs.moving.numbers, rtol=0, atol=1e-11)
    assert len(asked) == 4 and one_pass.takes_products(model) == (name != "no trunk")


def test_it_is_tried_before_it_is_trusted(monkeypatch):
    one_pass.works.cache_clear()
    assert one_pass.works(DEVICE, torch.float32) and one_pass.works(DEVICE, torch.float64)
    launch = one_pass._launch

    def refuse(*args):
        raise RuntimeError("Failed to find C compiler")

    def forget(rule, moving, gradient, where):
        if where[0] == 0:
            launch(rule, moving, gradient, where)

    for broken, words in ((refuse, "C compiler"), (forget, "other numbers")):
        one_pass.works.cache_clear()
        monkeypatch.setattr(one_pass, "_launch", broken)
        with pytest.warns(UserWarning, match=words):
            assert not one_pass.works(DEVICE, torch.float32)
    one_pass.works.cache_clear()
