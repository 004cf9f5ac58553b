"""The stand-in for SVHN: masks that are exact, digits where they should be, the same images from the same seed."""

import numpy as np
import pytest

from experiments import ccexam_network, standin
from experiments.standin import Look, StandInError, make
from jaxclear.training import predict

PHOTOGRAPHS = (np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8),)
PLAIN = Look(neighbour=1.0, gap=(0.15, 0.2), flatness=(1.0, 1.0), opacity=(1.0, 1.0), blur=0.0, noise=0.0, contrast=0.4)
"""One colour on another, so that each pixel tells how much of it is covered."""


@pytest.fixture(scope="module")
def plain():
    return make(40, seed=3, look=PLAIN, photographs=PHOTOGRAPHS, fonts=("DejaVuSans-Bold", "DejaVuSerif-Bold"))


def test_masks_are_the_pixels_that_digits_cover(plain):
    covered = plain.masks | plain.neighbour_masks.any(axis=1)
    for image, mask in zip(plain.images.astype(float), covered, strict=True):
        ground = np.median(image[~mask], axis=0)
        ink = image.reshape(-1, 3)[np.linalg.norm(image - ground, axis=-1).argmax()]
        along = (image - ground) @ (ink - ground) / ((ink - ground) @ (ink - ground))
        sure = np.abs(along - 0.5) > 0.04  # what 8 bits leave open
        np.testing.assert_array_equal(mask[sure], along[sure] > 0.5)
        assert sure.mean() > 0.9


def test_digits_are_apart_and_where_they_should_be(plain):
    assert not (plain.masks & plain.neighbour_masks.any(axis=1)).any()
    assert not plain.neighbour_masks.all(axis=1).any()
    rows, columns = np.mgrid[:32, :32]
    for number, mask in enumerate(plain.masks):
        tall = np.ptp(rows[mask]) + 1
        middle = [(np.ptp(axis[mask]) / 2 + axis[mask].min()) for axis in (rows, columns)]
        assert 9 <= tall <= 31
        assert np.abs(np.array(middle) - 15.5).max() < 5
        left, right = plain.neighbour_masks[number]
        assert not left.any() or columns[left].mean() < columns[mask].mean()
        assert not right.any() or columns[right].mean() > columns[mask].mean()


def test_classes(plain):
    together = np.concatenate([plain.labels[:, None], plain.neighbours], axis=1)
    assert ((together >= 0) & (together <= 9)).all()
    assert all(len(set(row)) == 3 for row in together.tolist())
    alone = make(5, seed=1, look=Look(neighbour=0.0), photographs=PHOTOGRAPHS)
    assert (alone.neighbours == -1).all()
    assert not alone.neighbour_masks.any()
    assert alone.masks.any(axis=(1, 2)).all()


def test_an_image_follows_from_its_seed_and_number():
    few, more = (make(count, seed=5, photographs=PHOTOGRAPHS) for count in (2, 4))
    for part, whole in zip(few, more, strict=True):
        np.testing.assert_array_equal(part, whole[:2])
    other = make(2, seed=6, photographs=PHOTOGRAPHS)
    assert (other.images != few.images).any()
    assert few.images.dtype == np.uint8
    assert few.images.shape == (2, 32, 32, 3)


def test_settings_that_no_image_can_have():
    with pytest.raises(StandInError, match="expected count >= 1, got 0"):
        make(0, seed=0)
    with pytest.raises(StandInError, match="expected photographs"):
        make(1, seed=0, photographs=(np.zeros((31, 40, 3), np.uint8),))
    with pytest.raises(StandInError, match="expected a font that matplotlib carries, got 'None'"):
        make(1, seed=0, photographs=PHOTOGRAPHS, fonts=("None",))
    with pytest.raises(StandInError, match="expected neighbour in"):
        Look(neighbour=2.0)
    with pytest.raises(StandInError, match="expected height"):
        Look(height=(20.0, 40.0))


def test_photographs_of_packages_and_the_network_of_others():
    try:
        photographs, model = standin.load_photographs(), ccexam_network.load()
    except ccexam_network.CcexamError as error:
        pytest.skip(str(error))
    assert len(photographs) == 11
    assert all(photo.dtype == np.uint8 and photo.shape[2] == 3 for photo in photographs.values())
    made = make(150, seed=8)
    right = predict(model.apply, model.variables, made.images).argmax(axis=1) == made.labels
    assert 0.8 < right.mean() < 0.97
