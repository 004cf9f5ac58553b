"""A back-projection cut in two: the parts one after the other are the whole, and so are maps made with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxclear
from effort import few_of
from jaxclear import class_backprop
from jaxclear.trace import two_parts
from networks import initial, pictures

ON_CPU = jax.default_backend() == "cpu"


def network(num_classes, residual=True):
    """Images of 64 by 64 pixels, and layers of 16 by 16, 8 by 8 and, through a shortcut besides, 4 by 4."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x))
            x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Conv(8, (3, 3), strides=(2, 2))(x))
            if residual:
                beside = nn.Conv(8, (1, 1), strides=(2, 2))(x)
                x = nn.relu(nn.Conv(8, (3, 3))(nn.relu(nn.Conv(8, (3, 3), strides=(2, 2))(x))) + beside)
            return nn.Conv(num_classes, (1, 1))(x)

    images = pictures(1, 64, 64, 3)
    return Net().apply, initial(Net(), images, seed=1), images


@functools.cache
def pulled(residual):
    apply, variables, images = network(5, residual)
    out, pull = jax.vjp(lambda x: jaxclear.with_rule(apply, "guided")(variables, x), images)
    return jax.jit(lambda response: pull(response)[0]), out


@pytest.mark.parametrize("pixels", [17, 65, 257])
@pytest.mark.parametrize("residual", [True, False])
def test_the_second_part_of_the_first_is_the_whole(pixels, residual):
    function, response = pulled(residual)
    parts = two_parts.cut(function.__wrapped__, response, pixels)
    if parts is None:
        assert pixels <= (17 if residual else 65)
        return
    values = jax.jit(parts.first)(response)
    np.testing.assert_allclose(jax.jit(parts.second)(values), function(response), rtol=1e-6)
    # What does not depend on the response is not passed on, and what is passed on is still small.
    moving = jax.jit(jax.jacfwd(lambda r: parts.first(r)))(response)
    assert all(np.abs(leaf).max() > 0 for leaf in moving)
    assert all(value.size < response.size * 100 for value in values)


def test_functions_that_are_not_cut():
    kernel = jnp.ones((3, 3, 2, 2))

    def convolve(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    image = jnp.ones((1, 8, 8, 2))
    assert two_parts.cut(jnp.sin, image, 10) is None
    assert two_parts.cut(convolve, image, 10) is None
    assert two_parts.cut(lambda x: convolve(convolve(x)), image, 100) is None

    def grows(x):
        return convolve(jnp.tile(convolve(x), (1, 2, 2, 1)))

    assert two_parts.cut(grows, image, 100) is not None

    def says(x):
        jax.debug.print("{}", x.sum())
        return grows(x)

    assert two_parts.cut(says, image, 100) is None

    def in_a_loop(x):
        return convolve(jax.lax.scan(lambda carry, _: (grows(carry)[:, ::2, ::2], None), x, None, length=2)[0])

    assert two_parts.cut(in_a_loop, image, 100) is None


def test_the_cut_is_before_the_first_large_convolution():
    """Of many equations only few depend on the argument."""
    kernel = jnp.ones((3, 3, 2, 2))
    others = [jnp.float32(number) for number in range(400)]

    def convolve(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def network(x):
        for size in (1, 2, 2, 2):
            x = jnp.tile(convolve(x), (1, size, size, 1)) * sum(jnp.sin(other) for other in others[::4])
        return convolve(x)

    image = jnp.ones((1, 4, 4, 2))
    for pixels, side in ((50, 8), (200, 16), (1000, 32)):
        parts = two_parts.cut(network, image, pixels)
        assert [value.shape for value in parts.first(image)] == [(1, side, side, 2)]


@pytest.fixture
def cuts(monkeypatch):
    """Counts the loops in two parts: how many blocks of classes each had."""
    found = []
    loop = class_backprop.ClassBackprop._loop_in_two_parts

    def counted(self, parts, step, carry, blocks):
        found.append(len(blocks))
        return loop(self, parts, step, carry, blocks)

    monkeypatch.setattr(class_backprop.ClassBackprop, "_loop_in_two_parts", counted)
    monkeypatch.setattr(class_backprop, "_PIXELS_WITHOUT_LOOP", 0)  # else the tests' few pixels need no loop
    return found


@pytest.mark.skipif(not ON_CPU, reason="an accelerator takes all classes at once")
@pytest.mark.parametrize("num_classes", few_of([5, 17], 5))
def test_maps_of_many_classes_are_those_of_one_at_a_time(num_classes, cuts):
    apply, variables, images = network(num_classes)
    for explain, options in (
        (jaxclear.clear_map, {}),
        (jaxclear.clear_map, {"top_k": 3}),
        (jaxclear.class_responses, {"classes": list(range(num_classes))[::2]}),
    ):
        ways = [explain(apply, rule="guided", class_block=block, **options) for block in (None, 1)]
        found, expected = jax.jit(lambda *inputs, ways=ways: [way(*inputs) for way in ways])(variables, images)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    assert len(cuts) == 3


@pytest.mark.skipif(not ON_CPU, reason="an accelerator takes all classes at once")
def test_devices_that_share_classes_cut_too(cuts):
    apply, variables, images = network(37)
    clear = jaxclear.clear_map(apply, rule="guided")
    found = clear(*jaxclear.place(variables, images))
    assert cuts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, clear(variables, images))


@pytest.mark.skipif(not ON_CPU, reason="an accelerator takes all classes at once")
def test_a_loss_of_a_map_that_was_cut_has_the_same_gradient(cuts):
    apply, variables, images = network(9)

    def loss(variables, class_block):
        clear = jaxclear.clear_map(apply, rule="guided", class_block=class_block)
        return (clear(variables, images).dominant_response ** 2).sum()

    found, expected = jax.jit(lambda variables: [jax.grad(loss)(variables, block) for block in (None, 1)])(variables)
    assert len(cuts) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected)


@pytest.mark.skipif(not ON_CPU, reason="an accelerator takes all classes at once")
def test_memory_of_a_cut_map_does_not_grow_with_the_classes(cuts):
    sizes = []
    for num_classes in (64, 640):
        apply, variables, images = network(num_classes)
        lowered = jax.jit(jaxclear.clear_map(apply, rule="guided")).lower(variables, images)
        sizes.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert len(cuts) == 2
    assert sizes[1] - sizes[0] <= 576 * 300  # bytes a class; its response has 64 * 64 * 4
