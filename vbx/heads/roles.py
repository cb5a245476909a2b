"""Roles: what a task is to a head. Main tasks are what it is for; attributes help its trunk, or are kept out of it.

A head minimises (1 - a) L_main + sum of a_i / N L_i: L_main is what `fit.weighting` makes of the main tasks, L_i the
loss of each of N attributes times its weight, a the mean of their alphas a_i (Parry et al. 2022, eq. 1 to 3).

- `auxiliary`: trunk and branch both learn it, as above.
- `adversarial`: the gradient that its branch passes into the trunk is reversed: the branch learns it, the trunk
  unlearns it. With `ganin` (Ganin et al. 2016, section 3) it stands outside of the sum above: L_i itself is added, and
  the gradient passed on is multiplied by -lambda, which grows from 0 to alpha.
- `discriminator`: its branch sees nothing but what the main tasks say. It learns with its own optimiser from L_i
  itself, while the main tasks, and the trunk below them, minimise (1 - a) L_main - a_i / N L_i.

All is one step: what a task needs is a factor on its loss and one on the gradient that its first layer passes back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vbx.errors import RecipeError
from vbx.heads.parts import Fit, Task

ALPHAS = {"auxiliary": 0.1, "adversarial": 0.5, "discriminator": 0.5}
"""Of Parry et al. 2022, section 4."""
STEEPNESS = 10
"""Of the growth of lambda (Ganin et al. 2016, section 5)."""


@dataclass(frozen=True)
class Share:
    """What a task has of one epoch's objective.

    Attributes:
        loss: factor of its loss
        back: factor of the gradient that its first layer passes back
    """

    loss: float
    back: float = 1.0


def list_shares(tasks: Sequence[Task], fit: Fit, epoch: int) -> list[Share]:
    """Share of each task in one epoch, from 1.

    The factor of a main task's loss is 1 - a, times its weight with fixed weighting.

    Examples:
        >>> emotion = Task("emotion", ("emotion",), "cross_entropy", ("uar",))
        >>> speaker = Task("speaker", ("speaker",), "cross_entropy", ("uar",), role="adversarial")
        >>> list_shares([emotion, speaker], Fit(epochs=11), 6)
        [Share(loss=0.75, back=1.0), Share(loss=0.25, back=-1.0)]
    """
    alphas = {task.name: grow_alpha(task, fit, epoch) for task in tasks if task.role != "main"}
    sharing = [alphas[task.name] for task in tasks if task.role != "main" and schedule_of(task) != "ganin"]
    n = max(len(sharing), 1)
    rest = 1 - sum(sharing) / n
    shares = []
    for task in tasks:
        if task.role == "main":
            shares.append(Share(rest * task.weight if fit.weighting == "fixed" else rest))
        elif schedule_of(task) == "ganin":
            shares.append(Share(task.weight, -alphas[task.name]))
        elif task.role == "discriminator":
            shares.append(Share(task.weight, -alphas[task.name] / n))
        else:
            reversed_ = task.role == "adversarial"
            shares.append(Share(task.weight * alphas[task.name] / n, -1.0 if reversed_ else 1.0))
    return shares


def grow_alpha(task: Task, fit: Fit, epoch: int) -> float:
    """Alpha of an attribute in one epoch, from 1; lambda where its schedule is `ganin`.

    Its progress is that of epochs: 0 in the first, 1 in the last that `fit.epochs` allows, which may be the only one.
    """
    schedule, alpha = schedule_of(task), task.alpha
    if alpha is None:
        alpha = 1.0 if schedule == "ganin" else ALPHAS[task.role]
    if schedule == "constant":
        return alpha
    progress = 1.0 if fit.epochs == 1 else (epoch - 1) / (fit.epochs - 1)
    return alpha * (progress if schedule == "linear" else 2 / (1 + math.exp(-STEEPNESS * progress)) - 1)


def schedule_of(task: Task) -> str:
    """Schedule of an attribute, None resolved."""
    return task.schedule or ("linear" if task.role == "adversarial" else "constant")


def main_places(tasks: Sequence[Task]) -> list[int]:
    """Where the main tasks are among tasks."""
    return [place for place, task in enumerate(tasks) if task.role == "main"]


def in_layer_order(tasks: Sequence[Task]) -> list[Task]:
    """Tasks in the order of their layers: discriminators, which see outputs of others, come last."""
    return sorted(tasks, key=lambda task: task.role == "discriminator")


def check_roles(tasks: Sequence[Task]) -> None:
    """Make sure that tasks can be learnt together.

    Raises:
        RecipeError: if none of them is a main task
    """
    if tasks and not main_places(tasks):
        roles = ", ".join(f"{task.name} ({task.role})" for task in tasks)
        raise RecipeError(f"no task is a main one, only {roles}: a head needs a task with role = 'main'")


def settle(tasks: Sequence[Task], fit: Fit) -> tuple[tuple[Task, ...], Fit]:
    """Tasks and fit without what has no effect: settings that are their role's own, a learning rate of nobody."""
    settled = []
    for task in tasks:
        plain = replace(task, schedule=None)
        task = plain if task.schedule == schedule_of(plain) else task
        usual = 1.0 if schedule_of(task) == "ganin" else ALPHAS.get(task.role)
        settled.append(replace(task, alpha=None) if task.alpha == usual else task)
    if all(task.role != "discriminator" for task in tasks):
        fit = replace(fit, discriminator_lr=None)
    return tuple(settled), fit


def told_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Tasks that a prediction is about: not what the trunk was made to unlearn, nor who watched over that."""
    return [task for task in tasks if task.role in ("main", "auxiliary")]
