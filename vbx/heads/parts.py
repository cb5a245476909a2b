"""The parts of a recipe: Task (a target), Trunk (what tasks share), Fit (how to train), Score (what to rank by)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from vbx.errors import RecipeError, UnknownName
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.losses import LOSSES
from vbx.heads.metrics import METRICS
from vbx.heads.values import later

RESERVED = ("trunk", "score", "*")
"""Names that no task may have: they name other parts of a head and of its results, or all attributes."""
ROLES = ("main", "auxiliary", "adversarial", "discriminator")
SCHEDULES = ("constant", "linear", "ganin")
WEIGHTINGS = ("fixed", "equal", "uncertainty", "druw", "rruw")


@dataclass(frozen=True)
class Task:
    """One target.

    Attributes:
        name: names it in scores and sweeps
        columns: label columns: one of classes, or one or more of numbers
        loss: name of the loss (`vbx.heads.losses`)
        metrics: names of its metrics (`vbx.heads.metrics`)
        hidden: widths of its own hidden layers, in order
        output: `linear`, or `sigmoid` for numbers in [0, 1]
        weight: weight of its loss: of a main task with fixed weighting, of an attribute always
        log_variance: where s of uncertainty weighting starts
        reduce: whether a loss over several columns is their `mean` or their `sum`
        class_weights: `none`, or `inverse` for weights in inverse proportion to the classes' counts in train
        gamma: exponent of the focal loss
        role: `main`, or that of an attribute (`vbx.heads.roles`): `auxiliary`, which the trunk learns as well;
            `adversarial`, which it unlearns; or `discriminator`, which is told from what the main tasks say, and which
            they try to hide
        alpha: how much an attribute counts, in [0, 1]; None for what its paper has: 0.1 for auxiliary ones, 0.5 for
            others, 1 with `ganin`
        schedule: how alpha comes to be: `constant`; `linear`, from 0 in the first epoch to alpha in the last that
            `fit.epochs` allows; `ganin`, for adversarial ones; None for `constant`, of adversarial ones for `linear`
        missing: what becomes of a missing number in training: `mask` leaves it out; `replace` puts the prediction in
            its place, clipped to the range of the labels in train (Kang et al. 2022)
    """

    name: str
    columns: tuple[str, ...]
    loss: str
    metrics: tuple[str, ...]
    hidden: tuple[int, ...] = ()
    output: str = "linear"
    weight: float = 1.0
    log_variance: float = 0.0
    reduce: str = "mean"
    class_weights: str = "none"
    gamma: float = 2.0
    role: str = later("main")
    alpha: float | None = later(None)
    schedule: str | None = later(None)
    missing: str = later("mask")

    def __post_init__(self) -> None:
        of = f"of task {self.name!r}:"
        if not self.name or self.name in RESERVED or not self.columns or not self.metrics:
            raise RecipeError(
                f"task {self.name!r} needs a name (not {', '.join(RESERVED)}), at least one column and one metric"
            )
        _check_name(f"loss {of}", self.loss, LOSSES)
        for metric in self.metrics:
            _check_name(f"metric {of}", metric, [m for m in METRICS if METRICS[m].kind == self.kind])
        _check_name(f"output {of}", self.output, ("linear", "sigmoid"))
        _check_name(f"reduce {of}", self.reduce, ("mean", "sum"))
        _check_name(f"class_weights {of}", self.class_weights, ("none", "inverse"))
        _check(all(width > 0 for width in self.hidden), f"hidden {of} widths must be positive, not {self.hidden}")
        _check(self.weight >= 0 and self.gamma >= 0, f"weight and gamma {of} neither may be negative")
        if self.kind == "classification":
            _check(len(self.columns) == 1, f"columns {of} a classification has one column, not {len(self.columns)}")
            _check(self.output == "linear", f"output {of} a classification's is 'linear' (its logits)")
        else:
            _check(self.class_weights == "none", f"class_weights {of} only a classification has classes")
        _check(self.loss != "bce" or self.output == "sigmoid", f"loss {of} 'bce' needs output = 'sigmoid'")
        _check_name(f"missing {of}", self.missing, ("mask", "replace"))
        _check(self.missing == "mask" or self.kind == "regression", f"missing {of} only numbers can be replaced")
        self._check_role(of)

    def _check_role(self, of: str) -> None:
        _check_name(f"role {of}", self.role, ROLES)
        _check_name(f"schedule {of}", self.schedule or "constant", SCHEDULES)
        if self.role == "main":
            for name in ("alpha", "schedule"):
                _check(getattr(self, name) is None, f"{name} {of} only attributes have one: give it another role")
        _check(self.alpha is None or 0 <= self.alpha <= 1, f"alpha {of} is {self.alpha}; it must be from 0 to 1")
        fits = self.schedule != "ganin" or self.role == "adversarial"
        _check(fits, f"schedule {of} 'ganin' reverses gradients, so it needs role = 'adversarial', not {self.role!r}")

    @property
    def kind(self) -> Literal["regression", "classification"]:
        """What its loss is for."""
        return LOSSES[self.loss].kind


@dataclass(frozen=True)
class Trunk:
    """The layers that all tasks share.

    Attributes:
        hidden: widths, in order; none for heads that see the vectors themselves
        norm: `layer` (layer normalisation before the activation) or `none`
        activation: name of the activation of every hidden layer, of the tasks' own as well
        dropout: share of each hidden layer's values, of the tasks' own as well, that a training step drops
    """

    hidden: tuple[int, ...] = (128, 64)
    norm: str = "layer"
    activation: str = "leaky_relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(all(width > 0 for width in self.hidden), f"hidden widths must be positive, not {self.hidden}")
        _check_name("norm of the trunk:", self.norm, ("layer", "none"))
        _check_name("activation of the trunk:", self.activation, ACTIVATIONS)
        _check(0 <= self.dropout < 1, f"dropout is {self.dropout}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Fit:
    """How a run is trained.

    Attributes:
        optimizer: `adam` (weight decay in the gradient), `adamw` (apart from it) or `sgd`, as in `torch.optim`
        lr: learning rate
        weight_decay: of all weights, biases and what is learnt for the weighting
        momentum: of `sgd`
        batch_size: utterances a step; the last batch of an epoch may be smaller
        epochs: most passes over train
        patience: epochs without improvement on dev after which it stops; 0 never stops early
        min_delta: least change of what is monitored that counts as improvement
        monitor: `loss` (dev loss, weighted as in training) or `score` (dev score)
        restore_best: whether the best epoch's weights on dev are kept, else the last epoch's
        weighting: of the main tasks: `fixed` (each one's `weight`), `equal`, or learnt: `uncertainty` (Kendall et al.
            2018), `rruw` and `druw` (Song et al. 2022: restrained and revised, and also dynamic)
        uncertainty_lr: learning rate of what is learnt for the weighting; None for `lr`
        scale: how vectors are scaled, fitted on train: `standard`, `robust`, `minmax` or `none`
        scale_by_speaker: whether each speaker's vectors are scaled by that speaker's own statistics
        scale_targets: whether numbers of a task with linear output are standardised for training, fitted on train;
            predictions and metrics keep the unit
        dtype: `float32` or `float64`
        discriminator_lr: learning rate of the discriminators' own optimiser, of the same kind; None for `lr`
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    batch_size: int = 32
    epochs: int = 20
    patience: int = 5
    min_delta: float = 0.0
    monitor: str = "loss"
    restore_best: bool = True
    weighting: str = "fixed"
    uncertainty_lr: float | None = None
    scale: str = "standard"
    scale_by_speaker: bool = False
    scale_targets: bool = False
    dtype: str = "float32"
    discriminator_lr: float | None = later(None)

    def __post_init__(self) -> None:
        _check_name("optimizer of fit:", self.optimizer, ("adam", "adamw", "sgd"))
        _check_name("monitor of fit:", self.monitor, ("loss", "score"))
        _check_name("weighting of fit:", self.weighting, WEIGHTINGS)
        _check_name("scale of fit:", self.scale, ("standard", "robust", "minmax", "none"))
        _check_name("dtype of fit:", self.dtype, ("float32", "float64"))
        for name in ("lr", "batch_size", "epochs"):
            _check(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("weight_decay", "momentum", "patience", "min_delta", "uncertainty_lr", "discriminator_lr"):
            value = getattr(self, name)
            _check(value is None or value >= 0, f"{name} is {value}; it must not be negative")


@dataclass(frozen=True)
class Score:
    """The one number runs are ranked by.

    Attributes:
        combine: `hmean` or `mean`
        of: its parts, `TASK.METRIC`; none for each main task's first metric of which more is better
    """

    combine: str = "hmean"
    of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("combine of score:", self.combine, ("hmean", "mean"))


def fit_score(score: Score, tasks: tuple[Task, ...]) -> Score:
    """A score of the tasks that are there: parts of others fall away; none left means each main task's first metric.

    Raises:
        UnknownName: if a task that is there has no such metric
        RecipeError: if less of a part is better

    Examples:
        >>> fit_score(Score(), (Task("age", ("age",), "ccc", ("ccc", "mae")),)).of
        ('age.ccc',)
    """
    metrics_of = {task.name: task.metrics for task in tasks}
    parts = [part for part in score.of if part.rpartition(".")[0] in metrics_of]
    for part in parts:
        name, _, metric = part.rpartition(".")
        _check_name(f"metric of task {name!r} in the score:", metric, metrics_of[name])
        _check(METRICS[metric].maximise, f"score has the part {part!r}, of which less is better; try 'inverse_mae'")
    if not parts:
        best = {task.name: [m for m in task.metrics if METRICS[m].maximise] for task in tasks if task.role == "main"}
        for name, metrics in best.items():
            _check(bool(metrics), f"task {name!r} has no metric of which more is better, for the score: add one")
        parts = [f"{name}.{metrics[0]}" for name, metrics in best.items()]
    return Score(score.combine, tuple(parts))


def _check_name(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise UnknownName(kind, name, known)


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise RecipeError(sentence)
