"""Maps of many images in batches of one size, for the experiments: any explanation, class responses."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxclear
from jaxclear.class_backprop import Apply
from jaxclear.inputs import as_floats
from jaxclear.trace import OnUnmatched

RULES = tuple(jaxclear.RULES)
"""Names of the rules that are compared."""


def batches(images: np.ndarray, size: int) -> Iterator[tuple[Float[jax.Array, "B H W C"], slice]]:
    """Yields images as floats in batches of one size, the last filled with its last image, and which they are."""
    size = min(size, len(images))
    for start in range(0, len(images), size):
        chosen = images[start : start + size]
        filled = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen), axis=0)])
        yield as_floats(filled), slice(start, start + len(chosen))


def mapped(
    function: Callable[..., Any], variables: Any, images: np.ndarray, *more: np.ndarray, batch_size: int = 16
) -> Any:
    """Returns what `function(variables, images, *more)` returns for all images, batch by batch, as NumPy arrays.

    Args:
        function: an explanation; each of its arrays has one row an image. Compiled here.
        variables: of the network.
        images: uint8 or float32.
        more: further arrays with one row an image.
        batch_size: images a call.
    """
    compiled = jax.jit(function)
    parts = []
    for batch, place in batches(images, batch_size):
        others = [np.resize(rows[place], (len(batch), *rows.shape[1:])) for rows in more]
        count = place.stop - place.start
        parts.append(
            jax.tree.map(lambda rows, kept=count: np.asarray(rows)[:kept], compiled(variables, batch, *others))
        )
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def class_maps_of(
    apply: Apply, *, rule: str, on_unmatched: OnUnmatched = "ignore"
) -> Callable[[Any, Float[Array, "B H W C"]], Float[Array, "B K H W"]]:
    """Returns a function `(variables, images)` to each image's response of every class, summed over channels."""
    respond = jaxclear.class_responses(apply, rule=rule, on_unmatched=on_unmatched)
    return lambda variables, images: jnp.swapaxes(respond(variables, images).sum(axis=-1), 0, 1)


def class_maps(
    apply: Apply, variables: Any, images: np.ndarray, *, rule: str, batch_size: int = 16
) -> Float[np.ndarray, "N K H W"]:
    """Returns every class's response in each image, summed over channels."""
    return mapped(class_maps_of(apply, rule=rule), variables, images, batch_size=batch_size)


def of_class(responses: Float[np.ndarray, "N K H W"], labels: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N H W"]:
    """Returns the responses of one class of each image."""
    return responses[np.arange(len(labels)), labels]
