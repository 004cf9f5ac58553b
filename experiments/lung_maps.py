"""Critical response maps of the lung study, scored against the nodules' masks, and the examples that are shown.

A map of a class is its response, summed over channels, under a rule (eqs. 4.1 and 4.2). Rules differ in their seeds
too: by `backprop` and `linear` negative values of a class map count.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import binary_dilation

import jaxclear
from experiments import mapping, medical
from experiments.lung_folds import Fold, Slices
from experiments.phantoms_lung import KINDS, Kind, NodulePhantoms
from jaxclear import training
from jaxclear.data.lidc import min_max
from jaxclear.localisation import localise
from jaxclear.models.layers import ConvNet

__all__ = ["Example", "Mapped", "chosen_rows", "critical_maps", "examples", "redrawn_scores", "scores"]

_CONFIDENCES = (1.0, 0.75, 0.5, 0.25)
_BATCH = 8
_REDRAWN = {
    "malignant_without_spicules": (KINDS[1], {"margin": "smooth"}),
    "benign_spiculated_without_calcification": ((Kind("spiculated", "calcified"),), {"density": "solid"}),
    "control_smooth_without_calcification": ((Kind("smooth", "calcified"),), {"density": "solid"}),
}
"""Kinds of phantoms, and what is taken away from them."""


class Mapped(NamedTuple):
    """Maps of test slices, each by the network that was not trained on it.

    Attributes:
        rows: which slices.
        predicted: the class that its network gives each.
        probabilities: of malignancy.
        own: for each variant (trained, untrained) and rule the maps of the predicted class.
        other: the maps of the other class by the trained networks, for each rule.
    """

    rows: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]
    own: dict[str, dict[str, Float[np.ndarray, "n S S"]]]
    other: dict[str, Float[np.ndarray, "n S S"]]


class Example(NamedTuple):
    """A test slice with both of its maps, (S, S): benign, malignant.

    Attributes:
        image: the slice.
        mask: the nodule.
        maps: of both classes.
        probability: of the class that it was given.
        predicted: that class.
        label: the true class.
        name: of the slice.
    """

    image: UInt8[np.ndarray, "S S 1"]
    mask: Bool[np.ndarray, "S S"]
    maps: Float[np.ndarray, "2 S S"]
    probability: float
    predicted: int
    label: int
    name: str


def chosen_rows(slices: Slices, rows: Int[np.ndarray, " n"], most: int, *, seed: int) -> Int[np.ndarray, " m"]:
    """Returns rows of a fold at random, one a group (patient, nodule), so that they are independent, in their order."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    _, first = np.unique([slices.groups[row] for row in shuffled], return_index=True)
    return np.sort(shuffled[np.sort(first)[:most]])


def critical_maps(
    module: ConvNet, slices: Slices, folds: Sequence[Fold], rules: Sequence[str], *, most: int, seed: int
) -> Mapped:
    """Returns the maps of at most so many test slices of each fold, for all rules."""
    heat_maps = {rule: jaxclear.heat_map(module.apply, rule=rule, on_unmatched="ignore") for rule in rules}
    fresh = jax.jit(module.init)(jax.random.key(seed + 1), jnp.zeros((1, *slices.images.shape[1:])))
    rows, predicted, probabilities = [], [], []
    own = {name: {rule: [] for rule in rules} for name in ("trained", "untrained")}
    other: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    for fold in folds:
        chosen = chosen_rows(slices, fold.rows, most, seed=seed)
        rows.append(chosen)
        probabilities.append(fold.probabilities[np.searchsorted(fold.rows, chosen)])
        predicted.append((probabilities[-1] > 0.5).astype(np.int32))
        for rule in rules:
            for name, variables in {"trained": fold.variables, "untrained": fresh}.items():
                found = _heat(heat_maps[rule], variables, slices.images[chosen], predicted[-1])
                own[name][rule].append(found.evidence_for)
                if name == "trained":
                    other[rule].append(found.evidence_against)
    joined = {name: {rule: np.concatenate(parts) for rule, parts in kinds.items()} for name, kinds in own.items()}
    return Mapped(
        *(np.concatenate(parts) for parts in (rows, predicted, probabilities)),
        own=joined,
        other={rule: np.concatenate(parts) for rule, parts in other.items()},
    )


def _heat(maps: Callable[..., Any], variables: Any, images: np.ndarray, labels: np.ndarray) -> Any:
    """Maps in batches of one size, so that one program is compiled for all folds."""
    count = len(images)
    padded = -(-count // _BATCH) * _BATCH
    rows = np.resize(np.arange(count), padded)
    found = mapping.mapped(maps, variables, images[rows], labels[rows], batch_size=_BATCH)
    return jax.tree.map(lambda values: values[:count], found)


def scores(mapped: Mapped, slices: Slices, *, ring: int) -> dict[str, Any]:
    """Returns where the response of the predicted class lies, for each variant and rule, in percent.

    Always on the nodule, and on the nodule with a ring around it; where spicules are known, on those of the nodules
    rightly called malignant (which are malignant for their spicules alone), and on the calcification of the spiculated
    ones rightly called benign (which are benign for it alone), both also as parts of what lies on the nodule.

    Args:
        mapped: the maps.
        slices: the data, with the masks.
        ring: its width, pixels.
    """
    masks = {name: known[mapped.rows] for name, known in slices.masks.items()}
    nodule = masks["mask"]
    near = np.stack([binary_dilation(mask, np.ones((3, 3), bool), iterations=ring) for mask in nodule])
    right = mapped.predicted == slices.labels[mapped.rows]
    deciding = {}
    if "spicules" in masks:
        spiculated = right & masks["spicules"].any(axis=(1, 2))
        deciding = {
            "spicules": np.flatnonzero(spiculated & (mapped.predicted == 1)),
            "calcification": np.flatnonzero(spiculated & (mapped.predicted == 0)),
        }

    def scored(maps: Float[np.ndarray, "n S S"]) -> dict[str, Any]:
        found = {
            "nodule": medical.truth_scores(maps, nodule, medical.moved),
            "nodule_and_ring": medical.truth_scores(maps, near, medical.moved),
        }
        for name, rows in deciding.items():
            if len(rows):
                found[name] = medical.truth_scores(maps[rows], masks[name][rows], medical.moved)
                found[f"{name}_within_nodule"] = _within(maps[rows], masks[name][rows], nodule[rows])
        return found

    return {name: {rule: scored(maps) for rule, maps in kinds.items()} for name, kinds in mapped.own.items()}


def _within(
    maps: Float[np.ndarray, "n S S"], part: Bool[np.ndarray, "n S S"], whole: Bool[np.ndarray, "n S S"]
) -> dict[str, Any]:
    """The part's share of the response on the whole, beside its share of the whole's area."""
    found = localise(maps, part, within=whole)
    known = np.isfinite(found.share)
    if not known.any():
        return {"images": 0}
    share, area, hit = (round(100 * float(values[known].mean()), 2) for values in found)
    return {"images": int(known.sum()), "share_percent": share, "area_percent": area, "hit_percent": hit}


def redrawn_scores(
    module: ConvNet, source: NodulePhantoms, slices: Slices, folds: Sequence[Fold]
) -> dict[str, dict[str, Any]]:
    """Returns how often a rightly called phantom changes its class with the feature that decided it taken away.

    The same phantom is drawn again without its spicules, or without its calcification, all else as it is. A network
    that has learnt the rule would then call the other class every time, and never in the control, which takes away what
    does not decide: the calcification of a smooth nodule.
    """
    found = {}
    for name, (kinds, change) in _REDRAWN.items():
        before, changed = 0, 0
        for fold in folds:
            right = (fold.probabilities > 0.5) == (slices.labels[fold.rows] == 1)
            indices = [int(index) for index in slices.indices[fold.rows[right]] if source.kinds[index] in kinds]
            if indices:
                drawn = [source.drawn(index, source.kinds[index]._replace(**change)) for index in indices]
                images = np.stack([min_max(drawing.hounsfield) for drawing in drawn])
                called = training.predict(module.apply, fold.variables, images).argmax(axis=1)
                changed += int((called != source.labels[indices]).sum())
                before += len(indices)
        share = round(100 * changed / before, 2) if before else None
        found[name] = {"images": before, "changed_percent": share}
    return found


def examples(mapped: Mapped, slices: Slices, label: int, *, rule: str) -> list[Example]:
    """Returns slices of a class: rightly called ones from the most to less confident, and the most confident wrong one.

    Of the mapped slices of the class that were called right, those at the greatest probability and at its upper
    quartile, median and lower quartile; then the one that was called wrong with the greatest probability, if any.

    Args:
        mapped: the maps.
        slices: the data.
        label: the true class.
        rule: of the maps.
    """
    own = slices.labels[mapped.rows] == label
    sure = np.where(mapped.predicted == 1, mapped.probabilities, 1 - mapped.probabilities)
    right, wrong = (
        np.flatnonzero(own & called)[np.argsort(sure[own & called], kind="stable")]
        for called in (mapped.predicted == label, mapped.predicted != label)
    )
    places = dict.fromkeys(round(share * (len(right) - 1)) for share in _CONFIDENCES) if len(right) else {}
    picked = [*(right[place] for place in places), *wrong[-1:]]
    shown = []
    for place in picked:
        row, predicted = mapped.rows[place], int(mapped.predicted[place])
        pair = (mapped.own["trained"][rule][place], mapped.other[rule][place])
        shown.append(
            Example(
                image=slices.images[row],
                mask=slices.masks["mask"][row],
                maps=np.stack(pair if predicted == 0 else pair[::-1]),
                probability=float(sure[place]),
                predicted=predicted,
                label=label,
                name=slices.ids[row],
            )
        )
    return shown
