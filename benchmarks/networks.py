"""The networks of the benchmarks, written twice beside the library: as one writes them first in JAX, and in PyTorch.

A network is a table of layers (`jaxclear.models.layers`, and `Residual`) and a list of parameters, one entry a row, in
JAX's layout (HWIO). The same list makes the PyTorch module, so that both have the same weights.

`vgg` is VGG-16 with a convolutional class layer and `resnet` ResNet-18 with its batch normalisation folded into the
convolutions, as it is deployed, both for 1,000 classes at 224². Their weights are random: speed does not depend on
them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxclear import models
from jaxclear.models.layers import BatchNorm, Conv, Dense, MaxPool

Activation = Callable[[Array], Array]


@dataclass(frozen=True)
class Residual:
    """A branch and a short cut, added, and a ReLU; the last layer of the branch has none of its own."""

    body: tuple[Any, ...]
    shortcut: tuple[Any, ...] = ()


def _basic(channels: int, stride: int = 1) -> Residual:
    body = (Conv(3, channels, stride), Conv(3, channels))
    return Residual(body, (Conv(1, channels, stride),) if stride > 1 else ())


def _vgg() -> tuple[Any, ...]:
    stages = [(*[Conv(3, width)] * depth, MaxPool(2, 2)) for width, depth in zip(_WIDTHS, (2, 2, 3, 3, 3), strict=True)]
    return (*(layer for stage in stages for layer in stage), Conv(1, 1000))


_WIDTHS = (64, 128, 256, 512, 512)
_TABLES: dict[str, tuple[tuple[Any, ...], tuple[int, int, int]]] = {
    "vgg": (_vgg(), (224, 224, 3)),
    "resnet": (
        (
            *(Conv(7, 64, 2), MaxPool(3, 2), _basic(64), _basic(64)),
            *(block for width in _WIDTHS[1:4] for block in (_basic(width, 2), _basic(width))),
            Conv(1, 1000),
        ),
        (224, 224, 3),
    ),
}
NAMES = ("mnist", "svhn", "crystal", *_TABLES)


class Network(NamedTuple):
    """A network ready to be timed.

    Attributes:
        layers: the table.
        parameters: one entry a row.
        input_shape: height, width, channels.
        num_classes: K.
        apply: what the library explains: `(variables, images)`; the Flax module where the network is a published one.
        variables: of `apply`.
    """

    layers: tuple[Any, ...]
    parameters: Any
    input_shape: tuple[int, int, int]
    num_classes: int
    apply: Callable[[Any, Any], Any]
    variables: Any


def network(name: str) -> Network:
    """Returns one of `NAMES`, with random weights."""
    if name not in _TABLES:
        module, published = models.build(name)
        variables = module.init(jax.random.key(1), jnp.zeros((1, *published.input_shape)))
        parameters = from_flax(published.layers, variables)
        classes = len(published.class_names)
        return Network(published.layers, parameters, published.input_shape, classes, module.apply, variables)
    layers, shape = _TABLES[name]
    return from_layers(layers, shape)


def from_layers(layers: tuple[Any, ...], input_shape: tuple[int, int, int]) -> Network:
    """Returns a network of a table that ends in a convolution, with random weights."""
    parameters, classes = _initial(layers, input_shape[-1], np.random.default_rng(0))
    apply = functools.partial(forward, layers, relu=lambda x: jnp.maximum(x, 0))
    return Network(layers, parameters, input_shape, classes, apply, parameters)


def _initial(layers: Sequence[Any], channels: int, rng: np.random.Generator) -> tuple[list[Any], int]:
    found: list[Any] = []
    for layer in layers:
        if isinstance(layer, Conv):
            shape = (layer.kernel, layer.kernel, channels, layer.filters)
            scale = math.sqrt(2 / math.prod(shape[:3]))
            found.append({"kernel": (scale * rng.normal(size=shape)).astype(np.float32)})
            channels = layer.filters
            found[-1]["bias"] = (0.1 * rng.normal(size=channels)).astype(np.float32)
        elif isinstance(layer, Residual):
            shortcut, _ = _initial(layer.shortcut, channels, rng)
            body, channels = _initial(layer.body, channels, rng)
            found.append({"body": body, "shortcut": shortcut})
        else:
            found.append(None)
    return jax.tree.map(jnp.asarray, found), channels


def from_flax(layers: Sequence[Any], variables: Any) -> list[Any]:
    """Returns the parameters of a `ConvNet`, one entry a row of its table."""
    counts = {"Conv": 0, "Dense": 0, "BatchNorm": 0}
    found: list[Any] = []
    for layer in layers:
        kind = type(layer).__name__
        if kind not in counts:
            found.append(None)
            continue
        name = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        found.append({**variables["params"][name], **variables.get("batch_stats", {}).get(name, {})})
    return found


def forward(
    layers: Sequence[Any], parameters: Sequence[Any], images: Float[Array, "B H W C"], *, relu: Activation
) -> Array:
    """Returns class maps or logits, as one writes the network first in JAX."""
    x = images
    for index, (layer, own) in enumerate(zip(layers, parameters, strict=True)):
        last = index == len(layers) - 1
        match layer:
            case Conv():
                edge, stride = (layer.kernel // 2, layer.kernel // 2), (layer.stride,) * 2
                numbers = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(x, own["kernel"], stride, [edge, edge], dimension_numbers=numbers)
                x = x + own["bias"]
            case MaxPool():
                window, stride = ((1, size, size, 1) for size in (layer.window, layer.stride))
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, stride, "VALID")
            case Dense():
                x = x.reshape(len(x), -1) @ own["kernel"] + own["bias"]
            case BatchNorm():
                x = (x - own["mean"]) * (own["scale"] / jnp.sqrt(own["var"] + layer.epsilon)) + own["bias"]
            case Residual():
                branch = forward(layer.body, own["body"], x, relu=relu)
                x = relu(branch + forward(layer.shortcut, own["shortcut"], x, relu=relu))
        if not last and isinstance(layer, Conv | Dense):
            x = relu(x)
    return x


def torch_module(layers: Sequence[Any], parameters: Sequence[Any]) -> Any:
    """Returns the same network in PyTorch: images (B, C, H, W) to class maps (B, K, H', W') or logits (B, K)."""
    import torch  # pyright: ignore[reportMissingImports]

    rows: list[Any] = []
    for index, (layer, own) in enumerate(zip(layers, parameters, strict=True)):
        match layer:
            case Conv():
                rows.append(_torch_convolution(layer, own))
            case MaxPool():
                rows.append(torch.nn.MaxPool2d(layer.window, layer.stride))
            case Dense():
                kernel = _tensor(own["kernel"])
                if index == 0 or not isinstance(layers[index - 1], Dense | BatchNorm):
                    rows.append(_flatten())
                rows.append(torch.nn.Linear(*kernel.shape))
                rows[-1].weight.data, rows[-1].bias.data = kernel.T.contiguous(), _tensor(own["bias"])
            case BatchNorm():
                # The crystal network's stands on a dense layer's features.
                rows.append(torch.nn.BatchNorm1d(len(own["scale"]), eps=layer.epsilon, momentum=1 - layer.momentum))
                rows[-1].weight.data, rows[-1].bias.data = _tensor(own["scale"]), _tensor(own["bias"])
                rows[-1].running_mean, rows[-1].running_var = _tensor(own["mean"]), _tensor(own["var"])
            case Residual():
                rows.append(_torch_residual(layer, own))
        if index < len(layers) - 1 and isinstance(layer, Conv | Dense):
            rows.append(torch.nn.ReLU())
    return torch.nn.Sequential(*rows)


def _torch_convolution(layer: Conv, own: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    kernel = _tensor(own["kernel"]).permute(3, 2, 0, 1).contiguous()
    sizes = kernel.shape[1], kernel.shape[0], layer.kernel
    convolution = torch.nn.Conv2d(*sizes, stride=layer.stride, padding=layer.kernel // 2)
    convolution.weight.data, convolution.bias.data = kernel, _tensor(own["bias"])  # pyright: ignore[reportOptionalMemberAccess]
    return convolution


def _tensor(values: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_numpy(np.array(values))


def _flatten() -> Any:
    """A module that flattens in JAX's order, (H, W, C)."""
    import torch  # pyright: ignore[reportMissingImports]

    class Flatten(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    return Flatten()


def _torch_residual(layer: Residual, own: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch_module(layer.body, own["body"])
            self.shortcut = torch_module(layer.shortcut, own["shortcut"])
            self.relu = torch.nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    return Block()
