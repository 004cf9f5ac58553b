"""Kaggle's folder of fundus photographs: what is read, what is missing, and the preprocessing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import trees
from jaxclear import explain_dataset, open_store
from jaxclear.data import DataError, gather, holdout, load
from jaxclear.data.retinopathy import GRADES, Retinopathy, crop_background, fundus, normalise
from jaxclear.dataset.sources import Failure, read


@pytest.fixture
def tree(tmp_path):
    return trees.kaggle(tmp_path / "dr")


def test_right_eyes_with_their_grades(tree):
    source = Retinopathy(tree, size=64)
    assert [source.name(i) for i in range(len(source))] == ["10_right", "13_right", "15_right", "16_right"]
    assert source.labels.tolist() == [1, 4, 3, 0]
    assert source.classes == GRADES
    assert source.groups == ("10", "13", "15", "16")
    item = source[1]
    assert item["image"].shape == (64, 64, 3)
    assert item["image"].dtype == np.uint8
    assert (item["label"], item["id"]) == (4, "13_right")
    with Image.open(tree / "train" / "13_right.jpeg") as opened:
        np.testing.assert_array_equal(item["image"], fundus(np.asarray(opened), 64))


def test_both_eyes_of_a_patient_stay_on_one_side(tree):
    source = Retinopathy(tree, eyes="both", size=32)
    assert len(source) == len(trees.EYES)
    for seed in range(8):
        train, test = holdout(source, 0.3, seed=seed)
        assert len(train) + len(test) == len(source)
        assert not {source.groups[i] for i in train.indices} & {source.groups[i] for i in test.indices}


def test_load_gives_the_same_splits_at_each_call(tree):
    train, test = (load("retinopathy", split, data_dir=tree, eyes="both", size=16) for split in ("train", "test"))
    again = load("retinopathy", "test", data_dir=tree, eyes="both", size=16)
    names = [{part.name(i) for i in range(len(part))} for part in (train, test, again)]
    assert names[1] == names[2]
    assert names[0].isdisjoint(names[1])
    assert len(load("retinopathy", "all", data_dir=tree, size=16)) == 4


def test_explaining_takes_the_source(tree):
    item = read(Retinopathy(tree, size=16), 0)
    assert not isinstance(item, Failure)
    assert (item.value.shape, item.label, item.id) == ((16, 16, 3), 1, "10_right")


def test_explaining_a_data_set_records_what_cannot_be_read(tree, tmp_path):
    (tree / "train" / "13_right.jpeg").write_bytes(b"no image")
    source = Retinopathy(tree, size=16)
    weights = np.eye(3, dtype=np.float32)
    means = lambda weights, images: jnp.square(normalise(images)).mean((1, 2)) @ weights
    run = explain_dataset(means, weights, source, tmp_path / "store", log=lambda event: None)
    assert (run.items, run.failed) == (4, 1)
    store = open_store(tmp_path / "store")
    assert [name for _, name, _ in store.failures()] == ["13_right"]
    assert "13_right.jpeg: expected an image" in store.failures()[0][2]


def test_a_missing_label_is_named(tree):
    table = tree / "trainLabels.csv"
    table.write_text(table.read_text().replace("13_right,4\n", ""))
    with pytest.raises(DataError, match=r"13_right: expected a row with its level in trainLabels.csv"):
        Retinopathy(tree)
    source = Retinopathy(tree, incomplete="record")
    assert len(source) == 3
    assert [failure.id for failure in source.failures] == ["13_right"]


def test_a_missing_photograph_is_named(tree):
    (tree / "train" / "15_right.jpeg").unlink()
    with pytest.raises(DataError, match=r"15_right: expected the photograph train/15_right.jpeg, got none"):
        Retinopathy(tree)
    Retinopathy(tree, eyes="left")  # nothing of these is missing


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("10_right,5", "expected a level from 0 to 4"),
        ("10_right,", "got none"),
        ("10-right,1", "expected a name as 10_left"),
        ("13_right,4", "expected one row"),
    ],
)
def test_rows_that_are_none_are_named(tree, row, reason):
    table = tree / "trainLabels.csv"
    table.write_text(table.read_text().replace("10_right,1", row))
    with pytest.raises(DataError, match=reason):
        Retinopathy(tree)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_corrupt_photograph_is_a_failure_that_names_it(tree, damage):
    file = tree / "train" / "13_right.jpeg"
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "text": b"no image", "empty": b""}[damage])
    source = Retinopathy(tree, size=16)
    with pytest.raises(DataError, match=r"13_right.jpeg: expected an image"):
        source[1]
    with pytest.raises(DataError, match="13_right"):
        gather(source)
    images = gather(source, on_error="record")
    assert images.images.shape == (3, 16, 16, 3)
    assert images.labels.tolist() == [1, 3, 0]
    assert images.failures[0].id == "13_right"
    assert "13_right.jpeg" in images.failures[0].reason


def test_another_layout_names_what_is_missing(tree):
    with pytest.raises(DataError, match="which is none"):
        Retinopathy(tree / "nowhere")
    with pytest.raises(DataError, match=r"without the file trainLabels.csv and the folder train; in it is"):
        Retinopathy(tree / "train")
    (tree / "trainLabels.csv").write_text("id;grade\n10_right;1\n")
    with pytest.raises(DataError, match="expected the columns image, level"):
        Retinopathy(tree)
    with pytest.raises(DataError, match="expected eyes out of"):
        Retinopathy(tree, eyes="third")


def test_the_crop_is_the_disc():
    rows, columns = np.mgrid[:200, :300]
    for row, column, radius in [(100, 150, 80), (100, 110, 95), (90, 200, 60)]:
        disc = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        cut = crop_background(np.repeat(np.where(disc, 120, 4).astype(np.uint8)[..., None], 3, axis=-1))
        assert cut.shape[0] == cut.shape[1]
        # Rows with fewer than 1 % of bright pixels, at the poles of the disc, are cut off.
        assert 2 * radius - 5 <= cut.shape[0] <= 2 * radius
        inside = (cut > 50).all(axis=-1)
        np.testing.assert_allclose(inside.sum(), np.pi * radius**2, rtol=0.02)
        assert abs(np.argwhere(inside).mean(axis=0) - (cut.shape[0] - 1) / 2).max() < 1


def test_the_crop_does_not_depend_on_the_background_or_the_exposure():
    photograph = trees.fundus_photograph()
    cut = crop_background(photograph)
    wider = np.full((300, 500, 3), 3, np.uint8)
    wider[30 : 30 + 240, 100 : 100 + 360] = photograph
    np.testing.assert_array_equal(crop_background(wider), cut)
    half = crop_background((photograph // 2).astype(np.uint8))
    assert abs(half.shape[0] - cut.shape[0]) <= 4
    assert 215 <= cut.shape[0] <= 235


def test_a_dark_photograph_is_refused():
    with pytest.raises(DataError, match="dark all over"):
        crop_background(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match="RGB"):
        crop_background(np.zeros((20, 20, 1), np.uint8))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 1), st.floats(0, 0.3))
def test_normalised_channels_have_mean_0_and_deviation_1(seed, gain, offset):
    images = np.random.default_rng(seed).uniform(size=(2, 6, 5, 3)).astype(np.float32)
    result = np.asarray(normalise(images))
    for image, own in zip(images, result, strict=True):
        for channel in range(3):
            values = image[..., channel].astype(np.float64)
            np.testing.assert_allclose(own[..., channel], (values - values.mean()) / values.std(), atol=1e-5)
    # Neither gain nor offset of a camera's channel matters.
    np.testing.assert_allclose(normalise(images * np.float32(gain) + np.float32(offset)), result, atol=1e-4)


def test_normalising_bytes_is_normalising_their_range_and_has_gradients_on_flat_images():
    photograph = fundus(trees.fundus_photograph(), 32)[None]
    np.testing.assert_allclose(normalise(photograph), normalise(photograph.astype(np.float32) / 255), atol=1e-6)
    flat = jnp.full((1, 4, 4, 3), 0.5)
    assert not np.asarray(normalise(flat)).any()
    assert np.isfinite(jax.jit(jax.grad(lambda images: normalise(images).sum()))(flat)).all()
