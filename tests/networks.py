"""Networks for the tests: random layer lists with their JAX form beside their NumPy twin, and small Flax models."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from hypothesis import strategies as st
from jax import lax

import reference


def to_jax(layers, dtype=jnp.float32):
    """Returns `apply(variables, images)` and its variables for a list of twin layers."""
    variables = [
        {k: jnp.asarray(v, dtype) for k, v in vars(layer).items() if isinstance(v, np.ndarray)} for layer in layers
    ]

    def apply(variables, images):
        x = images
        for layer, weights in zip(layers, variables, strict=True):
            x = _apply_layer(layer, weights, x)
        return x

    return apply, variables


def _apply_layer(layer, weights, x):
    match layer:
        case reference.Conv():
            x = lax.conv_general_dilated(
                x,
                weights["kernel"],
                layer.stride,
                layer.padding,
                rhs_dilation=layer.dilation,
                feature_group_count=layer.groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return x + weights["bias"]
        case reference.Relu():
            return nn.relu(x) if np.isinf(layer.cap) else jnp.minimum(nn.relu(x), layer.cap)
        case reference.MaxPool():
            full = [(1, *axes, 1) for axes in (layer.window, layer.stride, layer.dilation)]
            padding = ((0, 0), *layer.padding, (0, 0))
            return lax.reduce_window(x, -jnp.inf, lax.max, full[0], full[1], padding, window_dilation=full[2])
        case reference.BatchNorm():
            scale = weights["scale"] / jnp.sqrt(weights["var"] + layer.epsilon)
            return (x - weights["mean"]) * scale + weights["bias"]
        case reference.Dense():
            return x.reshape(x.shape[0], -1) @ weights["kernel"] + weights["bias"]


@st.composite
def random_networks(draw):
    """Draws (layers, images): convolutions of any kind, pooling, batch-norm, ReLU and, now and then, a dense end."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(7, 11)), draw(st.integers(7, 11)), draw(st.sampled_from([1, 2, 4])))
    image = rng.normal(size=shape)
    layers, x = [], image
    for _ in range(draw(st.integers(1, 3))):
        layers.append(_draw_conv(draw, rng, x.shape))
        if draw(st.booleans()):
            layers.append(_draw_batch_norm(rng, layers[-1].kernel.shape[3]))
        layers.append(reference.Relu(draw(st.sampled_from([np.inf, np.inf, 0.7]))))
        x = reference.forward(layers, image)[-1]
        if min(x.shape[:2]) >= 4 and draw(st.booleans()):
            layers.append(_draw_pool(draw))
            x = reference.forward(layers, image)[-1]
    num_classes = draw(st.integers(1, 4))
    if draw(st.booleans()):
        layers.append(reference.Dense(rng.normal(size=(x.size, num_classes)), rng.normal(size=num_classes)))
    else:
        layers.append(reference.Conv(rng.normal(size=(1, 1, x.shape[2], num_classes)), rng.normal(size=num_classes)))
    return layers, image[None].astype(np.float32)


def _draw_conv(draw, rng, shape):
    groups = draw(st.sampled_from([g for g in (1, 2) if shape[2] % g == 0]))
    size = tuple(draw(st.integers(1, 3)) for _ in range(2))
    return reference.Conv(
        kernel=rng.normal(size=(*size, shape[2] // groups, 4)),
        bias=rng.normal(size=4) * 0.3,
        stride=tuple(draw(st.integers(1, 2)) for _ in range(2)),
        padding=tuple((draw(st.integers(1, 2)), draw(st.integers(1, 2))) for _ in range(2)),
        dilation=tuple(draw(st.integers(1, 2)) for _ in range(2)),
        groups=groups,
    )


def _draw_batch_norm(rng, channels):
    mean, scale, bias = rng.normal(size=(3, channels))
    return reference.BatchNorm(mean, rng.uniform(0.5, 2, channels), scale, bias)


def _draw_pool(draw):
    window = tuple(draw(st.integers(1, 3)) for _ in range(2))
    return reference.MaxPool(
        window,
        stride=tuple(draw(st.integers(1, 3)) for _ in range(2)),
        padding=tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window),
        dilation=(1, 1),
    )


def pictures(*shape, seed=0):
    """Returns float32 values from 0 to 1, drawn by NumPy: JAX would compile a program a shape."""
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def noise(*shape, seed=0):
    """Returns float32 normal values, drawn by NumPy."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def initial(module, images, *, seed=0):
    """Returns variables like those that `module.init` draws (LeCun's kernels), made by NumPy.

    Flax compiles a program a kernel, half a second each, which is most of what many a test would take.
    """
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), leaf.dtype)
        return jnp.asarray(np.full(leaf.shape, name in ("scale", "var")), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(module.init, jax.random.key(0), images))


class SmallConvNet(nn.Module):
    """Two convolutions, a pooling and a class layer, in any number of spatial dimensions."""

    num_classes: int = 5
    dimensions: int = 2
    width: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3,) * self.dimensions)(x))
        x = nn.relu(nn.Conv(self.width, (3,) * self.dimensions)(x))
        x = nn.max_pool(x, (2,) * self.dimensions, (2,) * self.dimensions)
        return nn.Conv(self.num_classes, (1,) * self.dimensions)(x)


def small_network(*, num_classes=5, batch=3, size=8, channels=2, dimensions=2, seed=0):
    """Returns apply, variables and images of a small Flax network."""
    model = SmallConvNet(num_classes, dimensions)
    images = pictures(batch, *[size] * dimensions, channels, seed=seed)
    return model.apply, initial(model, images, seed=seed), images
