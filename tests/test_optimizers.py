"""Optimizers: which kernels Muon takes, that its steps are orthogonal, and the schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxclear.optimizers import _schedule, optimizer_of

PARAMS = {
    "Conv_0": {"kernel": jnp.zeros((3, 3, 4, 8)), "bias": jnp.zeros(8)},
    "Conv_1": {"kernel": jnp.zeros((1, 1, 8, 3)), "bias": jnp.zeros(3)},
}


def gradients(seed):
    keys = iter(jax.random.split(jax.random.key(seed), 4))
    return jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), PARAMS)


def test_hidden_kernels_move_along_orthogonal_matrices():
    optimizer = optimizer_of(1e-3, 0.1, steps=10, classes=3)
    moved, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    values = np.linalg.svd(np.asarray(moved["Conv_0"]["kernel"]).reshape(36, 8), compute_uv=False) / 0.1
    # Five Newton-Schulz steps bring singular values near 1, not to it.
    assert 0.6 < values.min() < values.max() < 1.3


def test_the_class_layer_and_biases_have_adam():
    muon, adam = optimizer_of(1e-3, 0.1, steps=10, classes=3), optax.nadam(1e-3)
    states = [muon.init(PARAMS), adam.init(PARAMS)]
    for seed in range(3):
        found, states[0] = muon.update(gradients(seed), states[0], PARAMS)
        expected, states[1] = adam.update(gradients(seed), states[1], PARAMS)
        for path in (("Conv_0", "bias"), ("Conv_1", "kernel"), ("Conv_1", "bias")):
            np.testing.assert_allclose(found[path[0]][path[1]], expected[path[0]][path[1]], rtol=1e-4)


def test_without_muon_all_have_adam():
    found, expected = optimizer_of(1e-3, steps=10, classes=3), optax.adam(1e-3)
    moved = [one.update(gradients(0), one.init(PARAMS), PARAMS)[0] for one in (found, expected)]
    jax.tree.map(np.testing.assert_array_equal, *moved)


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"rising": 0, "decay": "cosine"}, [2, 1, 0]),
        ({"rising": 50, "decay": "constant"}, [0, 2, 2]),
        ({"rising": 50, "decay": "cosine"}, [0, 2, 0]),
    ],
)
def test_schedules(settings, values):
    rate = _schedule(2.0, steps=100, **settings)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 50, 100)], values, atol=1e-6)
    assert _schedule(2.0, steps=100, rising=0, decay="constant") == 2.0
