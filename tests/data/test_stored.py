"""Data sets of TFDS without TensorFlow: IDX and MATLAB files, checksums, both formats of records, and MNIST itself."""

import gzip
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from scipy.io import savemat
from tensorflow_datasets.core.download import checksums

from experiments import fetch_mnist
from jaxclear.data import DataError, gather, load
from jaxclear.data.builders import BUILDERS, IDX_FILES, Mnist, SvhnCropped, read_idx, read_mat

RNG = np.random.default_rng(5)
DIGITS = {split: RNG.integers(0, 256, (count, 28, 28), np.uint8) for split, count in (("train", 30), ("test", 10))}
HOUSES = {split: RNG.integers(0, 256, (count, 32, 32, 3), np.uint8) for split, count in (("train", 12), ("test", 11))}


def idx(array):
    """The IDX file of an array."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def record(monkeypatch, builder, folder):
    """Makes a builder expect the files of a folder."""
    urls = {builder.URL + file.name: checksums.compute_url_info(file) for file in folder.iterdir()}
    monkeypatch.setattr(builder, "url_infos", urls)


@pytest.fixture
def mnist_files(tmp_path, monkeypatch):
    """Small archives in the publishers' form."""
    folder = tmp_path / "manual"
    folder.mkdir()
    for split, (images, labels) in IDX_FILES.items():
        (folder / images).write_bytes(gzip.compress(idx(DIGITS[split])))
        (folder / labels).write_bytes(gzip.compress(idx(np.arange(len(DIGITS[split]), dtype=np.uint8) % 10)))
    record(monkeypatch, Mnist, folder)
    return folder


@pytest.fixture
def svhn_files(tmp_path, monkeypatch):
    """Small files in the publishers' form, "0" as 10."""
    folder = tmp_path / "manual"
    folder.mkdir()
    for split, images in HOUSES.items():
        labels = np.arange(1, len(images) + 1).reshape(-1, 1) % 10
        savemat(
            folder / f"{split}_32x32.mat", {"X": np.moveaxis(images, 0, -1), "y": np.where(labels == 0, 10, labels)}
        )
    record(monkeypatch, SvhnCropped, folder)
    return folder


def as_set(images, labels):
    """Images and labels, whatever their order."""
    return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


def test_mnist_from_the_publishers_files(mnist_files, tmp_path):
    for split, digits in DIGITS.items():
        source = load("mnist", split, data_dir=tmp_path / "tfds", manual_dir=mnist_files)
        images = gather(source)
        assert images.images.shape == (len(digits), 28, 28, 1)
        assert as_set(images.images, images.labels) == as_set(digits, np.arange(len(digits)) % 10)
        assert source.classes == tuple("0123456789")
    assert len(load("mnist", "train[:50%]", data_dir=tmp_path / "tfds")) == 15
    parts = [load("mnist", part, data_dir=tmp_path / "tfds") for part in ("train[:7]", "train[7:]")]
    both = [gather(part) for part in parts]
    assert as_set(*map(np.concatenate, zip(*((p.images, p.labels) for p in both), strict=True))) == as_set(
        DIGITS["train"], np.arange(30) % 10
    )
    with pytest.raises(DataError, match=r"expected a split of mnist out of .*test.*got 'validation'"):
        load("mnist", "validation", data_dir=tmp_path / "tfds")


def test_svhn_from_the_publishers_files(svhn_files, tmp_path):
    for split, houses in HOUSES.items():
        source = load("svhn", split, data_dir=tmp_path / "tfds", manual_dir=svhn_files)
        images = gather(source)
        assert images.images.shape == (len(houses), 32, 32, 3)
        assert as_set(images.images, images.labels) == as_set(houses, np.arange(1, len(houses) + 1) % 10)
        assert sorted(images.ids)[1] == f"{split}_000001"
    assert source.folder.relative_to(tmp_path / "tfds").as_posix() == "svhn_cropped/train_test/3.1.0"
    with pytest.raises(DataError, match=r"extra_32x32.mat in manual_dir .*none of the name extra_32x32.mat"):
        load("svhn", "extra", data_dir=tmp_path / "tfds", manual_dir=svhn_files)


def test_the_stock_builders_features_names_versions_and_checksums():
    """What one prepared the other reads, and the files are the same."""
    for ours, stock in ((Mnist, "mnist"), (SvhnCropped, "svhn_cropped")):
        other = tfds.builder_cls(stock)
        assert (ours.name, ours.VERSION, dict(ours.url_infos)) == (other.name, other.VERSION, dict(other.url_infos))
        assert BUILDERS[stock] is ours
        files = {ours.URL + file for split in ours.FILES.values() for file in split}
        assert files == set(ours.url_infos)


def test_a_changed_or_missing_file_is_refused(mnist_files, tmp_path):
    file = mnist_files / IDX_FILES["test"][1]
    content = file.read_bytes()
    file.write_bytes(gzip.compress(idx(np.zeros(10, np.uint8))))
    with pytest.raises(DataError, match=r"got NonMatchingChecksumError"):
        load("mnist", "test", data_dir=tmp_path / "tfds", manual_dir=mnist_files)
    file.unlink()
    with pytest.raises(DataError, match=r"none of the name t10k-labels-idx1-ubyte.gz"):
        load("mnist", "test", data_dir=tmp_path / "tfds", manual_dir=mnist_files)
    file.write_bytes(content)
    assert len(load("mnist", "test", data_dir=tmp_path / "tfds", manual_dir=mnist_files)) == 10


def test_without_a_network_the_files_to_get_are_named_at_once(tmp_path, monkeypatch):
    # A port that nobody listens on.
    monkeypatch.setattr(SvhnCropped, "URL", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"got ConnectionError; .* http://127.0.0.1:9/test_32x32.mat into a folder"):
        load("svhn", "train", data_dir=tmp_path)
    assert not any(tmp_path.rglob("incomplete*"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"plain", "expected a gzipped IDX file"),
        (gzip.compress(b"\x00\x00\x0d\x01"), r"of unsigned bytes \(0, 0, 8\), got \(0, 0, 13\)"),
        (gzip.compress(idx(np.zeros(10, np.uint8))[:-3]), r"expected \(10,\) values, got 7; the file is cut short"),
        (gzip.compress(idx(np.zeros((3, 4), np.uint8))[:9]), "cut short"),
        (gzip.compress(idx(np.zeros(900, np.uint8)))[:20], "expected a gzipped IDX file"),
    ],
    ids=["plain", "dtype", "values", "header", "archive"],  # archives carry the time
)
def test_idx_files_are_checked(tmp_path, content, reason):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_idx(tmp_path / "file.gz")


def test_matlab_files_are_checked(tmp_path):
    file = tmp_path / "x.mat"
    with pytest.raises(DataError, match="expected a MATLAB file with X and y"):
        file.write_bytes(b"text")
        read_mat(file)
    with pytest.raises(DataError, match="expected a MATLAB file with X and y"):
        savemat(file, {"X": np.zeros((2, 2, 3, 4), np.uint8)})
        read_mat(file)
    with pytest.raises(DataError, match="expected labels from 1 to 10, got 0 to 0"):
        savemat(file, {"X": np.zeros((2, 2, 3, 4), np.uint8), "y": np.zeros((4, 1))})
        read_mat(file)
    with pytest.raises(DataError, match="expected X as uint8"):
        savemat(file, {"X": np.zeros((2, 2, 3, 4)), "y": np.ones((4, 1))})
        read_mat(file)


def as_tfrecord(folder):
    """Turns a prepared data set into what TensorFlow would have written: TFRecord files."""
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"
    source = tfds.builder_from_directory(folder)
    for split in source.info.splits:
        raw = source.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        framed = b"".join(struct.pack("<QI", len(row), 0) + row + struct.pack("<I", 0) for row in map(bytes, raw))
        for file in folder.glob(f"*-{split}.array_record-*"):
            file.unlink()
            (folder / file.name.replace("array_record", "tfrecord")).write_bytes(framed)
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_a_data_set_prepared_by_tensorflow_is_read_without_it(mnist_files, tmp_path):
    root = tmp_path / "tfds"
    before = gather(load("mnist", "train", data_dir=root, manual_dir=mnist_files))
    as_tfrecord(root / "mnist" / "3.0.1")
    after = gather(load("mnist", "train", data_dir=root))
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_array_equal(after.labels, before.labels)
    part = gather(load("mnist", "train[20%:50%]", data_dir=root))
    np.testing.assert_array_equal(part.images, before.images[6:15])
    both = load("mnist", "test+train[:3]", data_dir=root)
    np.testing.assert_array_equal(gather(both).images[-3:], before.images[:3])
    file = next((root / "mnist" / "3.0.1").glob("*-train.tfrecord-*"))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match="expected whole records, got one cut short"):
        load("mnist", "train", data_dir=root)


def test_preparing_leaves_standard_output_to_the_caller_and_tensorflow_alone(mnist_files, tmp_path):
    script = (
        "import sys, jaxclear.data\n"
        "from jaxclear.data.builders import Mnist\n"
        "from tensorflow_datasets.core.download import checksums\n"
        "from pathlib import Path\n"
        f"folder = Path({str(mnist_files)!r})\n"
        "Mnist.url_infos = {Mnist.URL + f.name: checksums.compute_url_info(f) for f in folder.iterdir()}\n"
        f"source = jaxclear.data.load('mnist', 'test', data_dir={str(tmp_path / 'tfds')!r}, manual_dir=folder)\n"
        "source[0]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.fixture(scope="module")
def published_mnist(tmp_path_factory):
    try:
        fetch_mnist.fetch(folder := tmp_path_factory.mktemp("mnist"))
    except fetch_mnist.FetchError as error:
        pytest.skip(f"MNIST cannot be had here: {error}")
    return folder


@pytest.mark.thorough
def test_mnist_itself(published_mnist, tmp_path):
    """The real archives, with TFDS's checksums; the numbers of each digit are the published ones."""
    test = gather(load("mnist", "test", data_dir=tmp_path, manual_dir=published_mnist))
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    raw, labels = (read_idx(published_mnist / name) for name in IDX_FILES["test"])
    assert as_set(test.images, test.labels) == as_set(raw, labels)
    assert len(load("mnist", "train", data_dir=tmp_path)) == 60_000
