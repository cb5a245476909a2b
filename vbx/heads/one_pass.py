"""One pass: Adam and AdamW of all runs as one Triton kernel, which reads and writes each number once. For GPUs.

The formula is that of `optim`, whose separate operations would pass over the weights nine times; on a GPU nothing but
those passes takes time. Triton comes with the CUDA builds of torch.
"""

from __future__ import annotations  # a kernel's parameters are of types that only Triton has

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vbx.heads.optim import Moving

try:
    import triton
    from triton import language as tl
except ImportError:  # torch for CPUs comes without it
    triton = None

BLOCK = 1024
"""Numbers of one run that a program moves."""


def moves_in_one_pass(rule: str, numbers: Tensor) -> bool:
    """Whether the kernel is for an optimiser by name and for weights."""
    return triton is not None and numbers.is_cuda and rule in ("adam", "adamw")


def move_in_one_pass(rule: str, moving: Moving, gradients: Sequence[Tensor], factors: Tensor) -> None:
    """What `optim.adam` and `optim.adamw` do.

    Args:
        rule: `adam` or `adamw`
        moving: changed in place
        gradients: of the weights in their order, `(R, ...)` each, flat
        factors: row of `optim.list_factors`
    """
    # The first layer has nearly all weights: its gradient is taken as it is, the others are put side by side.
    others = [torch.cat(list(gradients[1:]), dim=1)] if len(gradients) > 1 else []
    start = 0
    for gradient in (gradients[0].contiguous(), *others):
        _launch(rule, moving, gradient, (start, factors))
        start += gradient.shape[1]


def _launch(rule: str, moving: Moving, gradient: Tensor, where: tuple[int, Tensor]) -> None:
    """Move the numbers from `start` on that there is a gradient `(R, Q)` of."""
    start, factors = where
    runs, columns = gradient.shape
    own = moving.lr.shape[1] > 1
    numbers, first, second = (t[:, start:] for t in (moving.numbers, moving.first, moving.second))
    _kernel[(triton.cdiv(columns, BLOCK), runs)](
        numbers,
        first,
        second,
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


def _move(  # type: ignore[no-untyped-def]  # noqa: PLR0913 (a kernel's parameters are its memory)
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
    decay = tl.load(weight_decay + run)
    if apart:
        p = p - p * (rate * decay)
    else:
        g = g + p * decay
    m = m + (g - m) * tl.load(factors)
    v = v * tl.load(factors + 1) + g * g * tl.load(factors + 2)
    numerator = m * rate * tl.load(factors + 4)
    # Exact in float32 too, as torch is; in float64 there is no other kind.
    if double:
        change = numerator / (tl.sqrt(v) + tl.load(factors + 3))
    else:
        change = tl.div_rn(numerator, tl.sqrt_rn(v) + tl.load(factors + 3))
    tl.store(numbers + place, p + change, mask=there)
    tl.store(first + place, m, mask=there)
    tl.store(second + place, v, mask=there)


_kernel: Any = triton.jit(_move) if triton is not None else None
