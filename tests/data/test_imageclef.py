"""The folder of ImageCLEF 2009: classes out of IRMA codes, what is missing, and the preprocessing."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data import trees
from jaxclear.data import DataError, gather, load, unit_range
from jaxclear.data.imageclef import AXES, Radiographs, radiograph

TABLE, IMAGES = "ImageCLEFmed2009_train_codes.02.csv", "ImageCLEFmed2009_train.02"


@pytest.fixture
def tree(tmp_path):
    return trees.imageclef(tmp_path / "clef")


def test_classes_are_the_regions_with_enough_radiographs(tree):
    source = Radiographs(tree, minimum=2, size=40)
    assert source.classes == ("41", "70")  # hand with 414 and 413, abdomen
    assert source.rare == {"52": 1}
    assert Counter(source.labels.tolist()) == {0: 5, 1: 4}
    images = gather(source)
    assert images.images.shape == (9, 40, 40, 1)
    assert images.images.dtype == np.uint8
    assert images.ids[0] == "1880"
    assert Radiographs(tree, minimum=4).classes == ("41", "70")
    with pytest.raises(DataError, match=r"at least 50 radiographs, got none \(41: 5, 70: 4, 52: 1\)"):
        Radiographs(tree)


@pytest.mark.parametrize(
    ("axis", "digits", "classes"),
    [
        ("anatomy", None, ("413", "414", "520", "700")),
        ("anatomy", 1, ("4", "5", "7")),
        ("direction", None, ("110", "120", "127", "211")),
        ("technique", None, ("1121", "1123")),
        ("system", None, ("3a0", "500", "700")),
        ("code", None, tuple(sorted(set(trees.CODES)))),
    ],
)
def test_each_axis_of_the_code(tree, axis, digits, classes):
    assert Radiographs(tree, axis=axis, digits=digits, minimum=1).classes == classes


def test_axes_are_the_parts_of_the_code():
    code = "1121-127-700-500"
    assert [code[part] for part in AXES.values()] == code.split("-")


def test_the_radiograph_is_resized_as_pillow_does(tree):
    item = load("imageclef", "all", data_dir=tree, minimum=1, size=50)[2]
    with Image.open(tree / IMAGES / "1882.png") as opened:
        np.testing.assert_array_equal(item["image"][..., 0], opened.resize((50, 50), Image.Resampling.BILINEAR))
    colour = np.repeat(item["image"], 3, axis=-1)
    np.testing.assert_array_equal(radiograph(colour, 50), item["image"])
    np.testing.assert_allclose(unit_range(item["image"]), item["image"] / np.float32(255))


def test_a_nested_folder_is_read_too(tree):
    shutil.move(tree / IMAGES, tree / "kept")
    (tree / IMAGES).mkdir()
    shutil.move(tree / "kept", tree / IMAGES / IMAGES)
    assert len(Radiographs(tree, minimum=1)) == len(trees.CODES)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("1880;1121-127-700-500;0;0\r\n", "", "1880: expected a row with its code"),
        (
            "1880;1121-127-700-500",
            "1880;1121-127-700",
            "1880: expected an IRMA code TTTT-DDD-AAA-BBB, got 1121-127-700",
        ),
        ("1880;1121", "1881;1121", "1881: expected one row"),
        ("1880;1121", "9999;1121", "9999: expected the radiograph ImageCLEFmed2009_train.02/9999.png, got none"),
        ("image_id;irma_code", "image_id,irma_code", "expected the columns image_id, irma_code separated by ';'"),
        ("1880;1121-127-700-500;0;0", "1880", "line 2: expected 4 values, got a row cut short"),
    ],
)
def test_a_bad_table_is_named(tree, old, new, reason):
    table = tree / TABLE
    text = table.read_bytes().decode()
    assert old in text
    table.write_bytes(text.replace(old, new).encode())
    with pytest.raises(DataError, match=reason):
        Radiographs(tree, minimum=1)


def test_what_is_missing_can_be_recorded(tree):
    (tree / IMAGES / "1881.png").unlink()
    (tree / IMAGES / "1883.png").write_bytes(b"")
    source = Radiographs(tree, minimum=1, incomplete="record", size=20)
    assert [failure.id for failure in source.failures] == ["1881"]
    images = gather(source, on_error="record")
    assert len(images.images) == len(trees.CODES) - 2
    assert [failure.id for failure in images.failures] == ["1883"]
    with pytest.raises(DataError, match="incomplete 'error' or 'record'"):
        Radiographs(tree, incomplete="ignore")


def test_sixteen_bits_are_refused(tree):
    Image.fromarray(np.full((30, 30), 40000, np.uint16)).save(tree / IMAGES / "1880.png")
    with pytest.raises(DataError, match=r"1880.png: expected 8 bits a channel"):
        Radiographs(tree, minimum=1)[0]


def test_another_layout_names_what_is_missing(tree):
    (tree / TABLE).unlink()
    with pytest.raises(DataError, match=f"without the file {TABLE}"):
        Radiographs(tree)
    with pytest.raises(DataError, match="expected an axis out of technique"):
        Radiographs(tree, axis="colour")
