"""The head of heads_throughput.py in JAX: an epoch as one compiled scan, for one run or for eight side by side."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAYERS = {
    "trunk": [(128, True), (64, True)],
    "emotion": [(32, False), (10, None)],
    "country": [(32, False), (4, None)],
    "age": [(32, False), (16, False), (1, None)],
}
"""Width of each layer, and whether it is normalised; None for the last of a branch."""
STEPS, RUNS = 64, 8


def start(key: Any, dim: int) -> Any:
    """First weights of a run."""
    weights: dict[str, Any] = {}
    for part, layers in LAYERS.items():
        width = dim if part == "trunk" else 64
        for place, (wider, norm) in enumerate(layers):
            key, own = jax.random.split(key)
            layer = {"w": jax.random.uniform(own, (width, wider), minval=-1, maxval=1) / np.sqrt(width)}
            layer["b"] = jnp.zeros(wider)
            weights[f"{part}.{place}"] = layer | ({"g": jnp.ones(wider), "e": jnp.zeros(wider)} if norm else {})
            width = wider
    return weights


def apply(weights: Any, part: str, h: Any) -> Any:
    """The trunk, or a branch."""
    for place, (_, norm) in enumerate(LAYERS[part]):
        layer = weights[f"{part}.{place}"]
        h = h @ layer["w"] + layer["b"]
        if norm:
            centred = h - h.mean(-1, keepdims=True)
            h = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["g"] + layer["e"]
        h = h if norm is None else jnp.where(h > 0, h, 0.01 * h)
    return h


def loss_of(weights: Any, x: Any, emotion: Any, country: Any, age: Any) -> Any:
    """Sum of the three losses."""
    h = apply(weights, "trunk", x)
    classes = jax.nn.log_softmax(apply(weights, "country", h))
    loss = ((jax.nn.sigmoid(apply(weights, "emotion", h)) - emotion) ** 2).mean()
    loss -= jnp.take_along_axis(classes, country[:, None], 1).mean()
    return loss + ((apply(weights, "age", h)[:, 0] - age) ** 2).mean()


def step(data: Any, state: Any, rows: Any) -> Any:
    """One step of Adam."""
    weights, first, second, t = state
    t = t + 1
    gradient = jax.grad(loss_of)(weights, *(values[rows] for values in data))
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
    size, unbias = 1e-3 / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
    weights = jax.tree.map(lambda w, m, v: w - size * m / (jnp.sqrt(v) * unbias + 1e-8), weights, first, second)
    return weights, first, second, t


def epoch(data: Any, state: Any, order: Any) -> Any:
    """Steps of one run, each on the rows that `order` (steps, batch) names."""
    return jax.lax.scan(lambda s, rows: (step(data, s, rows), None), state, order)[0]


def epochs(data: Any, state: Any, order: Any) -> Any:
    """Steps of eight runs side by side; `order` is (steps, runs, batch)."""
    return jax.lax.scan(lambda s, rows: (jax.vmap(partial(step, data))(s, rows), None), state, order)[0]


def scan(data: Any) -> Iterator[int]:
    """One run."""
    yield from train(data, 1)


def vmap(data: Any) -> Iterator[int]:
    """Eight runs."""
    yield from train(data, RUNS)


def train(data: Any, runs: int) -> Iterator[int]:
    """Steps for ever; rows seen after each scan."""
    arrays = tuple(jnp.asarray(v) for v in (data.x, data.emotion, data.country, data.age))
    keys = jax.random.split(jax.random.key(0), runs)
    weights = [start(key, data.x.shape[1]) for key in keys]
    together = weights[0] if runs == 1 else jax.tree.map(lambda *w: jnp.stack(w), *weights)
    first, second = (jax.tree.map(jnp.zeros_like, together) for _ in range(2))
    state = (together, first, second, jnp.zeros(() if runs == 1 else runs))
    compiled = jax.jit(epoch if runs == 1 else epochs, donate_argnums=1)
    random, shape = np.random.default_rng(0), (STEPS, data.batch) if runs == 1 else (STEPS, runs, data.batch)
    while True:
        state = compiled(arrays, state, random.integers(0, len(data.x), shape))
        jax.block_until_ready(state)
        yield STEPS * runs * data.batch
