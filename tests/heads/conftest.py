"""Runs, heads and results made by hand: their numbers are known, and nothing has to be trained."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vbx.cache.vectors import Vectors
from vbx.heads.head import Head, count_outputs, list_layers
from vbx.heads.native import find_kernel
from vbx.heads.native.build import build_kernel
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.result import Result, ScoreRow
from vbx.heads.run import Run

AGE = Task("age", ("Age",), "mse", ("mae",), hidden=(4, 3))
COUNTRY = Task("country", ("Country",), "cross_entropy", ("uar",), hidden=(5,))
EMOTION = Task("emotion", ("Awe", "Joy"), "mse", ("ccc",), output="sigmoid")
TASKS, TRUNK = (EMOTION, COUNTRY, AGE), Trunk((7, 6))


@pytest.fixture(scope="session")
def kernel() -> None:
    """The native kernel, built from its sources as they are now."""
    libraries, trouble = build_kernel()
    assert not trouble and libraries
    find_kernel.__globals__["_find"].cache_clear()
    assert find_kernel().library is not None


@pytest.fixture
def vectors() -> Vectors:
    """24 utterances of 6 speakers, 5 columns."""
    x = np.random.default_rng(0).standard_normal((24, 5))
    labels = {
        "split": ["train", "train", "dev", "test"] * 6,
        "speaker": [f"s{i // 4}" for i in range(24)],
        "Age": 30 + x[:, 0],
        "Country": ["US", "China", "Brazil"] * 8,
        "Awe": 1 / (1 + np.exp(-x[:, 1])),
        "Joy": 1 / (1 + np.exp(-x[:, 2])),
    }
    return replace(Vectors.from_arrays(x, labels, feature="toy", corpus="c6"), missing=2)


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """A run of three tasks; `fit` and `trunk` may be set."""

    def make(
        seed: int = 1,
        tasks: tuple[Task, ...] = TASKS,
        trunk: Trunk = TRUNK,
        recipe: str = "toy",
        **fit: Any,
    ) -> Run:
        parts = ("emotion.ccc", "country.uar") if {"emotion", "country"} <= {task.name for task in tasks} else ()
        score = fit_score(Score(of=parts), tasks)
        return Run("toy", "c6", seed, tasks, trunk, Fit(**fit), score, recipe)

    return make


@pytest.fixture
def make_head(vectors: Vectors) -> Callable[[Run], Head]:
    """A head of random weights."""

    def make(run: Run, vectors: Vectors = vectors) -> Head:
        rng = np.random.default_rng(run.seed)
        classes = {t.name: vectors.schema[t.columns[0]].classes for t in run.tasks if t.kind == "classification"}
        dim = vectors.x.shape[1]
        state: dict[str, np.ndarray] = {}
        for layer in list_layers(dim, run.trunk, run.tasks, {t.name: count_outputs(t, classes) for t in run.tasks}):
            shapes = {"weight": (layer.width_out, layer.width_in), "bias": (layer.width_out,)}
            if layer.norm:
                shapes |= {"norm.weight": (layer.width_out,), "norm.bias": (layer.width_out,)}
            for name, shape in shapes.items():
                state[f"{layer.name}.{name}"] = rng.standard_normal(shape).astype(run.fit.dtype)
        centre, spread = rng.standard_normal(dim), rng.uniform(0.5, 2.0, dim)
        key = vectors.fingerprint
        return Head(run, vectors.columns, classes, state, centre, spread, key, vectors.feature, vectors.corpus)

    return make


@pytest.fixture
def make_result(vectors: Vectors, make_head: Callable[..., Head]) -> Callable[..., Result]:
    """A result with the scores that are given: `(split, task, metric)` to a value, or to value and replicates."""

    def make(run: Run, scores: Mapping[tuple[str, str, str], Any], vectors: Vectors = vectors, **more: Any) -> Result:
        rows = []
        for (split, task, metric), given in scores.items():
            value, replicates = given if isinstance(given, tuple) else (given, None)
            array = None if replicates is None else np.asarray(replicates, np.float32)
            rows.append(ScoreRow(split, task, "", metric, value, 6, array))
        fields = {"status": "ok", "epochs": 3, "best_epoch": 2, "seconds": 0.5, "notes": (), **more}
        return Result(run=run, key=run.key_on(vectors), rows=tuple(rows), head=make_head(run, vectors), **fields)

    return make


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
