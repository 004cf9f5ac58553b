"""What makes a store another one: constants of the network, content of the source, versions of what reads it."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxclear import file_tree
from jaxclear.dataset import ImageFiles, StoreError, StructureFiles, explain_dataset, open_store
from jaxclear.dataset.program import describe
from jaxclear.dataset.sources import identity, read, source_of
from jaxclear.file_tree import FileTree, content_digest
from tests.dataset.common import Images, image, run


def kept_by_a_mask(first, array=np.asarray):
    mask = array((np.arange(10) < 5) == first, np.uint8)[:, None, None]
    return lambda variables, images: {"kept": (images * mask).sum((1, 2))}


def scaled_by_a_matrix(corner, array=np.asarray):
    matrix = np.ones((3, 300), np.float32)
    matrix[0, 0] = corner
    matrix = array(matrix)
    return lambda variables, images: {"scaled": images.mean((1, 2)) @ matrix}


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_constants_inside_a_function_are_part_of_its_description(array):
    value = np.zeros((10, 12, 3), np.float32)
    masks = [describe(kept_by_a_mask(first, array), {}, value, 2) for first in (True, False, True)]
    assert masks[0] == masks[2] != masks[1]
    matrices = [describe(scaled_by_a_matrix(corner, array), {}, value, 2) for corner in (2.0, 4.0, 2.0)]
    assert matrices[0] == matrices[2] != matrices[1]


def test_another_constant_is_refused(tmp_path):
    pictures = np.random.default_rng(0).uniform(size=(6, 10, 12, 3)).astype(np.float32)
    options = {"batch": 2, "log": lambda event: None}
    explain_dataset(kept_by_a_mask(True), {}, pictures, tmp_path / "store", **options)
    with pytest.raises(StoreError, match="explanation.program"):
        explain_dataset(kept_by_a_mask(False), {}, pictures, tmp_path / "store", **options)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(np.full((6, 6), 40 * k, np.uint8)).save(folder / f"{k}.bmp")
    return folder


def test_a_repainted_image_is_refused_and_taken_with_the_failed_ones(tmp_path, pictures):
    source = ImageFiles(pictures, channels=1)
    run(tmp_path / "store", source)
    Image.fromarray(np.full((6, 6), 41, np.uint8)).save(pictures / "1.bmp")
    with pytest.raises(StoreError, match=r"source\.contents"):
        run(tmp_path / "store", ImageFiles(pictures, channels=1))
    assert run(tmp_path / "store", ImageFiles(pictures, channels=1), retry_failed=True).resumed == 1


def test_another_version_of_the_reader_is_refused(tmp_path, pictures, monkeypatch):
    run(tmp_path / "store", ImageFiles(pictures, channels=1))
    monkeypatch.setattr("jaxclear.dataset.sources.metadata.version", lambda package: "0.0.1")
    with pytest.raises(StoreError, match=r"source\.pillow: stored .*, now 0\.0\.1"):
        run(tmp_path / "store", ImageFiles(pictures, channels=1))


def test_another_element_in_a_file_is_another_source(tmp_path):
    from ase.build import bulk
    from ase.db import connect
    from ase.io import write

    for element, lattice in (("Cu", 3.6), ("Au", 3.6)):
        (tmp_path / element).mkdir()
        write(tmp_path / element / "one.cif", bulk(element, "fcc", lattice))
        with connect(tmp_path / element / "all.db") as rows:
            rows.write(bulk(element, "fcc", lattice))
        with zipfile.ZipFile(tmp_path / element / "all.zip", "w") as archive:
            archive.write(tmp_path / element / "one.cif", "one.cif")
    for name in ("one.cif", "all.db", "all.zip"):
        copper, gold = (identity(StructureFiles(tmp_path / element / name)) for element in ("Cu", "Au"))
        assert copper["sizes"] == gold["sizes"]
        assert copper["contents"] != gold["contents"]
        assert {"ase", "pymatgen", "spglib"} <= copper.keys()


@given(sizes=st.lists(st.integers(0, 9), max_size=8), whole=st.integers(2, 40), data=st.data())
def test_blocks_lie_in_their_files_and_cover_small_content(sizes, whole, data):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file_tree, "_WHOLE", whole)
        patched.setattr(file_tree, "_BLOCK", data.draw(st.integers(1, whole // 2)))
        blocks = list(file_tree._blocks(sizes))
    assert all(0 <= start and start + length <= sizes[file] for file, start, length in blocks)
    if sum(sizes) <= whole:
        assert blocks == [(number, 0, size) for number, size in enumerate(sizes)]
    else:
        first, last = blocks[0], blocks[-1]
        assert first[0] == next(k for k, size in enumerate(sizes) if size)
        assert first[1] == 0
        assert last[0] == max(k for k, size in enumerate(sizes) if size)
        assert last[1] + last[2] == sizes[last[0]]


def test_large_content_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(file_tree, "_WHOLE", 64)
    monkeypatch.setattr(file_tree, "_BLOCK", 8)
    content = bytes(range(200))
    (tmp_path / "large").write_bytes(content)
    before = content_digest([tmp_path / "large"])
    (tmp_path / "large").write_bytes(content[:-1] + b"\0")
    assert content_digest([tmp_path / "large"]) != before
    assert content_digest([tmp_path / "large", tmp_path / "absent"]) == content_digest([tmp_path / "large"])


def test_an_unreadable_file_counts_as_empty(tmp_path):
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "empty").write_bytes(b"")
    digests = [content_digest([tmp_path / name, tmp_path / "one"]) for name in ("absent", "empty", "one")]
    assert digests[0] == digests[1] != digests[2]


def test_a_tar_archive_has_the_content_of_its_folder(tmp_path, pictures):
    import tarfile

    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(pictures, ".")
    assert FileTree(tmp_path / "all.tar").content_digest() == FileTree(pictures).content_digest()


def test_arrays_are_sources_and_columns_are_not(tmp_path):
    images, labels = np.stack([image(k) for k in range(5)]), np.array([2, 0, 1, 1, 0])
    run(tmp_path / "pair", (images, labels))
    run(tmp_path / "alone", jnp.asarray(images))
    assert open_store(tmp_path / "pair")["label"][:].tolist() == labels.tolist()
    np.testing.assert_array_equal(
        open_store(tmp_path / "pair")["class_scores"][:], open_store(tmp_path / "alone")["class_scores"][:]
    )
    with pytest.raises(ValueError, match=r"got columns image, label; wrap them in jaxclear\.data\.as_source"):
        run(tmp_path / "columns", {"image": images, "label": labels})
    with pytest.raises(ValueError, match="a source that knows its length, got Broken: RuntimeError: no idea"):
        source_of(Broken(1))


class Broken(Images):
    def __len__(self):
        raise RuntimeError("no idea")


def test_images_of_pillow_get_their_axis_of_channels(tmp_path):
    grey = np.arange(36, dtype=np.uint8).reshape(6, 6)
    modes = {"L": 1, "1": 1, "LA": 1, "RGB": 3, "P": 3, "CMYK": 3}
    for mode, channels in modes.items():
        pillow = Image.fromarray(grey).convert(mode)
        means = lambda variables, batch: {"mean": batch.mean((1, 2))}
        explain_dataset(means, {}, [{"image": pillow, "label": 1}], tmp_path / mode, log=lambda event: None)
        assert open_store(tmp_path / mode)["mean"].shape == (1, channels)
    np.testing.assert_allclose(open_store(tmp_path / "L")["mean"][:], [[grey.mean() / 255]], rtol=1e-5)
    for deep in (Image.fromarray(60_000 * grey.astype(np.uint16) // 35), Image.fromarray(grey.astype(np.float32) / 35)):
        assert "8 bits a channel" in read([{"image": deep, "label": 1}], 0).reason
