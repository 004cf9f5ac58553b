"""Models of every framework, as their users wrote them: same values, rules in place, layers by their names."""

import functools
import os

from networks import initial, pictures

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxclear

IMAGES = pictures(2, 12, 12, 3)


def filled(shapes):
    """Values drawn by NumPy in place of shapes: to have them drawn each framework would compile many programs."""
    rng = np.random.default_rng(1)

    def draw(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        spread = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(spread if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


def linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
            return nn.Conv(5, (1, 1))(nn.relu(x))

    return Net().apply, initial(Net(), IMAGES), ("Conv_0", "Conv_1", "Conv_2")


def linen_bound():
    apply, variables, _ = linen()
    return (lambda _, x: apply(variables, x)), {}, ("Conv_0", "Conv_1", "Conv_2")


def nnx_model():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.blocks = nnx.List([nnx.Conv(4, 4, (3, 3), rngs=rngs)])
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.last = nnx.Conv(4, 5, (1, 1), rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))
            return self.last(nnx.relu(self.norm(self.blocks[0](x))))

    graph, state = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    return (lambda state, x: nnx.merge(graph, state)(x)), filled(state), ("first", "blocks/0", "last")


def plain_lax():
    shapes = {"first": (3, 3, 3, 4), "second": (3, 3, 4, 4), "classes": (1, 1, 4, 5)}
    variables = filled({name: {"w": jax.ShapeDtypeStruct(shape, jnp.float32)} for name, shape in shapes.items()})

    def convolve(x, layer):
        return lax.conv_general_dilated(x, layer["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def apply(variables, x):
        x = lax.max(convolve(x, variables["first"]), 0.0)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return convolve(jnp.maximum(convolve(x, variables["second"]), 0), variables["classes"])

    return apply, variables, ("first", "second", "classes")


def equinox():
    eqx = pytest.importorskip("equinox")

    def build():
        keys = jax.random.split(jax.random.key(0), 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.MaxPool2d(2, 2),
                eqx.nn.Conv2d(4, 4, 3, padding=1, key=keys[1]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv2d(4, 5, 1, key=keys[2]),
            ]
        )

    def apply(model, x):
        return jnp.moveaxis(jax.vmap(model)(jnp.moveaxis(x, -1, 1)), 1, -1)

    return apply, filled(eqx.filter_eval_shape(build)), ("layers/0", "layers/3", "layers/5")


def haiku():
    hk = pytest.importorskip("haiku")

    def forward(x):
        x = hk.max_pool(jax.nn.relu(hk.Conv2D(4, 3)(x)), (2, 2, 1), (2, 2, 1), "VALID")
        x = jax.nn.relu(hk.Conv2D(4, 3)(x))
        return hk.Conv2D(5, 1)(x)

    network = hk.without_apply_rng(hk.transform(forward))
    variables = filled(jax.eval_shape(network.init, jax.random.key(0), IMAGES))
    return network.apply, variables, ("conv2_d", "conv2_d_1", "conv2_d_2")


def keras():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip(f"Keras was imported with the {keras.backend.backend()} backend")
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(5, 1),
        ]
    )

    def apply(variables, x):
        trainable, fixed = variables
        return model.stateless_call(trainable, fixed, x)[0]

    values = [[v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]
    return apply, tuple(values), None


MODELS = [linen, linen_bound, nnx_model, plain_lax, equinox, haiku, keras]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_as_its_user_wrote_it(make):
    apply, variables, names = make()
    report = jaxclear.coverage(apply, variables, IMAGES)
    counts = {name: sum(e.count for e in report.replaced if e.name == name) for name in ("relu", "max_pool")}
    assert counts == {"relu": 2, "max_pool": 1}
    assert report.complete, report
    assert "test_frameworks.py" in report.replaced[0].source

    @jax.jit
    def class_by_class(images):
        values, pull = jax.vjp(lambda x: apply(variables, x), images)
        return [pull(values * jax.nn.one_hot(c, 5))[0] for c in range(5)]

    plain, ruled = (jax.jit(functools.partial(f, variables)) for f in (apply, jaxclear.with_rule(apply, "guided")))
    assert np.array_equal(plain(IMAGES), ruled(IMAGES))
    expected = class_by_class(IMAGES)
    responses = jaxclear.class_responses(apply, rule="backprop", on_unmatched="error")(variables, IMAGES)
    for found, wanted in zip(responses, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))

    found = jaxclear.layers(apply, variables, IMAGES)
    assert names is None or found == names
    assert len(found) == 3
    ways = [jaxclear.unit_responses(apply, layer, top_n=2) for layer in (found[1], 1)]
    by_name, by_number = jax.jit(lambda images: [explain(variables, images) for explain in ways])(IMAGES)
    assert np.array_equal(by_name.responses, by_number.responses)
    assert by_name.units.shape == (2, 2)
