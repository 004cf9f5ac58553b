"""Strong features: masks against NumPy, control regions of the same area and shape, predictions from parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import few_of
from jaxclear import class_responses
from jaxclear.models.layers import Conv, ConvNet, Dense, MaxPool
from jaxclear.strong_features import ablation, keep, own_response, random_region, strong_mask
from networks import initial, pictures

MODULE = ConvNet(layers=(Conv(3, 4), MaxPool(2, 2), Conv(1, 3)))
IMAGES = pictures(5, 8, 8, 2)
VARIABLES = initial(MODULE, IMAGES, seed=1)


@pytest.mark.parametrize("rule", few_of(["backprop", "deconvnet", "guided", "linear"], "backprop", "guided"))
@pytest.mark.parametrize("module", [MODULE, ConvNet(layers=(Conv(3, 4), Dense(3)))], ids=["maps", "logits"])
def test_own_response_is_that_of_the_class(rule, module):
    variables = initial(module, IMAGES, seed=1)
    labels = np.array([0, 2, 1, 1, 2])

    @jax.jit
    def everything(variables, images):
        own = own_response(module.apply, rule=rule)
        responses = class_responses(module.apply, rule=rule)(variables, images).sum(-1)
        return responses, own(variables, images, labels), own(variables, images), module.apply(variables, images)

    responses, of_labels, of_predicted, outputs = map(np.asarray, everything(variables, IMAGES))
    np.testing.assert_allclose(of_labels, responses[labels, np.arange(5)], atol=1e-6)
    predicted = (outputs.mean((1, 2)) if outputs.ndim == 4 else outputs).argmax(-1)
    np.testing.assert_allclose(of_predicted, responses[predicted, np.arange(5)], atol=1e-6)


def test_masks_against_a_loop():
    response = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    response[0] = -1  # nothing responds
    for threshold in (0.0, 0.3, 0.9):
        found = np.asarray(strong_mask(jnp.asarray(response), threshold))
        for image, mask in zip(response, found, strict=True):
            for place in np.ndindex(5, 4):
                assert mask[place] == (image[place] > 0 and image[place] > threshold * image.max())


def trimmed(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.sampled_from([(7, 7), (6, 9)]))
def test_a_control_region_has_the_same_area_and_shape(seed, density, size):
    mask = np.random.default_rng(seed).random((3, *size)) < density
    mask[:, 2, 3] = True
    found = np.asarray(_region(jax.random.key(seed), jnp.asarray(mask)))
    np.testing.assert_array_equal(found.sum((1, 2)), mask.sum((1, 2)))
    for one, other in zip(mask, found, strict=True):
        shapes = [np.rot90(mirrored, k) for mirrored in (trimmed(one), trimmed(one)[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(trimmed(other), shape) for shape in shapes)


_region = jax.jit(random_region)


def test_control_regions_go_everywhere():
    mask = jnp.zeros((2000, 4, 5), bool).at[:, 0, 1].set(True)
    share = np.asarray(_region(jax.random.key(0), mask)).mean(0)
    np.testing.assert_allclose(share, 1 / 20, atol=0.02)


def test_an_empty_mask_stays_empty():
    assert not _region(jax.random.key(0), jnp.zeros((2, 4, 4), bool)).any()


def test_keep_fills_what_is_not_kept():
    mask = np.random.default_rng(1).random((5, 8, 8)) < 0.5
    found = np.asarray(keep(IMAGES, jnp.asarray(mask), 0.5))
    np.testing.assert_array_equal(found[mask], np.asarray(IMAGES)[mask])
    assert (found[~mask] == 0.5).all()


def test_ablation_is_the_sum_of_its_parts():
    thresholds = (0.0, 0.5)
    found = ablation(MODULE.apply, thresholds=thresholds, rule="guided", fill=0.5)(VARIABLES, IMAGES, jax.random.key(2))
    response = own_response(MODULE.apply, rule="guided")(VARIABLES, IMAGES)
    chex.assert_shape(found[1:], (2, 5))
    for row, threshold in enumerate(thresholds):
        mask = strong_mask(response, threshold)
        for answers, part in ((found.only, mask), (found.without, ~mask)):
            outputs = MODULE.apply(VARIABLES, keep(IMAGES, part, 0.5)).mean((1, 2))
            np.testing.assert_array_equal(answers[row], outputs.argmax(-1))
        np.testing.assert_allclose(found.area[row], np.asarray(mask).mean((1, 2)), atol=1e-6)
        differs = np.abs(np.asarray(IMAGES) - 0.5).sum(-1)
        share = (differs * np.asarray(mask)).sum((1, 2)) / differs.sum((1, 2))
        np.testing.assert_allclose(found.signal[row], share, atol=1e-5)
    assert ((found.overlap >= 0) & (found.overlap <= 1)).all()
    np.testing.assert_array_equal(found.full, MODULE.apply(VARIABLES, IMAGES).mean((1, 2)).argmax(-1))


@pytest.mark.parametrize("thresholds", [(), (-0.1,), (1.0,), (0.2, float("nan"))])
def test_thresholds_that_do_not_fit(thresholds):
    with pytest.raises(ValueError, match="expected thresholds"):
        ablation(MODULE.apply, thresholds=thresholds)


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="expected labels between 0 and 2"):
        own_response(MODULE.apply)(VARIABLES, IMAGES, np.array([0, 1, 2, 3, 0]))
