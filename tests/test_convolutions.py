"""Other ways to convolve: each against the plain one, and what a loop makes of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxclear
from effort import examples, few_of
from jaxclear.trace import all_threads, loop_body, thin
from jaxclear.trace.convolutions import PRIMITIVE, Convolution
from jaxclear.trace.transposed import FEW_CHANNELS, Transposed
from networks import noise

ON_CPU = jax.default_backend() == "cpu"
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def convolve(images, kernel, padding, **settings):
    layout = LAYOUTS[images.ndim - 2]
    ones = (1,) * (images.ndim - 2)
    return lax.conv_general_dilated(images, kernel, ones, padding, dimension_numbers=layout, **settings)


def plain_convolution(images, kernel, padding, dilation):
    """The definition in loops, float64."""
    spatial = kernel.ndim - 2
    sizes = [(n - 1) * s + 1 for n, s in zip(images.shape[1:-1], dilation, strict=True)]
    wide = np.zeros((len(images), *sizes, images.shape[-1]))
    wide[(slice(None), *(slice(None, None, s) for s in dilation))] = images
    out_shape = [n + sum(p) - k + 1 for n, p, k in zip(sizes, padding, kernel.shape, strict=False)]
    out = np.zeros((len(images), *out_shape, kernel.shape[-1]))
    for place in np.ndindex(*out_shape):
        for tap in np.ndindex(*kernel.shape[:spatial]):
            source = [o + t - p[0] for o, t, p in zip(place, tap, padding, strict=True)]
            if all(0 <= s < n for s, n in zip(source, sizes, strict=True)):
                out[(slice(None), *place)] += wide[(slice(None), *source)] @ kernel[tap]
    return out


axes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(-1, 4), st.integers(-1, 4), st.integers(1, 3))
"""Pixels, taps, zeros before and after, and the step to the next pixel."""


def example(drawn, channels, filters, seed):
    pixels, taps, before, after, dilation = zip(*drawn, strict=True)
    padding = list(zip(before, after, strict=True))
    out = [(n - 1) * d + 1 + sum(p) - k + 1 for n, d, p, k in zip(pixels, dilation, padding, taps, strict=True)]
    assume(
        min(out) > 0 and all((n - 1) * d + 1 + min(p) > 0 for n, d, p in zip(pixels, dilation, padding, strict=True))
    )
    rng = np.random.default_rng(seed)
    images, kernel = rng.normal(size=(2, *pixels, channels)), rng.normal(size=(*taps, channels, filters))
    return images.astype(np.float32), kernel.astype(np.float32), padding, dilation


@settings(deadline=None, max_examples=examples(7))
@given(st.lists(axes, min_size=1, max_size=3), st.sampled_from([1, 3, FEW_CHANNELS + 1]), st.integers(0, 99))
def test_transposed_is_the_convolution_with_zeros_between(drawn, filters, seed):
    images, kernel, padding, dilation = example(drawn, 2, filters, seed)
    assume(max(dilation) > 1)
    way = Transposed(kernel.shape[:-2], filters, dilation=dilation, padding=padding)
    found = jax.jit(lambda images, kernel: way(convolve, images, way.kernels(kernel)))(images, kernel)
    np.testing.assert_allclose(found, plain_convolution(images, kernel, padding, dilation), atol=1e-4)


@settings(deadline=None, max_examples=examples(5))
@given(st.lists(axes, min_size=1, max_size=3), st.sampled_from([2, 3, 4]), st.integers(0, 99))
def test_thin_convolutions_are_convolutions(drawn, channels, seed):
    images, kernel, padding, _ = example([(*axis[:4], 1) for axis in drawn], channels, 5, seed)
    expected = plain_convolution(images, kernel, padding, [1] * len(padding))

    @jax.jit
    def both(images, kernel):
        one = thin.into_one_channel(convolve, images, thin.beside(kernel[..., :1]), padding)
        return thin.out_of_few_channels(convolve, images, kernel, padding), one

    found, one = both(images, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(one, expected[..., :1], atol=1e-4)


def equation(function, *args):
    (eqn,) = [e for e in jax.make_jaxpr(function)(*args).jaxpr.eqns if e.primitive.name == PRIMITIVE]
    return eqn


@pytest.mark.parametrize(
    "layout",
    [
        ("NHWC", "HWIO", "NHWC"),
        ("NHWC", "OIHW", "NCHW"),
        pytest.param(("NCHW", "OIHW", "NCHW"), marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", few_of([1, 3, 8], 1, 3))
def test_values_and_derivatives_of_the_equation_itself(layout, stride, channels):
    shapes = {"N": 2, "C": channels, "H": 7, "W": 6}, {"O": 4, "I": channels, "H": 3, "W": 5}
    rng = np.random.default_rng(0)
    images, kernel = (
        jnp.asarray(rng.normal(size=[sizes[axis] for axis in axes]), jnp.float32)
        for sizes, axes in zip(shapes, layout, strict=False)
    )

    def plain(images, kernel):
        return lax.conv_general_dilated(images, kernel, (stride, stride), [(1, 1), (2, 2)], dimension_numbers=layout)

    def forward(images, kernel):
        return Convolution(equation(plain, images, kernel)).forward(images, kernel)

    response = rng.normal(size=jax.eval_shape(plain, images, kernel).shape).astype(np.float32)

    def all_of(function):
        """Values, what is passed back to both arguments, and what is pushed forward."""

        def program(images, kernel, response):
            values, pull = jax.vjp(function, images, kernel)
            return values, *pull(response), jax.jvp(function, (images, kernel), (images, kernel))[1]

        return jax.jit(program)(images, kernel, response)

    expected, found = all_of(plain), all_of(forward)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    @jax.jit
    def bodies(response):
        _, pull = jax.vjp(plain, images, kernel)
        body = loop_body(lambda response: pull(response)[0], response)
        sums = loop_body(lambda response: pull(response)[0].sum(axis=layout[0].index("C")), response)
        return body(response), sums(response)

    body, sums = bodies(response)
    np.testing.assert_allclose(body, expected[1], atol=1e-5)
    np.testing.assert_allclose(sums, np.asarray(expected[1]).sum(axis=layout[0].index("C")), atol=1e-5)


@functools.cache
def loops():
    rng = np.random.default_rng(1)
    kernel, strided = (jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32) for _ in range(2))
    images = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)

    def pulled(stride, reduce):
        def network(x):
            return lax.conv_general_dilated(
                x, kernel if stride == 1 else strided, (stride, stride), "SAME", dimension_numbers=LAYOUTS[2]
            )

        out, pull = jax.vjp(jax.jit(network), images)
        weights = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
        return lambda factor: reduce(pull(factor * weights)[0])

    return {
        f"stride {stride}, {name}": pulled(stride, reduce)
        for stride in (1, 2)
        for name, reduce in {
            "all channels": lambda r: r,
            "sum": lambda r: r.sum(axis=-1),
            "sum, reshaped": lambda r: r.reshape(1, 2, 8, 8, 3).sum(axis=-1),
            "sum of all": lambda r: r.sum(),
            "sum of space": lambda r: r.sum(axis=(1, 2)),
            "sum and channels": lambda r: (r.sum(axis=-1), r),
            "channels made rows": lambda r: r.reshape(2, 8, 24).sum(axis=-1),
        }.items()
    }


@pytest.mark.parametrize("name", loops())
def test_a_loop_body_has_the_values_of_the_function(name):
    function = loops()[name]
    expected = function(jnp.float32(2.5))
    body = loop_body(function, jnp.float32(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), body(jnp.float32(2.5)), expected)
    looped = lax.map(body, jnp.asarray([1.0, 2.5], jnp.float32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-4), looped, expected)


def equations(function, *args):
    """All equations, those of inner functions too."""
    found, waiting = [], [jax.make_jaxpr(function)(*args).jaxpr]
    while waiting:
        for eqn in waiting.pop().eqns:
            found.append(eqn)
            waiting += [getattr(value, "jaxpr", value) for value in eqn.params.values() if hasattr(value, "jaxpr")]
    return found


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_a_loop_convolves_with_the_sum_of_the_kernel():
    function = loops()["stride 1, sum"]
    looped = equations(lambda xs: lax.map(loop_body(function, xs[0]), xs), jnp.ones(2))
    (found,) = [eqn for eqn in looped if eqn.primitive.name == PRIMITIVE]
    assert found.invars[1].aval.shape == (3, 1, 4, 3)  # three taps across for the one channel, not three channels
    function = loops()["stride 1, all channels"]
    kept = equations(lambda xs: lax.map(loop_body(function, xs[0]), xs), jnp.ones(2))
    (found,) = [eqn for eqn in kept if eqn.primitive.name == PRIMITIVE]
    assert found.invars[1].aval.shape == (3, 3, 4, 3)


def test_kernels_are_turned_before_the_loop():
    function = loops()["stride 1, all channels"]
    closed = jax.make_jaxpr(lambda xs: lax.map(loop_body(function, xs[0]), xs))(jnp.ones(2))
    (scan,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan"]
    inside = [eqn.primitive.name for eqn in scan.params["jaxpr"].jaxpr.eqns]
    assert PRIMITIVE in inside
    assert "rev" not in inside
    shapes = [eqn.outvars[0].aval.shape for eqn in scan.params["jaxpr"].jaxpr.eqns if eqn.primitive.name == "transpose"]
    assert not any(len(shape) == 4 and shape[:2] == (3, 3) for shape in shapes)


@pytest.mark.skipif(not ON_CPU, reason="a GPU's library of convolutions knows its own ways")
def test_no_zeros_are_multiplied():
    function = loops()["stride 2, all channels"]
    found = equations(lambda xs: lax.map(loop_body(function, xs[0]), xs), jnp.ones(2))
    dilations = [eqn.params["lhs_dilation"] for eqn in found if eqn.primitive.name == PRIMITIVE]
    assert dilations
    assert set(dilations) == {(1, 1)}


@pytest.mark.parametrize("floor", [0.0, all_threads.NO_FLOOR])
def test_a_reduction_for_all_threads_is_the_maximum(floor):
    values = jnp.asarray([[-2.0, -0.0, 3.0], [jnp.nan, jnp.inf, 1e-30]], jnp.float32)
    found = jax.jit(lambda values: all_threads.at_least(values, floor))(values)
    np.testing.assert_array_equal(found, jnp.maximum(values, floor))
    ours, theirs = (
        jax.grad(lambda v, f=f: (f(v, floor) * jnp.arange(6.0).reshape(2, 3)).sum())
        for f in (all_threads.at_least, jnp.maximum)
    )
    finite = jnp.asarray([[-2.0, 0.0, 3.0], [1.0, -1.0, 5.0]])
    np.testing.assert_array_equal(ours(finite), theirs(finite))


def test_what_is_not_a_number_stays_so():
    kernel = jnp.full((3, 3, 2, 2), jnp.nan).at[..., 1].set(1)
    _, pull = jax.vjp(lambda x: convolve(x, kernel, "SAME"), jnp.ones((1, 5, 5, 2)))
    body = loop_body(lambda response: jnp.maximum(pull(response)[0], 0), jnp.ones((1, 5, 5, 2)))
    assert np.isnan(body(jnp.ones((1, 5, 5, 2)))).all()
    forward = Convolution(equation(lambda x, k: convolve(x, k, "SAME"), jnp.ones((1, 5, 5, 2)), kernel)).forward
    found = forward(jnp.ones((1, 5, 5, 2)), kernel)
    assert np.isnan(found[..., 0]).all()
    assert np.isfinite(found[..., 1]).all()


def positive_parts():
    """What is taken of a convolution, and whether only its positive part is used."""
    return {
        "positive part": (lambda r: jnp.maximum(r, 0), True),
        "reshaped": (lambda r: jnp.maximum(r.reshape(2, 64, 3), 0).sum(), True),
        "swapped": (lambda r: jnp.maximum(0, r), False),
        "another floor": (lambda r: jnp.maximum(r, 0.5), False),
        "all of it besides": (lambda r: (jnp.maximum(r, 0), r.sum(axis=0)), False),
        "twice": (lambda r: (jnp.maximum(r, 0), jnp.maximum(r, 0)), False),
        "negative part": (lambda r: jnp.minimum(r, 0), False),
        "a part": (lambda r: jnp.maximum(r[:1], 0), False),
        "the sum": (lambda r: jnp.maximum(r.sum(axis=-1), 0), False),
    }


@pytest.mark.parametrize("name", positive_parts())
@pytest.mark.parametrize("stride", [1, 2])
def test_a_loop_takes_the_positive_part_with_the_convolution(name, stride):
    take, merged = positive_parts()[name]
    rng = np.random.default_rng(5)
    kernel, images = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=(2, 8, 8, 3))
    kernel, images = jnp.asarray(kernel, jnp.float32), jnp.asarray(images, jnp.float32)

    def network(x):
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUTS[2])

    out, pull = jax.vjp(network, images)

    def function(factor):
        return take(pull(factor * out)[0])

    body = loop_body(function, jnp.float32(0))
    for factor in (1.5, -2.0):
        found, expected = body(jnp.float32(factor)), function(factor)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-4), found, expected)
    if stride == 1 and ON_CPU:
        maxima = [eqn for eqn in equations(body, jnp.float32(0)) if eqn.primitive.name == "max"]
        plain = [eqn for eqn in equations(function, jnp.float32(0)) if eqn.primitive.name == "max"]
        assert (len(maxima) < len(plain)) == merged


def test_groups_keep_their_equation():
    kernel = noise(3, 3, 1, 6, seed=2)
    images = noise(2, 9, 9, 3, seed=3)
    network = functools.partial(
        lax.conv_general_dilated,
        rhs=kernel,
        window_strides=(2, 2),
        padding="SAME",
        feature_group_count=3,
        dimension_numbers=LAYOUTS[2],
    )
    out, pull = jax.vjp(network, images)
    body = loop_body(lambda factor: pull(factor * out)[0].sum(axis=-1), jnp.float32(0))
    np.testing.assert_allclose(body(jnp.float32(2)), pull(2 * out)[0].sum(axis=-1), rtol=1e-4, atol=1e-3)


def dense(kernel, images):
    """A convolution without axes in space."""
    layout = lax.ConvDimensionNumbers((0, 1), (1, 0), (0, 1))
    return lax.conv_general_dilated(images.reshape(len(images), -1), kernel, (), [], dimension_numbers=layout)


def valid(kernel, images):
    return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=LAYOUTS[2])


def test_convolutions_without_space_or_pixels():
    rng = np.random.default_rng(4)
    images, kernel = rng.normal(size=(2, 2, 2, 3)), jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    images = jnp.asarray(images, jnp.float32)
    responses = jaxclear.class_responses(lambda k, x: jax.nn.relu(dense(k, x)) @ jnp.ones((4, 4)))(kernel, images)
    assert responses.shape == (4, 2, 2, 2, 3)
    for width in (1, 2, 3, 4):  # five taps find no place
        assert jaxclear.with_rule(valid)(jnp.ones((3, 5, 3, 4)), jnp.ones((1, 8, width, 3))).shape == (1, 6, 0, 4)
    empty = jaxclear.with_rule(valid)(jnp.ones((3, 3, 3, 4)), jnp.ones((0, 8, 8, 3)))
    assert empty.shape == (0, 6, 6, 4)


def strided(kernels, images):
    for kernel in kernels:
        images = lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=LAYOUTS[2])
        images = jax.nn.relu(images)
    return images


def strided_kernels():
    rng = np.random.default_rng(5)
    widths = ((3, 24), (24, FEW_CHANNELS + 4), (FEW_CHANNELS + 4, 5))
    return [jnp.asarray(rng.normal(size=(3, 3, *width)), jnp.float32) for width in widths]


def test_a_batch_of_any_size_can_be_exported_with_strides():
    (batch,) = jax.export.symbolic_shape("b")
    kernels = strided_kernels()
    responses = jax.jit(jaxclear.unit_responses(strided, 1, top_n=2))
    exported = jax.export.export(responses)(kernels, jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32))
    images = noise(3, 16, 16, 3, seed=6)
    found, expected = exported.call(kernels, images), responses(kernels, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), tuple(found), tuple(expected))


def test_responses_through_strides_are_the_vector_jacobian_products():
    kernels = strided_kernels()
    images = noise(2, 16, 16, 3, seed=7)
    found = jaxclear.class_responses(strided, rule="backprop", class_block=2)(kernels, images)
    maps, pull = jax.vjp(lambda images: strided(kernels, images), images)
    for number, response in enumerate(found):
        (expected,) = pull(maps * jax.nn.one_hot(number, maps.shape[-1]))
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(response, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_numbers_are_convolved_as_they_are(dtype):
    """Sums of taps in a narrow type would lose digits, and overflow where the convolution does not."""
    row = jnp.zeros((1, 7, 1, 8)).at[0, :, 0, 0].set(jnp.array([400.0, -400, 400, -400, 1, 1, 0])).astype(dtype)
    images = jnp.full((1, 1, 9, 1), 1.0, dtype)
    network = functools.partial(
        lax.conv_general_dilated, rhs=row, window_strides=(1, 1), padding="SAME", dimension_numbers=LAYOUTS[2]
    )
    out, pull = jax.vjp(network, images)
    response = jnp.full(out.shape, 100, dtype)
    body = loop_body(lambda factor: pull(factor * response)[0], jnp.ones((), dtype))
    np.testing.assert_array_equal(body(jnp.ones((), dtype)), pull(response)[0])


def test_other_arguments_than_the_example_are_refused():
    body = loop_body(lambda pair: pair[0] + pair[1], (jnp.ones(2), jnp.ones(2)))
    with pytest.raises(TypeError, match="expected arguments"):
        body(jnp.ones(2))
