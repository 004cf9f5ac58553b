"""CLEAR and heat maps: the definitions, their colours and their laws."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxclear
from effort import few_of
from jaxclear.clear import palette_rgb
from jaxclear.heatmaps import AGAINST, FOR, NEITHER
from networks import small_network

RULES = list(jaxclear.RULES)


@pytest.mark.parametrize(("rule", "block"), [*zip(RULES, (1, 2, 3, 4), strict=True), ("guided", 5), ("guided", 6)])
def test_a_clear_map_is_the_argmax_of_the_responses(rule, block):
    apply = small_network()[0]
    explanations = [
        explain(apply, rule=rule, class_block=block) for explain in (jaxclear.class_responses, jaxclear.clear_map)
    ]
    both = jax.jit(lambda variables, images: [explain(variables, images) for explain in explanations])
    for seed in range(6):
        _, variables, images = small_network(seed=seed)
        responses, clear = both(variables, images)
        responses = np.asarray(responses.sum(-1))
        best = responses.max(axis=0)
        np.testing.assert_allclose(clear.dominant_response, best, rtol=1e-5, atol=1e-6)
        second = np.sort(responses, axis=0)[-2]
        clear_cut = best - second > 1e-5
        expected = np.where(best > 0, responses.argmax(axis=0), -1)
        sure = clear_cut & (np.abs(best) > 1e-6)
        assert np.array_equal(np.asarray(clear.dominant_class)[sure], expected[sure])
        np.testing.assert_allclose(clear.class_scores, apply(variables, images).mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_the_lowest_of_equal_classes_wins_in_blocks_of_any_size(block):
    def apply(_, x):
        return jnp.concatenate([x, 2 * x, 2 * x, 2 * x, x], axis=-1)

    images = jnp.ones((1, 3, 3, 1))
    clear = jaxclear.clear_map(apply, class_block=block)(None, images)
    assert np.all(clear.dominant_class == 1)
    top = jaxclear.clear_map(apply, class_block=block, top_k=3)(None, images)
    assert np.all(top.dominant_class == 1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator takes more pixels at once")
@pytest.mark.parametrize(("num_classes", "loops"), [(8, 0), (9, 1)])
def test_few_pixels_are_explained_without_a_loop(num_classes, loops):
    """Those of all classes: up to 2^15."""
    clear = jaxclear.clear_map(lambda _, images: images, rule="guided")
    jaxpr = str(jax.make_jaxpr(clear)(None, jnp.ones((1, 64, 64, num_classes))))
    assert jaxpr.count(" scan[") == loops


@pytest.mark.parametrize("rule", few_of(RULES, "backprop", "guided"))
def test_clear_of_one_class_is_that_classs_own_response(rule):
    apply, variables, images = small_network()
    clear = jaxclear.clear_map(apply, rule=rule, classes=[3])(variables, images)
    own = jaxclear.class_responses(apply, rule=rule, classes=[3])(variables, images)[0].sum(-1)
    np.testing.assert_allclose(clear.dominant_response, own, rtol=1e-5, atol=1e-6)
    assert np.array_equal(clear.dominant_class, np.where(np.asarray(clear.dominant_response) > 0, 3, -1))


def test_top_k_of_all_classes_is_the_whole_map():
    apply, variables, images = small_network()
    whole = jaxclear.clear_map(apply)(variables, images)
    top = jaxclear.clear_map(apply, top_k=5, class_block=2)(variables, images)
    np.testing.assert_allclose(top.dominant_response, whole.dominant_response, rtol=1e-5, atol=1e-6)
    assert np.mean(np.asarray(top.dominant_class) == np.asarray(whole.dominant_class)) > 0.99


def test_a_pixel_where_no_class_responds_belongs_to_no_class_and_is_black():
    images = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(2.0)
    clear = jaxclear.clear_map(lambda _, x: jnp.concatenate([x, 3 * x], -1))(None, images)
    assert int(clear.dominant_class[0, 1, 2]) == 1
    assert int((clear.dominant_class == -1).sum()) == 15
    rgb = jaxclear.to_rgb(clear)
    assert float(rgb.sum()) == pytest.approx(float(rgb[0, 1, 2].sum()))


def test_colours_are_the_hsv_composition():
    dominant_class = jnp.array([[[0, 1], [2, -1]]])
    response = jnp.array([[[4.0, 1.0], [2.0, -3.0]]])
    clear = jaxclear.ClearMap(dominant_class, response, jnp.zeros((1, 3)))
    rgb = np.asarray(jaxclear.to_rgb(clear))
    assert rgb.shape == (1, 2, 2, 3)
    for (i, j), (hue, value) in {(0, 0): (0, 1.0), (0, 1): (1 / 3, 0.25), (1, 0): (2 / 3, 0.5)}.items():
        np.testing.assert_allclose(rgb[0, i, j], colorsys.hsv_to_rgb(hue, 1.0, value), atol=1e-6)
    assert rgb[0, 1, 1].tolist() == [0, 0, 0]
    own = np.asarray(jaxclear.to_rgb(clear, palette=np.eye(3)))
    np.testing.assert_allclose(own[0, 0, 1], [0, 0.25, 0])


def test_palettes_that_do_not_fit():
    with pytest.raises(ValueError, match="3 hues or"):
        palette_rgb([0.1, 0.2], 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        palette_rgb([0.1, 0.2, 1.5], 3)


def test_overlay_covers_by_brightness():
    images = jnp.array([[[[0.0], [1.0]]]])
    black = jnp.zeros((1, 1, 2, 3))
    assert jaxclear.overlay(black, images).tolist() == [[[[0, 0, 0], [1, 1, 1]]]]
    far = 1e9 + np.array([[[[0.0], [0.25], [1.0]]]])  # float32 does not tell them apart
    found = jaxclear.overlay(jnp.zeros((1, 1, 3, 3)), far)
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0.25, 1], atol=1e-6)
    red = black.at[..., 0].set(1.0)
    np.testing.assert_allclose(jaxclear.overlay(red, images, opacity=1.0), red)
    with pytest.raises(ValueError, match="shape"):
        jaxclear.overlay(red[:, :, :1], images)
    with pytest.raises(ValueError, match="opacity"):
        jaxclear.overlay(red, images, opacity=1.5)


@pytest.mark.parametrize("rule", few_of(RULES, "backprop", "guided"))
@pytest.mark.parametrize("block", [None, 2])
def test_heat_maps_split_the_responses_into_own_and_others(rule, block):
    apply, variables, images = small_network()
    labels = np.array([4, 0, 2])

    @jax.jit
    def everything(variables, images):
        heat, binary = (
            of(apply, rule=rule, class_block=block)(variables, images, labels)
            for of in (jaxclear.heat_map, jaxclear.binary_map)
        )
        return jaxclear.class_responses(apply, rule=rule)(variables, images).sum(-1), heat, binary

    responses, heat, binary = jax.tree.map(np.asarray, everything(variables, images))
    for b, label in enumerate(labels):
        np.testing.assert_allclose(heat.evidence_for[b], responses[label, b], rtol=1e-5, atol=1e-6)
        others = np.delete(responses[:, b], label, axis=0).max(axis=0)
        np.testing.assert_allclose(heat.evidence_against[b], others, rtol=1e-5, atol=1e-6)
    assert set(np.unique(binary)) <= {FOR, NEITHER, AGAINST}
    own, other = heat.evidence_for, heat.evidence_against
    assert np.all(binary[(own > other + 1e-5) & (own > 1e-5)] == FOR)
    assert np.all(binary[(other > own + 1e-5) & (other > 1e-5)] == AGAINST)


@pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray])
def test_known_labels_are_checked_while_images_are_traced(kind):
    heat = jaxclear.heat_map(lambda _, images: images)
    images, known, unknown = jnp.asarray([3.0, 1, 2]).reshape(1, 1, 1, 3), kind([1]), kind([3])
    found = jax.jit(lambda images: heat(None, images, known))(images)
    assert (found.evidence_for.item(), found.evidence_against.item()) == (1, 3)
    with pytest.raises(ValueError, match=r"expected labels between 0 and 2, got \[3\]"):
        jax.jit(lambda images: heat(None, images, unknown))(images)


def test_without_labels_the_predicted_class_is_taken():
    apply, variables, images = small_network()
    heat = jaxclear.heat_map(apply)(variables, images)
    assert np.array_equal(heat.labels, jnp.argmax(heat.class_scores, -1))
    given_labels = jaxclear.heat_map(apply)(variables, images, heat.labels)
    np.testing.assert_allclose(heat.evidence_for, given_labels.evidence_for, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_colours_of_other_numbers(dtype):
    with jax.enable_x64():
        heat = jaxclear.HeatMap(*jnp.ones((2, 1, 2, 2), dtype), jnp.array([0]), jnp.zeros((1, 2), dtype))
        assert jaxclear.heat_rgb(heat).tolist() == np.ones((1, 2, 2, 3)).tolist()
        colour = jaxclear.to_rgb(jaxclear.ClearMap(jnp.zeros((1, 2, 2), int), heat.evidence_for, heat.class_scores))
        images = jnp.ones((1, 2, 2, 1), dtype)
        assert jaxclear.overlay(colour, images, opacity=1.0).tolist() == [[[[1, 0, 0]] * 2] * 2]


def test_heat_colours():
    heat = jaxclear.HeatMap(
        jnp.array([[[3.0, 0.0, -1.0]]]), jnp.array([[[1.0, 1.5, -2.0]]]), jnp.array([0]), jnp.zeros((1, 2))
    )
    rgb = jaxclear.heat_rgb(heat)
    assert rgb[0, 0, 0].tolist() == [1, 1, 1]
    assert rgb[0, 0, 1].tolist() == [0, 0.5, 0]
    assert rgb[0, 0, 2].tolist() == [0, 0, 0]
    binary = jaxclear.binary_rgb(jnp.array([[[FOR, AGAINST, NEITHER]]]))
    assert binary[0, 0].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


GOOD = jnp.ones((2, 4, 4, 3))


def identity(_, x):
    return x


BAD_CALLS = {
    "NaN": (identity, GOOD.at[0, 0, 0, 0].set(jnp.nan), "1 NaN or infinite of 96"),
    "infinity": (identity, GOOD.at[0].set(jnp.inf), "48 NaN or infinite"),
    "one image": (identity, GOOD[0, 0], r"images\[None\]"),
    "integers": (identity, GOOD.astype(jnp.uint8), "uint8.*/ 255"),
    "8 bits": (identity, GOOD.astype(jnp.float8_e4m3fn), "16, 32 or 64 bits a number, got float8_e4m3fn"),
    "a list": (identity, [[1.0]], "got list"),
    "no images": (identity, GOOD[:0], "at least one element"),
    "a tuple out": (lambda v, x: (x, x), GOOD, "one array"),
    "a tuple of one out": (lambda v, x: (x,), GOOD, r"\[0\]"),
    "a dictionary out": (lambda v, x: {"logits": x}, GOOD, "one array"),
    "zero classes": (lambda v, x: x[..., :0], GOOD, "at least one class"),
    "a scalar a image": (lambda v, x: x.sum((1, 2, 3)), GOOD, r"got shape \(B,\)"),
    "another batch": (lambda v, x: x[:1], GOOD, r"got shape \(1, 4, 4, 3\)"),
    "whole numbers out": (lambda v, x: (x > 0).astype(jnp.int32), GOOD, "int32"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
@pytest.mark.parametrize("make", [jaxclear.clear_map, jaxclear.class_responses, jaxclear.heat_map])
def test_bad_input_is_refused_before_anything_is_compiled(name, make):
    apply, images, message = BAD_CALLS[name]
    with pytest.raises(ValueError, match=message):
        make(apply, on_unmatched="ignore")(None, images)


BAD_OPTIONS = {
    "rule": ({"rule": "grad-cam"}, "'backprop', 'deconvnet'"),
    "block": ({"class_block": 0}, "class_block"),
    "block of text": ({"class_block": "all"}, "class_block"),
    "both choices": ({"classes": [0], "top_k": 1}, "got both"),
    "no top": ({"top_k": 0}, "top_k"),
    "too many": ({"top_k": 4}, "at most 3 classes"),
    "no classes": ({"classes": []}, "at least one whole number"),
    "a class too far": ({"classes": [0, 3]}, "between 0 and 2"),
    "a class twice": ({"classes": [1, 1]}, "without repetition"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_say_what_was_expected(name):
    options, message = BAD_OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        jaxclear.clear_map(identity, **options)(None, GOOD)


def test_a_module_instead_of_a_function():
    with pytest.raises(ValueError, match="apply method"):
        jaxclear.clear_map("model")
    with pytest.raises(ValueError, match="labels between 0 and 2"):
        jaxclear.heat_map(identity)(None, GOOD, np.array([0, 3]))
    with pytest.raises(ValueError, match="2 whole numbers"):
        jaxclear.heat_map(identity)(None, GOOD, np.array([0.5]))
    with pytest.raises(ValueError, match="two classes"):
        jaxclear.heat_map(lambda _, x: x[..., :1])(None, GOOD)


def test_leaves_that_are_not_arrays_are_held_fixed():
    variables = {"activation": nn.relu, "scale": jnp.float32(2.0), "count": 3}

    def apply(variables, x):
        return sum(variables["activation"](variables["scale"] * x) for _ in range(variables["count"]))

    clear = jaxclear.clear_map(apply)(variables, GOOD)
    assert float(clear.dominant_response.max()) == pytest.approx(
        36.0
    )  # three classes of one channel: seeds 6, factor 6
    assert jax.tree.leaves(clear)
