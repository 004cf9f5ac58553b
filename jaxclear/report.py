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

__all__ = ["ReportSize", "write"]

_BLOCK = 24
_MOST_BYTES = 96 * 2**20
_LEAST_SIDE = 40
_MOST_MAPS = 20
_TOP_MAPS = 10
_MOST_ROWS = 40
_MOST_SHARES = 3
_CHUNK = 2**16

Images = Callable[[Int[np.ndarray, " n"]], Float[np.ndarray, "n H W C"]]
Responses = Callable[[Float[np.ndarray, "n H W C"]], Float[np.ndarray, "K n H W"]]


class ReportSize(NamedTuple):
    """What was written: items in the gallery, by what its pictures were made smaller, and the file's bytes."""

    items: int
    reduction: int
    bytes: int


class _Counts(NamedTuple):
    """Numbers of the whole store."""

    valid: int
    labelled: int
    right: int
    disagreeing: int
    confusion: Int[np.ndarray, "K K"]
    predicted: Int[np.ndarray, " K"]
    shares: Float[np.ndarray, "K K"]
    """Mean share of all pixels that each class dominates, by predicted class."""


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
    found = _count(store, count)
    chosen = _choose(store, items, labelled=found.labelled > 0)
    if not len(chosen):
        raise ValueError(f"expected a store with explained items, got {len(store)} items and none of them explained")
    planes = _Planes(store, images, responses if images is not None else None, count)
    step, chosen = planes.fitted(chosen)
    rows, blocks = planes.encoded(chosen, step)
    size = store["dominant_class"].shape[1:]
    meta = {
        "classes": names,
        "colours": (255 * legible(count)).round().astype(int).tolist() if count <= _MOST_MAPS else planes.colours(rows),
        "key": list(range(count)) if count <= _MOST_MAPS else planes.used(rows),
        "height": len(range(0, size[0], step)),
        "width": len(range(0, size[1], step)),
        "channels": planes.channels,
        "maps": planes.maps,
        "bytes": planes.bytes_an_item(step),
        "block": _BLOCK,
        "flip": not upper,
        "items": rows,
    }
    page = string.Template((resources.files("jaxclear") / "report.html").read_text("utf-8")).substitute(
        title=html.escape(title or f"CLEAR maps of {store.path.name}"),
        subtitle=html.escape(_subtitle(store)),
        summary=_summary(store, found, names),
        shown=html.escape(_shown(len(chosen), found, step, planes)),
        heat_key="Heat map: black, red, yellow, white for the predicted class where it wins, green where another does."
        if planes.maps
        else "",
        meta=json.dumps(meta, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        blocks="\n".join(f'<script type="text/plain" id="block-{k}">{text}</script>' for k, text in enumerate(blocks)),
    )
    Path(out).write_text(page, encoding="utf-8")
    return ReportSize(len(chosen), step, Path(out).stat().st_size)


def _count(store: StoredDataset, count: int) -> _Counts:
    """Goes through the small arrays of all items."""
    confusion, shares = np.zeros((count, count), np.int64), np.zeros((count, count))
    predicted = np.zeros(count, np.int64)
    disagreeing = 0
    arrays = [store[name] for name in ("valid", "label", "predicted_class", "prevailing_class", "pixel_share")]
    for start in range(0, len(store), _CHUNK):
        valid, *others = (array[start : start + _CHUNK] for array in arrays)
        label, guess, prevailing, share = (values[valid] for values in others)
        guess = guess.astype(np.int64)
        known = (label >= 0) & (label < count)
        np.add.at(confusion, (label[known], guess[known]), 1)
        np.add.at(predicted, guess, 1)
        np.add.at(shares, guess, share.astype(np.float64))
        disagreeing += int((prevailing != guess).sum())
    right = int(np.trace(confusion))
    mean = shares / np.maximum(predicted, 1)[:, None]
    return _Counts(int(predicted.sum()), int(confusion.sum()), right, disagreeing, confusion, predicted, mean)


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
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
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
                "confidence": round(float(odds[k].max() / odds[k].sum()), 6),
                "shares": [[int(c), round(float(shares[k, c]), 4)] for c in _strongest(shares[k])],
            }
            row |= {} if listed is None else {"classes": listed}
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


def _strongest(shares: Float[np.ndarray, " K"]) -> list[int]:
    order = np.argsort(-shares, kind="stable")[:_MOST_SHARES]
    return [int(k) for k in order if shares[k] >= 0.005]


def _subtitle(store: StoredDataset) -> str:
    made, notes = store.manifest, store.manifest["explanation"]
    words = [f"{what} {notes[what]}" for what in ("model", "rule") if what in notes]
    recipe = made.get("recipe", {})
    words += [f"source {recipe['source']}"] if recipe.get("source") else []
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return " · ".join([*words, versions])


def _shown(count: int, found: _Counts, step: int, planes: _Planes) -> str:
    words = f"{count:,} of {found.valid:,} explained items"
    if count < found.valid:
        kind = "wrongly predicted ones" if found.labelled else "ones whose prediction is not the class of most pixels"
        words += f", evenly chosen, {kind} preferred for up to half of the places"
    words += f"; every {step}th pixel in each direction" if step > 1 else ""
    words += "" if planes.channels else "; the source was not at hand, so there are no images"
    return words + "."


def _summary(store: StoredDataset, found: _Counts, names: Sequence[str]) -> str:
    failures = store.failures()
    counts = [("items", f"{len(store):,}"), ("explained", f"{found.valid:,}"), ("failures", f"{len(failures):,}")]
    counts += [("not done yet", f"{store.missing:,}")] if store.missing else []
    if found.labelled:
        counts.append(("accuracy", f"{100 * found.right / found.labelled:.2f} %"))
    if found.valid:
        counts.append(("prediction ≠ class of most pixels", f"{100 * found.disagreeing / found.valid:.1f} %"))
    parts = ['<dl class="counts">']
    parts += [f"<div><dt>{html.escape(what)}</dt><dd>{value}</dd></div>" for what, value in counts]
    parts.append("</dl>")
    if failures:
        parts.append("<details><summary>Items that could not be used</summary><ul>")
        parts += [f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for _, name, reason in failures[:50]]
        parts += [f"<li>and {len(failures) - 50:,} more</li>"] if len(failures) > 50 else []
        parts.append("</ul></details>")
    if found.labelled:
        parts.append(_confusion(found, names))
    return "\n".join([*parts, _shares(found, names)])


def _confusion(found: _Counts, names: Sequence[str]) -> str:
    matrix = found.confusion
    heading = "<h2>Confusion matrix</h2>"
    if len(names) > _MOST_ROWS:
        wrong = matrix - np.diag(np.diag(matrix))
        pairs = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_ROWS]
        rows = [(t, p, wrong[t, p]) for t, p in (divmod(int(k), len(names)) for k in pairs) if wrong[t, p]]
        body = "".join(
            f'<tr><th scope="row">{html.escape(names[t])}</th><td>{html.escape(names[p])}</td><td>{n:,}</td></tr>'
            for t, p, n in rows
        )
        head = '<tr><th scope="col">true</th><th scope="col">predicted</th><th scope="col">items</th></tr>'
        return f"{heading}<table><caption>The most frequent mistakes</caption>{head}{body}</table>"
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = []
    for true, name in enumerate(names):
        total = max(int(matrix[true].sum()), 1)
        cells = []
        for guess, other in enumerate(names):
            number = int(matrix[true, guess])
            if not number:
                cells.append('<td class="none">0</td>')
                continue
            told = html.escape(f"{number} items of class {name} predicted as {other}: show them")
            share = 0.15 + 0.6 * number / total
            cells.append(
                f'<td class="{"right" if true == guess else "other"}"><button type="button" data-label="{true}" '
                f'data-predicted="{guess}" style="--share:{share:.2f}" aria-label="{told}">{number:,}</button></td>'
            )
        body.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cells)}</tr>')
    caption = "Rows: true class; columns: predicted class. A number shows its items in the gallery."
    table = f'<table class="confusion"><caption>{caption}</caption><tr><td></td>{top}</tr>{"".join(body)}</table>'
    return f'{heading}<div class="scroll">{table}</div>'


def _shares(found: _Counts, names: Sequence[str]) -> str:
    """The table of the classes' shares of the pixels."""
    colours = (255 * legible(len(names))).round().astype(int).tolist()
    order = [int(k) for k in np.argsort(-found.predicted, kind="stable")[:_MOST_ROWS] if found.predicted[k]]
    rows = []
    for k in sorted(order):
        responding = found.shares[k].sum()
        share = found.shares[k] / max(responding, 1e-9)
        bars = "".join(
            f'<i style="width:{100 * share[c]:.2f}%;background:rgb({",".join(map(str, colours[c]))})"></i>'
            for c in np.flatnonzero(share >= 0.002).tolist()
        )
        words = ", ".join(f"{names[c]} {100 * share[c]:.1f} %" for c in _strongest(share)) or "none"
        rows.append(
            f'<tr><th scope="row">{html.escape(names[k])}</th><td>{found.predicted[k]:,}</td>'
            f"<td>{100 * responding:.1f} %</td><td>{100 * share[k]:.1f} %</td>"
            f'<td class="bar"><div class="stack" role="img" aria-label="{html.escape(words)}">{bars}</div></td></tr>'
        )
    heads = ("predicted", "items", "dominated by any", "of these by its own", "by each class")
    head = "<tr>" + "".join(f'<th scope="col">{words}</th>' for words in heads) + "</tr>"
    caption = "Pixels that a class dominates, mean over the items predicted as a class."
    table = f"<table><caption>{caption}</caption>{head}{''.join(rows)}</table>"
    return f'<h2>Dominant pixels</h2><div class="scroll">{table}</div>'
