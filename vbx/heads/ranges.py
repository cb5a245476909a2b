"""Ranges: an axis of a sweep that a search samples from, where a grid needs a list."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vbx.errors import RecipeError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both are.

    Attributes:
        low: least
        high: greatest
        log: whether they are spread evenly over orders of magnitude

    Examples:
        >>> read_axis({"low": 1e-5, "high": 1e-2, "log": True})
        (Range(low=1e-05, high=0.01, log=True),)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        plain = all(type(end) in (int, float) for end in (self.low, self.high)) and isinstance(self.log, bool)
        if not plain or not self.low < self.high or (self.log and self.low <= 0):
            raise RecipeError(
                f"{{low = {self.low!r}, high = {self.high!r}, log = {self.log!r}}} is no range: low must be less than "
                "high, both numbers, and greater than 0 if log is true"
            )

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, number: float) -> float:
        """A number of the range as people would write it: four digits are enough.

        Examples:
            >>> Range(1e-5, 1e-2).rounded(0.00117814487)
            0.001178
        """
        return number if self.whole else min(max(float(f"{number:.4g}"), float(self.low)), float(self.high))


def is_range(value: Any) -> bool:
    """Whether a table of a recipe is a range, and not axes of its own."""
    return isinstance(value, Mapping) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}


def read_axis(value: Any) -> Any:
    """Values of an axis as a recipe has them; a range is the single one of its axis."""
    return (Range(**value),) if is_range(value) else value


def ends(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values of an axis to check: of a range its ends."""
    return (values[0].low, values[0].high) if values and isinstance(values[0], Range) else values


def refuse_ranges(sweep: Mapping[str, tuple[Any, ...]], name: str) -> None:
    """Make sure that a sweep is a grid.

    Raises:
        RecipeError: if an axis is a range
    """
    for path, values in sweep.items():
        if values and isinstance(values[0], Range):
            low, high = ends(values)
            raise RecipeError(
                f"sweep of {path!r} in recipe {name!r} is a range, {low:g} to {high:g}: a grid needs a list of values; "
                "write one, or sample it with --search optuna --trials N"
            )
