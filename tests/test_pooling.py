"""Max-pooling by switches: any window, stride, dilation and padding, against loops and conservation laws."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxclear
import reference
from effort import examples
from jaxclear.pooling import max_pool
from networks import noise


def pooled_back(x, response, window, strides, padding, dilation, *, reducer=lax.max, base_dilation=None):
    def pool(_, x):
        return lax.reduce_window(
            x, -jnp.inf, reducer, window, strides, padding, window_dilation=dilation, base_dilation=base_dilation
        )

    ruled = jaxclear.with_rule(pool, "linear")

    @jax.jit
    def both(x):
        out, pull = jax.vjp(lambda x: ruled(None, x), x)
        return out, pool(None, x), pull(jnp.asarray(response(out.shape)))[0]

    out, expected, back = both(x)
    assert np.array_equal(out, expected)
    return back


@settings(deadline=None, max_examples=examples(8))
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    levels=st.sampled_from([2, 1000]),
)
def test_switches_equal_the_plain_loop(seed, shape, window, stride, dilation, padding, levels):
    for size, w, d, (lo, hi) in zip(shape, window, dilation, padding, strict=True):
        assume(size + lo + hi >= d * (w - 1) + 1)
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (*shape, 2)).astype(np.float32)  # two levels: nearly everything ties
    twin = reference.MaxPool(window, stride, padding, dilation)
    response = rng.normal(size=twin.forward(x).shape).astype(np.float32)
    expected = twin.backward("linear", x.astype(np.float64), response)
    back = pooled_back(
        x[None],
        lambda _: response[None],
        (1, *window, 1),
        (1, *stride, 1),
        ((0, 0), *padding, (0, 0)),
        (1, *dilation, 1),
    )
    np.testing.assert_allclose(back[0], expected, atol=1e-5)


@settings(deadline=None, max_examples=examples(4), derandomize=True)
@given(seed=st.integers(0, 99), side=st.integers(9, 12), stride=st.integers(1, 9))
def test_large_windows_equal_the_plain_loop(seed, side, stride):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (1, 14, 13, 2)).astype(np.float32)
    twin = reference.MaxPool((side, side), (stride, stride), ((1, 0), (0, 2)))
    response = rng.normal(size=twin.forward(x[0]).shape).astype(np.float32)
    back = pooled_back(
        x,
        lambda _: response[None],
        (1, side, side, 1),
        (1, stride, stride, 1),
        ((0, 0), (1, 0), (0, 2), (0, 0)),
        (1,) * 4,
    )
    np.testing.assert_allclose(back[0], twin.backward("linear", x[0], response), atol=1e-5)


@pytest.mark.parametrize("reducer", [lax.max, jnp.maximum])
@pytest.mark.parametrize("window", [(1, 2, 2, 1), (1, 3, 3, 1), (1, 12, 12, 1)])
def test_unpooling_conserves_the_sum_even_when_everything_ties(reducer, window):
    x = jnp.ones((2, 12, 12, 3))
    back = pooled_back(x, np.ones, window, window, "VALID", (1,) * 4, reducer=reducer)
    windows = (12 // window[1]) ** 2
    assert back.sum() == 2 * windows * 3
    assert back[:, 0, 0].tolist() == [[1.0] * 3] * 2  # the first in row-major order


def test_base_dilation():
    x = noise(5)
    back = pooled_back(x, np.ones, (3,), (1,), ((1, 1),), (1,), base_dilation=(2,))
    expected = jax.grad(
        lambda x: lax.reduce_window(
            jnp.full(9, -jnp.inf).at[::2].set(x), -jnp.inf, lax.max, (3,), (1,), ((1, 1),)
        ).sum()
    )(x)
    np.testing.assert_allclose(back, expected)


def test_a_window_below_its_floor_has_no_switch():
    def pool(_, x):
        return lax.reduce_window(x, 0.0, jnp.maximum, (2,), (2,), "VALID")

    ruled = jaxclear.with_rule(pool, "linear")
    x = jnp.array([-1.0, -2.0, 3.0, 1.0])
    assert ruled(None, x).tolist() == [0.0, 3.0]
    assert jax.grad(lambda x: ruled(None, x).sum())(x).tolist() == [0, 0, 1, 0]


def test_switches_are_kept_once_for_all_classes():
    x = noise(1, 16, 16, 4)
    ruled = jaxclear.with_rule(
        lambda _, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"), "deconvnet"
    )
    out, pull = jax.vjp(lambda x: ruled(None, x), x)
    seeds = jnp.ones((50, *out.shape))
    compiled = str(jax.make_jaxpr(jax.vmap(pull))(seeds))
    assert "reduce_window" not in compiled
    assert "50,1,16,16,4" not in compiled.split("let", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("shape", "window", "stride"), [((2, 8, 6, 3), 2, 2), ((2, 9, 7, 3), 3, 2), ((3, 11, 2), 2, 3)]
)
def test_pooling_of_training_is_that_of_the_network(shape, window, stride):
    """Where many values are equal too; sums over overlapping windows differ in their last digit."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), jnp.float32)
    inner = len(shape) - 2

    def network(x):
        return nn.max_pool(x, (window,) * inner, (stride,) * inner)

    expected, pull = jax.vjp(network, x)
    got, own = jax.vjp(lambda x: max_pool(x, window, stride), x)
    np.testing.assert_array_equal(got, expected)
    response = noise(*expected.shape, seed=1)
    np.testing.assert_allclose(own(response)[0], pull(response)[0], rtol=1e-6)


def test_windows_larger_than_the_image_are_refused():
    def network(_, images):
        return nn.max_pool(images, (5, 5), strides=(5, 5))

    with pytest.raises(ValueError, match=r"windows no larger than what they pool.*use larger images"):
        jaxclear.clear_map(network)(None, jnp.ones((1, 4, 4, 3)))
    assert jaxclear.clear_map(network)(None, jnp.ones((1, 5, 5, 3))).dominant_class.shape == (1, 5, 5)
    assert jaxclear.coverage(network, None, jnp.ones((1, 4, 4, 3))).complete
    assert jaxclear.with_rule(network)(None, jnp.ones((0, 5, 5, 3))).shape == (0, 1, 1, 3)
    with pytest.raises(ValueError, match="use larger images"):
        max_pool(jnp.ones((1, 4, 4, 3)), 5, 5)
