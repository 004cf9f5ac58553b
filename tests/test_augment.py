"""Random changes of images: exact where they move by whole pixels, within their limits, each image its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxclear.augment import AugmentError, RandomAffine

KEY = jax.random.key(4)


def centroid(images):
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = np.asarray(images).sum((1, 2, 3))
    return np.stack([(np.asarray(images)[..., 0] * axis).sum((1, 2)) / mass for axis in (y, x)], axis=1)


@pytest.fixture(scope="module")
def blobs():
    """32 equal images: a blob of two widths beside the centre, far from the border."""
    y, x = np.mgrid[:41, :41]
    blob = np.exp(-((y - 20) ** 2) / 18 - ((x - 24) ** 2) / 8).astype(np.float32)
    return jnp.asarray(np.repeat(blob[None, :, :, None], 32, axis=0))


def test_nothing_is_changed_by_changes_of_size_zero(blobs):
    still = RandomAffine(shift=0.0, degrees=0.0, scale=0.0)
    np.testing.assert_allclose(still(KEY, blobs), blobs, atol=1e-6)


def test_shifts_move_the_centroid_within_their_limit(blobs):
    moved = centroid(RandomAffine(shift=3.0, degrees=0.0, scale=0.0)(KEY, blobs)) - centroid(blobs)
    assert np.abs(moved).max() < 3.01
    assert np.abs(moved).max(axis=0).min() > 1.5
    assert len(np.unique(moved.round(4), axis=0)) == 32


def test_turns_keep_the_distance_from_the_centre(blobs):
    place = centroid(RandomAffine(shift=0.0, degrees=30.0, scale=0.0)(KEY, blobs)) - 20
    np.testing.assert_allclose(np.hypot(*place.T), 4, atol=0.02)
    angles = np.degrees(np.arctan2(*place.T))
    assert 15 < np.abs(angles).max() < 30.1


def test_sizes_change_area_and_distance_together(blobs):
    images = RandomAffine(shift=0.0, degrees=0.0, scale=0.25)(KEY, blobs)
    factor = (centroid(images) - 20)[:, 1] / 4
    assert 0.74 < factor.min() < factor.max() < 1.26
    np.testing.assert_allclose(np.asarray(images).sum((1, 2, 3)) / blobs[0].sum(), factor**2, rtol=0.02)


def test_shear_keeps_rows_and_area(blobs):
    images = RandomAffine(shift=0.0, degrees=0.0, scale=0.0, shear=0.3)(KEY, blobs)
    np.testing.assert_allclose(np.asarray(images).sum((1, 2, 3)), float(blobs[0].sum()), rtol=0.01)
    assert np.abs(np.asarray(images) - blobs).max(axis=(1, 2, 3)).min() > 0.001


def test_what_comes_in_is_the_fill():
    images = jnp.ones((4, 9, 9, 3))
    changed = RandomAffine(shift=4.0, degrees=0.0, scale=0.0, fill=0.25)(KEY, images)
    assert float(changed.min()) == 0.25
    assert changed.shape == images.shape


def test_it_follows_from_the_key(blobs):
    change = RandomAffine()
    np.testing.assert_array_equal(change(KEY, blobs), change(KEY, blobs))
    assert not np.array_equal(change(KEY, blobs), change(jax.random.key(5), blobs))


@pytest.mark.parametrize("settings", [{"shift": -1.0}, {"degrees": -2.0}, {"scale": 1.0}, {"shear": -0.1}])
def test_impossible_changes(settings):
    with pytest.raises(AugmentError, match="expected shift, degrees, scale and shear >= 0"):
        RandomAffine(**settings)
