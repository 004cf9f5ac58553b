"""What users hand in, checked before anything is compiled: what was expected, what came."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxclear.mesh_context import own_mesh


def check_apply(apply: Any) -> None:
    """Checks that `apply` can be called.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(apply, Callable):
        raise ValueError(
            f"expected a pure function apply(variables, images), got {type(apply).__name__}; for a Flax module pass "
            "its apply method"
        )


def check_image_array(images: Any) -> None:
    """Checks that images are an array, floating point, (B, *spatial, C); nothing is moved to a device.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(images, jax.Array | np.ndarray):
        raise ValueError(f"expected images as an array of shape (B, *spatial, C), got {type(images).__name__}")
    if images.ndim < 3:
        raise ValueError(
            f"expected images of shape (B, *spatial, C) with one spatial axis or more, got shape {images.shape}; "
            "a single image needs a leading batch axis: images[None]"
        )
    if 0 in images.shape:
        raise ValueError(f"expected images with at least one element along every axis, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"expected floating-point images, got {images.dtype}; scale them as in training, for example "
            "images.astype('float32') / 255"
        )
    if images.dtype.itemsize < 2:
        raise ValueError(f"expected images of 16, 32 or 64 bits a number, got {images.dtype}")


def check_images(images: Any) -> jax.Array:
    """Returns images as an array: floating point, (B, *spatial, C), finite where the values are known.

    Raises:
        ValueError: they are not.
    """
    check_image_array(images)
    array = jnp.asarray(images)
    if not isinstance(array, Tracer) and array.is_fully_addressable:
        with own_mesh(array):
            finite = _count_finite(array)
        # While something else is being traced, what is computed of a known array is not known.
        if not isinstance(finite, Tracer) and int(finite) < array.size:
            bad = array.size - int(finite)
            raise ValueError(f"expected finite images, got {bad} NaN or infinite of {array.size} values")
    return array


@jax.jit
def _count_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).sum()


def _of_any_batch(shape: tuple[int, ...], batch: int) -> str:
    """A shape whose first axis counts images, for messages: the user's batch may be worked on in parts."""
    return str(shape).replace(f"({batch},", "(B,", 1)


def check_outputs(outputs: Sequence[Any], out_tree: Any, images: Any) -> None:
    """Checks that a traced network returned class maps (B, *map, K) or logits (B, K).

    Args:
        outputs: the results, each with `shape` and `dtype`.
        out_tree: the tree structure of what the network returned.
        images: the batch.

    Raises:
        ValueError: it returned something else.
    """
    if len(outputs) != 1 or not jax.tree_util.treedef_is_leaf(out_tree):
        raise ValueError(
            f"expected apply to return one array, class maps (B, *map, K) or logits (B, K), got {out_tree}; wrap it, "
            "for example lambda variables, images: apply(variables, images)[0]"
        )
    shape = outputs[0].shape
    if len(shape) not in (2, images.ndim) or shape[0] != images.shape[0]:
        raise ValueError(
            "expected apply to return class maps (B, *map, K) or logits (B, K) for images of shape "
            f"{_of_any_batch(images.shape, images.shape[0])}, got shape {_of_any_batch(shape, images.shape[0])}"
        )
    if shape[-1] == 0:
        raise ValueError(f"expected apply to return at least one class on its last axis, got shape {shape}")
    if not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        raise ValueError(f"expected apply to return floating-point scores, got {outputs[0].dtype}")


def check_classes(classes: Sequence[int] | None, count: int, *, name: str = "classes") -> np.ndarray:
    """Returns the chosen classes (or units) as an array; all of them if None.

    Raises:
        ValueError: none is chosen, one is chosen twice or is not there.
    """
    if classes is None:
        return np.arange(count)
    chosen = np.asarray(classes)
    if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"expected {name} as a sequence of at least one whole number, got {classes!r}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise ValueError(f"expected {name} between 0 and {count - 1}, got {chosen.tolist()}")
    if len(np.unique(chosen)) != len(chosen):
        raise ValueError(f"expected {name} without repetition, got {chosen.tolist()}")
    return chosen


def check_block(block: Any, name: str) -> None:
    """Checks the number of classes or images to work on at once.

    Raises:
        ValueError: it is not None or a whole number of at least 1.
    """
    if block is not None and (isinstance(block, bool) or not isinstance(block, int | np.integer) or block < 1):
        raise ValueError(f"expected {name} to be None or a whole number of at least 1, got {block!r}")


def check_labels(labels: Any, batch: int, num_classes: int) -> jax.Array:
    """Returns the labels as (B,) int32.

    Raises:
        ValueError: they have another shape or kind, or name a class that is not there.
    """
    with jax.ensure_compile_time_eval():  # labels that are known are looked at while the images are traced, too
        array = jnp.asarray(labels)
        if array.shape != (batch,) or not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"expected labels as {batch} whole numbers, got shape {array.shape} of {array.dtype}")
        if not isinstance(array, Tracer) and (int(array.min()) < 0 or int(array.max()) >= num_classes):
            raise ValueError(f"expected labels between 0 and {num_classes - 1}, got {np.asarray(array).tolist()}")
    return array.astype(jnp.int32)


def as_floats(images: Any) -> jax.Array:
    """Returns images as an array: uint8 divided by 255, what is anything else as it is."""
    array = jnp.asarray(images)
    return array.astype(jnp.float32) / 255 if array.dtype == jnp.uint8 else array
