"""Whether a fingerprint looks like any that the network has learnt: the verdict beside the class.

A network with seven outputs gives one of seven answers to a perovskite or a glass, and its softmax is above 0.9 for
most of them. The score here is the mean cosine distance of the last hidden layer's features to those of the five
nearest reference structures, which are damaged training structures. Above a threshold, below which 5 % of some damaged
structures of other classes stay, a structure is said to be outside the classes. The same file holds the temperature by
which the scores are divided before the softmax, so that a probability of 0.9 is right nine times in ten.

Source: Y. Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, for the score; C. Guo et
al., On Calibration of Modern Neural Networks, ICML 2017, for the temperature. The figures are made by
``experiments/calibrate_crystals.py``.
"""

import functools
import os
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxclear.crystals.batching import rows_for
from jaxclear.models import ConvNet, Layer, weights

if TYPE_CHECKING:
    from jaxclear.models import LoadedModel

NEIGHBOURS = 5
"""Nearest reference structures that make the score."""
_BATCH = 64


class Reference(NamedTuple):
    """What a network's answers are compared with.

    Attributes:
        features: (M, F), unit vectors, of damaged training structures.
        temperature: by which scores are divided before the softmax.
        threshold: of the score, above which a structure is outside the classes.
    """

    features: Float[Any, "M F"]
    temperature: float
    threshold: float


@functools.lru_cache(maxsize=8)
def feature_function(layers: tuple[Layer, ...]) -> Callable[[Any, Any], Float[Array, "B F"]]:
    """Returns the compiled function `(variables, images)` -> what goes into the class layer, as unit vectors.

    Args:
        layers: of a network whose class layer is dense; `LoadedModel.network.layers`.
    """
    hidden = ConvNet(layers=layers[:-1])

    def features(variables: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        found = jnp.asarray(hidden.apply(variables, images))
        return found / jnp.linalg.norm(found, axis=1, keepdims=True)

    return jax.jit(features)


@jax.jit
def distance_to_reference(features: Float[Array, "B F"], reference: Float[Array, "M F"]) -> Float[Array, " B"]:
    """The mean cosine distance, 0 to 2, to the `NEIGHBOURS` nearest of the reference.

    Args:
        features: unit vectors.
        reference: unit vectors, at least `NEIGHBOURS`.
    """
    similarity = jnp.matmul(features, reference.T, precision=jax.lax.Precision.HIGHEST)
    return 1 - jax.lax.top_k(similarity, NEIGHBOURS)[0].mean(axis=1)


def features_of(model: "LoadedModel", images: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N F"]:
    """The features of images, unit vectors, in batches of few sizes."""
    function = feature_function(model.network.layers)
    rows = []
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        missing = rows_for(len(part), _BATCH) - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
        rows.append(np.asarray(function(model.variables, filled))[: len(part)])
    return np.concatenate(rows)


def outside_scores(
    model: "LoadedModel", images: Float[np.ndarray, "N H W C"], reference: Reference | None
) -> Float[np.ndarray, " N"]:
    """How far each image is from what the network has learnt, 0 to 2; NaN without a reference."""
    return (
        np.full(len(images), np.nan) if reference is None else scores_of_features(features_of(model, images), reference)
    )


def scores_of_features(features: Float[np.ndarray, "N F"], reference: Reference | None) -> Float[np.ndarray, " N"]:
    """The same of features, unit vectors."""
    if reference is None:
        return np.full(len(features), np.nan)
    parts = np.array_split(features, -(-len(features) // 1024))
    return np.concatenate([np.asarray(distance_to_reference(part, reference.features)) for part in parts])


def calibrated(scores: Float[np.ndarray, "N K"], temperature: float) -> Float[np.ndarray, "N K"]:
    """Class probabilities: softmax of scores divided by a temperature."""
    shares = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def save(path: str | os.PathLike[str], reference: Reference, model: "LoadedModel", summary: str) -> str:
    """The SHA-256 of the file that this writes; the reference belongs to the weights of `model` alone.

    Args:
        path: file to write.
        reference: to keep; its features are stored in half precision.
        model: whose features they are.
        summary: JSON that says how they were made.
    """
    metadata = {
        "network": model.metadata["sha256"],
        "temperature": repr(reference.temperature),
        "threshold": repr(reference.threshold),
        "training": summary,
    }
    return weights.save(path, {"features": np.asarray(reference.features, np.float16)}, metadata)


@functools.cache
def _shipped() -> weights.Weights | None:
    file = resources.files("jaxclear.models") / "data" / "crystal-reference.safetensors"
    return weights.from_bytes(file.read_bytes(), None, origin=str(file)) if file.is_file() else None


@functools.lru_cache(maxsize=8)
def reference_for(sha256: str | None) -> Reference | None:
    """The shipped reference of the network with these weights, or None where none was made for it."""
    found = _shipped()
    if found is None or found.metadata["network"] != sha256:
        return None
    features = jnp.asarray(found.variables["features"], jnp.float32)
    features = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    return Reference(features, float(found.metadata["temperature"]), float(found.metadata["threshold"]))
