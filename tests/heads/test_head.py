"""Using a head: the same numbers as the training saw, from a plain module."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vbx.cache.vectors import Vectors
from vbx.errors import CacheError
from vbx.heads.head import HeadModule, apply_head, list_layers
from vbx.heads.parts import Fit, Score, Task, Trunk, fit_score
from vbx.heads.run import Run
from vbx.heads.scaling import scale_by_speaker
from vbx.heads.training import train_heads

TASKS = (
    Task("emotion", ("awe", "fear"), "mse", ("ccc", "mae"), hidden=(6,), output="sigmoid"),
    Task("country", ("country",), "cross_entropy", ("accuracy",), hidden=(5,)),
    Task("age", ("age",), "mae", ("ccc", "mae"), hidden=(7, 4)),
)


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    x = random.standard_normal((90, 11)).astype(np.float32) * 20 + 100
    labels = {
        "split": ["train", "train", "test"] * 30,
        "speaker": [f"s{i % 5}" for i in range(90)],
        "awe": random.random(90),
        "fear": random.random(90),
        "country": random.choice(["us", "cn", "za"], 90),
        "age": 30 + (x[:, 0] - 100) / 5 + random.standard_normal(90),
    }
    return Vectors.from_arrays(x, labels)


def train(vectors, trunk=None, tasks=TASKS, **fit):
    settings = Fit(**{"epochs": 3, "batch_size": 8, "lr": 0.01, "scale_targets": True, **fit})
    run = Run("", "", 1, tasks, trunk or Trunk((12, 10), dropout=0.2), settings, fit_score(Score(), tasks))
    (result,) = train_heads([run], vectors)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", ["standard", "robust", "minmax"])
def test_a_head_says_what_its_run_was_scored_on(vectors, scale, dtype):
    result = train(vectors, scale=scale, dtype=dtype)
    said, labels = apply_head(result.head, vectors.x), vectors.labels
    test = (labels["split"] == "test").to_numpy()
    values = {(r.task, r.column, r.metric): r.value for r in result.rows if r.split == "test"}
    assert {k: v.shape for k, v in said.items()} == {"emotion": (90, 2), "country": (90, 3), "age": (90, 1)}
    assert all(v.dtype == np.float32 for v in said.values())
    age = np.abs(said["age"][test, 0] - labels["age"][test]).mean()
    assert age == pytest.approx(values["age", "", "mae"], rel=1e-4) and age < 30  # in years, not in deviations
    fear = np.abs(said["emotion"][test, 1] - labels["fear"][test]).mean()
    assert fear == pytest.approx(values["emotion", "fear", "mae"], rel=1e-4)
    right = np.array(result.head.classes["country"])[said["country"].argmax(1)] == labels["country"]
    assert right[test].mean() == pytest.approx(values["country", "", "accuracy"])
    np.testing.assert_allclose(said["country"].sum(1), 1, rtol=1e-5)
    assert ((said["emotion"] > 0) & (said["emotion"] < 1)).all()


def test_the_module_is_what_its_weights_say(vectors):
    head = train(vectors).head
    w = {name: torch.from_numpy(values) for name, values in head.state.items()}
    x = (torch.from_numpy(vectors.x) - torch.tensor(head.centre)) / torch.tensor(head.spread)
    for i in (0, 1):
        x = F.linear(x.float(), w[f"trunk.{i}.weight"], w[f"trunk.{i}.bias"])
        x = F.layer_norm(x, x.shape[-1:], w[f"trunk.{i}.norm.weight"], w[f"trunk.{i}.norm.bias"])
        x = F.leaky_relu(x)
    for i in (0, 1):
        x = F.leaky_relu(F.linear(x, w[f"age.{i}.weight"], w[f"age.{i}.bias"]))
    age = F.linear(x, w["age.out.weight"], w["age.out.bias"])
    np.testing.assert_allclose(apply_head(head, vectors.x)["age"], age.numpy(), rtol=1e-4)
    outputs = HeadModule(head)(torch.from_numpy(vectors.x))
    assert [tuple(o.shape) for o in outputs] == [(90, 2), (90, 3), (90, 1)]


def test_names_and_shapes_of_the_weights(vectors):
    head = train(vectors, epochs=1).head
    shapes = {name: values.shape for name, values in head.state.items()}
    outputs = {"emotion": 2, "country": 3, "age": 1}
    for layer in list_layers(11, head.run.trunk, TASKS, outputs):
        assert shapes.pop(f"{layer.name}.weight") == (layer.width_out, layer.width_in)
        assert shapes.pop(f"{layer.name}.bias") == (layer.width_out,)
        if layer.norm:
            assert (
                shapes.pop(f"{layer.name}.norm.weight") == shapes.pop(f"{layer.name}.norm.bias") == (layer.width_out,)
            )
    assert not shapes
    assert head.classes == {"country": ("cn", "us", "za")} and head.columns == vectors.columns
    assert head.vectors_key == vectors.fingerprint and (head.feature, head.corpus) == ("array", "array")


def test_without_layers_a_head_is_linear(vectors):
    head = train(vectors, Trunk(()), (replace(TASKS[2], hidden=()),)).head
    assert list(head.state) == ["age.out.weight", "age.out.bias"]
    x = (vectors.x - head.centre) / head.spread
    expected = x @ head.state["age.out.weight"].T + head.state["age.out.bias"]
    np.testing.assert_allclose(apply_head(head, vectors.x)["age"], expected, rtol=1e-4)


def test_vectors_of_another_width_are_refused(vectors):
    head = train(vectors, epochs=1).head
    with pytest.raises(CacheError, match=r"\(90, 10\).*11"):
        apply_head(head, vectors.x[:, :10])


def test_scaled_by_speaker_a_head_takes_what_is_scaled_already(vectors):
    result = train(vectors, scale_by_speaker=True)
    assert (result.head.centre == 0).all() and (result.head.spread == 1).all()
    scaled = scale_by_speaker(vectors.x, vectors.labels["speaker"].tolist(), "standard")
    said, test = apply_head(result.head, scaled)["age"][:, 0], (vectors.labels["split"] == "test").to_numpy()
    (mae,) = [r.value for r in result.rows if (r.task, r.metric) == ("age", "mae")]
    assert np.abs(said - vectors.labels["age"])[test].mean() == pytest.approx(mae, rel=1e-4)
