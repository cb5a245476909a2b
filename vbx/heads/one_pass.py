"""One pass: Adam and AdamW of all runs in Triton kernels, which read and write each number once. For GPUs.

The formula is that of `optim`, whose separate operations would pass over the weights nine times; on a GPU nothing but
those passes takes time. The gradient of the first layer, nearly all of them, is made on the way where batches are small
enough, and is never in memory. Triton comes with the CUDA builds of torch; before it is trusted it is tried.
"""

from __future__ import annotations  # a kernel's parameters are of types that only Triton has

import subprocess
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vbx.heads.model import Model
from vbx.heads.optim import OPTIMIZERS, Moving, list_factors

FAILURES: tuple[type[Exception], ...] = (RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError)
"""What Triton raises where it cannot build a kernel: it needs a C compiler and Python's headers."""
try:
    import triton
    from triton import language as tl
    from triton.errors import TritonError

    FAILURES = (*FAILURES, TritonError)
except ImportError:  # torch for CPUs comes without it
    triton = None

BLOCK = 1024
"""Numbers of one run that a program moves."""
MOST_ROWS = 32
"""Largest batch of which a program adds up the gradient itself: each more is read again for every block."""


def moves_in_one_pass(rule: str, numbers: Tensor) -> bool:
    """Whether the kernel is for an optimiser by name and for weights."""
    return triton is not None and numbers.is_cuda and rule in ("adam", "adamw") and works(numbers.device, numbers.dtype)


@lru_cache
def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels can be built for a device and do there what `optim.adam` does; a warning says why not."""
    try:
        reason = "" if _moves_rightly(device, dtype) else "it gives other numbers"
    except FAILURES as error:
        reason = " ".join(str(error).split())[:200]
    if reason:
        warnings.warn(f"Adam makes several passes over the weights, not one: {reason}", stacklevel=2)
    return not reason


def _moves_rightly(device: torch.device, dtype: torch.dtype) -> bool:
    """Try both kernels on two runs with a layer of 8 x 4 weights and 32 others."""
    expected, *found = (_few_numbers(device, dtype) for _ in range(3))
    x, slope = expected.numbers[:, :24].reshape(2, 3, 8).clone(), expected.numbers[:, 40:52].reshape(2, 3, 4) / 9
    first, others = (x.transpose(1, 2) @ slope).flatten(1), expected.numbers[:, 32:] / 7
    factors = list_factors([3], first)[0]
    OPTIMIZERS["adam"](expected, torch.cat([first, others], dim=1), factors)
    move_in_one_pass("adam", found[0], [first, others[:, :5], others[:, 5:]], factors)
    move_in_one_pass("adam", found[1], [others[:, :5], others[:, 5:]], factors, (x, slope))
    return all(torch.allclose(ours.numbers, expected.numbers, rtol=1e-5, atol=1e-6) for ours in found)


def _few_numbers(device: torch.device, dtype: torch.dtype) -> Moving:
    numbers = torch.linspace(-1, 1, 128, dtype=dtype, device=device).view(2, 64)
    rates = torch.tensor([[0.1], [0.2]], dtype=dtype, device=device)
    return Moving(numbers, numbers / 3, numbers.square(), torch.empty_like(numbers), rates, rates, rates)


def takes_products(model: Model) -> bool:
    """Whether the kernel can make the gradient of a model's first layer itself, without it ever being in memory.

    That is for layers that all runs' vectors go through, and batches that are few enough to add up on the way.
    """
    width = model.slots[0].padded[1]
    return bool(model.run.trunk.hidden) and model.run.fit.batch_size <= MOST_ROWS and width <= BLOCK


def move_in_one_pass(
    rule: str,
    moving: Moving,
    gradients: Sequence[Tensor],
    factors: Tensor,
    product: tuple[Tensor, Tensor] | None = None,
) -> None:
    """What `optim.adam` and `optim.adamw` do.

    Args:
        rule: `adam` or `adamw`
        moving: changed in place
        gradients: of the weights in their order, `(R, ...)` each, flat
        factors: row of `optim.list_factors`
        product: what the gradient of the first weight is the product of, if `gradients` lack it: what its layer saw
            `(R, B, D)`, and the gradient of what it gave `(R, B, width)`
    """
    start = 0
    if product is not None:
        start = _launch_product(rule, moving, product, factors)
        gradients = [torch.cat(list(gradients), dim=1)]
    elif len(gradients) > 1:
        # The first layer has nearly all weights: its gradient is taken as it is, the others are put side by side.
        gradients = [gradients[0], torch.cat(list(gradients[1:]), dim=1)]
    for gradient in gradients:
        _launch(rule, moving, gradient.contiguous(), (start, factors))
        start += gradient.shape[1]


def _launch(rule: str, moving: Moving, gradient: Tensor, where: tuple[int, Tensor]) -> None:
    """Move the numbers from `start` on that there is a gradient `(R, Q)` of."""
    start, factors = where
    runs, columns = gradient.shape
    own = moving.lr.shape[1] > 1
    _kernel[(triton.cdiv(columns, BLOCK), runs)](
        *(t[:, start:] for t in (moving.numbers, moving.first, moving.second)),
        gradient,
        moving.lr[:, start:] if own else moving.lr,
        moving.weight_decay,
        factors,
        columns,
        moving.numbers.stride(0),
        moving.lr.stride(0),
        apart=rule == "adamw",
        own=own,
        double=gradient.dtype == torch.float64,
        block=BLOCK,
    )


def _launch_product(rule: str, moving: Moving, product: tuple[Tensor, Tensor], factors: Tensor) -> int:
    """Move the weights of the first layer; how many they are."""
    x, slope = product
    runs, rows, inputs = x.shape
    width = slope.shape[2]
    room = triton.next_power_of_2(width)
    block = max(1, BLOCK // room)
    _product_kernel[(triton.cdiv(inputs, block), runs)](
        moving.numbers,
        moving.first,
        moving.second,
        x.contiguous(),
        slope,
        moving.lr,
        moving.weight_decay,
        factors,
        inputs,
        moving.numbers.stride(0),
        slope.stride(0),
        moving.lr.stride(0),
        apart=rule == "adamw",
        own=moving.lr.shape[1] > 1,
        double=x.dtype == torch.float64,
        rows=rows,
        width=width,
        room=room,
        block=block,
    )
    return inputs * width


def _change(  # type: ignore[no-untyped-def]  # noqa: PLR0913 (a kernel's parameters are its memory)
    p, m, v, g, rate, decay, factors, apart: tl.constexpr, double: tl.constexpr
):
    """A weight, its two means and its gradient to the first three, one step on."""
    if apart:
        p = p - p * (rate * decay)
    else:
        g = g + p * decay
    m = m + (g - m) * tl.load(factors)
    v = v * tl.load(factors + 1) + g * g * tl.load(factors + 2)
    numerator = m * rate * tl.load(factors + 4)
    # Exact in float32 too, as torch is; in float64 there is no other kind.
    if double:
        p = p + numerator / (tl.sqrt(v) + tl.load(factors + 3))
    else:
        p = p + tl.div_rn(numerator, tl.sqrt_rn(v) + tl.load(factors + 3))
    return p, m, v


def _move(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    numbers,
    first,
    second,
    gradient,
    lr,
    weight_decay,
    factors,
    columns,
    stride,
    lr_stride,
    apart: tl.constexpr,
    own: tl.constexpr,
    double: tl.constexpr,
    block: tl.constexpr,
):
    run = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * block + tl.arange(0, block)
    there = column < columns
    place = run * stride + column
    p = tl.load(numbers + place, mask=there, other=0.0)
    m = tl.load(first + place, mask=there, other=0.0)
    v = tl.load(second + place, mask=there, other=0.0)
    g = tl.load(gradient + run * columns + column, mask=there, other=0.0)
    rate = tl.load(lr + run * lr_stride + column, mask=there, other=0.0) if own else tl.load(lr + run * lr_stride)
    p, m, v = _jitted_change(p, m, v, g, rate, tl.load(weight_decay + run), factors, apart, double)
    tl.store(numbers + place, p, mask=there)
    tl.store(first + place, m, mask=there)
    tl.store(second + place, v, mask=there)


def _move_product(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    numbers,
    first,
    second,
    x,
    slope,
    lr,
    weight_decay,
    factors,
    inputs,
    stride,
    slope_stride,
    lr_stride,
    apart: tl.constexpr,
    own: tl.constexpr,
    double: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
    room: tl.constexpr,
    block: tl.constexpr,
):
    run = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * block + tl.arange(0, block)
    o = tl.arange(0, room)
    there = (i < inputs)[:, None] & (o < width)[None, :]
    column = i[:, None] * width + o[None, :]
    place = run * stride + column
    p = tl.load(numbers + place, mask=there, other=0.0)
    m = tl.load(first + place, mask=there, other=0.0)
    v = tl.load(second + place, mask=there, other=0.0)
    g = tl.zeros_like(p)
    for row in tl.static_range(rows):
        seen = tl.load(x + (run * rows + row) * inputs + i, mask=i < inputs, other=0.0)
        given = tl.load(slope + run * slope_stride + row * width + o, mask=o < width, other=0.0)
        g += seen[:, None] * given[None, :]
    rate = tl.load(lr + run * lr_stride + column, mask=there, other=0.0) if own else tl.load(lr + run * lr_stride)
    p, m, v = _jitted_change(p, m, v, g, rate, tl.load(weight_decay + run), factors, apart, double)
    tl.store(numbers + place, p, mask=there)
    tl.store(first + place, m, mask=there)
    tl.store(second + place, v, mask=there)


def _jit(body: Callable[..., Any]) -> Any:
    return triton.jit(body) if triton is not None else None


_jitted_change, _kernel, _product_kernel = _jit(_change), _jit(_move), _jit(_move_product)
