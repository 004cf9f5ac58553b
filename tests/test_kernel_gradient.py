"""Gradients of kernels as products of matrices: against the definition in float64, and where a training takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from effort import examples
from jaxclear.trace import kernel_gradient, loop_body
from jaxclear.trace.convolutions import PRIMITIVE
from networks import noise
from test_winograd import LAYOUT, ON_CPU, convolution, counted

axis = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(-1, 3), st.integers(-1, 3))
"""Pixels, taps, and zeros before and after."""


@settings(deadline=None, max_examples=examples(8))
@given(axis, axis, st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 60, 300, 10**6]), st.integers(0, 99))
def test_products_give_the_convolution(rows, columns, channels, filters, numbers, seed):
    """Whatever fits a block: a row of pixels, some rows, an image, several or all."""
    (height, down, *above), (width, across, *beside) = rows, columns
    assume(all(pixels + min(edges) > 0 for pixels, edges in ((height, above), (width, beside))))
    assume(height + sum(above) >= down and width + sum(beside) >= across)
    images, kernel = noise(2, height, width, channels, seed=seed), noise(down, across, channels, filters, seed=seed + 1)
    padding = [tuple(above), tuple(beside)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_gradient, "_NUMBERS_A_BLOCK", numbers)
        patch.setattr(kernel_gradient, "_FEWEST_PIXELS", 1)
        found = jax.jit(lambda *given: kernel_gradient.convolve(*given, padding))(images, kernel)
    np.testing.assert_allclose(found, convolution(images, kernel, padding), atol=1e-5)


def convolved(images, kernel, stride=1, padding="SAME"):
    return lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def loss(settings, kernel, images):
    """A number of one convolution that depends on every value in its own way."""
    out = convolved(images, kernel, settings.get("stride", 1), settings.get("padding", "SAME"))
    return (out * jnp.cos(jnp.arange(out.size, dtype=out.dtype).reshape(out.shape))).sum()


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({}, True),
        pytest.param({"padding": "VALID"}, True, marks=pytest.mark.thorough),
        ({"padding": [(2, 0), (1, 3)]}, True),
        ({"channels": 3, "taps": (7, 7), "filters": 32}, True),
        ({"channels": 3, "filters": 96}, False),  # too narrow a matrix
        ({"batch": 1}, False),  # too little work
        ({"size": (41, 9), "taps": (3, 7)}, False),  # most of a row would be edges
        ({"stride": 2}, False),
        ({"dtype": jnp.bfloat16}, False),
    ],
)
def test_a_training_takes_products_where_they_pay(settings, taken):
    channels, dtype = settings.get("channels", 32), settings.get("dtype", jnp.float32)
    images = noise(settings.get("batch", 64), *settings.get("size", (31, 29)), channels).astype(dtype)
    kernel = noise(*settings.get("taps", (3, 3)), channels, settings.get("filters", 16), seed=1).astype(dtype)
    gradient = jax.grad(lambda kernel: loss(settings, kernel, images))
    body = loop_body(gradient, kernel)
    jaxpr = jax.make_jaxpr(body)(kernel).jaxpr
    assert taken == ("dot_general" in str(jaxpr))
    assert counted(jaxpr, PRIMITIVE) == (1 if taken else 2)
    found, expected = jax.jit(lambda kernel: (body(kernel), gradient(kernel)))(kernel)
    tolerance = 1e-4 if dtype == jnp.float32 else 2e-2  # of sums of some 60,000 numbers in another order
    largest = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=tolerance * largest)


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_only_gradients_of_kernels_are_products():
    """Few pixels come of other convolutions too, whose kernels would be laid out anew each time."""
    images, kernel = noise(32, 2, 2, 512), noise(3, 3, 512, 256, seed=1)

    def passed_on_and_back(images):
        return jax.value_and_grad(lambda images: loss({}, kernel, images))(images)

    jaxpr = jax.make_jaxpr(loop_body(passed_on_and_back, images))(images).jaxpr
    assert kernel_gradient.is_faster((3, 3), (512, 256), (32, 2, 2))
    assert "dot_general" not in str(jaxpr)


@pytest.fixture
def always(monkeypatch):
    """However little work, in several blocks."""
    monkeypatch.setattr(kernel_gradient, "_FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(kernel_gradient, "_NUMBERS_A_BLOCK", 400)
    monkeypatch.setattr(kernel_gradient, "_FEWEST_PIXELS", 1)


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_its_own_gradient_is_that_of_the_convolution(always):
    """A kernel's gradient is linear in the responses: it can be derived again."""
    kernel, images = noise(3, 3, 6, 8), noise(2, 9, 8, 6, seed=1)

    def size_of_gradient(way, images):
        return (way(jax.grad(lambda kernel: loss({}, kernel, images)), kernel)(kernel) ** 2).sum()

    assert "dot_general" in str(jax.make_jaxpr(lambda images: size_of_gradient(loop_body, images))(images))
    found = jax.jit(jax.grad(lambda images: size_of_gradient(loop_body, images)))(images)
    expected = jax.grad(lambda images: size_of_gradient(lambda gradient, _: gradient, images))(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_devices_add_up_their_gradients(always):
    kernel, images, factors = noise(3, 3, 6, 8), noise(4, 9, 8, 6, seed=1), noise(4, 9, 8, 8, seed=2)

    def gradient(kernel, images, factors):
        _, pull = jax.vjp(lambda kernel: convolved(images, kernel), kernel)
        return pull(factors)[0]

    def of_own_images(kernel, *given):
        own = lax.pcast(kernel, "batch", to="varying")
        return loop_body(lambda kernel: gradient(kernel, *given), own)(own)[None]

    split, mesh = PartitionSpec("batch"), Mesh(np.array(jax.devices()[:2]), ("batch",))
    each = jax.shard_map(of_own_images, mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=split)
    assert "dot_general" in str(jax.make_jaxpr(each)(kernel, images, factors))
    found = jax.jit(each)(kernel, images, factors).sum(axis=0)
    np.testing.assert_allclose(found, gradient(kernel, images, factors), rtol=1e-4, atol=1e-4)
