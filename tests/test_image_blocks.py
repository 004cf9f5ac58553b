"""A batch worked on in blocks of images has the results of the whole batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxclear
from jaxclear import transformation
from jaxclear.strong_features import ablation, own_response
from networks import small_network

BATCH = 7


def network():
    return small_network(batch=BATCH, num_classes=4)


def same(found, expected):
    """Compares two trees of results, each image's."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def one_by_one(explain, variables, images, *more):
    """Returns the trees of results of every image alone."""
    return [explain(variables, images[i : i + 1], *(values[i : i + 1] for values in more)) for i in range(len(images))]


@pytest.fixture
def small_blocks(monkeypatch):
    """Lets the library choose blocks of two images of the tests' size."""
    monkeypatch.setitem(transformation._BLOCK_PIXELS, jax.default_backend(), 2 * 8 * 8)
    monkeypatch.setattr(transformation, "_FEWEST_IMAGES", 1)


@pytest.fixture
def counted(monkeypatch):
    """Returns the shapes of the images that explanations have been traced with."""
    shapes = []

    def recorded(explain, size, arguments, axes, out_axes):
        def noting(images, *more):
            shapes.append(images.shape)
            return explain(images, *more)

        return in_blocks(noting, size, arguments, axes, out_axes)

    in_blocks = transformation._in_blocks
    monkeypatch.setattr(transformation, "_in_blocks", recorded)
    return shapes


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((1, 3, BATCH, 100), {}), ((6,), {"class_block": 3}), ((2,), {"top_k": 2}), ((4,), {"classes": [3, 1]})],
)
def test_clear_maps(sizes, options, counted):
    apply, variables, images = network()
    expected = one_by_one(jaxclear.clear_map(apply, **options), variables, images)
    expected = jax.tree.map(lambda *parts: np.concatenate(parts), *expected)
    for size in sizes:
        counted.clear()
        found = jaxclear.clear_map(apply, image_block=size, **options)(variables, images)
        assert len(counted) >= 1
        assert {shape[0] for shape in counted} == {-(-BATCH // -(-BATCH // size))}
        same(found, expected)


def test_responses_and_heat_maps():
    apply, variables, images = network()
    labels = jnp.arange(BATCH) % 4

    @functools.partial(jax.jit, static_argnums=0)
    def everything(size, variables, images):
        kinds = (jaxclear.class_responses, jaxclear.heat_map, jaxclear.binary_map)
        respond, heat, binary = (explain(apply, rule="guided", image_block=size) for explain in kinds)
        split = [of(variables, images, *more) for of in (heat, binary) for more in ((), (labels,))]
        return respond(variables, images), split

    same(everything(3, variables, images), everything(None, variables, images))


def test_the_library_chooses_blocks_where_images_are_apart(small_blocks, counted):
    apply, variables, images = network()
    key = jax.random.key(3)
    explanations = {
        "clear": lambda v, x: jaxclear.clear_map(apply)(v, x),
        "units": lambda v, x: jaxclear.unit_responses(apply, 1, top_n=3)(v, x),
        "own": lambda v, x: own_response(apply)(v, x),
        "own, labels": lambda v, x: own_response(apply)(v, x, jnp.arange(len(x)) % 4),
        "ablation": lambda v, x: ablation(apply, thresholds=(0.2, 0.5, 0.8))(v, x, key),
    }
    found = {name: explain(variables, images) for name, explain in explanations.items()}
    assert {shape[0] for shape in counted} == {2}
    counted.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformation, "_BLOCK_PIXELS", {})
        for name, explain in explanations.items():
            same(found[name], explain(variables, images))
    assert {shape[0] for shape in counted} == {BATCH}


def test_a_network_that_mixes_images_is_explained_whole(small_blocks, counted):
    apply, variables, images = network()

    def relative(variables, images):
        maps = apply(variables, images)
        return maps - maps.mean(axis=0)

    found = jaxclear.clear_map(relative)(variables, images)
    assert {shape[0] for shape in counted} == {BATCH}
    scores = relative(variables, images).mean(axis=(1, 2))
    np.testing.assert_allclose(found.class_scores, scores, rtol=1e-4, atol=1e-6)
    # The user may say otherwise, and is taken at her word.
    blocks = jaxclear.clear_map(relative, image_block=1)(variables, images)
    np.testing.assert_allclose(blocks.class_scores, 0, atol=1e-6)


def test_where_the_number_of_images_enters_the_batch_is_explained_whole(small_blocks, counted):
    apply, variables, images = network()
    found = jaxclear.clear_map(lambda variables, images: apply(variables, images) / len(images))(variables, images)
    assert {shape[0] for shape in counted} == {BATCH}
    np.testing.assert_allclose(found.class_scores, apply(variables, images).mean(axis=(1, 2)) / BATCH, rtol=1e-5)


RULES = {
    "relu": jaxclear.Rule(
        "own", relu=lambda x, active, response: jnp.where(active, response / (1 + response.max()), 0)
    ),
    "seed": dataclasses.replace(jaxclear.RULES["guided"], name="own", seed=lambda z: z / jnp.abs(z).max()),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_the_users_own_gets_the_whole_batch(name, small_blocks, counted):
    apply, variables, images = network()
    found = jaxclear.class_responses(apply, rule=RULES[name], class_block=1)(variables, images)
    assert {shape[0] for shape in counted} == {BATCH}
    same(found, jaxclear.class_responses(apply, rule=RULES[name], image_block=BATCH, class_block=1)(variables, images))


def test_messages_are_of_the_users_batch(small_blocks):
    images = network()[2]
    for size in (None, 3):
        with pytest.raises(ValueError, match=r"for images of shape \(B, 8, 8, 2\), got shape \(B, 8, 8\)"):
            jaxclear.clear_map(lambda _, x: x.sum(axis=-1), image_block=size)({}, images)


def test_layers_that_count_images_elsewhere_are_refused(small_blocks):
    weights = jnp.ones((2, 3)), jnp.ones((3, 2))

    def time_first(weights, images):
        rows = jax.nn.relu(images.mean(axis=2).transpose(1, 0, 2) @ weights[0])
        return rows.mean(axis=0) @ weights[1]

    images = network()[2]
    name = jaxclear.layers(time_first, weights, images)[0]
    with pytest.raises(ValueError, match="expected layer .* to count images by its first axis, got shape"):
        jaxclear.unit_responses(time_first, name, top_n=2)(weights, images)


@pytest.mark.skipif(jax.device_count() == 1, reason="one device")
def test_images_that_may_be_divided_unseen_are_explained_whole(small_blocks, counted):
    apply, variables, images = network()
    clear = jaxclear.clear_map(apply)
    found = jax.jit(clear)(variables, images)
    assert {shape[0] for shape in counted} == {2}
    counted.clear()
    mesh = jax.make_mesh((2,), ("items",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.device_put(images[:6], jax.NamedSharding(mesh, jax.sharding.PartitionSpec("items")))
    assert jax.tree.map(jnp.shape, jax.jit(clear)(variables, divided)).class_scores == (6, 4)
    assert {shape[0] for shape in counted} == {6}
    counted.clear()
    devices = jax.make_mesh((1,), ("items",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,))
    by_item, everywhere = jax.sharding.PartitionSpec("items"), jax.sharding.PartitionSpec()
    mapped = jax.shard_map(clear, mesh=devices, in_specs=(everywhere, by_item), out_specs=by_item, check_vma=False)
    same(jax.jit(mapped)(variables, images), found)
    assert {shape[0] for shape in counted} == {2}


def test_few_images_are_never_split(counted):
    apply, variables, images = small_network(batch=8, size=64)
    jax.eval_shape(jaxclear.clear_map(apply), variables, jnp.tile(images, (1, 4, 4, 1)))
    assert {shape[0] for shape in counted} == {8}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator takes the whole batch")
def test_memory_does_not_grow_with_the_batch():
    apply, variables, _ = network()

    def temporary_bytes(batch):
        images = jax.ShapeDtypeStruct((batch, 64, 64, 2), jnp.float32)
        lowered = jax.jit(jaxclear.clear_map(apply, image_block=8)).lower(variables, images)
        results = jax.tree.leaves(lowered.out_info)
        out = sum(result.size * result.dtype.itemsize for result in results)
        return lowered.compile().memory_analysis().temp_size_in_bytes - out - images.size * 4

    # Room for what a block needs; the images and results of the batch are taken off.
    assert temporary_bytes(64) < 1.5 * temporary_bytes(8) + 2**20


@pytest.mark.parametrize("block", [None, 2])
def test_blocks_under_vmap_and_export(block, small_blocks):
    apply, variables, images = network()
    clear = jaxclear.clear_map(apply, image_block=block)
    expected = clear(variables, images)
    stacked = jax.vmap(lambda x: clear(variables, x))(jnp.stack([images, images[::-1]]))
    same(jax.tree.map(lambda leaf: leaf[0], stacked), expected)
    symbolic = jax.export.symbolic_shape("b, 8, 8, 2")
    exported = jax.export.export(jax.jit(clear))(variables, jax.ShapeDtypeStruct(symbolic, images.dtype))
    same(exported.call(variables, images), expected)


@pytest.mark.parametrize("size", [0, -1, 1.5, "8", True])
def test_a_block_is_none_or_a_whole_number(size):
    apply, _, _ = network()
    with pytest.raises(ValueError, match="expected image_block to be None or a whole number of at least 1, got"):
        jaxclear.clear_map(apply, image_block=size)
