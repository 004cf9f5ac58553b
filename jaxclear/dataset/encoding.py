"""What is stored of an explanation: small types, one row an item; done on the device, inside the compiled program.

Of a CLEAR map: the dominant class in the smallest unsigned type (its largest value is "no class responds"), the
dominant response in float16 with one scale an item, the scores, the predicted class, and each class's share of the
pixels. Colours are made when they are looked at. Any other result is stored as it is.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxclear.clear import ClearMap
from jaxclear.inputs import as_floats

__all__ = ["Field", "check_extras", "encoded", "fields_of", "masked", "no_class", "one_item"]

RESERVED = ("commits", "failure", "finite", "item_id", "label", "valid", "zarr.json")
"""What no result can be called: a store has these itself."""
_NAME = re.compile(r"\w[\w.-]*")


class Field(NamedTuple):
    """One array of the store: its name, the shape of a row, its type, its dimensions' names."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]


def class_type(num_classes: int) -> np.dtype:
    """Returns the type of class numbers: uint8 up to 255 classes, uint16 above."""
    return np.dtype(np.uint8 if num_classes <= 255 else np.uint16)


def no_class(dtype: Any) -> int:
    """Returns the class number that stands for none: the largest of its type."""
    return int(np.iinfo(dtype).max)


def encoded(explain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], dict[str, Array]]:
    """Returns `(variables, batch) -> {name: (B, ...)}`, the explanation as it is stored, and `finite`, (B,).

    Images that come as uint8 are divided by 255 first. While it is traced it raises ValueError where the explanation
    does not return one row an item, under names that a store can have.
    """

    def stored(variables: Any, batch: Any) -> dict[str, Array]:
        length = len(jax.tree.leaves(batch)[0])
        if isinstance(batch, jax.Array):
            batch = as_floats(batch)
        rows = {name: _storable(row) for name, row in _named(explain(variables, batch)).items()}
        _check_rows(rows, length)
        finite = [
            jnp.isfinite(row).reshape(length, -1).all(axis=1)
            for row in rows.values()
            if jnp.issubdtype(row.dtype, jnp.floating)
        ]
        return {**rows, "finite": jnp.stack([jnp.ones(length, bool), *finite]).all(axis=0)}

    return stored


def _storable(row: Array) -> Array:
    """Numbers that NumPy has no type for, as bfloat16, become float32."""
    unknown = jnp.issubdtype(row.dtype, jnp.floating) and np.dtype(row.dtype).kind != "f"
    return row.astype(jnp.float32) if unknown else row


def _check_rows(rows: Mapping[str, Array], length: int) -> None:
    if not rows:
        raise ValueError("expected an explanation that returns arrays (B, ...), got none")
    for name, row in rows.items():
        _check_name("results", name, RESERVED)
        if not row.shape or row.shape[0] != length:
            raise ValueError(
                f"expected results (B, ...), one row for each of the {length} items of a batch, got {name!r} of shape "
                f"{row.shape}; move the items to the first axis"
            )


def _check_name(what: str, name: str, taken: Sequence[str]) -> None:
    if name in taken or not _NAME.fullmatch(name):
        raise ValueError(
            f"expected {what} named with letters, digits, '-', '_' and '.', other than {', '.join(taken)}, got {name!r}"
        )


def _named(result: Any, name: str = "") -> dict[str, Array]:
    """The arrays of a result by name; those of a CLEAR map encoded."""
    if isinstance(result, ClearMap):
        return _clear(result)
    if isinstance(result, Mapping):
        parts = {str(key): value for key, value in result.items()}
    elif hasattr(result, "_asdict"):
        parts = result._asdict()
    elif isinstance(result, list | tuple):
        parts = {f"{name or 'result'}_{k}": value for k, value in enumerate(result)}
    else:
        return {name or "result": jnp.asarray(result)}
    found: dict[str, Array] = {}
    for key, value in parts.items():
        for inner, array in _named(value, key).items():
            if inner in found:
                raise ValueError(f"expected results of different names, got {inner!r} twice")
            found[inner] = array
    return found


def _clear(clear: ClearMap) -> dict[str, Array]:
    count = clear.class_scores.shape[-1]
    dtype = class_type(count)
    batch = len(clear.class_scores)
    scale = jnp.abs(clear.dominant_response).reshape(batch, -1).max(axis=1)
    divisor = jnp.where(scale > 0, scale, 1).reshape(batch, *[1] * (clear.dominant_response.ndim - 1))
    classes = clear.dominant_class.reshape(batch, -1)
    share = _shares(classes, count)
    responding = (classes >= 0).any(axis=1)
    return {
        "dominant_class": jnp.where(clear.dominant_class < 0, no_class(dtype), clear.dominant_class).astype(dtype),
        "dominant_response": (clear.dominant_response / divisor).astype(jnp.float16),
        "response_scale": scale.astype(jnp.float32),
        "class_scores": clear.class_scores.astype(jnp.float32),
        "predicted_class": clear.class_scores.argmax(axis=1).astype(dtype),
        "pixel_share": share.astype(jnp.float16),
        "prevailing_class": jnp.where(responding, share.argmax(axis=1), no_class(dtype)).astype(dtype),
    }


def _shares(classes: Shaped[Array, "B pixels"], count: int) -> Float[Array, "B K"]:
    """Each class's share of the pixels of each item."""

    def one(row: Array) -> Array:
        return jnp.zeros(count + 1, jnp.int32).at[jnp.where(row < 0, count, row)].add(1)[:count]

    return jax.vmap(one)(classes) / classes.shape[1]


def fields_of(rows: Mapping[str, Any]) -> tuple[Field, ...]:
    """Returns the arrays that a batch of rows needs.

    Args:
        rows: (B, ...) each, arrays or their shapes.

    Raises:
        ValueError: a result of a type that is not stored.
    """
    found = []
    for name, row in rows.items():
        if name == "finite":
            continue
        dtype = np.dtype(row.dtype)
        if dtype.kind not in "fiub":
            raise ValueError(f"expected results of numbers, got {name!r} of {dtype}")
        shape = tuple(row.shape[1:])
        found.append(Field(name, shape, dtype.name, ("item", *_dimensions(name, shape))))
    return tuple(found)


def check_extras(names: Iterable[str], fields: Sequence[Field]) -> None:
    """Raises where what items bring along is not called otherwise than the results and the store's own arrays.

    Args:
        names: of what items bring along.
        fields: of the results.

    Raises:
        ValueError: a name that is taken, or that no array can have.
    """
    for name in names:
        _check_name("extra numbers of items", name, (*RESERVED, *(field.name for field in fields)))


def _dimensions(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    if name in ("class_scores", "pixel_share", "probabilities"):
        return ("class",)
    spatial = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}.get(len(shape))
    if name.startswith("dominant_") and spatial:
        return spatial
    return tuple(f"{name}_{k}" for k in range(len(shape)))


def masked(field: Field) -> Any:
    """Returns what stands in the row of an item that could not be used."""
    dtype = np.dtype(field.dtype)
    if field.name in ("dominant_class", "predicted_class", "prevailing_class", "verdict"):
        return no_class(dtype)
    return np.nan if dtype.kind == "f" and field.name not in ("dominant_response", "response_scale") else 0


def one_item(explain: Callable[[Any, Any], Any], variables: Any, value: Any) -> dict[str, Any]:
    """Returns the shapes of the rows of a batch of one, without computing anything."""
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), value)
    return jax.eval_shape(encoded(explain), variables, batch)
