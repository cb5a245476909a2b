"""Matrix products whose weights were laid out for oneDNN once, rather than for each product.

torch hands a float32 product to MKL, which runs at 40 % of an AMD core (95 of 254 GFLOP/s, Zen 5) and, on any CPU, at
half its speed where the rows are few. oneDNN with weights in its own layout is at full speed on both; it is what
`torch.compile` calls after freezing, without the minute of compiling. Where torch was built without oneDNN the same
products go through torch's usual functions.
"""

import torch
from torch import nn
from torch.nn import functional


def has_onednn() -> bool:
    """Whether this torch has oneDNN's products with weights laid out in advance."""
    ops = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
    there = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return there and all(hasattr(ops, name) for name in names)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself; emulated, it would be slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public way to ask
    return has_onednn() and any(getattr(torch.cpu, check, lambda: False)() for check in checks)


class Product:
    """`rows @ weight.T + bias`, then perhaps GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415, the exact one).

    Args:
        weight: `(N, K)`
        bias: `(N,)` or none
        dtype: arithmetic; sums are float32 in any case
        gelu: whether GELU follows
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, gelu: bool = False) -> None:
        self.gelu = gelu
        self.fast = has_onednn()
        weight = weight.to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.fast else weight
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """From `(M, K)`, whose rows may overlap in memory, to `(M, N)`."""
        if not self.fast:
            plain = functional.linear(rows, self.weight, self.bias)
            return functional.gelu(plain) if self.gelu else plain
        after = "gelu" if self.gelu else "none"
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, after, [], "none")
        return out


class Convolution:
    """A convolution over frames with zeros around them, then GELU.

    Args:
        conv: its weights, padding and groups
        dtype: arithmetic; sums are float32 in any case
    """

    USUAL = 112
    """Frames by which oneDNN chooses the layout of the weights (a clip of 2.3 s); any number of frames fits it."""

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        self.padding, self.groups = [0, int(conv.padding[0])], conv.groups
        self.fast = has_onednn()
        self.bias = None if conv.bias is None else conv.bias.to(dtype)
        self.weight = conv.weight.to(dtype)[:, :, None].contiguous(memory_format=torch.channels_last)
        if self.fast:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, [1, 1], [1, 1], self.groups, [1, conv.in_channels, 1, self.USUAL]
            )

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """From `(F, C)` to `(G, D)`, G being F, or F + 1 for an even kernel."""
        image = frames.contiguous()[None, None].permute(0, 3, 1, 2)  # (1, C, 1, F), channels last: nothing is copied
        if self.fast:
            out = torch.ops.mkldnn._convolution_pointwise(
                image, self.weight, self.bias, self.padding, [1, 1], [1, 1], self.groups, "gelu", [], "none"
            )
        else:
            out = functional.conv2d(image, self.weight, self.bias, padding=self.padding, groups=self.groups)
            out = functional.gelu(out)
        rows: torch.Tensor = out[0, :, 0].T
        return rows
