"""The published networks as data: layer tables that `jaxclear.models.layers.ConvNet` builds.

Array contract: float32 images in [0, 1], NHWC. Networks whose last layer is a convolution (all but `crystal`) return
class maps `(B, H', W', K)`: global average pooling and softmax are *not* part of them, the logits are the spatial
mean of the class maps (`jaxclear.class_backprop.scores_of`). `crystal` ends in a dense layer and returns logits
`(B, K)`.

`mnist`, `svhn` and `crystal` are the thesis's tables. Of the medical networks the text says what follows, and no
channel counts or sizes; those are this project's choice, small enough to train without an accelerator:

- `lung` (figure 4.1): four cells of three blocks of convolution, batch normalisation, dropout and ReLU; max-pooling
  after each cell; channels grow; one kernel size in cells 1 to 3; the last cell ends in two 1x1 convolutions, the
  second of which has one kernel a class. Chosen here: channels 16, 32, 64, 128; kernel 3x3; no pooling after the
  class layer.
- `retinopathy` (figure 5.7): convolutions, max-pooling, global average pooling. Chosen here: the rest.
- `anatomy-shallow`, `anatomy-deep` (figure 3.7; the third network of the study is the deep one trained with
  augmentation): three networks of growing capacity. Chosen here: the rest.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo 2020, tables 3.1,
5.1 and 5.2, figures 3.7, 4.1 and 5.7; A. Ziletti et al., Nat. Commun. 9, 2775 (2018).
"""

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

from jaxclear.models.layers import BatchNorm, Conv, ConvNet, Dense, Dropout, Layer, MaxPool, Relu

__all__ = ["GRADES", "NETWORKS", "Network", "build", "network"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """One published network: its layer table, what goes in and what comes out.

    Attributes:
        name: The name that `build` and `jaxclear.models.load` take.
        source: Table or figure of the thesis.
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
GRADES = ("negative", "mild", "moderate", "severe", "proliferative")
"""Of diabetic retinopathy, 0 to 4."""


def _cell(channels: int) -> tuple[Layer, ...]:
    """An interpretable sequencing cell of figure 4.1."""
    return (Conv(3, channels, relu=False), BatchNorm(), Dropout(0.25), Relu()) * 3


def _fully_convolutional(channels: tuple[int, ...], depth: int, classes: int) -> tuple[Layer, ...]:
    """`depth` 3x3 convolutions of each width, max-pooling between the widths, and a class layer."""
    stages = [(*[Conv(3, width)] * depth, MaxPool(2, 2)) for width in channels]
    return (*[layer for stage in stages for layer in stage][:-1], Conv(1, classes))


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
            Network(
                name="lung",
                source="figure 4.1",
                input_shape=(96, 96, 1),
                class_names=("benign", "malignant"),
                layers=(
                    *[*_cell(16), MaxPool(2, 2)],
                    *[*_cell(32), MaxPool(2, 2)],
                    *[*_cell(64), MaxPool(2, 2)],
                    *_cell(128)[:-4],
                    *[Conv(1, 128, relu=False), BatchNorm(), Dropout(0.25), Relu()],
                    Conv(1, 2),
                ),
            ),
            Network(
                name="retinopathy",
                source="figure 5.7",
                input_shape=(256, 256, 3),
                class_names=GRADES,
                layers=_fully_convolutional((16, 32, 64, 96, 128), 1, len(GRADES)),
            ),
            Network(
                name="anatomy-shallow",
                source="figure 3.7",
                input_shape=(224, 224, 1),
                class_names=tuple(str(k) for k in range(24)),
                layers=_fully_convolutional((16, 32, 64), 1, 24),
            ),
            Network(
                name="anatomy-deep",
                source="figure 3.7",
                input_shape=(224, 224, 1),
                class_names=tuple(str(k) for k in range(24)),
                layers=_fully_convolutional((16, 32, 48, 64, 96), 2, 24),
            ),
        )
    }
)


def network(name: str, *, classes: int | None = None, channels: int | None = None) -> Network:
    """The layer table of a published network, with another number of classes or input channels if asked.

    Args:
        name: A key of `NETWORKS`.
        classes: Width of the class layer; the class names become "0", "1", … when it differs from the published one.
        channels: Channels of the input images.

    Returns:
        The table.

    Raises:
        ValueError: Unknown name, or a number below one.

    Example:
        >>> network("mnist").layers[-1].filters
        10
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
        name: A key of `NETWORKS`.
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
