"""The strongest peer: K `digits` perceptrons trained by `jax.jit(jax.vmap(step))` with optax.

    python benchmarks/jax_peer.py K

In an environment of its own (`pip install jax optax scikit-learn`). Each line that it reads is a
number of steps to take; each line that it writes, how many seconds they took. Every member has its
own weights and batches, drawn ahead as they are for the other side.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

LAYERS = (64, 64, 32, 10)
BATCH = 64
DRAWN = 64
"""Steps whose batches are drawn at once."""

pixels, classes = load_digits(return_X_y=True)
INPUTS = jnp.asarray(pixels[:1078] / 16, jnp.float32)
CLASSES = jnp.asarray(classes[:1078])
OPTIMIZER = optax.adam(1e-3)


def initial(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, len(LAYERS) - 1)
    sizes = pairwise(LAYERS)
    return [
        (jax.random.normal(k, (n, m)) / np.sqrt(n), jnp.zeros(m))
        for k, (n, m) in zip(keys, sizes, strict=True)
    ]


def loss(params: list[tuple[jax.Array, jax.Array]], indices: jax.Array) -> jax.Array:
    x = INPUTS[indices]
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    logits = x @ weight + bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, CLASSES[indices]).mean()


def step(params, state, indices):  # type: ignore[no-untyped-def]
    value, gradients = jax.value_and_grad(loss)(params, indices)
    updates, state = OPTIMIZER.update(gradients, state)
    return optax.apply_updates(params, updates), state, value


def main() -> None:
    members = int(sys.argv[1])
    stepped = jax.jit(jax.vmap(step), donate_argnums=(0, 1))
    params = jax.vmap(initial)(jax.random.split(jax.random.key(0), members))
    state = jax.vmap(OPTIMIZER.init)(params)
    drawn = np.random.default_rng(0).integers(0, len(INPUTS), (DRAWN, members, BATCH))
    params, state, value = stepped(params, state, drawn[0])
    value.block_until_ready()
    print("ready", flush=True)
    for line in sys.stdin:
        began = perf_counter()
        for i in range(int(line)):
            params, state, value = stepped(params, state, drawn[i % DRAWN])
        value.block_until_ready()
        print(perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
