"""Activations by name: what a hidden layer applies to its sums."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
