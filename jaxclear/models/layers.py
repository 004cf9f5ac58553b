"""The layers that the published networks are made of, and the one Flax module that builds a table of them.

Array contract: float32 images in [0, 1], NHWC.

What the tables of the thesis do not print, decided here:

- Padding is SAME and the convolution stride 1: the authors' public code of the crystal network says so
  (ai4materials, `cnn_nature_comm_ziletti2018`); for the others it is this project's choice.
- A ReLU follows every convolution and dense layer but the last one, the class layer.
- "Fully connected layer + dropout": the dropout acts on the layer's *input*, and batch normalisation comes after its
  ReLU, both as in the authors' code. At inference dropout is off and its place makes no difference.
- Initial kernels are orthogonal, batch-norm has momentum 0.99 and epsilon 1e-3 (the authors' code and the defaults of
  the Keras version it was written for); biases start at zero.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxclear.pooling import max_pool

__all__ = ["BatchNorm", "Conv", "ConvNet", "Dense", "Dropout", "Layer", "MaxPool", "Relu"]


@dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel, SAME padding and a bias; ReLU unless it is the class layer or told not to."""

    kernel: int
    filters: int
    stride: int = 1
    relu: bool = True


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


@dataclass(frozen=True)
class Dropout:
    """Dropout of single activations, in training."""

    rate: float


@dataclass(frozen=True)
class Relu:
    """A ReLU of its own, for one that does not follow its convolution at once."""


Layer = Conv | MaxPool | Dense | BatchNorm | Dropout | Relu


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
            own = isinstance(layer, Dense) or (isinstance(layer, Conv) and layer.relu)
            if isinstance(layer, Relu) or (own and index < len(self.layers) - 1):
                features = nn.relu(features)
        return features


def _forward(layer: Layer, features: jax.Array, train: bool) -> jax.Array:
    orthogonal = nn.initializers.orthogonal()
    if isinstance(layer, Conv):
        kernel, strides = (layer.kernel, layer.kernel), (layer.stride, layer.stride)
        return nn.Conv(layer.filters, kernel, strides, kernel_init=orthogonal)(features)
    if isinstance(layer, MaxPool):
        if train:
            return max_pool(features, layer.window, layer.stride)
        return nn.max_pool(features, (layer.window, layer.window), (layer.stride, layer.stride))
    if isinstance(layer, BatchNorm):
        return nn.BatchNorm(use_running_average=not train, momentum=layer.momentum, epsilon=layer.epsilon)(features)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.rate, deterministic=not train)(features)
    if isinstance(layer, Relu):
        return features
    if isinstance(layer, Dense):
        features = features.reshape(features.shape[0], -1)
        if layer.dropout > 0:
            features = nn.Dropout(layer.dropout, deterministic=not train)(features)
        return nn.Dense(layer.features, kernel_init=orthogonal)(features)
    raise TypeError(
        f"expected a layer of type Conv, MaxPool, Dense, BatchNorm, Dropout or Relu, got {type(layer).__name__}"
    )
