"""Cross-validation of the lung study: slices with their masks, balanced augmentation, one fold after the other.

Fold k is tested on, fold k + 1 validates, the others are trained on: 80, 10 and 10 % with ten folds. The validation
part is followed and selects nothing.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from experiments.medical import mirrored
from experiments.phantoms_lung import NodulePhantoms
from experiments.records import write_whole
from jaxclear import models, training
from jaxclear.augment import RandomAffine
from jaxclear.data import gather
from jaxclear.data.lidc import LungNodules
from jaxclear.dataset.sources import Failure
from jaxclear.inputs import as_floats
from jaxclear.models.layers import BatchNorm, ConvNet, Dropout, MaxPool
from jaxclear.training import TrainConfig

__all__ = ["Augmentation", "Fold", "Slices", "balanced", "collect", "cross_validate", "lung_network", "settled"]

MASKS = ("mask", "spicules", "calcification")
"""What an item may say of its pixels; the readers' marks of LIDC-IDRI are `mask` alone."""
_BATCH = 64


class Slices(NamedTuple):
    """All slices in memory.

    Attributes:
        images: min-max normalised.
        labels: 0 benign, 1 malignant.
        ids: their names.
        groups: the patient (LIDC-IDRI) or nodule (phantoms) of each: what no two folds share.
        indices: their places in the source.
        masks: pixels by the names in `MASKS`.
        failures: name and reason of those that could not be read.
    """

    images: UInt8[np.ndarray, "N S S 1"]
    labels: Int[np.ndarray, " N"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    indices: Int[np.ndarray, " N"]
    masks: dict[str, Bool[np.ndarray, "N S S"]]
    failures: tuple[Failure, ...]


class Fold(NamedTuple):
    """A trained fold.

    Attributes:
        rows: the slices that it was tested on.
        probabilities: of malignancy, one a row.
        as_trained: the same before the statistics of the batch normalisations were settled; as they are if not settled.
        variables: of its network.
        counts: images trained on, with augmentation and without, validated on and tested on.
        history: of its training.
    """

    rows: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]
    as_trained: Float[np.ndarray, " n"]
    variables: Any
    counts: dict[str, int]
    history: list[dict[str, Any]]


class _Masked:
    """A source whose images have the masks as further channels, so that each slice is read once."""

    reading = "threads"

    def __init__(self, source: LungNodules | NodulePhantoms, names: tuple[str, ...]) -> None:
        self._source, self._names = source, names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._source[index]
        masks = [255 * item[name][..., None].astype(np.uint8) for name in self._names]
        return {"image": np.concatenate([item["image"], *masks], axis=-1), "label": item["label"], "id": item["id"]}

    def name(self, index: int) -> str:
        return self._source.name(index)


def collect(source: LungNodules | NodulePhantoms, say: Callable[..., None] | None = None) -> Slices:
    """Returns all slices of a source that can be read.

    Args:
        source: nodules of CT scans, or drawn ones.
        say: told after every thousand slices.

    Raises:
        DataError: there is none.
    """
    names = MASKS if isinstance(source, NodulePhantoms) else MASKS[:1]

    def report(done: int, count: int) -> None:
        if say is not None and done % 1000 == 0:
            say(f"{done} of {count} slices read")

    found = gather(_Masked(source, names), on_error="record", progress=report)
    places = {source.name(index): index for index in range(len(source))}
    indices = np.array([places[name] for name in found.ids], np.int64)
    return Slices(
        images=np.ascontiguousarray(found.images[..., :1]),
        labels=found.labels,
        ids=found.ids,
        groups=tuple(source.groups[index] for index in indices),
        indices=indices,
        masks={name: found.images[..., 1 + channel] > 0 for channel, name in enumerate(names)},
        failures=found.failures,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Copies of images that balance and enlarge a training set: shifted, turned and mirrored at random.

    Attributes:
        total: images to train on; each class gets an equal part of it, or all of its own where these are more.
        shift: largest shift, pixels.
        degrees: largest angle.
    """

    total: int
    shift: float = 5.0
    degrees: float = 30.0

    def __call__(self, key: PRNGKeyArray, images: Float[Array, "B S S 1"]) -> Float[Array, "B S S 1"]:
        """The changed images; what comes in over the rim is the darkest value, air."""
        placed, flipped = jax.random.split(key)
        affine = RandomAffine(shift=self.shift, degrees=self.degrees, scale=0.0)
        return mirrored(flipped, affine(placed, images))


def balanced(
    images: UInt8[np.ndarray, "N S S 1"], labels: Int[np.ndarray, " N"], augmentation: Augmentation, *, seed: int
) -> tuple[UInt8[np.ndarray, "M S S 1"], Int[np.ndarray, " M"]]:
    """Returns images and labels with augmented copies behind them, made once, so that all classes are equally many.

    Args:
        images: to train on.
        labels: their classes.
        augmentation: how many there shall be, and how copies are changed.
        seed: which images are copied (each class's in turn, in a random order), and how they are changed.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    copied = []
    for own in classes:
        rows = rng.permutation(np.flatnonzero(labels == own))
        copied.append(np.resize(rows, max(augmentation.total // len(classes) - len(rows), 0)))
    chosen = np.concatenate(copied).astype(np.int64)
    change = jax.jit(lambda key, batch: jnp.rint(255 * augmentation(key, as_floats(batch))).astype(jnp.uint8))
    parts = [images]
    for start in range(0, len(chosen), _BATCH):
        rows = chosen[start : start + _BATCH]
        key = jax.random.fold_in(jax.random.key(seed), start)
        parts.append(np.asarray(change(key, images[np.resize(rows, _BATCH)]))[: len(rows)])
    return np.concatenate(parts), np.concatenate([labels, labels[chosen]])


def lung_network(momentum: float, *, cells: int = 4) -> ConvNet:
    """Returns the network of figure 4.1.

    Args:
        momentum: of its batch normalisations; published 0.99.
        cells: how many of its cells stand before the class layer; fewer only to try the code out.
    """
    layers = models.network("lung").layers
    pools = [place for place, layer in enumerate(layers) if isinstance(layer, MaxPool)]
    kept = layers if cells > len(pools) else (*layers[: pools[cells - 1]], layers[-1])
    return ConvNet(
        layers=tuple(
            dataclasses.replace(layer, momentum=momentum) if isinstance(layer, BatchNorm) else layer for layer in kept
        )
    )


def settled(module: ConvNet, variables: Any, images: UInt8[np.ndarray, "N S S 1"]) -> dict[str, Any]:
    """Returns a trained network whose batch normalisations have the statistics of images without dropout.

    The running statistics of the training are those of activations with dropout, which vary more than without it, of
    the last batches, and of weights that still moved: after a short training the network's threshold may be anywhere.

    Args:
        module: the network.
        variables: as trained.
        images: those that it was trained on; the mean over their batches of one size is taken.

    Source: X. Li et al., "Understanding the disharmony between dropout and batch normalization by variance shift",
        CVPR 2019, section 5.
    """
    layers = [layer for layer in module.layers if not isinstance(layer, Dropout)]
    still = ConvNet(
        layers=tuple(
            dataclasses.replace(layer, momentum=0.0) if isinstance(layer, BatchNorm) else layer for layer in layers
        )
    )

    @jax.jit
    def statistics(batch: Array) -> Any:
        return still.apply(variables, as_floats(batch), train=True, mutable=["batch_stats"])[1]["batch_stats"]

    size = min(_BATCH, len(images))
    found = [statistics(images[start : start + size]) for start in range(0, len(images) - size + 1, size)]
    return {**variables, "batch_stats": jax.tree.map(lambda *values: sum(values) / len(values), *found)}


def cross_validate(
    module: ConvNet,
    slices: Slices,
    folds: Int[np.ndarray, " N"],
    optimisation: TrainConfig,
    augmentation: Augmentation,
    workdir: pathlib.Path,
    *,
    settle: bool,
    run: dict[str, Any],
    commit: str | None = None,
    progress: bool = True,
    say: Callable[..., None],
) -> list[Fold]:
    """Returns all folds, trained one after the other; what was finished in `workdir` before is taken from there.

    Args:
        module: the network.
        slices: the data.
        folds: the fold of each slice.
        optimisation: settings of the train loop.
        augmentation: of the training part.
        workdir: takes weights and predictions of each fold, and the checkpoint of the one in training.
        settle: whether the batch normalisations get their statistics from the training part anew; see `settled`.
        run: what the folds depend on; those of another run are refused.
        commit: of the code that runs; stays in the history of what it trains.
        progress: whether to report the training.
        say: reports a finished fold.

    Raises:
        ValueError: `workdir` has folds of another run.
    """
    found = []
    for number in range(int(folds.max()) + 1):
        file, weights = (workdir / f"fold-{number + 1:02d}.{kind}" for kind in ("json", "safetensors"))
        rows = np.flatnonzero(folds == number)
        if not file.exists():
            fitted, own, counts = _train(
                module, slices, folds, number, optimisation, augmentation, workdir, commit, progress
            )
            final = settled(module, fitted.variables, slices.images[own]) if settle else fitted.variables
            models.save_weights(weights, final)
            entry = {"run": run, "counts": counts, "history": [record._asdict() for record in fitted.history]}
            for name, variables in (("probabilities", final), ("as_trained", fitted.variables)):
                entry[name] = training.predict(module.apply, variables, slices.images[rows])[:, 1].tolist()
            write_whole(file, json.dumps(entry))
        entry = json.loads(file.read_text())
        if entry["run"] != json.loads(json.dumps(run)):
            raise ValueError(
                f"expected folds of this run in {workdir}, got others in {file.name}; name another workdir"
            )
        variables = jax.tree.map(jnp.asarray, models.load_weights(weights).variables)
        tested, before = (np.array(entry[name]) for name in ("probabilities", "as_trained"))
        found.append(Fold(rows, tested, before, variables, entry["counts"], entry["history"]))
        say(f"fold {number + 1} of {int(folds.max()) + 1}: tested on {len(rows)} slices")
    return found


def _train(
    module: ConvNet,
    slices: Slices,
    folds: Int[np.ndarray, " N"],
    number: int,
    optimisation: TrainConfig,
    augmentation: Augmentation,
    workdir: pathlib.Path,
    commit: str | None,
    progress: bool,
) -> tuple[training.TrainResult, Int[np.ndarray, " n"], dict[str, int]]:
    """One fold's training, resumed from its checkpoint if there is one, and the rows it was on, in random order."""
    checked = np.flatnonzero(folds == (number + 1) % (folds.max() + 1))
    own = np.flatnonzero((folds != number) & ~np.isin(np.arange(len(folds)), checked))
    images, labels = balanced(slices.images[own], slices.labels[own], augmentation, seed=number)
    fitted = training.fit(
        module,
        images,
        labels,
        dataclasses.replace(optimisation, seed=optimisation.seed + number),
        validation=(slices.images[checked], slices.labels[checked]),
        checkpoint=workdir / f"fold-{number + 1:02d}.checkpoint",
        made_by=commit,
        progress=progress,
    )
    counts = {"augmented": len(labels), "train": len(own), "validation": len(checked)}
    shuffled = np.random.default_rng(number).permutation(own)
    return fitted, shuffled, counts | {"test": int((folds == number).sum())}
