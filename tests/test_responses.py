"""Class and unit responses: blocks, subsets, seeds, layers, dimensions, and under every transformation of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, Mesh, PartitionSpec

import jaxclear
from effort import few_of
from networks import initial, noise, small_network


def close(actual, expected, tolerance=1e-5):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(actual, expected, atol=tolerance * max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("rule", few_of(jaxclear.RULES, "backprop", "guided"))
def test_blocks_of_any_size_give_the_same_responses(rule):
    apply, variables, images = small_network(num_classes=7)

    @jax.jit
    def by_block(variables, images):
        sizes = (7, 1, 2, 3, 4, 6, 8)
        return [jaxclear.class_responses(apply, rule=rule, class_block=n)(variables, images) for n in sizes]

    whole, *others = by_block(variables, images)
    for responses in others:
        close(responses, whole)


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_blocks_of_few_classes(num_classes):
    apply, variables, images = small_network(num_classes=num_classes)

    @jax.jit
    def by_block(variables, images):
        sizes = (9, *range(1, num_classes + 1))
        return [jaxclear.class_responses(apply, class_block=n)(variables, images) for n in sizes]

    whole, *others = by_block(variables, images)
    assert whole.shape[0] == num_classes
    for responses in others:
        close(responses, whole)


def test_a_choice_of_classes_in_its_own_order():
    apply, variables, images = small_network()

    @jax.jit
    def choices(variables, images):
        chosen = [jaxclear.class_responses(apply, classes=[3, 0, 4], class_block=block) for block in (None, 1, 2)]
        return [of(variables, images) for of in (jaxclear.class_responses(apply), *chosen)]

    everything, *chosen = choices(variables, images)
    for responses in chosen:
        close(responses, everything[jnp.array([3, 0, 4])])


def test_relabelling_the_classes_permutes_the_responses():
    apply, variables, images = small_network()
    order = jnp.array([2, 4, 0, 1, 3])
    relabelled = jax.tree_util.tree_map_with_path(
        lambda path, w: w[..., order] if "Conv_2" in jax.tree_util.keystr(path) else w, variables
    )
    close(
        jaxclear.class_responses(apply)(relabelled, images), jaxclear.class_responses(apply)(variables, images)[order]
    )


HEADS = {
    "convolution": lambda x: nn.Conv(4, (3, 3))(x),
    "convolution and ReLU": lambda x: nn.relu(nn.Conv(4, (3, 3))(x)),
    "convolution and batch-norm": lambda x: nn.BatchNorm(use_running_average=True)(nn.Conv(4, (1, 1))(x)),
    "strided": lambda x: nn.Conv(4, (3, 3), strides=2, padding=((1, 0), (2, 1)), kernel_dilation=2)(x),
    "no bias": lambda x: nn.Conv(4, (1, 1), use_bias=False)(x),
    "scaled": lambda x: 2 * nn.Conv(4, (1, 1))(x) - 1,
    "grouped": lambda x: nn.Conv(4, (3, 3), feature_group_count=2)(x),
    "dense": lambda x: nn.Dense(4)(x.reshape(x.shape[0], -1)),
    "dense in space": lambda x: nn.Dense(4)(x),
    "pooled logits": lambda x: nn.Conv(4, (1, 1))(x).mean((1, 2)),
    "softmax": lambda x: nn.softmax(nn.Conv(4, (1, 1))(x)),
    "bias in space": lambda x: nn.Conv(4, (1, 1))(x) + jnp.arange(36 * 4.0).reshape(6, 6, 4),
    "transposed": lambda x: nn.ConvTranspose(4, (2, 2), strides=(2, 2))(x),
    "in jit": lambda x: jax.jit(lambda x, w: nn.relu(x @ w + 0.1))(x, jnp.ones((4, 4)) * jnp.arange(4)),
    "added to its input": lambda x: x + nn.Conv(4, (1, 1))(x),
    "no class layer": nn.relu,
}


BY_GRADIENT = ("convolution", "convolution and ReLU", "convolution and batch-norm", "dense", "no class layer")


@pytest.mark.parametrize(
    ("name", "rule"),
    few_of(
        [*((name, "guided") for name in HEADS), *((name, "backprop") for name in BY_GRADIENT)],
        *((name, "guided") for name in HEADS),
        ("convolution and batch-norm", "backprop"),
    ),
)
def test_every_kind_of_class_layer(name, rule):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return HEADS[name](nn.relu(nn.Conv(4, (3, 3))(x)))

    images = noise(2, 6, 6, 3)
    variables = initial(Net(), images, seed=1)
    ruled = jaxclear.with_rule(Net().apply, rule)
    common = {"rule": rule, "on_unmatched": "ignore"}

    @jax.jit
    def everything(variables, images):
        """Values, responses class by class, and what is tested: responses and a map of the best two."""
        values, pull = jax.vjp(lambda x: ruled(variables, x), images)
        seeds = jnp.maximum(values, 0) if rule == "guided" else values
        expected = jnp.stack([pull(seeds * jax.nn.one_hot(c, 4))[0] for c in range(4)])
        options = {} if rule == "guided" else {"class_block": 3}
        found = jaxclear.class_responses(Net().apply, **common, **options)(variables, images)
        return values, expected, found, jaxclear.clear_map(Net().apply, **common, top_k=2)(variables, images)

    values, expected, found, clear = jax.tree.map(np.asarray, everything(variables, images))
    close(found, expected)
    scores = values.mean(axis=tuple(range(1, values.ndim - 1)))
    close(clear.class_scores, scores)
    best_two = np.sort(np.argsort(-scores, axis=-1, kind="stable")[:, :2], axis=-1)
    of_best = np.stack([expected[best_two[b], b].sum(-1) for b in range(2)])
    close(clear.dominant_response, of_best.max(axis=1))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_signals_images_and_volumes(dimensions):
    apply, variables, images = small_network(dimensions=dimensions, size=6)

    @jax.jit
    def everything(variables, images):
        kinds = (jaxclear.class_responses, jaxclear.clear_map, jaxclear.heat_map)
        responses, clear, heat = (explain(apply)(variables, images) for explain in kinds)
        return responses, clear.dominant_response, jaxclear.to_rgb(clear), jaxclear.heat_rgb(heat)

    responses, dominant, colours, heat_colours = everything(variables, images)
    assert responses.shape == (5, *images.shape)
    close(dominant, responses.sum(-1).max(0))
    assert colours.shape == heat_colours.shape == (*images.shape[:-1], 3)


def test_unit_responses_are_seeded_by_the_layers_own_activation():
    apply, variables, images = small_network()
    ruled = jaxclear.with_rule(
        lambda v, x: nn.relu(nn.Conv(6, (3, 3)).apply({"params": v["params"]["Conv_0"]}, x)), "guided"
    )
    z, pull = jax.vjp(lambda x: ruled(variables, x), images)
    sums = z.sum((1, 2))
    found = jaxclear.unit_responses(apply, "Conv_0", top_n=3, rule="guided")(variables, images)
    for b in range(len(images)):
        order = np.argsort(-np.asarray(sums[b]), kind="stable")[:3]
        assert found.units[b].tolist() == order.tolist()
        for n, unit in enumerate(order):
            close(found.responses[n, b], pull(z * jax.nn.one_hot(unit, 6))[0][b])
    close(found.dominant, found.responses.max(0))
    close(found.activations, jnp.take_along_axis(sums, found.units, -1))


def test_given_units_and_layers_by_number():
    apply, variables, images = small_network()
    found = jaxclear.unit_responses(apply, -1, units=[4, 1])(variables, images)
    classes = jaxclear.class_responses(apply, classes=[4, 1])(variables, images)
    close(found.responses, classes)  # the class layer's units are the classes


def test_a_layer_in_a_scan_is_asked_for_by_its_step():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.Conv(2, (3, 3), name="conv")(x)), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return nn.Conv(4, (1, 1), name="classes")(blocks(name="blocks")(x, None)[0])

    images = noise(2, 6, 6, 2)
    variables = initial(Deep(), images, seed=1)
    assert jaxclear.layers(Deep().apply, variables, images) == ("blocks/conv", "classes")
    first = jaxclear.unit_responses(Deep().apply, "conv", top_n=2, step=0, rule="linear")(variables, images)
    weights = jax.tree.map(lambda w: w[0], variables["params"]["blocks"]["conv"])
    z, pull = jax.vjp(lambda x: nn.Conv(2, (3, 3)).apply({"params": weights}, x), images)
    seeds = nn.relu(z) * jax.nn.one_hot(first.units[:, 0], 2)[:, None, None]
    close(first.responses[0], pull(seeds)[0])
    with pytest.raises(ValueError, match="step"):
        jaxclear.unit_responses(Deep().apply, "conv", top_n=2)(variables, images)


def test_unknown_layers_list_the_known():
    apply, variables, images = small_network()
    with pytest.raises(ValueError, match="'Conv_0', 'Conv_1', 'Conv_2'"):
        jaxclear.unit_responses(apply, "conv")(variables, images)
    with pytest.raises(ValueError, match="below 3"):
        jaxclear.unit_responses(apply, 3, top_n=1)(variables, images)
    with pytest.raises(ValueError, match="top_n of at most 6"):
        jaxclear.unit_responses(apply, 0, top_n=7)(variables, images)


EXPLANATIONS = {
    "class_responses": jaxclear.class_responses,
    "clear_map": jaxclear.clear_map,
    "clear_map of two": lambda apply: jaxclear.clear_map(apply, top_k=2, class_block=1),
    "heat_map": jaxclear.heat_map,
    "unit_responses": lambda apply: jaxclear.unit_responses(apply, "Conv_1", top_n=2),
}


@pytest.mark.parametrize("name", few_of(EXPLANATIONS, "class_responses", "clear_map", "heat_map"))
def test_one_compilation_and_no_second(name):
    apply, variables, images = small_network()
    traces = []

    def counted(variables, images):
        traces.append(images.shape)
        return apply(variables, images)

    explain = EXPLANATIONS[name](counted)
    jitted = jax.jit(explain)
    first = jitted(variables, images)
    count = len(traces)
    second = jitted(variables, images + 0.5)
    assert len(traces) == count
    assert jitted._cache_size() == 1
    eager = explain(variables, images)
    jax.tree.map(close, first, eager)
    count = len(traces)
    explain(variables, images + 0.5)
    assert len(traces) == count
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


@pytest.mark.parametrize("name", few_of(EXPLANATIONS, "class_responses", "clear_map"))
def test_vmap_shard_map_and_export(name):
    apply, variables, images = small_network(batch=4)
    explain = EXPLANATIONS[name](apply)
    batch_axis = 1 if name == "class_responses" else 0
    expected = explain(variables, images)
    if name == "unit_responses":
        expected = expected.dominant
        explain = lambda v, x, explain=explain: explain(v, x).dominant

    def same(found):
        jax.tree.map(close, found, expected)

    stacked = jax.vmap(explain, (None, 0))(variables, images[:, None])
    same(
        jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, 0, batch_axis).reshape(
                *leaf.shape[1 : 1 + batch_axis], -1, *leaf.shape[2 + batch_axis :]
            ),
            stacked,
        )
    )

    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(*[None] * batch_axis, "batch")
    sharded = jax.shard_map(explain, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("batch")), out_specs=spec)
    same(sharded(variables, images))
    compiled = jax.jit(sharded).lower(variables, images).compile().as_text()
    assert "all-gather" not in compiled
    assert "all-reduce" not in compiled

    exported = jax.export.export(jax.jit(explain))(variables, images)
    same(jax.export.deserialize(exported.serialize()).call(variables, images))


@pytest.mark.parametrize(
    ("rule", "block"),
    few_of([("backprop", None), ("backprop", 2), ("guided", None), ("guided", 2)], ("backprop", 2), ("guided", None)),
)
def test_responses_can_be_differentiated_again(rule, block):
    apply, variables, images = small_network(batch=1, size=4)
    with jax.enable_x64(True):
        variables, images = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), (variables, images))
        explain = jaxclear.class_responses(apply, rule=rule, class_block=block)
        weights = np.random.default_rng(3).normal(size=(5, *images.shape))

        @jax.jit
        def loss(variables, images):
            return (weights * explain(variables, images)).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1)))(variables, images)
        direction = jax.tree.map(lambda w: np.cos(np.arange(w.size)).reshape(w.shape), (variables, images))
        step = 1e-6
        ahead = loss(*jax.tree.map(lambda w, d: np.asarray(w) + step * d, (variables, images), direction))
        behind = loss(*jax.tree.map(lambda w, d: np.asarray(w) - step * d, (variables, images), direction))
        along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradients, direction)))
        np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-5)
        pushed = jax.jit(lambda at, along: jax.jvp(loss, at, along)[1])((variables, images), direction)
        np.testing.assert_allclose(pushed, along, rtol=1e-9)


def temporary_bytes(num_classes, **options):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.relu(nn.Conv(16, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Conv(num_classes, (1, 1))(x)

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(Net().init, jax.random.key(0), images)
    explain = jax.jit(jaxclear.clear_map(Net().apply, **options))
    return explain.lower(variables, images).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("options", [{"class_block": 5}, {}, {"class_block": 5, "top_k": 10}], ids=str)
def test_memory_does_not_grow_with_the_number_of_classes(options):
    assert temporary_bytes(1000, **options) <= 1.05 * temporary_bytes(40, **options)


def test_models_on_a_mesh_keep_their_shardings():
    apply, variables, images = small_network(batch=4)
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("batch"))
    expected = jaxclear.clear_map(apply)(variables, images)
    found = jaxclear.clear_map(apply)(variables, jax.device_put(images, sharding))
    assert np.array_equal(found.dominant_class, expected.dominant_class)


def test_convolutions_in_the_loop_over_classes_have_the_layout_that_is_fast():
    apply, variables, images = small_network(num_classes=6)
    explain = jax.jit(jaxclear.clear_map(apply, class_block=1))
    program = explain.lower(variables, images).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    in_loop = program[program.index("stablehlo.while") :]
    assert "stablehlo.convolution" in in_loop
    assert len(convolutions) >= 4
    assert all("x[0, 1, i, o]->[b, 0, 1, f]" in line for line in convolutions)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("rule", few_of(["deconvnet", "guided", "linear"], "guided"))
def test_a_network_of_narrow_numbers_has_nearly_the_same_responses(rule, dtype):
    apply, variables, images = small_network(batch=4, size=16, seed=1)
    respond = jaxclear.class_responses(apply, rule=rule)
    expected = np.asarray(respond(variables, images), np.float64)
    found = respond(*jax.tree.map(lambda leaf: leaf.astype(dtype), (variables, images)))
    assert found.dtype == dtype
    error = np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)
    gradient = np.asarray(jaxclear.class_responses(apply, rule="backprop")(variables, images), np.float64)
    assert error < 0.1 < np.linalg.norm(gradient - expected) / np.linalg.norm(expected), error


def test_sums_of_narrow_numbers_do_not_overflow():
    images = jnp.ones((1, 300, 300, 1), jnp.float16)
    kernel = jnp.arange(1, 5, dtype=jnp.float16).reshape(1, 4)
    units = jaxclear.unit_responses(lambda kernel, x: x @ kernel, "layer0", top_n=2)(kernel, images)
    assert units.units.tolist() == [[3, 2]]
    assert units.activations.tolist() == [[4 * 9e4, 3 * 9e4]]
