"""How a network does on labelled images: probabilities, accuracy, loss and confusion, in batches of one size.

Array contract: images NHWC in host memory, float32 in [0, 1] or uint8 (divided by 255 on the device); labels are class
numbers. Class maps `(B, H, W, K)` are averaged over space to logits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxclear.class_backprop import scores_of
from jaxclear.inputs import as_floats

__all__ = ["Evaluation", "TrainingError", "check_classes", "checked_labels", "evaluate", "predict"]


class TrainingError(ValueError):
    """Training data or settings that do not fit, a checkpoint of another run, or a loss that is not finite."""


class Evaluation(NamedTuple):
    """How a network does on labelled images.

    Attributes:
        accuracy: Share of the images whose most probable class is the label.
        loss: Mean cross entropy, in nats.
        confusion: Counts, true class by predicted class.
        probabilities: Softmax of the logits, one row an image.
    """

    accuracy: float
    loss: float
    confusion: Int[np.ndarray, "K K"]
    probabilities: Float[np.ndarray, "N K"]


def predict(
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N *spatial C"],
    *,
    batch_size: int = 64,
) -> Float[np.ndarray, "N K"]:
    """The class probabilities of images, in batches of one size, so that one program is compiled.

    Args:
        apply: The pure function `(variables, images) -> class maps or logits`.
        variables: Its variables.
        images: float32 in [0, 1] or uint8.
        batch_size: Images a call.

    Returns:
        Softmax of the logits.

    Raises:
        TrainingError: No images, or of another dtype.
    """
    _check_images(images)
    batch = min(batch_size, len(images))
    rows = []
    for start in range(0, len(images), batch):
        chosen = images[start : start + batch]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen), axis=0)])
        rows.append(np.asarray(_probabilities(apply, variables, padded))[: len(chosen)])
    return np.concatenate(rows)


def evaluate(
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N *spatial C"],
    labels: Shaped[np.ndarray, " N"],
    *,
    batch_size: int = 64,
) -> Evaluation:
    """Accuracy, loss, confusion matrix and probabilities of a network on labelled images.

    Args:
        apply: The pure function `(variables, images) -> class maps or logits`.
        variables: Its variables.
        images: float32 in [0, 1] or uint8.
        labels: Class number of each image.
        batch_size: Images a call.

    Returns:
        The evaluation.

    Raises:
        TrainingError: Shapes, dtypes or labels that do not fit.
    """
    labels = checked_labels(images, labels)
    probabilities = predict(apply, variables, images, batch_size=batch_size)
    classes = probabilities.shape[1]
    check_classes(labels, classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    own = probabilities[np.arange(len(labels)), labels]
    return Evaluation(
        accuracy=float((predicted == labels).mean()),
        loss=float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        confusion=confusion,
        probabilities=probabilities,
    )


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(apply: Callable[..., Any], variables: Any, images: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores_of(apply(variables, as_floats(images))))


def _check_images(images: np.ndarray) -> None:
    if images.ndim < 3 or len(images) == 0:
        raise TrainingError(f"expected images (N, *spatial, C) with N >= 1, got shape {images.shape}")
    if images.dtype not in (np.float32, np.uint8):
        raise TrainingError(f"expected images of dtype float32 or uint8, got {images.dtype}")


def checked_labels(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the labels as int32 once they and the images are what this module takes.

    Raises:
        TrainingError: they are not.
    """
    _check_images(images)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise TrainingError(f"expected {len(images)} whole class numbers as labels, got {labels.dtype}{labels.shape}")
    if labels.min() < 0:
        raise TrainingError(f"expected labels >= 0, got {labels.min()}")
    return labels.astype(np.int32)


def check_classes(labels: np.ndarray, classes: int) -> None:
    """Raises TrainingError for a label that the network has no class for."""
    if labels.max() >= classes:
        raise TrainingError(f"expected labels below the network's {classes} classes, got {labels.max()}")
