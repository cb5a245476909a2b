"""Attention within the clips of a pack: by kernels that take bounds as data, or clip by clip.

Written without a GPU at hand: the kernels are not yet run on one. They are tried before they are used.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Segments:
    """Which frames of a pack belong together.

    Attributes:
        table: see `FIELDS` of `_packed_layout.py`
        lengths: frames of each clip, known beforehand, or None where a computation is recorded
        bounds: first frame of each clip, then the number of frames, `(clips + 1,)` int32; empty clips at the end
        longest: most frames of one clip
    """

    table: torch.Tensor
    lengths: tuple[int, ...] | None
    bounds: torch.Tensor | None = None
    longest: int = 0


Attend: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Segments], torch.Tensor]
"""Queries, keys and values `(frames, heads, D)` of a pack to the same; frames of no clip come out as anything."""

PRECISIONS: dict[str, tuple[torch.dtype, float]] = {
    "float32": (torch.float32, 1e-5),
    "tf32": (torch.float32, 2e-3),
    "float16": (torch.float16, 1e-2),
    "bfloat16": (torch.bfloat16, 5e-2),
}
"""Precisions of a spec: type of the matrix products, and the relative L2 error up to which a kernel is taken for right.
TF32 is float32 of which products keep ten bits of fraction."""


def attend_by_clip(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Attention of one clip after the other; it needs their lengths, so it cannot be recorded."""
    if segments.lengths is None:
        raise RuntimeError("attention clip by clip needs the lengths of the clips")
    out = torch.zeros_like(queries, memory_format=torch.contiguous_format)
    start = 0
    for length in segments.lengths:
        clip = slice(start, start + length)
        query, key, value = (part[clip].transpose(0, 1)[None] for part in (queries, keys, values))
        out[clip] = functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)
        start += length
    return out


def attend_flash(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments) -> torch.Tensor:
    """FlashAttention over segments, for float16 and bfloat16 (Dao 2023, arXiv:2307.08691)."""
    from torch.nn.attention.varlen import varlen_attn  # late: torch has it since 2.10

    bounds: Any = segments.bounds
    out: Any = varlen_attn(queries, keys, values, bounds, bounds, segments.longest, segments.longest)
    return cast("torch.Tensor", out)


def attend_efficient(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """Memory-efficient attention of torch over segments: any precision, any CUDA device.

    It is what `scaled_dot_product_attention` runs for nested tensors; torch has no public name for it.
    """
    bounds, longest = segments.bounds, segments.longest
    out: torch.Tensor = torch.ops.aten._efficient_attention_forward(
        queries[None], keys[None], values[None], None, bounds, bounds, longest, longest, 0.0, 0
    )[0]
    return out[0]


def choose_attention(device: str, precision: str, heads: int, width: int) -> Attend:
    """The first kernel that gives what attention clip by clip gives on this device.

    Args:
        device: where it will run
        precision: one of `PRECISIONS`
        heads: how many
        width: channels of each
    """
    if not device.startswith("cuda"):
        return attend_by_clip
    kernels = [attend_flash, attend_efficient] if precision.endswith("16") else [attend_efficient]
    reasons = []
    for kernel in kernels:
        reason = try_attention(kernel, device, precision, heads, width)
        if reason is None:
            return kernel
        reasons.append(f"{kernel.__name__}: {reason}")
    warnings.warn(f"attention runs clip by clip, which is slow ({'; '.join(reasons)})", stacklevel=2)
    return attend_by_clip


def try_attention(kernel: Attend, device: str, precision: str, heads: int, width: int) -> str | None:
    """Why a kernel cannot be used, or None: it is run on clips of 1 to 300 frames, and on places without a clip."""
    dtype, tolerance = PRECISIONS[precision]
    lengths = (7, 300, 1, 128, 129)
    total = sum(lengths)
    numbers = torch.Generator().manual_seed(0)
    drawn = torch.randn(total + 50, 3, heads, width, generator=numbers).to(device, dtype)
    queries, keys, values = drawn.unbind(1)
    exact = drawn.to(torch.float64)
    counts = torch.tensor([0, *lengths, 0, 0, 0], device=device)
    segments = Segments(counts, lengths, counts.cumsum(0).to(torch.int32), 512)
    try:
        found = kernel(queries, keys, values, segments)[:total].to(torch.float64)
        # The judge computes in float64, so that it is no less exact than what it judges.
        right = attend_by_clip(exact[:, 0], exact[:, 1], exact[:, 2], segments)[:total]
    except (RuntimeError, ImportError, TypeError, AttributeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    wrong = float((found - right).norm() / right.norm())
    return None if wrong <= tolerance else f"a relative error of {wrong:.1e}"
