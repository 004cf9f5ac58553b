"""One explanation on several devices is that of one device, however the images lie on them.

Whole numbers in small networks make float32 exact, so that results are compared to the last bit, ties included; the
expected ones are written out in NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxclear
from effort import examples, few_of
from jaxclear import cpu_threads, devices
from jaxclear.strong_features import ablation, own_response
from networks import noise, pictures, small_network

COUNT = jax.device_count()
KINDS = ("maps", "logits")


def class_maps(variables, images):
    return images @ variables


def logits(variables, images):
    return images.reshape(len(images), -1) @ variables


def whole_numbers(kind, batch, num_classes, seed=0):
    """Returns apply, variables and images (B, 2, 4, 2) of small whole numbers."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-1, 3, (batch, 2, 4, 2)).astype(np.float32)
    rows = 2 if kind == "maps" else 16
    return {"maps": class_maps, "logits": logits}[kind], rng.integers(-1, 2, (rows, num_classes)).astype("f"), images


def expected_map(kind, weights, images, chosen):
    """Returns the class, the response and the scores: R(x|c) = max(z_c, 0) w_c, summed over channels.

    `chosen` is (B, n), each image's classes in ascending order.
    """
    weights, images = np.asarray(weights, np.float64), np.asarray(images, np.float64)
    if kind == "maps":
        z = images @ weights
        responses = np.maximum(z, 0) * weights.sum(axis=0)
        scores = z.mean(axis=(1, 2))
    else:
        scores = images.reshape(len(images), -1) @ weights
        by_pixel = weights.reshape(2, 4, 2, -1).sum(axis=2)
        responses = np.maximum(scores, 0)[:, None, None] * by_pixel
    responses = np.take_along_axis(responses, chosen[:, None, None, :], axis=-1)
    best = responses.max(axis=-1)
    winner = np.take_along_axis(chosen, responses.argmax(axis=-1).reshape(len(chosen), -1), axis=-1)
    return np.where(best > 0, winner.reshape(best.shape), -1), best, scores


def on_mesh(images, shape, spec, kind=AxisType.Auto):
    """Returns images on a mesh of all devices with axes a, b, …"""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), tuple("abc"[: len(shape)]), axis_types=(kind,) * len(shape))
    return jax.device_put(images, NamedSharding(mesh, PartitionSpec(*spec)))


@st.composite
def placings(draw):
    """Draws a mesh's shape and the axes that split the batch, and a batch that they divide."""
    shape, rest = [], COUNT
    while rest > 1 and len(shape) < 2:
        shape.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape = (*shape, rest)
    axes = tuple(name for name in "abc"[: len(shape)] if draw(st.booleans()))
    parts = int(np.prod([shape["abc".index(name)] for name in axes]))
    return shape, axes, parts * draw(st.integers(1, max(1, 4 // parts)))


@settings(deadline=None, max_examples=examples(6))
@given(
    placing=placings(),
    kind=st.sampled_from(KINDS),
    num_classes=st.integers(1, 9),
    block=st.sampled_from([None, 1, 2, 3]),
    image_block=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_a_map_is_the_same_however_the_images_lie(placing, kind, num_classes, block, image_block, seed):
    shape, axes, batch = placing
    apply, weights, images = whole_numbers(kind, batch, num_classes, seed)
    clear = jaxclear.clear_map(apply, rule="guided", class_block=block, image_block=image_block)
    found = clear(weights, on_mesh(images, shape, [axes or None]))
    every = np.broadcast_to(np.arange(num_classes), (batch, num_classes))
    for got, alone, wanted in zip(
        found, clear(weights, images), expected_map(kind, weights, images, every), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(got, alone)


CHOICES = {"all": {}, "some": {"classes": [5, 1, 4]}, "best": {"top_k": 4}}
SPLITS = {"batch": ((COUNT,), ["a"]), "classes": ((COUNT,), []), "both": ((2, COUNT // 2), ["a"])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("split", few_of(SPLITS, "both"))
def test_chosen_classes_are_compared_alone(kind, choice, split):
    apply, weights, images = whole_numbers(kind, 8, 7)
    found = jaxclear.clear_map(apply, rule="guided", **CHOICES[choice])(weights, on_mesh(images, *SPLITS[split]))
    _, _, scores = expected_map(kind, weights, images, np.zeros((8, 1), int))
    chosen = {
        "all": np.broadcast_to(np.arange(7), (8, 7)),
        "some": np.broadcast_to([1, 4, 5], (8, 3)),
        "best": np.sort(np.argsort(-scores, axis=-1, kind="stable")[:, :4], axis=-1),
    }[choice]
    for got, wanted in zip(found, expected_map(kind, weights, images, chosen), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("split", SPLITS)
def test_of_equal_classes_the_lowest_wins_and_of_silent_ones_none(split):
    images = on_mesh(np.ones((8, 3, 3, 1), np.float32), *SPLITS[split])
    doubled = jnp.array([[1.0, 2, 1, 2, 2, 2, 2, 1]])
    clear = jaxclear.clear_map(class_maps)(doubled, images)
    assert np.all(clear.dominant_class == 1)
    some = jaxclear.clear_map(class_maps, classes=[6, 5, 3, 7])(doubled, images)
    assert np.all(some.dominant_class == 3)
    silent = jaxclear.clear_map(class_maps)(-doubled, images)
    assert np.all(silent.dominant_class == -1)
    assert np.all(silent.dominant_response == 0)


EXPLANATIONS = {
    "clear": lambda apply: jaxclear.clear_map(apply, rule="guided"),
    "top": lambda apply: jaxclear.clear_map(apply, top_k=3),
    "in blocks of images": lambda apply: jaxclear.clear_map(apply, image_block=1),
    "responses": lambda apply: jaxclear.class_responses(apply, class_block=2),
    "responses in blocks of images": lambda apply: jaxclear.class_responses(apply, image_block=3),
    "some responses": lambda apply: jaxclear.class_responses(apply, classes=[4, 0, 3]),
    "heat": jaxclear.heat_map,
    "binary": jaxclear.binary_map,
    "units": lambda apply: jaxclear.unit_responses(apply, "Conv_0", top_n=2),
    "own": own_response,
}


LABELS = np.arange(8) % 5


@functools.cache
def explained(name):
    """An explanation, its variables and images, and what it is of images on one device: without and with labels."""
    apply, variables, images = small_network(batch=8)
    explain = EXPLANATIONS[name](apply)
    labelled = explain(variables, images, LABELS) if name in ("heat", "own") else None
    return explain, variables, images, explain(variables, images), labelled


def nearly_the_same(found, expected):
    # Other orders of sums exchange classes that are equal but for rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("name", few_of(EXPLANATIONS, "clear", "top", "responses", "heat", "units", "own"))
@pytest.mark.parametrize(
    ("split", "axes"),
    few_of([*((split, AxisType.Auto) for split in SPLITS), ("both", AxisType.Explicit)], ("both", AxisType.Auto)),
)
def test_every_explanation_follows_the_images(name, split, axes):
    explain, variables, images, expected, labelled = explained(name)
    placed = on_mesh(images, *SPLITS[split], axes)
    nearly_the_same(explain(variables, placed), expected)
    if name == "heat":
        nearly_the_same(explain(variables, placed, jnp.asarray(LABELS)), labelled)


@pytest.mark.parametrize("name", few_of(EXPLANATIONS, "clear", "responses", "heat", "units"))
def test_a_mesh_that_the_user_has_set_is_no_obstacle(name):
    explain, variables, images, expected, labelled = explained(name)
    for axes in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((COUNT,), ("mine",), axis_types=(axes,))) as _:
            placed = jaxclear.place(variables, images)
            if labelled is None:
                nearly_the_same(explain(*placed), expected)
            else:
                nearly_the_same(explain(*placed, LABELS), labelled)


def many_convolutions(classes):
    """A network of two convolutions that XLA's pool of threads computes, and images for every device."""
    kernels = [noise(7, 7, c, 8, seed=k) / 20 for k, c in enumerate((3, 8))]
    kernels.append(noise(1, 1, 8, classes, seed=2))

    def apply(kernels, x):
        for kernel in kernels[:-1]:
            x = jax.nn.relu(convolve(x, kernel))
        return convolve(x, kernels[-1])

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return apply, kernels, pictures(8 * COUNT, 16, 16, 3)


def test_long_programs_are_right_where_there_are_threads_to_spare():
    assert not cpu_threads.too_few_threads()
    apply, kernels, images = many_convolutions(1000)
    clear = jaxclear.clear_map(apply, rule="guided")
    found, expected = clear(*jaxclear.place(kernels, images)), clear(kernels, images)
    scale = float(jnp.abs(expected.dominant_response).max())
    np.testing.assert_allclose(found.dominant_response, expected.dominant_response, atol=1e-4 * scale)


@pytest.fixture
def too_few_threads(monkeypatch):
    """As if JAX had been started with a thread a device."""
    monkeypatch.setenv("NPROC", str(COUNT))
    cpu_threads.too_few_threads.cache_clear()
    assert cpu_threads.too_few_threads()
    yield
    cpu_threads.too_few_threads.cache_clear()


@pytest.mark.usefixtures("too_few_threads")
@pytest.mark.parametrize("explain", [jaxclear.clear_map, jaxclear.class_responses])
def test_long_programs_are_refused_where_there_are_none(explain):
    apply, kernels, images = many_convolutions(300)
    least = f"NPROC={cpu_threads.threads_for(COUNT)}"
    with pytest.raises(ValueError, match=f"convolutions on {COUNT} CPU devices of too few threads.*{least}"):
        explain(apply, rule="guided")(*jaxclear.place(kernels, images))
    few = explain(apply, rule="guided", classes=[3, 1])
    same = few(*jaxclear.place(kernels, images)), few(kernels, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *same)


@pytest.mark.usefixtures("too_few_threads")
def test_many_units_are_refused_where_there_are_none():
    apply, kernels, images = many_convolutions(300)
    with pytest.raises(ValueError, match=f"got some {3 * 300}: XLA"):
        jaxclear.unit_responses(apply, -1, top_n=300)(*jaxclear.place(kernels, images))
    jaxclear.unit_responses(apply, -1, top_n=300)(kernels, images[:1])


def test_random_regions_do_not_depend_on_the_devices():
    apply, variables, images = small_network(batch=8)
    compare = ablation(apply, thresholds=[0.1, 0.5])
    here = compare(variables, images, jax.random.key(3))
    there = compare(variables, on_mesh(images, *SPLITS["both"]), jax.random.key(3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), there, here)


@pytest.mark.parametrize("split", few_of(SPLITS, "both"))
def test_a_loss_of_a_map_has_the_same_gradient(split):
    apply, variables, images = small_network(batch=8)
    clear = jaxclear.clear_map(apply, rule="guided")

    def loss(variables, images):
        return (clear(variables, images).dominant_response ** 2).sum()

    here = jax.grad(loss)(variables, images)
    there = jax.grad(loss)(variables, on_mesh(images, *SPLITS[split]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), there, here)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_devices_with_images_of_their_own_do_not_talk(axes):
    apply, variables, images = small_network(batch=8)
    clear = jaxclear.clear_map(apply)
    split = on_mesh(images, *SPLITS["batch"], axes)
    programs = [jax.jit(lambda variables: clear(variables, split)).lower(variables)]
    if axes == AxisType.Explicit:  # such images say also while they are traced how they lie
        programs.append(jax.jit(clear).lower(variables, split))
    for program in programs:
        text = program.compile().as_text()
        assert f"f32[{8 // COUNT},8,8,2]" in text
        assert not [line for line in text.splitlines() if "all-gather" in line or "all-reduce" in line]


@pytest.mark.parametrize("batch", [1, 3, 4, 6, 8])
def test_placed_images_use_every_device_and_are_explained_alike(batch):
    apply, weights, images = whole_numbers("maps", batch, 7)
    variables = {"weights": weights, "scale": 1}
    clear = jaxclear.clear_map(lambda variables, images: apply(variables["weights"], images) * variables["scale"])
    placed, there = jaxclear.place(variables, images)
    assert there.sharding.device_set == placed["weights"].sharding.device_set == set(jax.devices())
    assert there.sharding.shard_shape(there.shape)[0] == batch // np.gcd(batch, COUNT)
    jax.tree.map(np.testing.assert_array_equal, clear(placed, there), clear(variables, images))
    again, _ = jaxclear.place(placed, images)
    buffers = [
        [part.data.unsafe_buffer_pointer() for part in found.addressable_shards]
        for found in (again["weights"], placed["weights"])
    ]
    assert buffers[0] == buffers[1]  # nothing was copied


def test_variables_and_labels_may_be_kept_by_one_device():
    apply, variables, images = small_network(batch=8)
    heat = jaxclear.heat_map(apply)
    last = jax.devices()[-1]
    labels = jax.device_put(jnp.arange(8) % 5, last)
    found = heat(jax.device_put(variables, last), on_mesh(images, *SPLITS["batch"]), labels)
    np.testing.assert_allclose(
        found.evidence_for, heat(variables, images, np.arange(8) % 5).evidence_for, rtol=1e-4, atol=1e-5
    )


def test_images_of_one_device_are_explained_on_it():
    images = jnp.ones((2, 3, 3, 1))
    assert devices.division_of(images) is None
    assert devices.division_of(on_mesh(images, (COUNT,), [])).class_axes == ("a",)
    one = Mesh(np.array(jax.devices()[:1]), ("a",))
    assert devices.division_of(jax.device_put(images, NamedSharding(one, PartitionSpec("a")))) is None
    seen = []
    jax.jit(lambda x: seen.append(devices.division_of(x)))(on_mesh(images, (COUNT,), []))
    assert seen == [None]
    _, placed = jaxclear.place(None, images, mesh=one)
    clear = jaxclear.clear_map(class_maps)(np.ones((1, 3), "f"), placed)
    assert clear.dominant_class.sharding.device_set == {jax.devices()[0]}


def test_images_split_otherwise_are_refused_before_anything_is_compiled():
    def apply(variables, images):
        raise AssertionError("traced")

    images = np.ones((8, COUNT, 3, COUNT), np.float32)
    for spec in ([None, "a"], [None, None, None, "a"]):
        with pytest.raises(ValueError, match="along their batch axis alone, got .*'a'"):
            jaxclear.clear_map(apply)(None, on_mesh(images, (COUNT,), spec))


@pytest.mark.parametrize("name", ["clear", "responses", "heat", "units"])
def test_an_argument_too_many_is_refused_wherever_the_images_lie(name):
    apply, variables, images = small_network(batch=8)
    explain = EXPLANATIONS[name](apply)
    labels = np.arange(8) % 5
    for placed in (images, on_mesh(images, *SPLITS["batch"])):
        with pytest.raises(TypeError, match="argument"):
            explain(variables, placed, labels, labels)


def test_what_cannot_be_placed():
    images = np.ones((2, 3, 3, 1), np.float32)
    with pytest.raises(ValueError, match="expected images of shape"):
        jaxclear.place(None, images[0, 0])
    with pytest.raises(ValueError, match="floating-point"):
        jaxclear.place(None, images.astype(int))
    with pytest.raises(ValueError, match=r"expected a jax\.sharding\.Mesh, got list"):
        jaxclear.place(None, images, mesh=jax.devices())
