"""Reading a store: lazy arrays, an index of its items, maps as they were explained, and colours made on the way."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from jaxclear.clear import ClearMap, to_rgb
from jaxclear.dataset.encoding import no_class
from jaxclear.dataset.store import STRINGS, Store
from jaxclear.palettes import legible

__all__ = ["LazyArray", "LazyStrings", "StoredDataset", "open_store"]

_INDEX_CHUNK = 2**20


class LazyArray:
    """An array of numbers on disk; what is asked for is read, as NumPy arrays.

    Attributes:
        shape: items first.
        dtype: as NumPy's.
        dimensions: their names.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._tensor = store.array(name)
        self.shape: tuple[int, ...] = tuple(self._tensor.shape)
        self.dtype: np.dtype = np.dtype(self._tensor.dtype.numpy_dtype)
        self.dimensions: tuple[str, ...] = tuple(self._tensor.domain.labels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        # NumPy's rules for negative and absent bounds, which tensorstore does not have.
        first, *others = key if isinstance(key, tuple) else (key,)
        if isinstance(first, slice):
            start, stop, step = first.indices(len(self))
            first = slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
        elif not isinstance(first, type(Ellipsis)):
            first = _places(first, len(self))
            first = int(first) if first.ndim == 0 else first
        return np.asarray(self._tensor[(first, *others)].read().result())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"LazyArray{self.shape} of {self.dtype}"


class LazyStrings:
    """Strings on disk, one an item; the units that are asked for are read."""

    def __init__(self, store: Store, name: str) -> None:
        self._unit, self._items = store.layout.unit, store.layout.items
        self._read = functools.lru_cache(maxsize=8)(functools.partial(store.strings, name))

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._one(place) for place in range(*key.indices(self._items))]
        places = _places(key, self._items)
        return [self._one(place) for place in places.tolist()] if places.ndim else self._one(int(places))

    def __iter__(self) -> Iterator[str]:
        return iter(self[:])

    def _one(self, place: int) -> str:
        unit, row = divmod(place, self._unit)
        return self._read(unit)[row]


def _places(key: Any, items: int) -> Int[np.ndarray, "..."]:
    """Items by their numbers from 0, by negative ones from the end, or by a mask of all."""
    chosen = np.asarray(key)
    if chosen.dtype == bool:
        if chosen.shape != (items,):
            raise IndexError(f"expected a mask of all {items} items, got one of shape {chosen.shape}")
        return np.flatnonzero(chosen)
    if chosen.size and chosen.dtype.kind not in "iu":
        raise IndexError(f"expected items by whole numbers or a mask, got {chosen.dtype}")
    places = np.where(chosen < 0, chosen + items, chosen).astype(np.int64)
    if places.size and not (places.min() >= 0 and places.max() < items):
        raise IndexError(f"expected items between 0 and {items - 1}, got {chosen.tolist()}")
    return places


class StoredDataset:
    """A store that was written by `explain_dataset`.

    `len(store)` is the number of items; `store["dominant_response"]` an array, lazy, with the item first.

    Attributes:
        path: its folder.
        class_names: names of the classes; empty where none were given.
        value_names: words for the numbers in an array, by its name: of crystals those of the "verdict".
        manifest: what it was made from and with.
    """

    def __init__(self, path: Path) -> None:
        self._store = Store(path)
        self.path = path
        self.manifest = self._store.manifest
        self.class_names: tuple[str, ...] = tuple(self.manifest.get("class_names", ()))
        self.value_names: dict[str, tuple[str, ...]] = {
            name: tuple(words) for name, words in self.manifest.get("value_names", {}).items()
        }
        self._numeric = tuple(field.name for field in self._store.numeric)

    def __len__(self) -> int:
        return self._store.layout.items

    def keys(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return (*self._numeric, *STRINGS)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"expected one of {', '.join(self.keys())}, got {name!r}")
        return LazyStrings(self._store, name) if name in STRINGS else LazyArray(self._store, name)

    @property
    def missing(self) -> int:
        """How many items belong to units that were not written yet."""
        layout, there = self._store.layout, self._store.committed()
        return sum(
            min(layout.unit, layout.items - unit * layout.unit) for unit in range(layout.units) if unit not in there
        )

    def failures(self) -> list[tuple[int, str, str]]:
        """Index, name and reason of each item that could not be used."""
        return [(index, name, reason) for marker in self._store.markers() for index, name, reason in marker["failed"]]

    def index(
        self,
        *,
        label: int | Sequence[int] | None = None,
        predicted: int | Sequence[int] | None = None,
        prevailing: int | Sequence[int] | None = None,
        correct: bool | None = None,
        disagreement: bool | None = None,
        verdict: str | Sequence[str] | None = None,
        space_group: int | Sequence[int] | None = None,
    ) -> Int[np.ndarray, " M"]:
        """Returns the valid items that meet all conditions, in order.

        Args:
            label: their class, or one of several.
            predicted: the class with the highest score.
            prevailing: the class that dominates the most pixels.
            correct: whether prediction and label agree; items without a label are neither.
            disagreement: whether the prediction is another class than the prevailing one.
            verdict: of crystals, "member", "outside", "no lattice" or "unknown", or several of them.
            space_group: of crystals, that of the averaged lattice, 0 where none was found.

        Raises:
            ValueError: a condition on an array that this store does not have, or a verdict that there is not.
        """
        classes = {"label": label, "predicted_class": predicted, "prevailing_class": prevailing}
        classes |= {"space_group": space_group, "verdict": self._numbers("verdict", verdict)}
        needed = {name for name, value in classes.items() if value is not None}
        needed |= {"label", "predicted_class"} if correct is not None else set()
        needed |= {"predicted_class", "prevailing_class"} if disagreement is not None else set()
        for name in ("label", "predicted_class", "prevailing_class", "space_group"):
            if classes[name] is not None and np.asarray(classes[name]).dtype.kind not in "iu":
                raise ValueError(f"expected {name} as whole numbers, got {classes[name]!r}")
        if absent := needed - set(self._numeric):
            kind = "crystals" if absent & {"verdict", "space_group"} else "CLEAR maps"
            raise ValueError(f"expected a store of {kind} for these conditions, got one without {sorted(absent)}")
        arrays = {name: self[name] for name in (*needed, "valid")}
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(self), _INDEX_CHUNK):
            part = {name: array[start : start + _INDEX_CHUNK] for name, array in arrays.items()}
            kept = part["valid"].astype(bool)
            for name, value in classes.items():
                if value is not None:
                    kept &= np.isin(part[name], np.atleast_1d(value))
            if correct is not None:
                kept &= (part["label"] >= 0) & ((part["label"] == part["predicted_class"]) == correct)
            if disagreement is not None:
                kept &= (part["predicted_class"] != part["prevailing_class"]) == disagreement
            found.append(start + np.flatnonzero(kept))
        return np.concatenate(found)

    def _numbers(self, name: str, words: str | Sequence[str] | None) -> list[int] | None:
        """The numbers that stand for words in an array."""
        if words is None or name not in self._numeric:
            return None if words is None else []
        known, wanted = self.value_names.get(name, ()), [words] if isinstance(words, str) else list(words)
        if unknown := set(wanted) - set(known):
            raise ValueError(f"expected {name} as one of {', '.join(known)}, got {sorted(unknown)}")
        return [known.index(word) for word in wanted]

    def clear_map(self, items: Any) -> ClearMap:
        """Returns the CLEAR maps of items as `jaxclear.clear_map` returned them, the response in half precision.

        Args:
            items: a slice or indices.
        """
        chosen = np.arange(len(self))[items] if isinstance(items, slice) else np.atleast_1d(items)
        classes = self["dominant_class"][chosen]
        response = self["dominant_response"][chosen].astype(np.float32)
        scale = self["response_scale"][chosen].reshape(-1, *[1] * (response.ndim - 1))
        named = np.where(classes == no_class(classes.dtype), -1, classes.astype(np.int32))
        return ClearMap(named, response * scale, self["class_scores"][chosen])  # pyright: ignore[reportArgumentType]

    def rgb(self, items: Any, *, palette: Any = None) -> Float[Array, "B *spatial 3"]:
        """Returns the CLEAR maps of items in colour.

        Args:
            items: a slice or indices.
            palette: of `jaxclear.to_rgb`; by default colours that are legible on black.
        """
        found = self.clear_map(items)
        return to_rgb(found, palette=legible(found.class_scores.shape[-1]) if palette is None else palette)


def open_store(path: str | os.PathLike[str]) -> StoredDataset:
    """Returns a store for reading, complete or not.

    Args:
        path: its folder.

    Raises:
        StoreError: there is none, or its metadata are damaged.
    """
    return StoredDataset(Path(path))
