"""Sources: anything with `__len__` and `__getitem__`, and the items that come out of it.

An item is an array, a pair (array, label), a mapping with "image" (and "label", "id"), as Grain and TensorFlow Datasets
give it, or an `Item`. Whatever an item raises when it is read becomes a `Failure`, never the end of a run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from jaxclear.file_tree import FileTree
from jaxclear.image_files import eight_bits

__all__ = ["ArraySource", "Failure", "ImageFiles", "Item", "Source", "identity", "read", "signature", "source_of"]

NO_LABEL = -1
_SAMPLES = 16
_LARGEST_LABEL = 2**31 - 1


class Item(NamedTuple):
    """One item of a source.

    Attributes:
        value: what the explanation takes a batch of: an array, or a tree of arrays; all without the batch axis.
        label: its class, -1 where it has none.
        id: its name; its index in the source by default.
        extra: numbers that are stored beside the result, an array or scalar each.
    """

    value: Any
    label: int = NO_LABEL
    id: str | None = None
    extra: Mapping[str, Any] = {}


class Failure(NamedTuple):
    """An item that could not be used, and why."""

    id: str
    reason: str


@runtime_checkable
class Source(Protocol):
    """What can be explained: it knows its length and gives each item for itself, in any order."""

    def __len__(self) -> int:
        """The number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One item."""
        ...


def read(source: Source, index: int) -> Item | Failure:
    """Returns one item with its arrays on the host, or why it cannot be used."""
    name = str(index)
    try:
        naming = getattr(source, "name", None)
        if callable(naming):
            name = _unicode(str(naming(index)))
        item = _as_item(source[index], name)
        value = jax.tree.map(_host_array, item.value)
        leaves = jax.tree.leaves(value)
        if not leaves:
            raise ValueError(f"expected arrays of numbers, got {item.value!r}")
        for leaf in leaves:
            _check(leaf)
        label = int(item.label)
        if not NO_LABEL <= label <= _LARGEST_LABEL:
            raise ValueError(f"expected a label from 0 to {_LARGEST_LABEL}, or -1 for none, got {label}")
        return item._replace(value=value, label=label, id=_unicode(str(item.id)))
    except Exception as error:  # whatever a reader raises belongs to its item
        reason = _unicode(" ".join(str(error).split()))
        return Failure(name, f"{type(error).__name__}: {reason}" if reason else type(error).__name__)


def signature(value: Any) -> Any:
    """Returns what a compiled program depends on: the tree of a value, its shapes and types."""
    leaves, tree = jax.tree.flatten(value)
    return tree, tuple((leaf.shape, leaf.dtype.str) for leaf in leaves)


def identity(source: Source) -> dict[str, Any]:
    """Returns what tells one source from another: its length, and its own `identity()` or the digests of 16 items.

    Without a source's own identity a change of an item that is not among the 16 goes unnoticed.
    """
    count = len(source)
    own = getattr(source, "identity", None)
    if callable(own):
        found = own()
        return {"items": count, **(found if isinstance(found, dict) else {"identity": str(found)})}
    chosen = sorted({round(k * (count - 1) / max(_SAMPLES - 1, 1)) for k in range(_SAMPLES)}) if count else []
    return {"items": count, "samples": {str(index): _digest(read(source, index)) for index in chosen}}


def _unicode(text: str) -> str:
    """The text with a question mark for each byte of a file's name that is no text."""
    return text.encode("utf-8", "replace").decode()


def _as_item(raw: Any, name: str) -> Item:
    if isinstance(raw, Item):
        return raw if raw.id is not None else raw._replace(id=name)
    if isinstance(raw, Mapping):
        if "image" not in raw:
            raise ValueError(f"expected a mapping with 'image', got {sorted(map(str, raw))}")
        raw = Item(raw["image"], raw.get("label", NO_LABEL), raw.get("id"))
    elif type(raw) is tuple and len(raw) == 2:
        raw = Item(*raw)
    else:
        raw = Item(raw)
    identifier = raw.id.decode() if isinstance(raw.id, bytes) else raw.id
    return raw._replace(id=name if identifier is None else str(identifier))


def _host_array(leaf: Any) -> np.ndarray:
    """The leaf on the host, in the type that JAX has for it: float32 for float64 unless 64 bits are enabled."""
    if hasattr(leaf, "getbands"):  # an image of Pillow, as data sets of Hugging Face give them
        return eight_bits(leaf)
    array = np.asarray(leaf)
    return (
        array if array.dtype.kind not in "fiu" else array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    )


def _check(leaf: np.ndarray) -> None:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    if not floating and leaf.dtype.kind not in "iub":
        raise ValueError(f"expected arrays of numbers, got {leaf.dtype}")
    if floating and not np.isfinite(leaf).all():
        raise ValueError("expected finite values, got NaN or infinity")


def _digest(item: Item | Failure) -> str | None:
    """A digest of an item's arrays; None where it cannot be read, which a later reading may mend."""
    if isinstance(item, Failure):
        return None
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(item.value):
        digest.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class ArraySource:
    """Images in memory or memory-mapped, with labels and names where there are any."""

    def __init__(
        self,
        images: Shaped[np.ndarray, "N ..."],
        labels: Int[np.ndarray, " N"] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        if not images.shape:
            raise ValueError("expected images (N, ...), got a single number")
        for values, what in ((labels, "labels"), (ids, "ids")):
            if values is not None and len(values) != len(images):
                raise ValueError(f"expected {len(images)} {what}, one an image, got {len(values)}")
        self._images, self._labels, self._ids = images, labels, ids

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        label = NO_LABEL if self._labels is None else int(self._labels[index])
        return Item(self._images[index], label, self.name(index))

    def name(self, index: int) -> str:
        """The name of an item."""
        return str(index) if self._ids is None else str(self._ids[index])

    def identity(self) -> dict[str, str]:
        """Digests of all images, and of labels and names."""
        pixels, others = hashlib.sha256(), hashlib.sha256()
        for start in range(0, len(self._images), 1024):
            pixels.update(np.ascontiguousarray(self._images[start : start + 1024]).tobytes())
        others.update(repr((None if self._labels is None else np.asarray(self._labels).tolist(), self._ids)).encode())
        return {"images": pixels.hexdigest(), "labels": others.hexdigest()}


class ImageFiles:
    """The image files of a folder or an archive, brought to one shape; a sub-folder named after a class labels its own.

    Args:
        path: of a folder, a zip or tar archive, or one image file.
        channels: 1 or 3.
        input_shape: to resize to; None keeps the sizes.
        class_names: of the classes, which the names of sub-folders are looked up in.

    Raises:
        ValueError: no such path, or a damaged archive.
    """

    reading = "threads"

    def __init__(
        self,
        path: str | Path,
        *,
        channels: int = 3,
        input_shape: tuple[int, int, int] | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self._tree, self._channels, self._shape = FileTree(path), channels, input_shape
        self._classes = {name: k for k, name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self._tree.names)

    def __getitem__(self, index: int) -> Item:
        from jaxclear.image_files import read_image

        name = self._tree.names[index]
        with self._tree.located(name) as path:
            image = read_image(str(path), self._channels, self._shape)
        return Item(image, label_of(name, self._classes), name)

    def name(self, index: int) -> str:
        """The file's path in the folder or archive."""
        return self._tree.names[index]

    def identity(self) -> dict[str, str]:
        """Digests of names, sizes and content of the files, the shape, and the version of what reads them."""
        found = digests(names=self._tree.names, sizes=self._tree.sizes)
        settings = {"contents": self._tree.content_digest(), "shape": str((self._shape, self._channels))}
        return found | settings | versions_of("pillow")


def digests(**columns: Sequence[Any]) -> dict[str, str]:
    """Returns a digest of each column, one text a line."""
    return {
        name: hashlib.sha256("\n".join(map(str, column)).encode("utf-8", "surrogateescape")).hexdigest()
        for name, column in columns.items()
    }


def versions_of(*packages: str) -> dict[str, str]:
    """Returns the versions of installed packages, by their names."""
    return {package: metadata.version(package) for package in packages}


def source_of(source: Any) -> Source:
    """Returns arrays as a source: images, or the pair (images, labels); anything else as it is.

    Raises:
        ValueError: what has no length or no items, or a mapping of columns.
    """
    if isinstance(source, np.ndarray | jax.Array):
        return ArraySource(np.asarray(source))
    if type(source) is tuple and len(source) == 2 and all(isinstance(part, np.ndarray | jax.Array) for part in source):
        images, labels = map(np.asarray, source)
        return ArraySource(images, labels)
    if isinstance(source, Mapping):
        raise ValueError(
            f"expected a source with __len__ and __getitem__, got columns {', '.join(map(str, source))}; wrap them in "
            "jaxclear.data.as_source"
        )
    if not isinstance(source, Source):
        raise ValueError(f"expected a source with __len__ and __getitem__, got {type(source).__name__}")
    try:
        len(source)
    except Exception as error:  # whatever a user's class raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected a source that knows its length, got {type(source).__name__}: {reason}") from error
    return source


def label_of(file: str, classes: Mapping[str, int]) -> int:
    """Returns the class that a folder on the way to a file is named after, the nearest one; -1 for none.

    Example:
        >>> label_of("some/hex_rh/Mg.cif", {"fcc": 0, "hex/rh": 1})
        1
    """
    # No folder can have a slash in its name.
    named_after = {name.replace("/", "_"): label for name, label in classes.items()}
    return next((named_after[part] for part in reversed(Path(file).parts[:-1]) if part in named_after), NO_LABEL)
