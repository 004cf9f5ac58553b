"""A whole data set: the same arrays whatever the batches, processes and interruptions; failures recorded; refusals."""

import json
import logging
import resource
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxclear
from effort import examples
from jaxclear.dataset import ArraySource, Item, ItemError, StoreError, explain_dataset, open_store, verify
from networks import small_network
from tests.dataset.common import CLASSES, SIZE, WEIGHTS, Images, explain, files, image, numpy_explain, run


@settings(max_examples=examples(5), deadline=None)
@given(count=st.integers(1, 23), unit=st.integers(1, 9), batch=st.integers(1, 9), world=st.integers(1, 3))
def test_every_item_is_stored_as_a_plain_loop_gives_it(tmp_path_factory, count, unit, batch, world):
    out = tmp_path_factory.mktemp("stores") / "store"
    for rank in range(world):
        done = run(out, Images(count), unit=unit, batch=batch, rank=rank, world=world)
    assert done.missing == 0
    store = open_store(out)
    classes, responses, scores = numpy_explain(np.stack([image(k) for k in range(count)]))
    found = store.clear_map(slice(None))
    np.testing.assert_array_equal(found.dominant_class, classes)
    np.testing.assert_allclose(found.dominant_response, responses, atol=1e-3 * np.abs(responses).max())
    np.testing.assert_allclose(found.class_scores, scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(store["predicted_class"][:], scores.argmax(axis=1))
    shares = np.stack([(classes == k).mean(axis=(1, 2)) for k in range(CLASSES)], axis=1)
    np.testing.assert_allclose(store["pixel_share"][:], shares, atol=1e-3)
    np.testing.assert_array_equal(store["label"][:], np.arange(count) % CLASSES)
    assert store["item_id"][:] == [f"image-{k:03d}" for k in range(count)]
    assert store["valid"][:].all()


def test_processes_and_repetition_change_no_byte(tmp_path):
    source = Images(21, broken=(3, 20))
    for world in (1, 2, 3):
        for rank in reversed(range(world)):
            run(tmp_path / f"store-{world}", source, rank=rank, world=world)
    reference = files(tmp_path / "store-1")
    assert len(reference) > 60
    for world in (2, 3):
        assert files(tmp_path / f"store-{world}") == reference
    again = run(tmp_path / "store-1", source)
    assert (again.units, again.resumed, again.failed) == (0, 6, 2)
    assert files(tmp_path / "store-1") == reference


def test_numbers_of_16_bits_are_stored_as_numpy_has_them(tmp_path):
    apply, variables, images = small_network(batch=5, size=8)
    variables, images = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (variables, images))
    clear = jaxclear.clear_map(apply)
    source = ArraySource(np.asarray(images), [0] * 5)
    assert explain_dataset(clear, variables, source, tmp_path / "store", batch=5).failed == 0
    store, expected = open_store(tmp_path / "store"), clear(variables, images)
    np.testing.assert_array_equal(store["class_scores"][:], expected.class_scores.astype(jnp.float32))
    np.testing.assert_array_equal(store.clear_map(slice(None)).dominant_class, expected.dominant_class)


@pytest.mark.parametrize("axes", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_a_mesh_that_the_user_has_set_is_put_aside(tmp_path, axes):
    images = np.random.default_rng(0).random((5, 4, 4, 2), np.float32)
    mesh = jax.make_mesh((jax.device_count(),), ("mine",), axis_types=(axes,))
    with jax.set_mesh(mesh):
        done = explain_dataset(lambda _, x: x.mean((1, 2)), {}, images, tmp_path / "store", log=lambda event: None)
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
    assert (done.items, done.failed) == (5, 0)
    np.testing.assert_allclose(open_store(tmp_path / "store")["result"][:], images.mean((1, 2)), rtol=1e-5)


def test_the_network_in_the_store_is_the_network_called_directly(tmp_path):
    apply, variables, images = small_network(batch=9, size=8)
    images = np.asarray(images)
    clear = jaxclear.clear_map(apply)
    log = []
    done = explain_dataset(clear, variables, images, tmp_path / "store", batch=3, log=log.append)
    assert (done.items, done.failed, done.missing, done.devices) == (9, 0, 0, jax.device_count())
    expected = clear(variables, images)
    found = open_store(tmp_path / "store").clear_map(np.arange(9))
    np.testing.assert_array_equal(found.dominant_class, expected.dominant_class)
    scale = float(jnp.abs(expected.dominant_response).max())
    np.testing.assert_allclose(found.dominant_response, expected.dominant_response, atol=1e-3 * scale)
    assert [event["event"] for event in log] == ["start", "unit", "end"]
    assert json.loads(json.dumps(log[1]))["units_done"] == 1


def test_other_explanations_and_bytes_as_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    source = ArraySource(images, ids=list("abcde"))

    def means(weights, batch):
        return {"mean": batch.mean((1, 2)), "parts": (batch[:, 0, 0], {"deep": batch[..., 0] > 0.5})}

    explain_dataset(means, {}, source, tmp_path / "store", log=lambda event: None)
    store = open_store(tmp_path / "store")
    assert set(store.keys()) >= {"mean", "parts_0", "deep"}
    np.testing.assert_allclose(store["mean"][:], images.mean((1, 2)) / 255, rtol=1e-5)
    np.testing.assert_array_equal(store["deep"][:], images[..., 0] > 127.5)
    assert store["item_id"][2] == "c"
    with pytest.raises(ValueError, match="CLEAR maps"):
        store.index(predicted=1)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_sources(tmp_path, count):
    done = run(tmp_path / "store", Images(count), unit="auto", batch="auto")
    assert (done.items, done.missing) == (count, 0)
    assert verify(tmp_path / "store").whole
    assert len(open_store(tmp_path / "store")) == count
    assert run(tmp_path / "store", Images(count), unit="auto", batch="auto").units == 0


def test_a_source_without_a_readable_item(tmp_path):
    done = run(tmp_path / "store", Images(3, broken=range(3)))
    assert (done.failed, done.missing) == (3, 0)
    store = open_store(tmp_path / "store")
    assert not store["valid"][:].any()
    assert store["failure"][:] == [f"OSError: no such sector {k}" for k in range(3)]
    assert run(tmp_path / "store", Images(3, broken=range(3))).units == 0
    # Such a store has no arrays for results: once items can be read, it has to be made anew.
    with pytest.raises(StoreError, match=r"explanation.program: stored nothing"):
        run(tmp_path / "store", Images(3), retry_failed=True)
    assert run(tmp_path / "store", Images(3), overwrite=True).failed == 0


def test_items_that_cannot_be_used_are_recorded_and_masked(tmp_path):
    images = np.stack([image(k) for k in range(11)])
    images[5] = np.nan
    images[7] = 1e38
    sized = [images[k] if k != 9 else image(9, SIZE + 1) for k in range(11)]
    done = run(tmp_path / "store", sized)
    assert done.failed == 3
    store = open_store(tmp_path / "store")
    np.testing.assert_array_equal(np.flatnonzero(~store["valid"][:]), [5, 7, 9])
    reasons = {index: reason for index, _, reason in store.failures()}
    assert "NaN" in reasons[5]
    assert "not finite" in reasons[7]
    assert "incompatible shapes" in reasons[9]
    assert (store["dominant_class"][[5, 7, 9]] == 255).all()
    assert np.isnan(store["class_scores"][[5, 7, 9]]).all()
    np.testing.assert_array_equal(store.clear_map(8).dominant_class, numpy_explain(images[8:9])[0])


def test_fail_fast_then_mended_gives_the_same_store(tmp_path):
    run(tmp_path / "unbroken", Images(21))
    with pytest.raises(ItemError, match="image-013: OSError: no such sector 13"):
        run(tmp_path / "store", Images(21, broken=(13,)), fail_fast=True)
    assert run(tmp_path / "store", Images(21)).missing == 0
    assert files(tmp_path / "store") == files(tmp_path / "unbroken")


def test_failures_are_tried_again_on_request(tmp_path):
    run(tmp_path / "unbroken", Images(21))
    assert run(tmp_path / "store", Images(21, broken=(2, 13))).failed == 2
    assert run(tmp_path / "store", Images(21)).failed == 2
    again = run(tmp_path / "store", Images(21), retry_failed=True)
    assert (again.failed, again.units) == (0, 2)
    assert files(tmp_path / "store") == files(tmp_path / "unbroken")


def test_a_full_disk_costs_nothing_but_the_unit(tmp_path):
    source = ArraySource(np.random.default_rng(0).normal(size=(64, SIZE, SIZE, 1)).astype(np.float32))
    run(tmp_path / "unbroken", source, unit=32, batch=32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        with pytest.raises(OSError, match=r"(?i)large|space|written"):
            run(tmp_path / "store", source, unit=32, batch=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if (tmp_path / "store" / "commits").exists():
        assert verify(tmp_path / "store").missing == (0, 1)
    run(tmp_path / "store", source, unit=32, batch=32)
    assert files(tmp_path / "store") == files(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variables": WEIGHTS + 1}, r"explanation.variables"),
        ({"explain": lambda w, x: explain(w, 2 * x)}, r"explanation.program"),
        ({"notes": {"rule": "linear"}}, r"explanation.rule: stored guided, now linear"),
        ({"source": Images(22)}, r"source.items: stored 21, now 22"),
        ({"batch": 3}, r"batch: stored 2, now 3"),
        ({"unit": 8}, r"unit: stored 4, now 8"),
        ({"version": "0.0.9"}, r"versions.jaxclear: stored .*, now 0.0.9"),
    ],
)
def test_another_model_rule_source_or_version_is_refused(tmp_path, monkeypatch, change, words):
    notes = {"rule": "guided"}
    run(tmp_path / "store", Images(21), notes=notes)
    before = files(tmp_path / "store")
    if version := change.pop("version", None):
        monkeypatch.setattr(jaxclear, "__version__", version)
    call = {"explain": explain, "variables": WEIGHTS, "source": Images(21), "unit": 4, "batch": 2, "notes": notes}
    call = {**call, **change, "log": lambda event: None}
    positional = [call.pop(name) for name in ("explain", "variables", "source")]
    with pytest.raises(StoreError, match=words):
        explain_dataset(*positional, tmp_path / "store", **call)
    assert files(tmp_path / "store") == before
    done = explain_dataset(*positional, tmp_path / "store", overwrite=True, **call)
    assert (done.resumed, done.missing) == (0, 0)
    assert explain_dataset(*positional, tmp_path / "store", overwrite=True, **call).units == 0
    assert files(tmp_path / "store") != before


def test_a_changed_item_of_a_source_without_identity_is_noticed(tmp_path):
    images = [image(k) for k in range(8)]
    run(tmp_path / "store", images)
    run(tmp_path / "store", [np.array(one) for one in images])
    images[3] = images[3] + 1
    with pytest.raises(StoreError, match=r"source.samples: item 3 changed"):
        run(tmp_path / "store", images)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="with other files"):
            run(tmp_path / "letters", Images(3), overwrite=overwrite)
    assert files(tmp_path / "letters").keys() == {"dear.txt"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["letters"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch as 'auto' or a whole number"),
        ({"unit": "many"}, "unit as 'auto'"),
        ({"rank": 1}, "rank and world together"),
        ({"rank": 2, "world": 2}, "below world"),
        ({"rank": "a", "world": 2}, "rank and world as whole numbers"),
        ({"workers": -1}, "workers as None or a whole number of at least 0, got -1"),
        ({"mesh": 3}, "a jax.sharding.Mesh, got int"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "store", Images(3), **options)
    with pytest.raises(ValueError, match="__len__"):
        run(tmp_path / "store", iter([1]))
    assert not (tmp_path / "store").exists()


def test_the_reader_waits_for_a_slow_writer(tmp_path, monkeypatch):
    read, written = [], []

    class Counting(Images):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    from jaxclear.dataset.store import Store

    write = Store.write

    def slow(store, done):
        time.sleep(0.05)
        written.append((done.unit, len(read)))
        write(store, done)

    monkeypatch.setattr(Store, "write", slow)
    run(tmp_path / "store", Counting(160))
    assert [unit for unit, _ in written] == list(range(40))
    # Units ahead of the one being written: those that wait for the writer, are on the devices, or in the queue.
    assert max(count - 4 * unit for unit, count in written) <= 4 * 12


def test_items_with_numbers_of_their_own_and_mappings(tmp_path):
    class Extra(Images):
        def __getitem__(self, index):
            return super().__getitem__(index)._replace(extra={"group": np.uint8(index + 100)})

    run(tmp_path / "extra", Extra(6, broken=(4,)))
    assert open_store(tmp_path / "extra")["group"][:].tolist() == [100, 101, 102, 103, 0, 105]
    mappings = [{"image": image(k), "label": k % 3, "id": b"name"} for k in range(3)]
    run(tmp_path / "mappings", mappings)
    assert open_store(tmp_path / "mappings")["item_id"][:] == ["name"] * 3
    run(tmp_path / "pairs", [(image(k), 2) for k in range(3)])
    assert open_store(tmp_path / "pairs")["label"][:].tolist() == [2, 2, 2]
    assert isinstance(Images(3)[0], Item)


def test_the_log_goes_to_logging_by_default(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "jaxclear.dataset"):
        run(tmp_path / "store", Images(5), log=None)
    events = [json.loads(record.getMessage()) for record in caplog.records if record.name == "jaxclear.dataset"]
    assert [event["event"] for event in events] == ["start", "unit", "unit", "end"]
    assert events[1]["items_per_second"] > 0


def test_pmap_takes_the_same_function(tmp_path):
    apply, variables, images = small_network(batch=4, size=8)
    clear = jaxclear.clear_map(apply)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mapped = jax.pmap(clear, in_axes=(None, 0))(variables, images.reshape(2, 2, *images.shape[1:]))
    expected = clear(variables, images)
    np.testing.assert_array_equal(mapped.dominant_class.reshape(expected.dominant_class.shape), expected.dominant_class)


@pytest.mark.parametrize(
    ("explain", "words"),
    [
        (
            lambda weights, batch: batch[0],
            r"one row for each of the 1 items of a batch, got 'result' of shape \(6, 6, 1\)",
        ),
        (lambda weights, batch: jnp.stack([batch, batch]), "move the items to the first axis"),
        (lambda weights, batch: batch.mean(), r"got 'result' of shape \(\)"),
        (lambda weights, batch: {}, "that returns arrays"),
        (lambda weights, batch: {"../../evil": batch}, r"got '\.\./\.\./evil'"),
        (lambda weights, batch: {"commits": batch}, "got 'commits'"),
        (lambda weights, batch: {"zarr.json": batch}, r"got 'zarr\.json'"),
    ],
)
def test_results_that_are_no_rows_are_refused_before_anything_is_made(tmp_path, explain, words):
    with pytest.raises(ValueError, match=words):
        explain_dataset(explain, {}, Images(9), tmp_path / "store", batch=8, log=lambda event: None)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["label", "dominant_class", "a/b"])
def test_numbers_of_items_have_names_of_their_own(tmp_path, name):
    source = [Item(image(0), 1, "0", {name: 7.5})]
    with pytest.raises(ValueError, match=f"other than .*, got '{name}'"):
        run(tmp_path / "store", source)


def test_as_many_names_as_classes(tmp_path):
    with pytest.raises(ValueError, match="expected 3 class names, one a class of the network, got 2"):
        run(tmp_path / "store", Images(3), class_names=("red", "green"))


def test_names_that_are_no_text_and_labels_that_are_no_class(tmp_path):
    class Odd(Images):
        def name(self, index):
            return f"b\udcff{index}"

        def __getitem__(self, index):
            if index == 1:
                raise OSError("no b\udcff1")
            return super().__getitem__(index)._replace(label=2**40 if index == 2 else 0, id=None)

    assert run(tmp_path / "store", Odd(4)).failed == 2
    store = open_store(tmp_path / "store")
    assert store["item_id"][:] == ["b?0", "b?1", "b?2", "b?3"]
    assert store.failures()[0] == (1, "b?1", "OSError: no b?1")
    assert "expected a label from 0 to 2147483647" in store.failures()[1][2]
    assert verify(tmp_path / "store").whole
