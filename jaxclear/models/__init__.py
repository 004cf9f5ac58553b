"""The published networks: layer tables as data, and the weights that ship with the package."""

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxclear.models.layers import ConvNet, Layer
from jaxclear.models.networks import NETWORKS, Network, build, network
from jaxclear.models.weights import Weights, WeightsError, from_bytes
from jaxclear.models.weights import load as load_weights
from jaxclear.models.weights import save as save_weights

__all__ = [
    "NETWORKS",
    "ConvNet",
    "LoadedModel",
    "Network",
    "Weights",
    "WeightsError",
    "build",
    "load",
    "load_weights",
    "names",
    "network",
    "save_weights",
]


class LoadedModel(NamedTuple):
    """A network ready to use.

    Attributes:
        apply: The pure function `(variables, images) -> class maps or logits`; the same object at every load, so that
            a function compiled with it is compiled once.
        variables: Parameters and, where there is batch normalisation, its statistics.
        class_names: One name a class, in the order of the output's last axis.
        input_shape: Height, width and channels of one image.
        network: The layer table.
        metadata: What is known of the training: at least `sha256`; for shipped weights also `training` (accuracies and
            settings, decoded) and `commit` (of the code that trained them).
    """

    apply: Callable[[Any, Float[Array, "B H W C"]], Float[Array, "B *maps K"]]
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    network: Network
    metadata: dict[str, Any]


def names() -> tuple[str, ...]:
    """The names of the published networks, those without shipped weights included."""
    return tuple(NETWORKS)


def load(name: str, weights: Any = None, *, variant: str | None = None) -> LoadedModel:
    """A published network with the weights that ship with the package, or with those of a file.

    Args:
        name: A key of `NETWORKS`.
        weights: Path of a weights file of this network, for other weights than the shipped ones.
        variant: Which of the shipped weights, where there are several: "pristine" for the crystal network trained as
            published, on undamaged structures.

    Returns:
        The model; its variables are on JAX's default device.

    Raises:
        ValueError: Unknown name, or no weights are shipped for it.
        WeightsError: The weights file is missing, damaged, or made for another network.
    """
    table = network(name)
    like = _shapes(table.layers, table.input_shape)
    if weights is not None:
        if variant is not None:
            raise ValueError(f"expected either a weights file or a variant, got {weights!r} and {variant!r}")
        found = load_weights(weights, like)
    else:
        found = _shipped(name if variant is None else f"{name}-{variant}", like)
    return LoadedModel(
        apply=_apply(table.layers),
        variables=jax.tree.map(jnp.asarray, found.variables),
        class_names=table.class_names,
        input_shape=table.input_shape,
        network=table,
        metadata={key: _decoded(text) if key == "training" else text for key, text in found.metadata.items()},
    )


def _shipped(stem: str, like: Any) -> Weights:
    folder = resources.files("jaxclear.models") / "data"
    file = folder / f"{stem}.safetensors"
    if not file.is_file():
        name = stem.partition("-")[0]
        there = sorted(entry.name.removesuffix(".safetensors") for entry in folder.iterdir())
        raise ValueError(
            f"expected a network with shipped weights, got {stem!r}: there are {', '.join(there)}; "
            f"jaxclear.models.build({name!r}) gives an untrained one, load({name!r}, weights=FILE) another"
        )
    return from_bytes(file.read_bytes(), like, origin=str(file))


@functools.cache
def _apply(layers: tuple[Layer, ...]) -> Callable[..., Any]:
    module = ConvNet(layers=layers)

    def apply(variables: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B *maps K"]:
        return module.apply(variables, images)  # pyright: ignore[reportReturnType]

    return apply


@functools.cache
def _shapes(layers: tuple[Layer, ...], input_shape: tuple[int, int, int]) -> Any:
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(ConvNet(layers=layers).init, jax.random.key(0), images)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WeightsError(f"expected JSON in the metadata entry 'training', got {text[:60]!r}") from error
