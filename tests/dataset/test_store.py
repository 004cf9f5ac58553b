"""The store as others read it, and the proof that nothing of it is missing or damaged."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxclear
from effort import examples
from jaxclear.dataset import StoreError, open_store, verify
from jaxclear.dataset.store import Store
from tests.dataset.common import CLASSES, SIZE, Images, files, image, numpy_explain, run


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "store"
    run(out, Images(21, broken=(6,)), class_names=["a", "b", "c"])
    return out


@pytest.fixture
def store(path):
    return jaxclear.open_store(path)


def test_zarr_python_reads_the_same(path, store):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="r")
    assert set(dict(group.arrays())) == set(store.keys())
    for name in store.keys():  # noqa: SIM118 - not a mapping
        np.testing.assert_array_equal(group[name][:], store[name][:])
    assert group.attrs["jaxclear"]["class_names"] == ["a", "b", "c"]
    assert group["item_id"][4] == "image-004"
    assert group["failure"][6] == "OSError: no such sector 6"
    assert group["dominant_response"].metadata.dimension_names == ("item", "y", "x")
    with_own = zarr.open_array(path / "class_scores", mode="r")
    assert with_own.shape == (21, CLASSES)


def test_xarray_has_named_dimensions(path, store):
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(path) as found:
        assert dict(found.sizes) == {"item": 21, "class": CLASSES, "y": SIZE, "x": SIZE}
        chosen = found.dominant_response.isel(item=found.predicted_class == 1)
        assert chosen.dims == ("item", "y", "x")
        np.testing.assert_array_equal(chosen.values, store["dominant_response"][store.index(predicted=1)])


def test_large_shards_have_small_inner_chunks(tmp_path):
    zarr = pytest.importorskip("zarr")
    images = np.random.default_rng(0).normal(size=(48, 128, 128, 1)).astype(np.float32)

    def explain(weights, batch):
        return {"double": 2 * batch[..., 0]}

    options = {"unit": 32, "batch": 4, "log": lambda event: None}
    jaxclear.explain_dataset(explain, {}, images, tmp_path / "store", **options)
    array = zarr.open_group(tmp_path / "store", mode="r")["double"]
    assert array.shards == (32, 128, 128)
    assert array.chunks == (2, 128, 128)
    np.testing.assert_array_equal(array[:], 2 * images[..., 0])
    np.testing.assert_array_equal(jaxclear.open_store(tmp_path / "store")["double"][40:], 2 * images[40:, ..., 0])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lazy_arrays_index_as_numpy_does(path, data):
    store = jaxclear.open_store(path)
    name = data.draw(st.sampled_from(["dominant_class", "label", "class_scores", "item_id"]))
    whole = np.asarray(store[name][:])
    bounds = st.none() | st.integers(-30, 30)
    kinds = [
        st.integers(-21, 20),
        st.builds(slice, bounds, bounds, st.none() | st.integers(1, 4) | st.integers(-4, -1)),
        st.lists(st.integers(-21, 20), max_size=6).map(lambda chosen: np.array(chosen, np.int64)),
    ]
    key = data.draw(st.one_of(kinds))
    np.testing.assert_array_equal(np.asarray(store[name][key]), whole[key])


def test_lazy_arrays_by_mask_and_in_part(store):
    array = store["dominant_class"]
    whole = np.asarray(array)
    mask = np.arange(21) % 3 == 0
    np.testing.assert_array_equal(array[mask], whole[mask])
    np.testing.assert_array_equal(array[3:9, 2, 1:4], whole[3:9, 2, 1:4])
    np.testing.assert_array_equal(array[...], whole)
    assert (array.shape, array.dimensions) == ((21, SIZE, SIZE), ("item", "y", "x"))
    for wrong in (21, [3, -22]):
        with pytest.raises(IndexError, match="between 0 and 20"):
            array[wrong]
    with pytest.raises(IndexError, match="between 0 and 20"):
        store["item_id"][21]
    with pytest.raises(KeyError, match="expected one of label"):
        store["colour"]


def test_the_index_is_that_of_a_plain_loop(store):
    classes, _, scores = numpy_explain(np.stack([image(k) for k in range(21)]))
    prevailing = np.array([[(one == k).sum() for k in range(CLASSES)] for one in classes]).argmax(axis=1)
    rows = [(k, k % CLASSES, int(scores[k].argmax()), int(prevailing[k])) for k in range(21) if k != 6]
    assert store.index().tolist() == [row[0] for row in rows]
    assert store.index(label=1).tolist() == [k for k, label, _, _ in rows if label == 1]
    assert store.index(predicted=[0, 2]).tolist() == [k for k, _, guess, _ in rows if guess in (0, 2)]
    assert store.index(prevailing=0).tolist() == [k for k, _, _, most in rows if most == 0]
    assert store.index(correct=False).tolist() == [k for k, label, guess, _ in rows if label != guess]
    assert store.index(disagreement=True, label=2).tolist() == [k for k, n, g, most in rows if g != most and n == 2]
    assert store.class_names == ("a", "b", "c")


def test_colours_are_made_on_reading(store):
    rgb = np.asarray(store.rgb([0, 3], palette=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)))
    classes, responses, _ = numpy_explain(np.stack([image(0), image(3)]))
    for k in range(2):
        for y, x in np.ndindex(SIZE, SIZE):
            expected = np.zeros(3)
            if classes[k, y, x] >= 0:
                expected[classes[k, y, x]] = responses[k, y, x] / responses[k].max()
            np.testing.assert_allclose(rgb[k, y, x], expected, atol=2e-3)
    assert store.rgb(slice(0, 4)).shape == (4, SIZE, SIZE, 3)


def test_an_unfinished_store_can_be_read(tmp_path):
    run(tmp_path / "store", Images(21), rank=1, world=2)
    store = jaxclear.open_store(tmp_path / "store")
    assert store.missing == sum(len(range(4 * unit, min(4 * unit + 4, 21))) for unit in (0, 2, 4))
    assert store.index().tolist() == [*range(4, 8), *range(12, 16), 20]
    assert store["item_id"][0:5] == ["", "", "", "", "image-004"]
    found = verify(tmp_path / "store")
    assert (found.missing, found.whole) == ((0, 2, 4), False)


def test_verify_finds_nothing_in_a_sound_store(path):
    seen = []
    found = verify(path, progress=lambda *counts: seen.append(counts))
    assert found.whole
    assert found.failures == ((6, "image-006", "OSError: no such sector 6"),)
    assert (found.items, found.units, seen[-1]) == (21, 6, (6, 6))


def test_any_flipped_bit_is_found_and_repaired(tmp_path):
    run(tmp_path / "store", Images(21, broken=(6,)))
    before = files(tmp_path / "store")
    rng = np.random.default_rng(0)
    names = sorted(name for name in before if "/c/" in name)
    for name in rng.choice(names, examples(4), replace=False):
        file = tmp_path / "store" / name
        content = bytearray(file.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        found = verify(tmp_path / "store", repair=True)
        unit = int(str(name).split("/c/")[1].split("/")[0])
        assert list(found.damaged) == [unit]
        assert "SHA-256 differs" in found.damaged[unit]
        assert verify(tmp_path / "store").missing == (unit,)
        assert run(tmp_path / "store", Images(21, broken=(6,))).units == 1
        assert files(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: (path / "label" / "c" / "2").unlink(), "No such file"),
        (lambda path: (path / "commits" / "00000002.json").write_text("{"), "marker: "),
        (lambda path: (path / "commits" / "00000002.json").write_text('{"files": {}, "failed": []}'), "other files"),
    ],
)
def test_what_is_gone_is_found(tmp_path, change, words):
    run(tmp_path / "store", Images(21))
    change(tmp_path / "store")
    found = verify(tmp_path / "store")
    assert list(found.damaged) == [2]
    assert words in found.damaged[2]


def test_a_changed_description_is_found(tmp_path):
    run(tmp_path / "store", Images(21))
    described = tmp_path / "store" / "label" / "zarr.json"
    described.write_text(described.read_text().replace('"int32"', '"uint32"'))
    (tmp_path / "store" / "valid" / "zarr.json").unlink()
    found = verify(tmp_path / "store")
    assert [words.split(":")[0] for words in found.metadata] == ["label/zarr.json", "valid/zarr.json"]
    assert not found.whole


def test_a_marker_that_hides_a_failure_is_found(tmp_path):
    run(tmp_path / "store", Images(21, broken=(6,)))
    marker = tmp_path / "store" / "commits" / "00000001.json"
    marker.write_text(marker.read_text().replace("no such sector", "all is well"))
    assert "other failures" in verify(tmp_path / "store").damaged[1]


@pytest.mark.parametrize("content", [None, "{}", '{"attributes": {"jaxclear": {"layout": 3}}}', "nonsense"])
def test_what_is_no_store_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    for work in (jaxclear.open_store, verify):
        with pytest.raises(StoreError, match="expected a store of jaxclear"):
            work(tmp_path)


def test_names_of_any_kind_survive(tmp_path):
    class Named(Images):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(id=["", "a\nb", "Ω/ü.png", "\ud800", "x" * 5000][index])

    run(tmp_path / "store", Named(5))
    assert jaxclear.open_store(tmp_path / "store")["item_id"][:] == ["", "a\nb", "Ω/ü.png", "?", "x" * 5000]


def test_leftovers_of_other_processes_stay(tmp_path):
    run(tmp_path / "store", Images(21), rank=0, world=2)
    for name in ("1-ours", "0-theirs"):
        (tmp_path / "store" / ".tmp" / name).write_text("half")
    run(tmp_path / "store", Images(21), rank=1, world=2)
    assert os.listdir(tmp_path / "store" / ".tmp") == ["0-theirs"]
    assert Store(tmp_path / "store").committed() == set(range(6))


def test_masks_and_conditions_of_the_right_kind(tmp_path):
    run(tmp_path / "store", Images(9))
    store = open_store(tmp_path / "store")
    mask = np.arange(9) % 4 == 1
    assert store["item_id"][mask] == ["image-001", "image-005"]
    assert store["item_id"][[-1, 0]] == ["image-008", "image-000"]
    np.testing.assert_array_equal(store["label"][mask], [1, 2])
    for name in ("item_id", "label"):
        with pytest.raises(IndexError, match=r"a mask of all 9 items, got one of shape \(5,\)"):
            store[name][mask[:5]]
        with pytest.raises(IndexError, match="whole numbers or a mask, got float64"):
            store[name][[0.5]]
    with pytest.raises(ValueError, match="expected label as whole numbers, got '1'"):
        store.index(label="1")


def test_metadata_of_the_group_are_verified(tmp_path):
    run(tmp_path / "store", Images(9))
    file = tmp_path / "store" / "zarr.json"
    group = json.loads(file.read_text())
    group["consolidated_metadata"]["metadata"]["dominant_class"]["shape"][1] = 3
    file.write_text(json.dumps(group))
    found = verify(tmp_path / "store")
    assert not found.whole
    assert found.metadata == ("zarr.json: does not describe the arrays that were written",)


def test_files_of_others_in_the_temporary_folder_do_not_hinder(tmp_path):
    run(tmp_path / "store", Images(9))
    (tmp_path / "store" / ".tmp" / ".DS_Store").write_bytes(b"")
    assert run(tmp_path / "store", Images(9)).units == 0
