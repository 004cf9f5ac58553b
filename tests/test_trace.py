"""What the tracer recognises, what it must leave alone, and through which calls it looks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxclear
import reference
from networks import initial, noise

X = jnp.array([[-2.0, -0.5, 0.0, 0.5, 2.0, 9.0]])
DTYPES = (jnp.float32, jnp.bfloat16)
RULES = tuple(jaxclear.RULES)

RECTIFIERS = {
    "nn.relu": nn.relu,
    "jax.nn.relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, swapped": lambda x: jnp.maximum(0, x),
    "maximum, float": lambda x: jnp.maximum(x, 0.0),
    "maximum, array": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "lax.max": lambda x: lax.max(x, jnp.zeros_like(x)),
    "lax.max, swapped": lambda x: lax.max(jnp.zeros(x.shape, x.dtype), x),
    "clip": lambda x: jnp.clip(x, 0),
    "clip, keyword": lambda x: jnp.clip(x, min=0.0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where, or equal": lambda x: jnp.where(x >= 0, x, 0.0),
    "where, negative": lambda x: jnp.where(x < 0, 0, x),
    "where, not positive": lambda x: jnp.where(x <= 0, 0, x),
    "where, swapped": lambda x: jnp.where(0 < x, x, jnp.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "lax.select": lambda x: lax.select(x > 0, x, jnp.zeros_like(x)),
}
CAPPED = {
    "nn.relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "lax.clamp": lambda x: lax.clamp(x.dtype.type(0), x, x.dtype.type(6)),
    "minimum": lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
    "minimum, swapped": lambda x: jnp.minimum(6.0, nn.relu(x)),
}


@functools.partial(jax.jit, static_argnums=0)
def values_and_responses(function, x, signal):
    """A function's values and what its gradient makes of a signal, and both by each rule."""
    ruled = {rule: functools.partial(jaxclear.with_rule(lambda _, x: function(x), rule), None) for rule in RULES}
    pulled = {rule: jax.vjp(way, x) for rule, way in {"gradient": function, **ruled}.items()}
    return {rule: (values, pull(signal)[0]) for rule, (values, pull) in pulled.items()}


def passed_back(function, x, signal):
    """What each rule passes back of a signal; under all of them the values are the function's own."""
    found = values_and_responses(function, x, signal)
    assert all(np.array_equal(values, found["gradient"][0]) for values, _ in found.values())
    return {rule: response for rule, (_, response) in found.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RECTIFIERS)
def test_every_way_to_write_a_relu(name, dtype):
    x, signal = X.astype(dtype), jnp.array([[1, -1, 1, -1, 1, -1]], dtype)
    passed = passed_back(RECTIFIERS[name], x, signal)
    assert passed["linear"].tolist() == signal.tolist()
    assert passed["deconvnet"].tolist() == [[1, 0, 1, 0, 1, 0]]
    assert passed["guided"].tolist() == [[0, 0, 0, 0, 1, 0]]
    report = jaxclear.coverage(lambda _, x: RECTIFIERS[name](x), None, x)
    assert [(entry.name, entry.count) for entry in report.replaced] == [("relu", 1)]
    assert report.complete


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CAPPED)
def test_every_way_to_write_a_relu6(name, dtype):
    x, signal = X.astype(dtype), jnp.array([[1, 1, 1, 1, -1, 1]], dtype)
    passed = passed_back(CAPPED[name], x, signal)
    assert passed["backprop"].tolist() == [[0, 0, 0, 1, -1, 0]]
    assert passed["guided"].tolist() == [[0, 0, 0, 1, 0, 0]]
    assert passed["linear"].tolist() == signal.tolist()
    assert passed["deconvnet"].tolist() == [[1, 1, 1, 1, 0, 1]]
    report = jaxclear.coverage(lambda _, x: CAPPED[name](x), None, x)
    assert [(entry.name, entry.count) for entry in report.replaced] == [("relu6", 1)]
    assert report.complete


NOT_RECTIFIERS = {
    "leaky_relu": (nn.leaky_relu, "leaky_relu"),
    "elu": (nn.elu, "elu"),
    "selu": (nn.selu, "selu"),
    "celu": (nn.celu, "celu"),
    "gelu": (nn.gelu, "gelu"),
    "exact gelu": (functools.partial(nn.gelu, approximate=False), "gelu"),
    "silu": (nn.silu, "silu"),
    "softplus": (nn.softplus, "softplus"),
    "tanh": (jnp.tanh, "tanh"),
    "sigmoid": (nn.sigmoid, "sigmoid"),
    "softmax": (nn.softmax, "softmax"),
    "log_softmax": (nn.log_softmax, "log_softmax"),
    "maximum with one": (lambda x: jnp.maximum(x, 1.0), "max"),
    "minimum": (lambda x: jnp.minimum(x, 0.0), "min"),
    "hard_tanh": (nn.hard_tanh, "hard_tanh"),
    "abs": (jnp.abs, "abs"),
    "square": (lambda x: x * x, "mul"),
    "prelu-like": (lambda x: jnp.where(x > 0, x, 0.1 * x), None),
    "where of another": (lambda x: jnp.where(x > 0, x[:, ::-1], 0), None),
}


IN_16_BITS = ("gelu", "silu", "softmax", "maximum with one", "hard_tanh", "where of another")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, jnp.float32) for name in NOT_RECTIFIERS), *((name, jnp.bfloat16) for name in IN_16_BITS)],
)
def test_other_nonlinearities_keep_their_gradient_and_are_listed(name, dtype):
    function, listed = NOT_RECTIFIERS[name]
    x = X.astype(dtype)
    passed = passed_back(function, x, x)
    for rule in RULES:
        np.testing.assert_array_equal(passed[rule], passed["gradient"])
    report = jaxclear.coverage(lambda _, x: function(x), None, x)
    assert not report.replaced
    assert len(report.kept) == 1
    assert report.kept[0].count == (2 if name == "hard_tanh" else 1)  # two comparisons
    assert listed is None or report.kept[0].name.startswith(listed)
    assert "test_trace.py" in report.kept[0].source


def test_on_unmatched():
    apply = lambda _, x: nn.silu(nn.relu(x))
    images = jnp.ones((1, 2, 3))
    with pytest.warns(jaxclear.UnmatchedNonlinearityWarning, match="1 x silu at .*test_trace.py"):
        jaxclear.clear_map(apply)(None, images)
    with pytest.raises(jaxclear.UnmatchedNonlinearity, match="silu"):
        jaxclear.clear_map(apply, on_unmatched="error")(None, images)
    jaxclear.clear_map(apply, on_unmatched="ignore")(None, images)  # a warning would be an error here
    quiet = jaxclear.clear_map(apply, on_unmatched="warn")
    with pytest.warns(jaxclear.UnmatchedNonlinearityWarning) as caught:
        for _ in range(3):
            quiet(None, images)
    assert len(caught) == 1


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm])
def test_the_guard_in_a_normalisation_is_no_relu(norm):
    model = norm(num_groups=2) if norm is nn.GroupNorm else norm()
    images = noise(2, 4, 4, 4)
    variables = initial(model, images)
    report = jaxclear.coverage(model.apply, variables, images)
    assert not report.replaced
    assert {entry.name.split(".")[0] for entry in report.kept} <= {
        norm.__name__,
        "InstanceNorm",
        "_InstanceNorm",
        "GroupNorm",
    }

    @jax.jit
    def gradients(images):
        networks = [model.apply, *(jaxclear.with_rule(model.apply, rule) for rule in RULES)]
        return [jax.grad(lambda x, apply=apply: jnp.sin(apply(variables, x)).sum())(images) for apply in networks]

    gradient, *responses = gradients(images)
    for response in responses:
        np.testing.assert_allclose(response, gradient, rtol=1e-5, atol=1e-6)


def test_batch_norm_in_use_is_linear():
    model = nn.BatchNorm(use_running_average=True)
    images = jnp.ones((2, 4, 4, 3))
    assert jaxclear.coverage(model.apply, initial(model, images), images).complete


def test_a_maximum_of_weights_alone_is_not_the_networks_relu():
    report = jaxclear.coverage(lambda w, x: x * jnp.maximum(w, 0), jnp.ones(6), X)
    assert report.complete
    assert not report.replaced


WEIGHTS = jnp.array([[1.0, -2.0], [0.5, 1.0]])


def layer(w, x):
    return nn.relu(x @ w)


@jax.custom_jvp
def custom_relu(x):
    return jnp.maximum(x, 0)


custom_relu.defjvp(lambda primals, tangents: (custom_relu(*primals), tangents[0] * (primals[0] > 0)))


@jax.custom_vjp
def straight_through(x):
    return jnp.maximum(x, 0)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, r: (7 * r,))


def scanned(w, x):
    return lax.scan(lambda carry, weights: (layer(weights, carry), carry.sum()), x, jnp.stack([w, w, w]))[0]


CALLS = {
    "plain": lambda w, x: layer(w, layer(w, layer(w, x))),
    "jit": jax.jit(lambda w, x: layer(w, jax.jit(layer)(w, jax.jit(layer)(w, x)))),
    "remat": jax.checkpoint(lambda w, x: layer(w, jax.checkpoint(layer)(w, layer(w, x)))),
    "remat with a policy": jax.checkpoint(
        lambda w, x: layer(w, layer(w, layer(w, x))), policy=jax.checkpoint_policies.dots_saveable
    ),
    "vmap": lambda w, x: jax.vmap(lambda row: layer(w, layer(w, layer(w, row))))(x),
    "scan": scanned,
    "scan in jit": jax.jit(scanned),
    "scan with constants": lambda w, x: lax.scan(lambda c, _: (layer(w, c), None), x, None, length=3)[0],
    "fori_loop": lambda w, x: lax.fori_loop(0, 3, lambda _, c: layer(w, c), x),
    "cond": lambda w, x: lax.cond(x.sum() > 1e9, lambda: x, lambda: layer(w, layer(w, layer(w, x)))),
    "switch": lambda w, x: lax.switch(1, [lambda x: x, lambda x: layer(w, layer(w, layer(w, x)))], x),
    "one function reused": lambda w, x: functools.reduce(lambda x, f: f(x @ w), [nn.relu] * 3, x),
    "custom_jvp": lambda w, x: functools.reduce(lambda x, f: f(x @ w), [custom_relu] * 3, x),
    "custom_vjp": lambda w, x: functools.reduce(lambda x, f: f(x @ w), [straight_through] * 3, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_tracer_looks_through_every_call(name):
    x, seed = np.asarray(noise(4, 2)), np.asarray(noise(4, 2, seed=1))
    weights, values = np.asarray(WEIGHTS), [x]
    for _ in range(3):
        values.append(np.maximum(values[-1] @ weights, 0))

    def expected(rule):
        response = seed
        for value in reversed(values[1:]):
            response = reference.relu_back(rule, value, response) @ weights.T
        return response

    def passed(x, rule, jitted):
        ruled = jaxclear.with_rule(CALLS[name], rule)
        out, pull = jax.vjp(functools.partial(jax.jit(ruled) if jitted else ruled, WEIGHTS), x)
        return out, pull(seed)[0]

    by_rule = jax.jit(lambda x: {(r, jitted): passed(x, r, jitted) for r in RULES[1:] for jitted in (False, True)})(x)
    plain = CALLS[name](WEIGHTS, x)
    np.testing.assert_allclose(plain, values[-1], rtol=1e-5, atol=1e-6)
    for (rule, _), (out, response) in [*by_rule.items(), (("guided", False), passed(x, "guided", False))]:
        np.testing.assert_allclose(out, plain, rtol=1e-6)
        np.testing.assert_allclose(response, expected(rule), rtol=1e-5, atol=1e-6)


def test_a_while_loop_is_reported_and_not_entered():
    def apply(_, x):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, nn.relu(c[1])), (0, x))[1]

    report = jaxclear.coverage(apply, None, X)
    assert [entry.name for entry in report.kept] == ["while_loop"]
    assert np.array_equal(jaxclear.with_rule(apply, "linear")(None, X), apply(None, X))


def test_reused_functions_are_told_apart_by_their_use():
    def apply(_, x):
        return jax.jit(lambda a, b: jnp.where(a > 0, b, 0))(x, x) + jax.jit(lambda a, b: jnp.where(a > 0, b, 0))(
            x, 2 * x
        )

    report = jaxclear.coverage(apply, None, X)
    assert sum(entry.count for entry in report.replaced) == 1
    assert sum(entry.count for entry in report.kept) == 1


def test_the_outer_rule_wins():
    inner = jaxclear.with_rule(lambda _, x: nn.relu(x), "backprop")
    signal = jnp.ones_like(X)
    assert passed_back(lambda x: inner(None, x), X, signal)["linear"].tolist() == signal.tolist()


def test_a_network_with_a_rule_is_explained_like_the_network():
    kernels = [noise(3, 3, *c, seed=n) for n, c in enumerate(((8, 16), (16, 5)))]
    images = noise(2, 8, 8, 8, seed=2)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def apply(kernels, x):
        return convolve(nn.relu(convolve(x, kernels[0]) + 0.1), kernels[1])

    ruled = jaxclear.with_rule(apply, "linear")
    assert jaxclear.layers(ruled, kernels, images) == jaxclear.layers(apply, kernels, images)
    for explain in (
        lambda network: jaxclear.unit_responses(network, 0, top_n=2, rule="linear", on_unmatched="error"),
        lambda network: jaxclear.clear_map(network, rule="linear", on_unmatched="error"),
    ):
        found, expected = explain(ruled)(kernels, images), explain(apply)(kernels, images)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), found, expected)


def test_with_rule_does_not_keep_values_of_another_trace():
    @jax.jit
    def outer(w, x):
        return jaxclear.with_rule(lambda _, x: nn.relu(x @ w), "deconvnet")(None, x)

    shared = jaxclear.with_rule(lambda w, x: nn.relu(x @ w), "deconvnet")
    x = jnp.ones((1, 2))
    assert np.array_equal(outer(WEIGHTS, x), outer(WEIGHTS, x))
    assert np.array_equal(jax.jit(shared)(WEIGHTS, x), shared(WEIGHTS, x))
    assert np.array_equal(shared(WEIGHTS, x), outer(WEIGHTS, x))


def test_coverage_prints_a_table():
    report = jaxclear.coverage(lambda _, x: jnp.tanh(nn.relu(x)), None, X, rule="guided")
    text = str(report)
    assert "rule 'guided'" in text
    assert "1 x relu" in text
    assert "1 x tanh" in text


def test_coverage_computes_nothing():
    model = nn.Conv(3, (3, 3))
    images = jax.ShapeDtypeStruct((1, 5000, 5000, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jaxclear.coverage(model.apply, variables, images).complete
