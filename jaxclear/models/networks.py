"""The published networks as data: layer tables, and the one Flax module that builds any of them.

Array contract: float32 images in [0, 1], NHWC. Networks whose last layer is a convolution (`mnist`, `svhn`) return
class maps `(B, H', W', K)`: global average pooling and softmax are *not* part of them, the logits are the spatial
mean of the class maps (`jaxclear.responses.scores_of`). `crystal` ends in a dense layer and returns logits `(B, K)`.

What the tables do not print, decided here:

- Padding is SAME and the convolution stride 1: the authors' public code of the crystal network says so
  (ai4materials, `cnn_nature_comm_ziletti2018`); for `mnist` and `svhn` it is this project's choice.
- A ReLU follows every convolution and dense layer but the last one, the class layer.
- "Fully connected layer + dropout": the dropout acts on the layer's *input*, and batch normalisation comes after its
  ReLU, both as in the authors' code. At inference dropout is off and its place makes no difference.
- Initial kernels are orthogonal, batch-norm has momentum 0.99 and epsilon 1e-3 (the authors' code and the defaults of
  the Keras version it was written for); biases start at zero.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo 2020, tables 3.1,
5.1 and 5.2; A. Ziletti et al., Nat. Commun. 9, 2775 (2018).
"""

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

import flax.linen as nn
import jax
from jaxtyping import Array, Float

__all__ = ["NETWORKS", "BatchNorm", "Conv", "ConvNet", "Dense", "Layer", "MaxPool", "Network", "build", "network"]


@dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel, stride 1, SAME padding and a bias; ReLU unless it is the class layer."""

    kernel: int
    filters: int


@dataclass(frozen=True)
class MaxPool:
    """Max-pooling with a square window, without padding."""

    window: int
    stride: int


@dataclass(frozen=True)
class Dense:
    """A fully connected layer on the flattened features, its input dropped out; ReLU unless it is the class layer."""

    features: int
    dropout: float = 0.0


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over the channel axis."""

    momentum: float = 0.99
    epsilon: float = 1e-3


Layer = Conv | MaxPool | Dense | BatchNorm


@dataclass(frozen=True, kw_only=True)
class Network:
    """One published network: its layer table, what goes in and what comes out.

    Attributes:
        name: The name that `build` and `jaxclear.models.load` take.
        source: Table of the thesis.
        input_shape: Height, width and channels of one image.
        class_names: One name a class, in the order of the output's last axis.
        layers: The rows of the table between input and softmax (global average pooling left out).
    """

    name: str
    source: str
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def returns_class_maps(self) -> bool:
        """Whether the network returns class maps `(B, H', W', K)`, not logits `(B, K)`."""
        return isinstance(self.layers[-1], Conv)


_DIGITS = tuple("0123456789")

NETWORKS = MappingProxyType(
    {
        table.name: table
        for table in (
            Network(
                name="mnist",
                source="table 5.1",
                input_shape=(28, 28, 1),
                class_names=_DIGITS,
                layers=(
                    Conv(3, 32),
                    Conv(3, 32),
                    Conv(3, 32),
                    Conv(3, 32),
                    MaxPool(2, 2),
                    Conv(3, 64),
                    Conv(1, 10),
                ),
            ),
            Network(
                name="svhn",
                source="table 5.2",
                input_shape=(32, 32, 3),
                class_names=_DIGITS,
                layers=(
                    Conv(3, 32),
                    Conv(3, 32),
                    Conv(3, 32),
                    MaxPool(2, 2),
                    Conv(3, 64),
                    Conv(3, 64),
                    Conv(3, 64),
                    MaxPool(2, 2),
                    Conv(3, 128),
                    Conv(1, 128),
                    Conv(1, 10),
                ),
            ),
            Network(
                name="crystal",
                source="table 3.1",
                input_shape=(64, 64, 3),
                class_names=("bct139", "bct141", "hex/rh", "sc", "fcc", "diamond", "bcc"),
                layers=(
                    Conv(7, 32),
                    Conv(7, 32),
                    MaxPool(2, 2),
                    Conv(7, 16),
                    Conv(7, 16),
                    MaxPool(2, 2),
                    Conv(7, 8),
                    Conv(7, 8),
                    Dense(128, dropout=0.25),
                    BatchNorm(),
                    Dense(7),
                ),
            ),
        )
    }
)


class ConvNet(nn.Module):
    """The Flax Linen module of a layer table.

    Attributes:
        layers: The rows, the last one being the class layer.
    """

    layers: tuple[Layer, ...]

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B *maps K"]:
        """Class maps `(B, H', W', K)` when the last layer is a convolution, logits `(B, K)` when it is dense.

        Args:
            images: Images in [0, 1], NHWC.
            train: Dropout on and batch statistics in use (needs the `dropout` random stream, and `batch_stats` to be
                mutable). Off by default, so that `apply(variables, images)` is pure.

        Returns:
            Class maps or logits, without softmax.
        """
        features = images
        for index, layer in enumerate(self.layers):
            features = _forward(layer, features, train)
            if isinstance(layer, Conv | Dense) and index < len(self.layers) - 1:
                features = nn.relu(features)
        return features


def _forward(layer: Layer, features: jax.Array, train: bool) -> jax.Array:
    orthogonal = nn.initializers.orthogonal()
    if isinstance(layer, Conv):
        return nn.Conv(layer.filters, (layer.kernel, layer.kernel), kernel_init=orthogonal)(features)
    if isinstance(layer, MaxPool):
        return nn.max_pool(features, (layer.window, layer.window), (layer.stride, layer.stride))
    if isinstance(layer, BatchNorm):
        return nn.BatchNorm(use_running_average=not train, momentum=layer.momentum, epsilon=layer.epsilon)(features)
    if isinstance(layer, Dense):
        features = features.reshape(features.shape[0], -1)
        if layer.dropout > 0:
            features = nn.Dropout(layer.dropout, deterministic=not train)(features)
        return nn.Dense(layer.features, kernel_init=orthogonal)(features)
    raise TypeError(f"expected a layer of type Conv, MaxPool, Dense or BatchNorm, got {type(layer).__name__}")


def network(name: str, *, classes: int | None = None, channels: int | None = None) -> Network:
    """The layer table of a published network, with another number of classes or input channels if asked.

    Args:
        name: `"mnist"`, `"svhn"` or `"crystal"`.
        classes: Width of the class layer; the class names become "0", "1", … when it differs from the published one.
        channels: Channels of the input images.

    Returns:
        The table.

    Raises:
        ValueError: Unknown name, or a number below one.

    Example:
        >>> network("mnist").layers[-1]
        Conv(kernel=1, filters=10)
        >>> network("crystal", classes=8).layers[-1]
        Dense(features=8, dropout=0.0)
    """
    if name not in NETWORKS:
        raise ValueError(f"expected a network name out of {', '.join(NETWORKS)}, got {name!r}")
    table = NETWORKS[name]
    if channels is not None:
        if channels < 1:
            raise ValueError(f"expected channels >= 1, got {channels}")
        table = dataclasses.replace(table, input_shape=(*table.input_shape[:2], channels))
    if classes is not None and classes != len(table.class_names):
        if classes < 1:
            raise ValueError(f"expected classes >= 1, got {classes}")
        width = {"filters": classes} if table.returns_class_maps else {"features": classes}
        table = dataclasses.replace(
            table,
            class_names=tuple(str(k) for k in range(classes)),
            layers=(*table.layers[:-1], dataclasses.replace(table.layers[-1], **width)),
        )
    return table


def build(name: str, *, classes: int | None = None, channels: int | None = None) -> tuple[ConvNet, Network]:
    """An untrained Flax module of a published network, and its layer table.

    Args:
        name: `"mnist"`, `"svhn"` or `"crystal"`.
        classes: Another number of classes.
        channels: Another number of input channels.

    Returns:
        The module and the table; `module.init(key, images)` gives fresh variables, `module.apply` the pure function.

    Raises:
        ValueError: Unknown name, or a number below one.

    Example:
        >>> import jax
        >>> module, table = build("mnist")
        >>> variables = module.init(jax.random.key(0), jax.numpy.zeros((1, *table.input_shape)))
        >>> module.apply(variables, jax.numpy.zeros((2, *table.input_shape))).shape
        (2, 14, 14, 10)
    """
    table = network(name, classes=classes, channels=channels)
    return ConvNet(layers=table.layers), table
