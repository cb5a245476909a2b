"""The family of heads that the kernel trains: what of a run it knows, by the numbers that kernel/*.hpp know it by."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from vbx.heads import losses
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.draws import LARGEST_WIDTH
from vbx.heads.losses import LOSSES
from vbx.heads.optim import OPTIMIZERS, adam, adamw, sgd
from vbx.heads.parts import Fit, Task, Trunk
from vbx.heads.run import Run

Functions = Mapping[Callable[..., Any], int]

KNOWN_ACTIVATIONS: Functions = {F.elu: 0, F.gelu: 1, F.leaky_relu: 2, F.relu: 3, F.silu: 4, torch.tanh: 5}
KNOWN_LOSSES: Functions = {
    losses.mse: 0,
    losses.mae: 1,
    losses.ccc: 2,
    losses.bce: 3,
    losses.cross_entropy: 4,
    losses.focal: 5,
}
KNOWN_RULES: Functions = {adam: 0, adamw: 2, sgd: 3}
"""Adam with weight decay is 1. All are looked up by function: a name may have been given another meaning."""
KNOWN_WEIGHTINGS: Mapping[str, int] = {"fixed": 0, "equal": 0, "uncertainty": 1, "rruw": 2, "druw": 3}
KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    "task": frozenset(
        """name columns loss metrics hidden output weight log_variance reduce class_weights gamma role alpha schedule
        missing""".split()
    ),
    "trunk": frozenset("hidden norm activation dropout".split()),
    "fit": frozenset(
        """optimizer lr weight_decay momentum batch_size epochs patience min_delta monitor restore_best weighting
        uncertainty_lr discriminator_lr scale scale_by_speaker scale_targets dtype""".split()
    ),
}
"""What the kernel, or what prepares its vectors and watches its epochs, does something about."""


def explain_outside(run: Run) -> str:
    """Why a run is outside the family, as the end of a sentence; empty if it is inside.

    Examples:
        >>> from vbx.heads.recipe import expand_runs, read_recipe
        >>> explain_outside(expand_runs(read_recipe("exvo-atmaja"))[0])
        ''
    """
    parts: list[tuple[str, Trunk | Fit | Task]] = [("trunk", run.trunk), ("fit", run.fit)]
    parts += [("task", task) for task in run.tasks]
    for name, part in parts:
        for field in fields(part):
            plain = field.default if field.default is not MISSING else object()
            if field.name not in KNOWN_FIELDS[name] and getattr(part, field.name) != plain:
                return f"it does not know {name}.{field.name}"
    if ACTIVATIONS[run.trunk.activation] not in KNOWN_ACTIVATIONS:
        return f"it does not know the activation {run.trunk.activation!r}"
    if OPTIMIZERS[run.fit.optimizer] not in KNOWN_RULES:
        return f"it does not know the optimiser {run.fit.optimizer!r}"
    if run.trunk.norm not in ("layer", "none") or run.fit.weighting not in KNOWN_WEIGHTINGS:
        return f"it does not know the norm {run.trunk.norm!r} or the weighting {run.fit.weighting!r}"
    for task in run.tasks:
        if LOSSES[task.loss].function not in KNOWN_LOSSES:
            return f"it does not know the loss {task.loss!r}"
    if max([*run.trunk.hidden, *(w for task in run.tasks for w in task.hidden)], default=0) >= LARGEST_WIDTH:
        return f"a layer is as wide as {LARGEST_WIDTH} or wider"
    return ""
