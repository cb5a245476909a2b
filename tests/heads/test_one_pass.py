"""The one-pass kernel against torch.optim: on a GPU, or in Triton's interpreter.

Triton comes with the CUDA builds of torch. With `pip install triton` and TRITON_INTERPRET=1 this runs without a GPU.
"""

import os

import pytest
import torch

triton = pytest.importorskip("triton")
pytestmark = (
    [] if torch.cuda.is_available() else [pytest.mark.skipif(not os.environ.get("TRITON_INTERPRET"), reason="")]
)

from vbx.heads.one_pass import move_in_one_pass  # noqa: E402
from vbx.heads.optim import Moving, list_factors  # noqa: E402

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
