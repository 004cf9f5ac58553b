"""Labelled images as random-access sources: `{"image": uint8 (H, W, C), "label": int, "id": str}` an item.

A source knows its length and gives each item for itself, in any order; `jaxclear.explain_dataset` takes it as it is.
What comes from elsewhere (`tfds.data_source`, a Hugging Face data set, arrays) becomes such a source by `as_source`;
whatever takes a source here does that by itself, unless the keys of its rows have to be named.
"""

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from jaxclear.data.pixels import DataError, pixels
from jaxclear.dataset.loading import items
from jaxclear.dataset.sources import NO_LABEL, Failure, Item, Source, read
from jaxclear.inputs import as_floats

__all__ = [
    "DataError",
    "Holdout",
    "ImageSource",
    "LabelledImage",
    "LabelledImages",
    "Prepared",
    "Subset",
    "as_source",
    "check_complete",
    "gather",
    "holdout",
    "index_in",
    "labels_of",
    "pixels",
    "unit_range",
]

_SHOWN = 5


class LabelledImage(TypedDict):
    """An item: image uint8 (H, W, C), its class, and its name."""

    image: UInt8[np.ndarray, "H W C"]
    label: int
    id: str


class LabelledImages(NamedTuple):
    """The items of a source in memory.

    Attributes:
        images: (N, H, W, C), uint8 unless the source was prepared otherwise.
        labels: class of each.
        ids: name of each.
        failures: name and reason of each item that could not be read, and is not among the images.
    """

    images: Shaped[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]


class Holdout(NamedTuple):
    """Two sources without an item, or a group of items, in common."""

    train: "Subset"
    test: "Subset"


class ImageSource:
    """A source of another library, or columns, with items of this package's form."""

    def __init__(self, rows: Source, *, image: str = "image", label: str = "label", identifier: str = "id") -> None:
        self.rows = rows
        self._image, self._label, self._id = image, label, identifier

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LabelledImage:
        row = self.rows[index_in(self, index)]
        if isinstance(row, Mapping):
            missing = [key for key in (self._image, self._label) if key not in row]
            if missing:
                raise DataError(
                    f"item {index}: expected {missing} in it, got {sorted(map(str, row))}; name the keys, as in "
                    'as_source(source, image="img", label="digit")'
                )
            image, label, name = row[self._image], row[self._label], row.get(self._id, index)
        elif isinstance(row, tuple) and len(row) == 2:
            (image, label), name = row, index
        else:
            raise DataError(f"item {index}: expected a mapping or a pair (image, label), got {type(row).__name__}")
        name = name.decode() if isinstance(name, bytes) else str(name)
        return {"image": pixels(image, f"item {index}"), "label": _class_number(label, index), "id": name}


def as_source(
    source: Any, *, image: str = "image", label: str = "label", identifier: str = "id"
) -> "ImageSource | Source":
    """Returns a source of `{"image": uint8 (H, W, C), "label": int, "id": str}` for whatever holds labelled images.

    Args:
        source: anything with `__len__` and `__getitem__` that gives mappings (`tfds.data_source`, a Hugging Face
            data set, whose images may be Pillow images) or pairs (image, label); a mapping of columns, as
            `{"image": (N, H, W, C), "label": (N,)}`; or a pair of arrays (images, labels). Images are uint8, with or
            without an axis of channels where there is one.
        image: key of the image.
        label: key of the class.
        identifier: key of the name; the index is the name where there is none.

    Returns:
        The source; items are checked when they are read.

    Raises:
        DataError: no source, or columns of different lengths.

    Example:
        >>> images, labels = np.zeros((3, 28, 28), np.uint8), np.array([7, 2, 1])
        >>> as_source((images, labels))[1]["image"].shape
        (28, 28, 1)
    """
    if isinstance(source, tuple) and len(source) == 2:
        source = {image: source[0], label: source[1]}
    if isinstance(source, Mapping):
        missing = [key for key in (image, label) if key not in source]
        if missing:
            raise DataError(f"expected the columns {[image, label]}, got {sorted(map(str, source))}")
        source = _Columns({key: source[key] for key in (image, label, identifier) if key in source})
    if not isinstance(source, Source):
        raise DataError(
            f"expected a source with __len__ and __getitem__, columns or a pair of arrays, got {type(source).__name__}"
        )
    return ImageSource(source, image=image, label=label, identifier=identifier)


def _adopted(source: Any) -> Source:
    """A source with items of this package's form: the given one where it has them, or else by `as_source`."""
    arrays = isinstance(source, tuple) and not any(isinstance(part, tuple | Mapping) for part in source)
    if isinstance(source, Mapping) or arrays or not isinstance(source, Source):
        return as_source(source)
    if isinstance(source, ImageSource) or callable(getattr(source, "name", None)) or hasattr(source, "reading"):
        return source
    try:
        first = source[0]
    except Exception:  # whatever a reader raises belongs to its item, and is said when that is read
        return as_source(source)
    image = first.get("image") if isinstance(first, Mapping) else None
    ready = isinstance(image, np.ndarray) and image.ndim == 3 and "label" in first
    return source if ready or isinstance(first, Item) else as_source(source)


class _Columns:
    """Columns of one length, read row by row."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        lengths = {key: len(column) for key, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"expected columns of one length, got {lengths}")
        self._columns, self._length = columns, next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: column[index] for key, column in self._columns.items()}


class Prepared:
    """A source whose images go through a function, on the host and one by one: what its network was trained on."""

    def __init__(self, source: Source, function: Callable[[Any], Any]) -> None:
        self.source, self._function = _adopted(source), function
        self.reading = getattr(source, "reading", "serial")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.source[index]
        return {**item, "image": self._function(item["image"])}

    def name(self, index: int) -> str:
        """The name of an item."""
        return _name(self.source, index)

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """The class of each item."""
        return labels_of(self.source)


class Subset:
    """Chosen items of a source, in the order of their indices."""

    def __init__(self, source: Source, indices: Sequence[int] | Int[np.ndarray, " M"]) -> None:
        self.source, self.indices = _adopted(source), np.asarray(indices, np.int64)
        if self.indices.ndim != 1 or (
            len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < len(self.source)
        ):
            raise DataError(f"expected indices from 0 to {len(self.source) - 1}, got {self.indices.tolist()[:_SHOWN]}")
        self.reading = getattr(source, "reading", "serial")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.indices[index_in(self, index)]]

    def name(self, index: int) -> str:
        """The name of an item."""
        return _name(self.source, int(self.indices[index]))

    @property
    def labels(self) -> Int[np.ndarray, " M"]:
        """The class of each item."""
        return labels_of(self.source)[self.indices]


def holdout(source: Source, share: float, *, seed: int = 0, groups: Sequence[Hashable] | None = None) -> Holdout:
    """Returns a source cut in two at random, so that no group (a patient, a nodule) is on both sides.

    The groups are put in a random order and go to the test part until it has its share of the items.

    Args:
        source: what to cut; anything that `as_source` takes.
        share: share of the items for the test part, between 0 and 1.
        seed: of the order.
        groups: one key an item; by default the source's own `groups` (patients), or else each item for itself.

    Raises:
        DataError: a share that leaves one part empty, or another number of groups than of items.
    """
    own = getattr(source, "groups", None)
    source = _adopted(source)
    keys = next((given for given in (groups, own) if given is not None), range(len(source)))
    if len(keys) != len(source):
        raise DataError(f"expected {len(source)} groups, one an item, got {len(keys)}")
    numbers: dict[Hashable, int] = {}
    of_item = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    order = np.random.default_rng(seed).permutation(len(numbers))
    sizes = np.bincount(of_item, minlength=len(numbers))[order]
    before = np.cumsum(sizes) - sizes
    chosen = np.isin(of_item, order[before < round(share * len(source))])
    if not 0 < share < 1 or chosen.all() or not chosen.any():
        raise DataError(
            f"expected a share between 0 and 1 that leaves items on both sides, got {share} of {len(source)} items "
            f"in {len(numbers)} groups"
        )
    return Holdout(Subset(source, np.flatnonzero(~chosen)), Subset(source, np.flatnonzero(chosen)))


def gather(
    source: Source,
    *,
    on_error: str = "raise",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledImages:
    """Returns the images of a source in one array, as `jaxclear.training.fit` takes them.

    Args:
        source: images of one shape; anything that `as_source` takes.
        on_error: "raise", or "record" to leave out what cannot be read and to say so in the result.
        workers: threads or processes that read ahead, where the source allows it; by default as many as there are
            cores.
        progress: called with the number of items read and of all.

    Raises:
        DataError: an item that cannot be read, images of different shapes, or none at all.
    """
    if on_error not in ("raise", "record"):
        raise DataError(f"expected on_error 'raise' or 'record', got {on_error!r}")
    source = _adopted(source)
    images = np.empty((0,))
    labels: list[int] = []
    ids: list[str] = []
    failures: list[Failure] = []
    with items(source, range(len(source)), workers) as found:
        for number, item in enumerate(found, start=1):
            if isinstance(item, Failure):
                if on_error == "raise":
                    raise DataError(f"item {item.id} cannot be used: {item.reason}")
                failures.append(item)
            else:
                if not ids:
                    images = np.empty((len(source), *item.value.shape), item.value.dtype)
                if (item.value.shape, item.value.dtype) != (images.shape[1:], images.dtype):
                    raise DataError(
                        f"expected images of one shape and type, got {images.shape[1:]} {images.dtype} ({ids[0]}) and "
                        f"{item.value.shape} {item.value.dtype} ({item.id}); give the source a size"
                    )
                images[len(ids)] = item.value
                labels.append(item.label)
                ids.append(str(item.id))
            if progress is not None:
                progress(number, len(source))
    if not ids:
        raise DataError(f"expected at least one image, got none of {len(source)} items" + _listing(failures))
    return LabelledImages(images[: len(ids)], np.array(labels, np.int32), tuple(ids), tuple(failures))


def labels_of(source: Source) -> Int[np.ndarray, " N"]:
    """Returns the class of each item; sources that know them without reading an image are not read.

    Args:
        source: anything that `as_source` takes.

    Raises:
        DataError: an item that cannot be read, or has no label.
    """
    known = getattr(source, "labels", None)
    if known is not None:
        return np.asarray(known)
    source = _adopted(source)
    found = [read(source, index) for index in range(len(source))]
    for item in found:
        if isinstance(item, Failure) or item.label == NO_LABEL:
            raise DataError(f"item {item.id}: {getattr(item, 'reason', 'expected a label, got none')}")
    return np.array([cast(Item, item).label for item in found])


def unit_range(images: Shaped[Any, "*batch H W C"]) -> Float[jax.Array, "*batch H W C"]:
    """Returns 8-bit images as float32 in [0, 1]: divided by 255, nothing else.

    The preprocessing of MNIST, SVHN and ImageCLEF, in training (`jaxclear.training.fit` does the same to uint8 images)
    and in explanation.

    Raises:
        DataError: images that are not uint8.
    """
    array = jnp.asarray(images)
    if array.dtype != jnp.uint8:
        raise DataError(f"expected uint8 images, got {array.dtype}; they may have been scaled before")
    return as_floats(array)


def check_complete(failures: Sequence[Failure], incomplete: str, where: str) -> tuple[Failure, ...]:
    """Returns what is missing, where that is to be recorded.

    Args:
        failures: name and reason of each item that is missing.
        incomplete: "error" or "record".
        where: the data set's place, for the message.

    Raises:
        DataError: something is missing and is not to be recorded, or an unknown `incomplete`.
    """
    if incomplete not in ("error", "record"):
        raise DataError(f"expected incomplete 'error' or 'record', got {incomplete!r}")
    if failures and incomplete == "error":
        raise DataError(
            f"{where}: {len(failures)} of its parts cannot be used{_listing(failures)}; complete the data, or pass "
            "incomplete='record' to go on without them"
        )
    return tuple(failures)


def _listing(failures: Sequence[Failure]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in failures[:_SHOWN])
    return f" ({shown}{', …' if len(failures) > _SHOWN else ''})" if failures else ""


def index_in(source: Source, index: int) -> int:
    """Returns an index of a source as it is counted from its start.

    Raises:
        IndexError: it is outside; what iteration ends with.
    """
    number, count = operator.index(index), len(source)
    if not -count <= number < count:
        raise IndexError(f"expected an index below {count}, got {number}")
    return number % count


def _name(source: Source, index: int) -> str:
    naming = getattr(source, "name", None)
    return str(naming(index)) if callable(naming) else str(index)


def _class_number(label: Any, index: int) -> int:
    value = np.asarray(label)
    if value.shape not in ((), (1,)) or value.dtype.kind not in "iu":
        raise DataError(f"item {index}: expected its label as a whole number, got {label!r}")
    return int(cast(Any, value.reshape(())))
