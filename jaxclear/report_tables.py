"""The numbers and tables of a store's report, as HTML: counts, confusion matrix, shares of the pixels."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.dataset.reading import StoredDataset

__all__ = ["Counts", "counts_of", "strongest", "summary"]

_MOST_ROWS = 40
_MOST_SHARES = 3
_CHUNK = 2**16


class Counts(NamedTuple):
    """Numbers of the whole store."""

    valid: int
    labelled: int
    right: int
    disagreeing: int
    confusion: Int[np.ndarray, "K K"]
    predicted: Int[np.ndarray, " K"]
    shares: Float[np.ndarray, "K K"]
    """Mean share of all pixels that each class dominates, by predicted class."""
    verdicts: dict[str, int]
    """Of crystals, how many there are of each verdict."""


def counts_of(store: StoredDataset, count: int) -> Counts:
    """Returns the numbers of the whole store, from its small arrays.

    Args:
        store: of CLEAR maps.
        count: of classes.
    """
    confusion, shares = np.zeros((count, count), np.int64), np.zeros((count, count))
    predicted = np.zeros(count, np.int64)
    disagreeing = 0
    verdicts = dict.fromkeys(store.value_names.get("verdict", ()) if "verdict" in store else (), 0)
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
        if verdicts:
            numbers = np.bincount(store["verdict"][start : start + _CHUNK][valid], minlength=len(verdicts))
            verdicts = {word: number + int(numbers[k]) for k, (word, number) in enumerate(verdicts.items())}
    right = int(np.trace(confusion))
    mean = shares / np.maximum(predicted, 1)[:, None]
    return Counts(int(predicted.sum()), int(confusion.sum()), right, disagreeing, confusion, predicted, mean, verdicts)


def strongest(shares: Float[np.ndarray, " K"]) -> list[int]:
    """Returns the classes with the largest shares, those of half a percent and more."""
    order = np.argsort(-shares, kind="stable")[:_MOST_SHARES]
    return [int(k) for k in order if shares[k] >= 0.005]


def summary(store: StoredDataset, found: Counts, names: Sequence[str], colours: Sequence[Sequence[int]]) -> str:
    """Returns the part of the page above the gallery.

    Args:
        store: of CLEAR maps.
        found: its numbers.
        names: of the classes.
        colours: of the classes, red, green and blue from 0 to 255.
    """
    failures = store.failures()
    counts = [("items", f"{len(store):,}"), ("explained", f"{found.valid:,}"), ("failures", f"{len(failures):,}")]
    counts += [("not done yet", f"{store.missing:,}")] if store.missing else []
    if found.labelled:
        counts.append(("accuracy", f"{100 * found.right / found.labelled:.2f} %"))
    if found.valid:
        counts.append(("prediction ≠ class of most pixels", f"{100 * found.disagreeing / found.valid:.1f} %"))
    counts += [(f"verdict: {word}", f"{number:,}") for word, number in found.verdicts.items() if number]
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
    return "\n".join([*parts, _shares(found, names, colours)])


def _confusion(found: Counts, names: Sequence[str]) -> str:
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


def _shares(found: Counts, names: Sequence[str], colours: Sequence[Sequence[int]]) -> str:
    """The table of the classes' shares of the pixels."""
    order = [int(k) for k in np.argsort(-found.predicted, kind="stable")[:_MOST_ROWS] if found.predicted[k]]
    rows = []
    for k in sorted(order):
        responding = found.shares[k].sum()
        share = found.shares[k] / max(responding, 1e-9)
        bars = "".join(
            f'<i style="width:{100 * share[c]:.2f}%;background:rgb({",".join(map(str, colours[c]))})"></i>'
            for c in np.flatnonzero(share >= 0.002).tolist()
        )
        words = ", ".join(f"{names[c]} {100 * share[c]:.1f} %" for c in strongest(share)) or "none"
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
