"""Every rule against a plain-loop float64 twin, and the laws the rules obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxclear
import reference
from effort import examples
from networks import noise, random_networks, small_network, to_jax
from optimisation import assert_same_at_both_levels


def scale(layers, image, rule):
    """The largest response of seeds of either sign: that of positive ones alone may be what rounding left of a sum."""
    return max(np.abs(reference.class_responses(layers, image, rule, seed=lambda _, value: value)).max(), 1e-30)


def responses_by_rule(apply):
    """A function of variables and images: the responses by each rule."""
    return lambda *inputs: {rule: jaxclear.class_responses(apply, rule=rule)(*inputs) for rule in jaxclear.RULES}


@settings(deadline=None, max_examples=examples(5), derandomize=True)
@given(network=random_networks())
def test_every_rule_equals_its_plain_loop_twin(network):
    layers, images = network
    apply, variables = to_jax(layers)
    for rule, responses in jax.jit(responses_by_rule(apply))(variables, images).items():
        expected = reference.class_responses(layers, images[0], rule)
        np.testing.assert_allclose(responses[:, 0], expected, atol=1e-5 * scale(layers, images[0], rule), err_msg=rule)


def test_programs_optimised_as_users_have_them_give_what_those_of_the_tests_give():
    apply, variables, images = small_network(size=13)
    assert_same_at_both_levels(responses_by_rule(apply), variables, images)


@settings(deadline=None, max_examples=examples(5), derandomize=True)
@given(network=random_networks(), rule=st.sampled_from(list(jaxclear.RULES)))
def test_one_class_at_a_time_equals_the_twin_too(network, rule):
    layers, images = network
    apply, variables = to_jax(layers)
    expected = reference.class_responses(layers, images[0], rule)
    responses = jaxclear.class_responses(apply, rule=rule, class_block=1)(variables, images)[:, 0]
    np.testing.assert_allclose(responses, expected, atol=1e-5 * scale(layers, images[0], rule))


@settings(deadline=None, max_examples=examples(6), derandomize=True)
@given(network=random_networks(), rule=st.sampled_from(list(jaxclear.RULES)))
def test_forward_values_are_bit_identical(network, rule):
    layers, images = network
    apply, variables = to_jax(layers)
    assert np.array_equal(
        jax.jit(jaxclear.with_rule(apply, rule))(variables, images), jax.jit(apply)(variables, images)
    )


@pytest.mark.parametrize("rule", list(jaxclear.RULES))
def test_forward_values_without_jit_are_bit_identical(rule):
    apply, variables, images = small_network()
    assert np.array_equal(jaxclear.with_rule(apply, rule)(variables, images), apply(variables, images))


def test_backprop_is_the_gradient():
    apply, variables, images = small_network()
    ruled = jaxclear.with_rule(apply, "backprop")
    for argument in (0, 1):
        gradient = jax.grad(lambda v, x: jnp.square(apply(v, x)).sum(), argument)(variables, images)
        response = jax.grad(lambda v, x: jnp.square(ruled(v, x)).sum(), argument)(variables, images)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, response)


@pytest.mark.parametrize("rule", ["linear", "backprop"])
def test_linear_rules_are_linear_in_the_seed(rule):
    apply, variables, images = small_network()
    out, pull = jax.vjp(lambda x: jaxclear.with_rule(apply, rule)(variables, x), images)
    first, second = noise(2, *out.shape)
    together = pull(2 * first - 3 * second)[0]
    np.testing.assert_allclose(together, 2 * pull(first)[0] - 3 * pull(second)[0], rtol=1e-4, atol=1e-5)


def test_guided_is_what_both_backprop_and_deconvnet_let_through():
    x, response = jnp.array([-1.0, -1.0, 2.0, 2.0, 0.0]), jnp.array([3.0, -3.0, 3.0, -3.0, 3.0])

    def back(rule):
        return jax.vjp(lambda x: jaxclear.with_rule(lambda _, x: jnp.maximum(x, 0), rule)(None, x), x)[1](response)[0]

    assert back("backprop").tolist() == [0, 0, 3, -3, 0]
    assert back("deconvnet").tolist() == [3, 0, 3, 0, 3]
    assert back("guided").tolist() == [0, 0, 3, 0, 0]
    assert back("linear").tolist() == response.tolist()


@pytest.mark.parametrize(("rule", "speaks"), [("backprop", 1), ("deconvnet", 0), ("guided", 0), ("linear", 1)])
def test_a_class_that_is_ruled_out_responds_only_where_negative_seeds_count(rule, speaks):
    def apply(kernel, images):  # two classes, of which the second one's map is minus the first one's
        return jnp.maximum(images, 0) @ kernel

    responses = jaxclear.class_responses(apply, rule=rule)(jnp.array([[2.0, -2.0]]), jnp.full((1, 2, 2, 1), 3.0))
    np.testing.assert_array_equal(responses[0], 12)
    np.testing.assert_array_equal(responses[1], 12 * speaks)
    logits = jaxclear.class_responses(lambda kernel, x: apply(kernel, x).sum((1, 2)), rule=rule)(
        jnp.array([[2.0, -2.0]]), jnp.full((1, 2, 2, 1), 3.0)
    )
    np.testing.assert_array_equal(logits[:, 0, 0, 0, 0], [48, 48 * speaks])


def test_a_rule_of_ones_own_goes_where_a_name_goes():
    doubled = jaxclear.Rule("doubled", relu=lambda x, active, response: 2 * response)
    apply, variables, images = small_network()
    own = jaxclear.class_responses(apply, rule=doubled)(variables, images)
    linear = jaxclear.class_responses(apply, rule="linear")(variables, images)
    np.testing.assert_allclose(own, 4 * linear, rtol=1e-5, atol=1e-6)  # two ReLUs on the way


def test_a_rule_of_ones_own_may_undo_pooling_its_own_way():
    everywhere = jaxclear.Rule(
        "everywhere",
        relu=jaxclear.RULES["linear"].relu,
        max_pool=lambda pool, switches, response: jnp.broadcast_to(response.mean(), pool.shape),
    )
    ruled = jaxclear.with_rule(
        lambda _, x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (2,), "VALID"), everywhere
    )
    assert jax.grad(lambda x: ruled(None, x).sum())(jnp.arange(4.0)).tolist() == [1, 1, 1, 1]


def test_an_unknown_rule_lists_the_known():
    apply, _, _ = small_network()
    with pytest.raises(ValueError, match="'backprop', 'deconvnet', 'guided', 'linear'.*'deconvent'"):
        jaxclear.clear_map(apply, rule="deconvent")
