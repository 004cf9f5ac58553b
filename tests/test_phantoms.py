"""Phantoms of fundi and of radiographs: the same every time, drawn as their rule says, with masks where things are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from experiments import phantoms_fundus, phantoms_limbs
from experiments.phantom_shapes import blob, curve, draw_ellipse, draw_rod, smooth_field

SIZE = 80
FUNDI = phantoms_fundus.make(25, SIZE, seed=3)
LIMBS = phantoms_limbs.make(24, 64, seed=3)
COORDINATE = st.floats(-4, 14)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[COORDINATE] * 4), st.floats(0.5, 3))
def test_a_rod_covers_the_pixels_within_its_radius(ends, radius):
    layer = np.zeros((11, 9))
    start, stop = np.array(ends[:2]), np.array(ends[2:])
    draw_rod(layer, start, stop, radius)
    along = np.linspace(start, stop, 2001)
    for row, column in np.ndindex(*layer.shape):
        distance = np.hypot(along[:, 0] - row, along[:, 1] - column).min()
        assert layer[row, column] == pytest.approx(np.clip(radius - distance + 0.5, 0, 1), abs=0.01)


def test_an_ellipse_has_its_area_and_direction():
    layer = np.zeros((60, 60))
    draw_ellipse(layer, np.array([30.0, 28.0]), (20.0, 8.0), np.pi / 6)
    assert layer.sum() == pytest.approx(np.pi * 20 * 8, rel=0.02)
    rows, columns = np.nonzero(layer > 0.5)
    np.testing.assert_allclose([rows.mean(), columns.mean()], [30, 28], atol=0.2)
    covariance = np.cov(rows, columns)
    assert np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1]) / 2 == pytest.approx(
        np.pi / 6, abs=0.03
    )


def test_shapes_outside_the_picture_leave_it_empty():
    layer, rng = np.zeros((8, 8)), np.random.default_rng(0)
    draw_rod(layer, np.array([20.0, 20.0]), np.array([30.0, 20.0]), 2.0)
    draw_ellipse(layer, np.array([-20.0, 4.0]), (3.0, 2.0))
    blob(layer, np.array([4.0, 60.0]), 2.0, rng)
    assert not layer.any()


def test_walks_and_fields():
    straight = curve(np.array([1.0, 2.0]), 0.0, 3, 2.0, np.zeros(3))
    np.testing.assert_allclose(straight, [[1, 2], [3, 2], [5, 2], [7, 2]])
    field = smooth_field(48, 3.0, np.random.default_rng(0))
    assert (field.mean(), field.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_fundi_are_the_same_whatever_their_number():
    again = phantoms_fundus.make(6, SIZE, seed=3)
    for one, other in zip(again[:3], FUNDI[:3], strict=True):
        np.testing.assert_array_equal(one, other[:6])
    assert not np.array_equal(phantoms_fundus.make(1, SIZE, seed=4).images, again.images[:1])
    assert np.bincount(FUNDI.grades).tolist() == [5] * 5


def test_lesions_are_those_of_the_grade():
    kinds = FUNDI.lesions.any(axis=(2, 3))  # microaneurysms, haemorrhages, exudates, new vessels
    assert not kinds[FUNDI.grades == 0].any()
    assert (kinds[FUNDI.grades == 1] == [True, False, False, False]).all()
    assert (kinds[FUNDI.grades == 2] == [True, True, True, False]).all()
    assert kinds[FUNDI.grades == 3][:, :2].all()
    assert not kinds[FUNDI.grades == 3][:, 3].any()
    assert kinds[FUNDI.grades == 4][:, 3].all()
    for grade, lesions in zip(FUNDI.grades, FUNDI.lesions, strict=True):
        assert ndimage.label(lesions[0])[1] <= 10
        bleeding = quadrants_with(lesions[1])
        assert {0: bleeding == 0, 1: bleeding == 0, 2: 1 <= bleeding <= 2, 3: bleeding == 4, 4: True}[int(grade)]


def quadrants_with(mask):
    """In how many quadrants the middle of a connected spot lies (a spot may reach over an axis)."""
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    middles = np.array(ndimage.center_of_mass(mask, numbered, np.arange(1, count + 1))).reshape(-1, 2)
    return len({(row > (SIZE - 1) / 2, column > (SIZE - 1) / 2) for row, column in middles})


def test_masks_lie_in_the_fundus_where_the_picture_is_changed():
    assert not FUNDI.lesions[..., ~FUNDI.fundus].any()
    assert not FUNDI.images[:, ~FUNDI.fundus].any()
    assert FUNDI.fundus.mean() == pytest.approx(np.pi / 4, rel=0.1)
    for image, lesions in zip(FUNDI.images, FUNDI.lesions, strict=True):
        ground = np.median(image[FUNDI.fundus], axis=0)
        for kind, sign in ((1, -1), (2, 1)):  # haemorrhages are darker than the ground, exudates brighter
            if lesions[kind].any():
                assert sign * (image[lesions[kind]].mean(0) - ground)[1] > 0


def test_grounds_of_a_photograph():
    pytest.importorskip("skimage")
    made = phantoms_fundus.make(4, 48, seed=0, photograph_share=1.0)
    assert made.photographed.all()
    assert not FUNDI.photographed.any()
    assert (made.images[:, made.fundus].mean(axis=1)[:, 0] > made.images[:, made.fundus].mean(axis=1)[:, 2]).all()


def test_limbs_are_the_same_whatever_their_number():
    again = phantoms_limbs.make(9, 64, seed=3)
    for one, other in zip(again, LIMBS, strict=True):
        np.testing.assert_array_equal(one, other[:9])
    assert np.bincount(LIMBS.labels).tolist() == [3] * len(phantoms_limbs.REGIONS)


def test_landmarks_are_bones_and_bones_are_bright():
    assert not (LIMBS.landmarks & ~LIMBS.bones).any()
    for image, landmarks, bones in zip(LIMBS.images[..., 0], LIMBS.landmarks, LIMBS.bones, strict=True):
        assert 0.02 < landmarks.mean() < 0.35
        assert image[bones].mean() > 1.5 * image[~bones].mean()
    whole = phantoms_limbs.REGIONS.index("spine")
    np.testing.assert_array_equal(LIMBS.landmarks[LIMBS.labels == whole], LIMBS.bones[LIMBS.labels == whole])
    knees = LIMBS.labels == phantoms_limbs.REGIONS.index("knee")
    assert (LIMBS.bones[knees].sum(axis=(1, 2)) > 1.3 * LIMBS.landmarks[knees].sum(axis=(1, 2))).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: phantoms_fundus.make(0, 64, seed=0),
        lambda: phantoms_fundus.make(1, 64, seed=0, photograph_share=1.5),
        lambda: phantoms_limbs.make(1, 8, seed=0),
    ],
)
def test_what_is_refused(call):
    with pytest.raises(ValueError, match="expected count of at least 1"):
        call()
