"""A store as one HTML file that needs nothing else: counts, confusion matrix, shares of pixels, and a gallery.

The numbers are those of the whole store; the gallery has a choice of its items. Pictures are embedded as plain planes
of bytes, compressed, and coloured by the page when they are looked at.
"""

import base64
import html
import json
import os
import string
import zlib
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxclear.dataset.encoding import no_class
from jaxclear.dataset.reading import StoredDataset, open_store
from jaxclear.palettes import legible
from jaxclear.report_tables import Counts, counts_of, strongest, summary

__all__ = ["ReportSize", "write"]

_BLOCK = 24
_MOST_BYTES = 96 * 2**20
_LEAST_SIDE = 40
_MOST_CERTAIN = 0.999999
"""No probability is told as certain, rounded or not."""
_MOST_MAPS = 20
_TOP_MAPS = 10

Images = Callable[[Int[np.ndarray, " n"]], Float[np.ndarray, "n H W C"]]
Responses = Callable[[Float[np.ndarray, "n H W C"]], Float[np.ndarray, "K n H W"]]


class ReportSize(NamedTuple):
    """What was written: items in the gallery, by what its pictures were made smaller, and the file's bytes."""

    items: int
    reduction: int
    bytes: int


def write(
    store: StoredDataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    images: Images | None = None,
    responses: Responses | None = None,
    items: int = 1000,
    title: str | None = None,
    upper: bool = True,
) -> ReportSize:
    """Writes the report of a store of CLEAR maps.

    Args:
        store: a store, or its path.
        out: the file.
        images: what the network saw of items, by their indices, in [0, 1], with 1 or 3 channels; without it the gallery
            has no images.
        responses: of every class to such images, (K, n, H, W); without it there are neither heat maps nor maps of each
            class.
        items: how many the gallery has at most: up to half of them are such that the prediction is wrong, or, without
            labels, another class than that of most pixels.
        title: of the page.
        upper: whether the first row of a map is at the top.

    Returns:
        What was written.

    Raises:
        ValueError: a store of other results than two-dimensional CLEAR maps, or without any item.
    """
    store = store if isinstance(store, StoredDataset) else open_store(store)
    if "dominant_class" not in store or len(store["dominant_class"].shape) != 3:
        raise ValueError(f"expected a store of two-dimensional CLEAR maps, got arrays {', '.join(store.keys())}")
    count = store["class_scores"].shape[1]
    names = store.class_names or tuple(map(str, range(count)))
    found = counts_of(store, count)
    chosen = _choose(store, items, labelled=found.labelled > 0)
    if not len(chosen):
        raise ValueError(f"expected a store with explained items, got {len(store)} items and none of them explained")
    planes = _Planes(store, images, responses if images is not None else None, count)
    step, chosen = planes.fitted(chosen)
    rows, blocks = planes.encoded(chosen, step)
    size = store["dominant_class"].shape[1:]
    colours = (255 * legible(count)).round().astype(int).tolist() if count <= _MOST_MAPS else planes.colours(rows)
    meta = {
        "classes": names,
        "colours": colours,
        "key": list(range(count)) if count <= _MOST_MAPS else planes.used(rows),
        "height": len(range(0, size[0], step)),
        "width": len(range(0, size[1], step)),
        "channels": planes.channels,
        "maps": planes.maps,
        "bytes": planes.bytes_an_item(step),
        "block": _BLOCK,
        "flip": not upper,
        "verdicts": [word for word, number in found.verdicts.items() if number],
        "items": rows,
    }
    page = string.Template((resources.files("jaxclear") / "report.html").read_text("utf-8")).substitute(
        title=html.escape(title or f"CLEAR maps of {store.path.name}"),
        subtitle=html.escape(_subtitle(store)),
        summary=summary(store, found, names, colours),
        shown=html.escape(_shown(len(chosen), found, step, planes)),
        heat_key="Heat map: black, red, yellow, white for the predicted class where it wins, green where another does."
        if planes.maps
        else "",
        meta=json.dumps(meta, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        blocks="\n".join(f'<script type="text/plain" id="block-{k}">{text}</script>' for k, text in enumerate(blocks)),
    )
    Path(out).write_text(page, encoding="utf-8")
    return ReportSize(len(chosen), step, Path(out).stat().st_size)


def _choose(store: StoredDataset, most: int, *, labelled: bool) -> Int[np.ndarray, " n"]:
    """Items for the gallery, evenly out of those of interest and out of the others."""
    everything = store.index()
    special = store.index(correct=False) if labelled else store.index(disagreement=True)
    others = np.setdiff1d(everything, special)
    room = max(most - len(others), min(len(special), most // 2))
    return np.sort(np.concatenate([_evenly(special, room), _evenly(others, most - min(room, len(special)))]))


def _evenly(values: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)] if most > 0 else values[:0]


class _Planes:
    """The pictures of items as planes of bytes: image, dominant class, its response, heat, the map of each class."""

    def __init__(self, store: StoredDataset, images: Images | None, responses: Responses | None, count: int) -> None:
        self._store, self._images, self._responses, self._count = store, images, responses, count
        self.maps = 0 if responses is None else min(count, _MOST_MAPS if count <= _MOST_MAPS else _TOP_MAPS)
        first = None if images is None else images(store.index()[:1])
        self.channels = 0 if first is None else first.shape[-1]
        if self.channels not in (0, 1, 3):
            raise ValueError(f"expected images of 1 or 3 channels, got {self.channels}")

    def bytes_an_item(self, step: int) -> int:
        height, width = self._store["dominant_class"].shape[1:]
        planes = self.channels + 2 + (1 + self.maps if self.maps else 0)
        return planes * len(range(0, height, step)) * len(range(0, width, step))

    def fitted(self, chosen: Int[np.ndarray, " n"]) -> tuple[int, Int[np.ndarray, " m"]]:
        """By what the pictures have to be made smaller, and how many items are left where that is not enough."""
        side = min(self._store["dominant_class"].shape[1:])
        step = 1
        while len(chosen) * self.bytes_an_item(step) > _MOST_BYTES and side // (step + 1) >= _LEAST_SIDE:
            step += 1
        return step, _evenly(chosen, max(1, _MOST_BYTES // self.bytes_an_item(step)))

    def encoded(self, chosen: Int[np.ndarray, " n"], step: int) -> tuple[list[dict[str, Any]], list[str]]:
        """What is told of each item, and the blocks of their planes."""
        rows: list[dict[str, Any]] = []
        blocks = []
        for start in range(0, len(chosen), _BLOCK):
            part = chosen[start : start + _BLOCK]
            told, planes = self._part(part, step)
            rows += told
            content = b"".join(np.ascontiguousarray(plane).tobytes() for item in planes for plane in item)
            blocks.append(base64.b64encode(zlib.compress(content, 6)).decode())
        return rows, blocks

    def _part(
        self, part: Int[np.ndarray, " n"], step: int
    ) -> tuple[list[dict[str, Any]], list[list[UInt8[np.ndarray, "..."]]]]:
        store = self._store
        classes = store["dominant_class"][part]
        value = _bytes(store["dominant_response"][part].astype(np.float32), 255)
        scores = store["class_scores"][part].astype(np.float64)
        confidence = _confidence(store, part, scores)
        crystals = _crystals(store, part)
        shares, labels = store["pixel_share"][part].astype(float), store["label"][part].tolist()
        predicted, prevailing = store["predicted_class"][part].tolist(), store["prevailing_class"][part].tolist()
        names = store["item_id"][part]
        pictures = None if self._images is None else np.asarray(self._images(part), np.float32)
        rows, planes = [], []
        for k in range(len(part)):
            local, listed = _localised(classes[k])
            row = {
                "id": names[k],
                "label": labels[k],
                "predicted": predicted[k],
                "prevailing": prevailing[k],
                "confidence": min(round(float(confidence[k]), 6), _MOST_CERTAIN),
                "shares": [[int(c), round(float(shares[k, c]), 4)] for c in strongest(shares[k])],
            }
            row |= crystals[k] | ({} if listed is None else {"classes": listed})
            item = [] if pictures is None else [_shrunk(np.round(255 * pictures[k].clip(0, 1)).astype(np.uint8), step)]
            item += [_shrunk(local, step), _shrunk(value[k], step)]
            if pictures is not None and self._responses is not None:
                found = np.asarray(self._responses(pictures[k : k + 1]))[:, 0]
                heat, maps, mapped = self._maps(found, predicted[k], scores[k])
                item += [_shrunk(heat, step), *(_shrunk(plane, step) for plane in maps)]
                row["mapped"] = mapped
            rows.append(row)
            planes.append(item)
        return rows, planes

    def _maps(
        self, found: Float[np.ndarray, "K H W"], predicted: int, scores: Float[np.ndarray, " K"]
    ) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "maps H W"], list[int]]:
        """Heat map (top bit: the predicted class wins), maps of each class on one scale, and which classes."""
        own = found[predicted]
        against = np.delete(found, predicted, axis=0).max(axis=0) if len(found) > 1 else np.full_like(own, -np.inf)
        heat = _bytes(np.maximum(own, against)[None], 127)[0] | np.where(own >= against, 128, 0).astype(np.uint8)
        mapped = sorted(np.argsort(-scores, kind="stable")[: self.maps].tolist())
        return heat, _bytes(found[mapped].reshape(1, -1), 255).reshape(found[mapped].shape), mapped

    def used(self, rows: Sequence[dict[str, Any]]) -> list[int]:
        """The most frequent of the classes that the gallery shows, where there are many."""
        seen = [k for row in rows for k in (*row.get("mapped", ()), row["predicted"], *(c for c, _ in row["shares"]))]
        values, counts = np.unique(seen, return_counts=True)
        return sorted(values[np.argsort(-counts, kind="stable")[:_MOST_MAPS]].tolist())

    def colours(self, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Colours of many classes: far apart for those most seen, grey for the others."""
        colours = np.full((self._count, 3), 128)
        used = self.used(rows)
        colours[used] = (255 * legible(len(used))).round()
        return colours.astype(int).tolist()


def _confidence(
    store: StoredDataset, part: Int[np.ndarray, " n"], scores: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, " n"]:
    """The probability of the predicted class: calibrated where the store has that, or else a softmax."""
    if "probabilities" in store:
        return store["probabilities"][part].max(axis=1)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds.max(axis=1) / odds.sum(axis=1)


def _crystals(store: StoredDataset, part: Int[np.ndarray, " n"]) -> list[dict[str, Any]]:
    """What is told of crystals only: the verdict, the space group of the averaged lattice, how that was found."""
    told: list[dict[str, Any]] = [{} for _ in part]
    if "verdict" in store and "verdict" in store.value_names:
        words = store.value_names["verdict"]
        told = [{"verdict": words[number]} for number in store["verdict"][part].tolist()]
    if "space_group" in store and "recovered" in store:
        both = zip(store["space_group"][part].tolist(), store["recovered"][part].tolist(), strict=True)
        told = [row | {"group": group, "recovered": again} for row, (group, again) in zip(told, both, strict=True)]
    return told


def _localised(classes: Int[np.ndarray, "H W"]) -> tuple[UInt8[np.ndarray, "H W"], list[int] | None]:
    """Classes as bytes, 255 for none; of many classes, numbers in a list of those that occur."""
    if classes.dtype == np.uint8:
        return classes, None
    none = no_class(classes.dtype)
    listed = np.unique(classes[classes != none])[:255]
    local = np.searchsorted(listed, classes)
    known = (local < len(listed)) & np.isin(classes, listed)
    return np.where(known, local, 255).astype(np.uint8), listed.tolist()


def _bytes(values: Float[np.ndarray, "n *rest"], largest: int) -> UInt8[np.ndarray, "n *rest"]:
    """Positive values from 0 to `largest`, each entry on its own scale."""
    positive = np.maximum(values, 0)
    scale = positive.max(axis=tuple(range(1, values.ndim)), keepdims=True)
    return np.round(largest * positive / np.where(scale > 0, scale, 1)).astype(np.uint8)


def _shrunk(plane: UInt8[np.ndarray, "H W ..."], step: int) -> UInt8[np.ndarray, "h w ..."]:
    return plane[::step, ::step]


def _subtitle(store: StoredDataset) -> str:
    made, notes = store.manifest, store.manifest["explanation"]
    words = [f"{what} {notes[what]}" for what in ("model", "rule") if what in notes]
    recipe = made.get("recipe", {})
    words += [f"source {recipe['source']}"] if recipe.get("source") else []
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return " · ".join([*words, versions])


def _shown(count: int, found: Counts, step: int, planes: _Planes) -> str:
    words = f"{count:,} of {found.valid:,} explained items"
    if count < found.valid:
        kind = "wrongly predicted ones" if found.labelled else "ones whose prediction is not the class of most pixels"
        words += f", evenly chosen, {kind} preferred for up to half of the places"
    words += f"; every {step}th pixel in each direction" if step > 1 else ""
    words += "" if planes.channels else "; the source was not at hand, so there are no images"
    return words + "."
