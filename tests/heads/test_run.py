"""What makes two runs the same, and which may share a stack."""

from dataclasses import replace

import numpy as np
import pytest

from vbx.cache.vectors import Vectors
from vbx.heads.parts import Fit, Score, Task, Trunk
from vbx.heads.run import Run

AGE = Task("age", ("age",), "mse", ("ccc",))
RUN = Run("egemaps", "emodb", 1, (AGE,), Trunk(), Fit(), Score(of=("age.ccc",)), "default")
CHANGED = {
    "lr": replace(RUN, fit=replace(RUN.fit, lr=2e-3)),
    "weight decay": replace(RUN, fit=replace(RUN.fit, weight_decay=0.1)),
    "patience": replace(RUN, fit=replace(RUN.fit, patience=6)),
    "epochs": replace(RUN, fit=replace(RUN.fit, epochs=21)),
    "dropout": replace(RUN, trunk=Trunk(dropout=0.1)),
    "seed": replace(RUN, seed=2),
    "weight": replace(RUN, tasks=(replace(AGE, weight=2.0),)),
}
OTHER_SHAPE = {
    "feature": replace(RUN, feature="compare"),
    "batch size": replace(RUN, fit=replace(RUN.fit, batch_size=8)),
    "optimizer": replace(RUN, fit=replace(RUN.fit, optimizer="adamw")),
    "scale": replace(RUN, fit=replace(RUN.fit, scale="robust")),
    "widths in another order": replace(RUN, trunk=Trunk(hidden=(64, 128))),
    "loss": replace(RUN, tasks=(replace(AGE, loss="mae"),)),
    "more tasks": replace(RUN, tasks=(AGE, replace(AGE, name="age2"))),
}


def test_d6_a_changed_setting_is_another_run():
    runs = [RUN, *CHANGED.values(), *OTHER_SHAPE.values()]
    assert len({run.key for run in runs}) == len(runs)


def test_the_name_of_the_recipe_changes_no_result():
    assert replace(RUN, recipe="other").key == RUN.key


def test_keys_do_not_change_by_accident():
    # Results of earlier versions are found by these: change them on purpose only, and raise TRAINER_VERSION.
    assert RUN.key == "f9ec9bc99911366d6436ace659dc96b2569346a6d906dbb8b8ead9db7f71b919"


@pytest.mark.parametrize("name", CHANGED)
def test_runs_that_may_share_a_stack(name):
    assert CHANGED[name].shape == RUN.shape


@pytest.mark.parametrize("name", OTHER_SHAPE)
def test_runs_that_may_not(name):
    assert OTHER_SHAPE[name].shape != RUN.shape


def test_a_result_is_known_by_what_it_was_learnt_from_too():
    x = np.arange(12.0).reshape(4, 3)
    labels = {"split": ["train"] * 4, "age": [1.0, 2.0, 3.0, 4.0]}
    vectors = Vectors.from_arrays(x, labels)
    others = [
        Vectors.from_arrays(x + 1, labels),
        Vectors.from_arrays(x, {**labels, "age": [1.0, 2.0, 3.0, 5.0]}),
        Vectors.from_arrays(x[:3], {k: v[:3] for k, v in labels.items()}),
        Vectors.from_arrays(x, {**labels, "split": ["train"] * 3 + ["test"]}),
    ]
    assert RUN.key_on(vectors) == RUN.key_on(Vectors.from_arrays(x, labels))
    assert len({RUN.key_on(v) for v in [vectors, *others]}) == 5
    assert CHANGED["lr"].key_on(vectors) != RUN.key_on(vectors)
