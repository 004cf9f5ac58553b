"""A network is worked on in blocks of images only if an image's answer does not depend on the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from effort import examples
from jaxclear import models
from jaxclear.trace import keeps_images_apart
from networks import initial, random_networks, small_network, to_jax

BATCH, PART = 6, 2
SHAPE = (BATCH, 4, 4, 3)


class Attention(nn.Module):
    """Self-attention over pixels, with layer normalisation before it."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(x.reshape(len(x), -1, x.shape[-1]))
        return nn.Dense(5)(nn.MultiHeadDotProductAttention(num_heads=1)(x).mean(axis=1))


class ResidualLayer(nn.Module):
    """One round of a scan."""

    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(4)(x)), None


class Residuals(nn.Module):
    """Group normalisation, a gated branch, an average-pooling, and residual layers in one scan."""

    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(num_groups=2)(nn.Conv(4, (3, 3))(x))
        x = nn.avg_pool(x * nn.sigmoid(nn.Conv(4, (1, 1))(x)), (2, 2), (2, 2))
        x = jnp.where(x > 1, jnp.log1p(jnp.maximum(x, 0)), nn.gelu(x))
        layers = nn.scan(ResidualLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers()(x, None)
        return nn.log_softmax(nn.Dense(5)(jnp.concatenate([x, -x[:, ::-1]], axis=-1)))


class Normalised(nn.Module):
    """Batch normalisation, by the statistics of training or those of the batch."""

    train: bool

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.BatchNorm(use_running_average=not self.train)(x).reshape(len(x), -1))


def flax_network(module):
    """Returns apply and variables."""
    variables = initial(module, jnp.zeros(SHAPE))
    mutable = ["batch_stats"] if getattr(module, "train", False) else False

    def apply(variables, images):
        found = module.apply(variables, images, mutable=mutable)
        return found[0] if mutable else found

    return apply, variables


def recurrent(_, images):
    def step(carry, row):
        carry = jnp.tanh(carry * 0.5 + row)
        return carry, carry.sum(axis=-1)

    carry, seen = lax.scan(step, jnp.zeros((len(images), 4, 3)), images.transpose(1, 0, 2, 3))
    return carry.reshape(len(images), -1), seen.transpose(1, 0, 2)


@pytest.mark.parametrize("module", [Attention(), Residuals(), Normalised(train=False)])
def test_layers_of_flax_leave_images_apart(module):
    assert keeps_images_apart(*flax_network(module), jnp.zeros(SHAPE), PART)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_the_published_networks_leave_images_apart(name):
    module, table = models.build(name)
    images = jax.ShapeDtypeStruct((BATCH, *table.input_shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    assert keeps_images_apart(module.apply, variables, images, PART)


def test_a_recurrent_network_leaves_images_apart():
    assert keeps_images_apart(recurrent, {}, jnp.zeros(SHAPE), PART)


def over_images(_, x):
    carry, seen = lax.scan(lambda carry, image: (carry + image, carry), jnp.zeros(x.shape[1:]), x)
    return seen + carry


def places_in_a_carry(_, x):
    """The first round puts out what differs from place to place; only later ones depend on the images."""
    start = jnp.arange(len(x), dtype=x.dtype)[:, None, None]
    return lax.scan(lambda carry, row: (row, carry), start + jnp.zeros((1, 4, 3)), x.transpose(1, 0, 2, 3))[1][0]


@jax.custom_vjp
def backward_mixes(x):
    return x


backward_mixes.defvjp(lambda x: (x, None), lambda _, g: (g.sum(axis=0, keepdims=True) + 0 * g,))


@jax.custom_jvp
def derivative_mixes(x):
    return x


derivative_mixes.defjvp(lambda primals, tangents: (primals[0], tangents[0] - tangents[0].mean(axis=0)))


def places_of_maxima(_, x):
    """Max-pooling that numbers the elements of the whole batch, as an unpooling wants them."""
    numbers = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)

    def larger(a, b):
        return jnp.where(a[0] > b[0], a[0], b[0]), jnp.where(a[0] > b[0], a[1], b[1])

    window = (1, 2, 2, 1)
    return lax.reduce_window((x, numbers), (-jnp.inf, 0.0), larger, window, window, "VALID")[1]


def token(_, x):
    lax.create_token()
    return x + jnp.arange(len(x), dtype=x.dtype)[:, None, None, None]


NUMBER_OF_IMAGES = {
    "divided by it": lambda _, x: x / len(x),
    "counted on the device": lambda _, x: x / jnp.ones(len(x)).sum(),
    "in the size of the batch": lambda _, x: x.sum(axis=(1, 2)) / x.size,
    "in a condition": lambda _, x: jnp.tanh(x) if len(x) > 3 else x,
    "in a slice": lambda _, x: x[:, : min(4, len(x))].sum(axis=(1, 2)),
    "in a padding": lambda _, x: jnp.pad(x, ((0, 0), (0, len(x)), (0, 0), (0, 0))).mean(axis=(1, 2)),
    "in a loop": lambda _, x: lax.scan(lambda carry, _: (jnp.sin(carry), None), x, None, length=len(x))[0],
    "in a constant": lambda _, x: x * np.linspace(0, 1, len(x))[1],
    "in the constants of a loop": lambda _, x: lax.fori_loop(0, 3, lambda _, y: y * np.float32(len(x)), x),
    "in a size that is one size": lambda _, x: x.reshape(6, -1),
    "in numbers of every image": lambda _, x: x + jnp.full((len(x), 1, 1, 1), len(x)),
    "in weights of its own": lambda v, x: x.reshape(len(x), -1)[:, :3] @ v[len(x) - 1],
}


MIXING = {
    "mean over the batch": lambda _, x: x - x.mean(axis=0),
    "largest of the batch": lambda _, x: x / x.max(),
    "neighbours": lambda _, x: x + jnp.roll(x, 1, axis=0),
    "turned round": lambda _, x: x[::-1],
    "running sum": lambda _, x: jnp.cumsum(x, axis=0),
    "sorted": lambda _, x: jnp.sort(x, axis=0),
    "place in the batch": lambda _, x: x + jnp.arange(len(x))[:, None, None, None],
    "place in the batch, by comparison": lambda _, x: jnp.where(jnp.arange(len(x))[:, None, None, None] > 2, x, 0),
    "noise": lambda _, x: x + jax.random.normal(jax.random.key(0), x.shape),
    "products of images": lambda _, x: jnp.einsum("bhwc,dhwc->bd", x, x),
    "attention between images": lambda _, x: jax.nn.softmax(jnp.einsum("bhwc,dhwc->bd", x, x)) @ x.reshape(len(x), -1),
    "weights over the batch": lambda _, x: jnp.einsum("db,bhwc->dhwc", jnp.ones((len(x), len(x))), x),
    "weights of its own for each place": lambda v, x: jnp.einsum("bij,bhwi->bhwj", v, x),
    "window over the batch": lambda _, x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 1, 1, 1), (1,) * 4, "SAME"),
    "pairs": lambda _, x: x.reshape(len(x) // 2, 2, -1).max(axis=1),
    "another order": lambda _, x: x.reshape(4, len(x), -1).transpose(1, 0, 2),
    "every other": lambda _, x: x[::2],
    "shifted": lambda _, x: jnp.pad(x[1:], ((0, 1), (0, 0), (0, 0), (0, 0))),
    "twice": lambda _, x: jnp.concatenate([x, x]),
    "kernel from the images": lambda _, x: nn.standardize(x) * x[:1],
    "batch groups": lambda _, x: lax.conv_general_dilated(
        x, jnp.ones((1, 1, 3, 6)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), batch_group_count=2
    ),
    "scan over the images": over_images,
    "place in the batch, through a carry": places_in_a_carry,
    "a condition on all": lambda _, x: lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x),
    "a backward pass of its own": lambda _, x: backward_mixes(x),
    "a derivative of its own": lambda _, x: derivative_mixes(x),
    "numbers of elements in windows": places_of_maxima,
    "a token beside": token,
    "no result": lambda _, x: (),
    "images counted by another axis": lambda _, x: x.transpose(1, 0, 2, 3),
    "no images": lambda _, x: jnp.ones((len(x), 5)),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_may_mix_images_is_seen(name):
    variables = jnp.arange(BATCH * 9.0).reshape(BATCH, 3, 3)
    assert not keeps_images_apart(MIXING[name], variables, jnp.zeros(SHAPE), PART)


@pytest.mark.parametrize("name", NUMBER_OF_IMAGES)
def test_where_the_number_of_images_enters_is_seen(name):
    variables = jnp.arange(BATCH * 9.0).reshape(BATCH, 3, 3)
    assert not keeps_images_apart(NUMBER_OF_IMAGES[name], variables, jnp.zeros(SHAPE), PART)


def test_what_only_takes_the_size_of_the_batch_leaves_images_apart():
    def apply(variables, x):
        x = lax.optimization_barrier(jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1)) * variables[0]], axis=-1))
        return nn.softmax(jnp.zeros((len(x), 5)) + x.reshape(x.shape[0], -1)[:, :5])

    assert keeps_images_apart(apply, jnp.ones(2), jnp.zeros(SHAPE), PART)


def test_a_token_is_no_obstacle():
    assert keeps_images_apart(lambda _, x: (lax.create_token(), x)[1], {}, jnp.zeros(SHAPE), PART)


def test_statistics_of_the_batch_are_seen():
    assert not keeps_images_apart(*flax_network(Normalised(train=True)), jnp.zeros(SHAPE), PART)


@settings(max_examples=12, deadline=None)
@given(random_networks())
def test_random_networks_leave_images_apart(drawn):
    layers, images = drawn
    apply, variables = to_jax(layers)
    assert keeps_images_apart(apply, variables, jnp.zeros((BATCH, *images.shape[1:])), PART)


def test_nothing_is_computed():
    apply, variables, images = small_network()
    kinds = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (variables, images))
    assert keeps_images_apart(apply, *kinds, PART)


# One step each, of arrays of any shape; many of them mix images, depending on where the axis of the images has got to.
STEPS = {
    "reverse an axis": lambda x, n: jnp.flip(x, n % x.ndim),
    "move an axis": lambda x, n: jnp.moveaxis(x, n % x.ndim, 0),
    "merge two axes": lambda x, n: (
        x.reshape(*x.shape[: (i := n % (x.ndim - 1))], -1, *x.shape[i + 2 :]) if x.ndim > 2 else x
    ),
    "split an axis": lambda x, n: x.reshape(*x.shape[: (i := n % x.ndim)], -1, 2 - x.shape[i] % 2, *x.shape[i + 1 :]),
    "sum over an axis": lambda x, n: x - x.sum(axis=n % x.ndim, keepdims=True),
    "reduce an axis": lambda x, n: x.max(axis=n % x.ndim) if x.ndim > 2 else x,
    "running sum": lambda x, n: jnp.cumsum(x, axis=n % x.ndim),
    "numbers along an axis": lambda x, n: (
        x + jnp.arange(x.shape[n % x.ndim]).reshape(-1, *[1] * (x.ndim - 1 - n % x.ndim))
    ),
    "product with itself": lambda x, n: x * jnp.swapaxes(x, n % x.ndim, 0) if x.shape[n % x.ndim] == len(x) else x,
    "window": lambda x, n: lax.reduce_window(
        x, -jnp.inf, lax.max, tuple(1 + (i == n % x.ndim) for i in range(x.ndim)), (1,) * x.ndim, "SAME"
    ),
    "slice": lambda x, n: lax.slice_in_dim(x, 0, max(1, x.shape[n % x.ndim] - 1), axis=n % x.ndim),
    "repeat": lambda x, n: jnp.concatenate([x, 2 * x], axis=n % x.ndim),
    "its size": lambda x, n: x * x.shape[n % x.ndim],
    "nonlinearity": lambda x, n: jnp.where(x > n, jnp.tanh(x), nn.relu(-x)),
}


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), min_size=1, max_size=5), st.integers(0, 99)
)
def test_where_images_are_said_to_be_apart_the_others_can_be_changed(steps, seed):
    def network(_, x):
        for name, number in steps:
            x = STEPS[name](x, number)
        return x

    images = np.random.default_rng(seed).normal(size=(3, 2, 3, 2)).astype(np.float32)
    assume(keeps_images_apart(network, {}, images, 1))
    apply = jax.jit(network)
    found = apply({}, jnp.asarray(images))
    others = np.array(images)
    others[1:] = np.random.default_rng(seed + 1).normal(size=others[1:].shape)
    np.testing.assert_array_equal(found[0], apply({}, jnp.asarray(others))[0])
    np.testing.assert_allclose(found[2], apply({}, jnp.asarray(images[2:]))[0], rtol=1e-5, atol=1e-6)
