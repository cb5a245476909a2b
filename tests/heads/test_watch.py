"""Early stopping against the sequences of values one can follow by hand."""

import pytest

from vbx.heads.parts import Fit
from vbx.heads.watch import Watch, look


def follow(values, finite=None, **fit):
    """Epochs seen, epoch whose weights are kept, status."""
    settings, watch = Fit(**{"epochs": len(values), **fit}), Watch(0)
    for i, value in enumerate(values):
        watch = look(watch, settings, value, finite[i] if finite else True)
        if watch.status != "on":
            break
    return watch.epochs, watch.best_epoch, watch.status


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "fit", "expected"),
    [
        ([5, 4, 3, 2, 1], {"patience": 2}, (5, 5, "done")),
        ([5, 4, 4.5, 4.2, 1], {"patience": 2}, (4, 2, "done")),
        ([5, 4, 4.5, 3, 3.5, 3.1], {"patience": 2}, (6, 4, "done")),
        ([5, 4, 4.5, 4.2, 1], {"patience": 0}, (5, 5, "done")),
        ([5, 1, 4, 4, 4], {"patience": 0}, (5, 2, "done")),
        ([5, 4, 4.5, 4.2, 1], {"patience": 2, "restore_best": False}, (4, 4, "done")),
        ([5, 4.95, 4.91, 4.85], {"patience": 2, "min_delta": 0.1}, (3, 1, "done")),
        ([5, 4.95, 4.85, 4.8], {"patience": 3, "min_delta": 0.1}, (4, 3, "done")),
        ([5, 5, 5], {"patience": 2}, (3, 1, "done")),
        ([None, None, None], {"patience": 1}, (3, 3, "done")),
        ([3, 2, NAN, 1], {"patience": 2}, (3, 3, "diverged")),
        ([3, 2, INF, 1], {"patience": 2}, (3, 3, "diverged")),
        ([NAN, NAN, NAN, -0.1], {"monitor": "score", "patience": 4}, (4, 4, "done")),
        ([NAN, NAN, NAN, NAN], {"monitor": "score", "patience": 2}, (3, 1, "done")),
        ([-0.5, -0.6, NAN, -0.7, -0.6], {"monitor": "score", "patience": 2}, (5, 4, "done")),
    ],
)
def test_sequences(values, fit, expected):
    assert follow(values, **fit) == expected


def test_weights_that_are_not_finite_end_a_run():
    assert follow([3, 2, 1], finite=[True, False, True]) == (2, 2, "diverged")


def test_what_was_monitored_is_remembered():
    watch, fit = Watch(0), Fit(epochs=9)
    for value in (5.0, 4.0, INF):
        watch = look(watch, fit, value, True)
    assert watch.history == (5.0, 4.0, INF) and watch.status == "diverged"
    assert look(Watch(0), fit, None, True).history == ()
