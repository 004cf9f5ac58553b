"""Convolutions of many channels in tiles: against the definition in float64, and where a loop takes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxclear
import reference
from effort import examples, few_of
from jaxclear.trace import loop_body, winograd
from jaxclear.trace.convolutions import PRIMITIVE
from networks import noise, small_network, to_jax
from test_two_parts import network as deep_network

ON_CPU = jax.default_backend() == "cpu"
MANY = 128
LAYOUT = ("NHWC", "HWIO", "NHWC")

axis = st.tuples(st.integers(1, 7), st.integers(-1, 4), st.integers(-1, 4))
"""Pixels, and zeros before and after."""


@functools.partial(jax.jit, static_argnames="padding")
def in_tiles(images, kernel, padding):
    """What is tested: all of it in one program, as a loop has it."""
    return winograd.convolve(images, winograd.kernels(kernel), padding)


def convolution(images, kernel, padding):
    """The definition in loops, float64."""
    layer = reference.Conv(np.asarray(kernel, np.float64), np.zeros(kernel.shape[-1]), padding=padding)
    return np.stack([layer.forward(np.asarray(image, np.float64)) for image in images])


@settings(deadline=None, max_examples=examples(6))
@given(axis, axis, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_tiles_give_the_convolution(rows, columns, channels, filters, seed):
    padding = tuple(axis[1:] for axis in (rows, columns))
    assume(all(axis[0] + min(axis[1:]) > 0 and sum(axis) > 2 for axis in (rows, columns)))
    images, kernel = noise(2, rows[0], columns[0], channels, seed=seed), noise(3, 3, channels, filters, seed=seed + 1)
    found = in_tiles(images, kernel, padding)
    expected = convolution(images, kernel, padding)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 4), (6, 8), (9, 5)])
@settings(deadline=None, max_examples=20)
@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_nothing_comes_of_nothing(height, width, share, seed):
    """A pixel all of whose 3x3 neighbours are zero is zero: exactly, not but for rounding."""
    rng = np.random.default_rng(seed)
    images = 1e3 * rng.normal(size=(1, height, width, 5)) * (rng.random((1, height, width, 1)) < share)
    padding = ((1, 1), (1, 1))
    found = np.asarray(in_tiles(images.astype(np.float32), noise(3, 3, 5, 4, seed=seed), padding))
    reached = convolution((images != 0).any(axis=-1, keepdims=True), np.ones((3, 3, 1, 1)), padding)
    assert not found[reached[..., 0] == 0].any()


def pulled(channels=MANY, filters=MANY, taps=(3, 3), size=(8, 9), stride=1, dtype=jnp.float32):
    """A function of a factor: a response passed back through one convolution."""
    kernel = noise(*taps, channels, filters).astype(dtype) / channels**0.5
    images = noise(2, *size, channels, seed=1).astype(dtype)
    out, pull = jax.vjp(
        lambda x: lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT), images
    )
    return lambda factor: pull(factor.astype(dtype) * out)[0]


def counted(jaxpr, name):
    return sum(eqn.primitive.name == name for eqn in jaxpr.eqns)


def body_of_loop(function, rounds):
    """The jaxpr of a round, in a loop with as many as said."""
    looped = jax.make_jaxpr(lambda xs: lax.map(loop_body(function, xs[0], rounds=rounds), xs))(jnp.ones(2))
    (scan,) = [eqn for eqn in looped.jaxpr.eqns if eqn.primitive.name == "scan"]
    return scan.params["jaxpr"].jaxpr


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
@pytest.mark.parametrize(
    ("settings", "rounds", "in_tiles"),
    [
        ({}, 16, True),
        ({"channels": MANY + 3}, 16, True),
        ({}, 2, False),
        ({"size": (7, 9)}, 99, False),
        ({"channels": MANY - 1}, 16, False),
        ({"filters": MANY - 1}, 16, False),
        ({"size": (1, 70)}, 999, False),  # half of each tile is empty
        ({"channels": 64, "size": (64, 65)}, 1, True),
        ({"channels": 63, "size": (64, 65)}, 1, False),
        ({"taps": (1, 1)}, 16, False),
        ({"taps": (3, 5)}, 16, False),
        ({"stride": 2}, 16, False),
        ({"dtype": jnp.bfloat16}, 16, False),
    ],
)
def test_a_loop_takes_tiles_where_they_pay(settings, rounds, in_tiles):
    function = pulled(**settings)
    body = body_of_loop(function, rounds)
    products = counted(body, "dot_general")
    assert products == (16 if in_tiles else 0)
    assert in_tiles == (counted(body, PRIMITIVE) == 0)
    looped = loop_body(function, jnp.float32(0), rounds=rounds)
    both = jax.jit(lambda factor: (looped(factor), function(factor)))(jnp.float32(-1.5))
    found, expected = (np.asarray(values, np.float64) for values in both)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_a_kernel_of_each_round_is_not_transformed():
    images = noise(2, 8, 7, MANY)

    def function(factor):
        kernel = factor * jnp.ones((3, 3, MANY, MANY))
        return lax.conv_general_dilated(images * factor, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)

    body = body_of_loop(function, rounds=10**4)
    assert counted(body, PRIMITIVE) == 1
    assert counted(body, "dot_general") == 0


@pytest.fixture
def rounds(monkeypatch):
    """How many rounds have the same kernel, as is said of the convolutions in loops."""
    seen = set()

    def record(taps, channels, out, rounds):
        if rounds:  # none where the network runs forward
            seen.add(rounds)

    monkeypatch.setattr(winograd, "is_faster", record)
    return seen


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_loops_say_how_many_rounds_they_have(rounds):
    apply, variables, images = small_network(num_classes=6)
    jax.make_jaxpr(jaxclear.clear_map(apply, class_block=2))(variables, images)
    assert rounds == {3}
    rounds.clear()
    jax.make_jaxpr(jaxclear.unit_responses(apply, 1, top_n=4))(variables, images)
    assert rounds == {4}
    rounds.clear()
    apply, variables, images = deep_network(17)
    jax.make_jaxpr(jaxclear.clear_map(apply))(variables, images)
    groups, blocks = sorted(rounds)
    assert groups == 2
    assert blocks in (10, 12)  # of two classes each, in two parts


def test_a_gradient_of_kernels_can_be_exported_for_any_batch():
    (batch,) = jax.export.symbolic_shape("b")
    kernel = noise(3, 3, 2, MANY)

    def gradient(kernel, images):
        def loss(kernel):
            return (lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT) ** 2).sum()

        return loop_body(jax.grad(loss), kernel)(kernel)

    exported = jax.export.export(jax.jit(gradient))(kernel, jax.ShapeDtypeStruct((batch, 5, 5, 2), jnp.float32))
    images = noise(3, 5, 5, 2)
    np.testing.assert_allclose(exported.call(kernel, images), gradient(kernel, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", few_of(["guided", "deconvnet", "backprop"], "guided"))
def test_responses_through_tiles_are_those_of_the_twin(rule):
    rng, layers, channels = np.random.default_rng(0), [], 3
    for filters in (MANY, MANY, 12):
        kernel = rng.normal(size=(3, 3, channels, filters)) / (9 * channels) ** 0.5
        layers += [reference.Conv(kernel, np.zeros(filters), padding=((1, 1), (1, 1))), reference.Relu()]
        channels = filters
    apply, variables = to_jax(layers)
    image = rng.normal(size=(13, 14, 3))
    responses = jaxclear.class_responses(apply, rule=rule)
    images = jnp.asarray(image, jnp.float32)[None]
    if ON_CPU:
        assert "dot_general" in str(jax.make_jaxpr(responses)(variables, images))
    expected = reference.class_responses(layers, image, rule)
    np.testing.assert_allclose(responses(variables, images)[:, 0], expected, atol=1e-5 * np.abs(expected).max())
