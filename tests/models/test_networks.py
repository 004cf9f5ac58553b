"""The published networks: their tables are the thesis's, their sizes what arithmetic says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxclear import models
from jaxclear.models.layers import BatchNorm, Conv, Dense, Dropout, MaxPool, Relu
from networks import initial, pictures

# Transcribed from the thesis's tables, apart from the code: kernel, filters; "pool"; width and dropout of dense layers.
TABLES = {
    "mnist": [(3, 32), (3, 32), (3, 32), (3, 32), "pool", (3, 64), (1, 10)],
    "svhn": [(3, 32)] * 3 + ["pool"] + [(3, 64)] * 3 + ["pool", (3, 128), (1, 128), (1, 10)],
    "crystal": [
        *[(7, 32), (7, 32), "pool", (7, 16), (7, 16), "pool", (7, 8), (7, 8)],
        *[("dense", 128, 0.25), "norm", ("dense", 7, 0.0)],
    ],
}


def _listing(layer):
    match layer:
        case Conv(kernel, filters):
            return (kernel, filters)
        case MaxPool(2, 2):
            return "pool"
        case Dense(features, dropout):
            return ("dense", features, dropout)
        case BatchNorm():
            return "norm"
    raise AssertionError(layer)


def _counted(name):
    """Parameters from the tables alone: kernels and biases, scale and offset of the normalisation."""
    height, _, channels = models.network(name).input_shape
    total, width = 0, height
    for row in TABLES[name]:
        match row:
            case "pool":
                width //= 2
            case "norm":
                total += 2 * channels
            case ("dense", features, _):
                inputs = channels * width * width if width else channels
                total, channels, width = total + (inputs + 1) * features, features, 0
            case (kernel, filters):
                total, channels = total + (kernel * kernel * channels + 1) * filters, filters
    return total


@pytest.mark.parametrize("name", TABLES)
def test_table_is_the_thesis_listing(name):
    assert [_listing(layer) for layer in models.network(name).layers] == TABLES[name]


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("mnist", (28, 28, 1), (2, 14, 14, 10)),
        ("svhn", (32, 32, 3), (2, 8, 8, 10)),
        ("crystal", (64, 64, 3), (2, 7)),
    ],
)
def test_shapes_and_parameter_count(name, inputs, outputs):
    module, table = models.build(name)
    assert table.input_shape == inputs
    assert table.returns_class_maps == (len(outputs) == 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *inputs)))
    assert jax.eval_shape(module.apply, variables, jnp.zeros((2, *inputs))).shape == outputs
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == _counted(name)


@pytest.mark.parametrize("name", models.names())
def test_classes_and_channels_can_be_overridden(name):
    module, table = models.build(name, classes=6, channels=2)
    images = jnp.zeros((3, *table.input_shape))
    assert images.shape[-1] == 2
    assert table.class_names == ("0", "1", "2", "3", "4", "5")
    assert jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images)[0]).shape[-1] == 6


def test_evaluation_is_the_default_and_training_drops_out():
    module, table = models.build("crystal")
    images = pictures(4, *table.input_shape)
    variables = initial(module, images)
    np.testing.assert_array_equal(module.apply(variables, images), module.apply(variables, images, train=False))
    outputs = [
        module.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"])
        for seed in (0, 1)
    ]
    assert not np.allclose(outputs[0][0], outputs[1][0])


def test_lung_network_is_four_sequencing_cells():
    layers = models.network("lung").layers
    pools = [index for index, layer in enumerate(layers) if layer == MaxPool(2, 2)]
    cells = [layers[start:stop] for start, stop in zip([0, *[p + 1 for p in pools]], [*pools, -1], strict=True)]
    assert len(cells) == 4
    for cell in cells:
        blocks = [cell[start : start + 4] for start in range(0, 12, 4)]
        assert len(cell) == 12
        for convolution, *others in blocks:
            assert isinstance(convolution, Conv)
            assert not convolution.relu
            assert others == [BatchNorm(), Dropout(0.25), Relu()]
    kernels = [[layer.kernel for layer in cell if isinstance(layer, Conv)] for cell in cells]
    assert kernels == [[3, 3, 3]] * 3 + [[3, 3, 1]]
    widths = [cell[0].filters for cell in cells]
    assert widths == sorted(set(widths))
    assert layers[-1] == Conv(1, 2)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("lung", (12, 12, 2)),
        ("retinopathy", (16, 16, 5)),
        ("anatomy-shallow", (56, 56, 24)),
        ("anatomy-deep", (14, 14, 24)),
    ],
)
def test_medical_networks_return_class_maps(name, maps):
    module, table = models.build(name)
    images = jnp.zeros((1, *table.input_shape))
    assert jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images)[0]).shape == (1, *maps)


def test_the_class_layer_has_no_relu():
    module, table = models.build("mnist")
    images = pictures(8, *table.input_shape)
    assert float(module.apply(initial(module, images), images).min()) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.build("lenet"), "expected a network name out of mnist, svhn, crystal, lung, .*, got 'lenet'"),
        (lambda: models.build("mnist", classes=0), "expected classes >= 1, got 0"),
        (lambda: models.build("mnist", channels=0), "expected channels >= 1, got 0"),
        (lambda: models.load("lenet"), "expected a network name"),
        (lambda: models.load("svhn"), "shipped weights, got .svhn.: there are .*; jaxclear.models.build"),
    ],
)
def test_unknown_names_and_sizes(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()
