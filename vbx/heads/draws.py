"""Draws: all that is random in a run, from its own seed alone, never from its neighbours or a global state."""

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor

from vbx.heads.head import Layer

LARGEST_WIDTH = 1 << 16
"""Widths stay below it: a value's counter for dropout is its row times this, plus its column."""
_BITS = 0xFFFFFFFF


def draw_weights(layers: tuple[Layer, ...], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Initial weights of one run, as `torch.manual_seed(seed)` and one `torch.nn.Linear` after the other draw them.

    Weights and biases are uniform in ±1/sqrt(width_in) (He et al. 2015, with a = sqrt 5, torch's default);
    layer normalisation begins with 1 and 0.

    Args:
        layers: in the order in which they are drawn
        seed: of the run
        dtype: of the weights

    Returns:
        weights by name, on the CPU
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for layer in layers:
        weight = torch.empty(layer.width_out, layer.width_in, dtype=dtype)
        torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        bound = 1 / math.sqrt(layer.width_in)
        weights[f"{layer.name}.weight"] = weight
        weights[f"{layer.name}.bias"] = torch.empty(layer.width_out, dtype=dtype).uniform_(
            -bound, bound, generator=generator
        )
        if layer.norm:
            weights[f"{layer.name}.norm.weight"] = torch.ones(layer.width_out, dtype=dtype)
            weights[f"{layer.name}.norm.bias"] = torch.zeros(layer.width_out, dtype=dtype)
    return weights


def draw_order(seed: int, epoch: int, rows: int) -> Tensor:
    """Order `(rows,)` in which a run sees train in one epoch."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(derive_seed("order", seed, epoch)))


def derive_seed(*words: object) -> int:
    """A seed in [0, 2^63) from what it is for."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:8], "big") >> 1


@lru_cache(maxsize=64)
def dropout_table(rows: int, width: int, device: torch.device) -> Tensor:
    """A number in [0, 2^32) for each place of a batch `(rows, width)`."""
    row = torch.arange(rows, device=device).unsqueeze(1)
    return _mix(row * LARGEST_WIDTH + torch.arange(width, device=device))


def list_words(first: int, count: int, device: torch.device) -> Tensor:
    """What dropout is drawn from in `count` layers of steps `(count,)`, the same for all runs."""
    return torch.tensor([derive_seed("dropout", when) for when in range(first, first + count)], device=device)


def draw_keep(table: Tensor, keys: Tensor, rate: Tensor, when: int | Tensor) -> Tensor:
    """Which values dropout keeps: a function of run, step, layer and place.

    Args:
        table: `(rows, width)` from `dropout_table`
        keys: `(R, 1, 1)` a number in [0, 2^32) for each run
        rate: `(R, 1, 1)` share that is dropped
        when: step and layer; or their word of `list_words`, for a step that is recorded may not hold a number

    Returns:
        `(R, rows, width)` booleans
    """
    word = derive_seed("dropout", when) if isinstance(when, int) else when
    return _mix(table + _mix(keys + word)) >= rate.double() * 2.0**32


def _mix(x: Tensor) -> Tensor:
    """Scatter integers over 32 bits: two rounds of xor-shift and multiply (the constants of C. Wellons' lowbias32)."""
    x = x & _BITS
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _BITS
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _BITS
    return x ^ (x >> 16)
