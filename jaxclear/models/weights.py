"""Weights files: safetensors (no pickle), flat tensor names, and a SHA-256 that is verified on every load.

Names are the path in the variables, `params/Conv_0/kernel`. The digest covers the metadata and every tensor's name,
dtype, shape and bytes, so a flipped bit anywhere is noticed, in a class name as in a kernel.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

__all__ = ["Weights", "WeightsError", "from_bytes", "load", "save"]

_CHECKSUM = "sha256"
_SHOWN = 5


class WeightsError(ValueError):
    """A weights file that is missing, damaged, or made for another network."""


class Weights(NamedTuple):
    """What a weights file holds.

    Attributes:
        variables: Nested dictionaries of NumPy arrays, as Flax takes them.
        metadata: What was saved beside them, and `sha256`.
    """

    variables: dict[str, Any]
    metadata: dict[str, str]


def save(path: str | os.PathLike[str], variables: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> str:
    """The SHA-256 of the weights file that this writes, all at once or not at all.

    Args:
        path: File to write; replaced if it is there.
        variables: Nested mappings of arrays.
        metadata: Text by name; `sha256` is taken.

    Returns:
        The digest, 64 hexadecimal digits.

    Raises:
        ValueError: A name with a slash, a value that is not an array, no arrays, or metadata that is not text.
    """
    tensors = dict(_flatten(variables))
    if not tensors:
        raise ValueError("expected variables with at least one array, got none")
    notes = dict(metadata or {})
    wrong = [name for name, text in notes.items() if not isinstance(text, str) or name == _CHECKSUM]
    if wrong:
        raise ValueError(f"expected metadata of text by name, without {_CHECKSUM!r}, got {wrong[0]!r}")
    notes[_CHECKSUM] = _digest(tensors, notes)
    path = Path(path)
    # A crash while writing must not leave half a file under the real name.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(safetensors.numpy.save(tensors, notes))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return notes[_CHECKSUM]


def load(path: str | os.PathLike[str], like: Mapping[str, Any] | None = None) -> Weights:
    """Variables and metadata of a weights file, verified.

    Args:
        path: A file that `save` wrote.
        like: Variables, or their `jax.eval_shape`, whose names, shapes and dtypes the file must have.

    Returns:
        The weights.

    Raises:
        WeightsError: No such file, not a whole safetensors file, no checksum or a wrong one, or the weights of another
            network than `like` (the first differences are listed).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"expected a weights file at {os.fspath(path)!r}, got {error.strerror or error}") from error
    return from_bytes(data, like, origin=os.fspath(path))


def from_bytes(data: bytes, like: Mapping[str, Any] | None = None, *, origin: str = "bytes") -> Weights:
    """Variables and metadata of a weights file's content, verified.

    Args:
        data: The whole content.
        like: Variables whose names, shapes and dtypes it must have.
        origin: Where it comes from, for messages.

    Returns:
        The weights.

    Raises:
        WeightsError: As `load`.
    """
    try:
        tensors = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        notes = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"expected a whole safetensors file, got {len(data)} bytes that are truncated, damaged or of another "
            f"format in {origin!r} ({error})"
        ) from error
    expected = notes.get(_CHECKSUM)
    if expected is None:
        raise WeightsError(
            f"expected a {_CHECKSUM!r} entry in the metadata, got none in {origin!r}: not written by jaxclear"
        )
    actual = _digest(tensors, {name: text for name, text in notes.items() if name != _CHECKSUM})
    if actual != expected:
        raise WeightsError(f"expected SHA-256 {expected}, got {actual}: {origin!r} is damaged")
    if like is not None:
        _check_like(tensors, dict(_signatures(like)), origin)
    return Weights(_unflatten(tensors), notes)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in _leaves(tree, prefix):
        try:
            array = np.array(value, order="C")  # a copy: safetensors writes the raw buffer, whatever its strides
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected an array at {name!r}, got {type(value).__name__}") from error
        if array.dtype.kind not in "fiub":
            raise ValueError(f"expected an array of numbers at {name!r}, got dtype {array.dtype}")
        yield name, array.astype(array.dtype.newbyteorder("="), copy=False)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in sorted(tree):
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"expected names that are non-empty text without '/', got {key!r}")
        value = tree[key]
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name in sorted(tensors):
        *parents, leaf = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = tensors[name]
    return tree


def _digest(tensors: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(notes), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _signatures(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in _leaves(tree):
        yield name, _signature(value)


def _signature(array: Any) -> str:
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _check_like(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, str], origin: str) -> None:
    found = {name: _signature(array) for name, array in tensors.items()}
    differences = [
        f"{name}: expected {wanted.get(name, 'nothing')}, got {found.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise WeightsError(
            f"expected weights of the given network, got others in {origin!r}: {'; '.join(differences[:_SHOWN])}{more}"
        )
