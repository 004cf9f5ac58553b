"""CLEAR-DR: grades of diabetic retinopathy from fundus photographs, with CLEAR maps over the five grades.

Source: D. Kumar, G. Taylor, A. Wong, "Discovery radiomics with CLEAR-DR" (2017); D. Kumar, "Class Based Strategies for
    Understanding Neural Networks", University of Waterloo (2020), 5.3 and figures 5.6 to 5.9.
Command: python -m experiments.retinopathy KAGGLE_FOLDER [--workdir DIR] [--record]
    the folder of the Kaggle challenge of 2015, with trainLabels.csv and train/. Right eyes; a tenth of the patients is
    the test set. A run that was broken off goes on from its last epoch.
    python -m experiments.retinopathy --phantoms [--workdir DIR] [--record]
    the same on drawn phantoms whose lesions are known, 96 pixels wide, and the maps scored against the lesions.
Run time: phantoms: `training_seconds` in experiments/results/retinopathy-phantoms.json, and a minute for the maps. The
    data set was not at hand: its run is untimed, and wants an accelerator.
Published: accuracy 73.2 % on 53,354 photographs, 90/10. (73.5 % of the challenge's training set are grade 0, so the
    results hold the share of the commonest grade, the confusion matrix and the quadratic weighted kappa too.)
Own figure: none on the data set; experiments/results/retinopathy-phantoms.json and figures/retinopathy-phantoms.png on
    phantoms, which say nothing about patients.

Preprocessing, in training and in explanation: `jaxclear.data.retinopathy.fundus` (crop, one size), then `normalise`
(channel-wise). Maps are those of the network behind `normalise`, which keeps every pixel at its place. To pass the
response through it as well would subtract the response's own mean from every pixel; the phantoms' results have both.
Rules differ in their seeds too: by `backprop` and `linear` negative values of a class map count.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from scipy.ndimage import binary_dilation

import jaxclear
from experiments import mapping, medical, phantoms_fundus
from experiments.records import interval_percent, provenance, say_to, trained
from experiments.retinopathy_figure import Reading, gallery
from jaxclear import models, plot, training
from jaxclear.attention import attentive_regions
from jaxclear.data import gather, holdout
from jaxclear.data.retinopathy import GRADES, Retinopathy, normalise
from jaxclear.data.sources import Subset, as_source
from jaxclear.dataset.sources import Failure

PUBLISHED = 73.2


RECIPE = training.TrainConfig(epochs=40, batch_size=32, learning_rate=5e-4, decay="cosine", augment=medical.mirrored)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: the challenge's folder; None for phantoms.
        size: height and width of a photograph, pixels.
        test_share: part of the patients that no training sees.
        optimisation: settings of the train loop.
        rule: of the figure's maps; guided puts most of the response on the phantoms' lesions.
        rules: that are scored against known lesions.
        phantoms: how many, where there is no folder.
        photograph_share: part of the phantoms drawn on a photograph of a healthy fundus.
        margin: pixels round a lesion that still count as on it: responses lie along edges.
        seed: of the split and the phantoms.
    """

    source: str | None = None
    size: int = 256
    test_share: float = 0.1
    optimisation: training.TrainConfig = RECIPE
    rule: str = "guided"
    rules: tuple[str, ...] = mapping.RULES
    phantoms: int = 700
    photograph_share: float = 0.25
    margin: int = 2
    seed: int = 0


def phantom_config() -> Config:
    """Returns the settings of the run on phantoms: small enough for two cores and ten minutes."""
    optimisation = dataclasses.replace(RECIPE, epochs=12, learning_rate=2e-3, muon_learning_rate=0.03, warmup=0.1)
    return Config(size=96, test_share=0.2, optimisation=optimisation)


def smoke_config(source: str | None) -> Config:
    """Returns settings that run in seconds."""
    optimisation = dataclasses.replace(RECIPE, epochs=1, batch_size=4)
    return Config(source=source, size=32, test_share=0.3, optimisation=optimisation, phantoms=20, photograph_share=0.0)


class Normalised(nn.Module):
    """A network behind the channel-wise normalisation of its images."""

    network: nn.Module

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B *maps K"]:
        """What the network returns for the normalised images."""
        return self.network(normalise(images), train=train)


class Photographs(NamedTuple):
    """One side of the split, in memory; `lesions` are known of phantoms, and empty otherwise."""

    images: UInt8[np.ndarray, "N S S 3"]
    grades: Int[np.ndarray, " N"]
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]
    lesions: Bool[np.ndarray, "N S S"]


def run(config: Config, workdir: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains, evaluates, draws, and returns the results, written to `workdir` beside the weights.

    Raises:
        DataError: the folder is not the challenge's, or a split cannot be made.
        TrainingError: a checkpoint of another run lies in `workdir`.
    """
    name = "retinopathy" if config.source else "retinopathy-phantoms"
    workdir.mkdir(parents=True, exist_ok=True)
    started, made_by, say = time.perf_counter(), provenance(), say_to(progress)
    train, test, fundus, missing = _data(config)
    unreadable = (*train.failures, *test.failures)
    left_out = medical.left_out(missing, unreadable, say)
    say(f"{len(train.images)} photographs to train on, {len(test.images)} to test on")
    network, table = models.build("retinopathy")
    module = Normalised(network)
    fitted = training.fit(
        module,
        train.images,
        train.grades,
        config.optimisation,
        checkpoint=workdir / f"{name}.checkpoint",
        made_by=made_by["commit"],
        progress=progress,
    )
    models.save_weights(workdir / f"{name}.safetensors", fitted.variables, {"training": json.dumps({"study": name})})
    found = training.evaluate(module.apply, fitted.variables, test.images, test.grades)
    say(f"accuracy {100 * found.accuracy:.2f} %")
    results: dict[str, Any] = {
        "experiment": name,
        "measured_on": "the data set" if config.source else "phantoms: drawn fundi, not patients",
        "config": medical.settings(config),
        "photographs": {"train": len(train.images), "test": len(test.images)} | {"unreadable": len(unreadable)},
        "left_out": left_out,
        "grades": GRADES,
        "figures": _figures(found, test.grades) | {"published_percent": PUBLISHED if config.source else None},
        **trained(fitted.history),
    }
    if fundus is not None:
        results["maps"] = _map_scores(config, module, fitted.variables, test, found.probabilities.argmax(1), fundus)
    readings = _readings(config, network, inner(fitted.variables), test, found.probabilities)
    title = "Diabetic retinopathy" if config.source else "Phantoms (drawn fundi, no patients)"
    plot.save(gallery(readings, title=title, class_names=table.class_names), workdir / f"{name}.png", dpi=130)
    results |= {"seconds": round(time.perf_counter() - started, 1), **made_by}
    medical.write_results(workdir, name, results)
    return results


def _data(
    config: Config,
) -> tuple[Photographs, Photographs, Bool[np.ndarray, "S S"] | None, tuple[Failure, ...]]:
    """Both sides of the split, where the fundus is, if that is known, and what the folder lacks."""
    fundus, missing = None, ()
    lesions = np.zeros((0, config.size, config.size), bool)
    if config.source:
        source = Retinopathy(config.source, size=config.size, incomplete="record")
        missing = source.failures
    else:
        made = phantoms_fundus.make(
            config.phantoms, config.size, seed=config.seed, photograph_share=config.photograph_share
        )
        source = as_source((made.images, made.grades))
        lesions, fundus = np.asarray(made.lesions.any(axis=1)), made.fundus
    split = holdout(source, config.test_share, seed=config.seed)

    def gathered(part: Subset) -> Photographs:
        known = gather(part, on_error="record")
        marked = lesions[part.indices] if len(lesions) else lesions
        return Photographs(known.images, known.labels, known.ids, known.failures, marked)

    return gathered(split.train), gathered(split.test), fundus, missing


def quadratic_kappa(confusion: Int[np.ndarray, "K K"]) -> float:
    """Returns Cohen's kappa with quadratic weights, the challenge's own measure; 1 is agreement, 0 chance.

        kappa = 1 - Σ w O / Σ w E,   w_ij = (i - j)²,   E = outer product of O's margins / N

    Args:
        confusion: counts, true grade by predicted grade.

    Returns:
        The kappa; NaN where all images have one grade and are given it.

    Source: J. Cohen, Psychol. Bull. 70, 213 (1968).
    """
    counts = np.asarray(confusion, np.float64)
    grades = np.arange(len(counts))
    weights = np.square(grades[:, None] - grades).astype(np.float64)
    chance = (weights * np.outer(counts.sum(1), counts.sum(0))).sum() / counts.sum()
    return float(1 - (weights * counts).sum() / chance) if chance > 0 else float("nan")


def _figures(found: training.Evaluation, grades: Int[np.ndarray, " N"]) -> dict[str, Any]:
    right = int(np.trace(found.confusion))
    kappa = quadratic_kappa(found.confusion)
    return {
        "accuracy_percent": round(100 * found.accuracy, 2),
        "interval_95": interval_percent(right, len(grades)),
        "commonest_grade_percent": round(100 * float(np.bincount(grades).max()) / len(grades), 2),
        "quadratic_kappa": round(kappa, 4) if np.isfinite(kappa) else None,
        "confusion": found.confusion.tolist(),
        "loss": round(found.loss, 4),
    }


def _map_scores(
    config: Config,
    module: Normalised,
    variables: Any,
    test: Photographs,
    predicted: Int[np.ndarray, " N"],
    fundus: Bool[np.ndarray, "S S"],
) -> dict[str, Any]:
    """Where the response of the predicted grade lies, for each rule, over the rightly graded images with lesions.

    Its share on lesions and on the margin round them, within the fundus; the control are the lesions' masks turned or
    mirrored. `clear_maps`: the part of the CLEAR maps' dominant response that is the predicted grade's.
    """
    chosen = np.flatnonzero((predicted == test.grades) & (test.grades > 0))
    if not len(chosen):
        return {"images": 0}
    near = np.ones((3, 3), bool)
    masks = np.stack([binary_dilation(test.lesions[i], near, iterations=config.margin) & fundus for i in chosen])
    within = np.broadcast_to(fundus, masks.shape)
    images, grades = test.images[chosen], test.grades[chosen]
    inputs = _normalised(images)
    untrained = module.init(jax.random.key(config.seed + 1), jnp.zeros((1, *images.shape[1:])))
    network = module.network.apply

    def score(responses: np.ndarray, *, by_grade: bool = False) -> dict[str, Any]:
        found = mapping.of_class(responses, grades)
        parts = {GRADES[k]: np.flatnonzero(grades == k) for k in range(1, len(GRADES))} if by_grade else {}
        everything = medical.truth_scores(found, masks, medical.turned, within=within)
        return everything | {
            name: medical.truth_scores(found[rows], masks[rows], medical.turned, within=within[rows])
            for name, rows in parts.items()
            if len(rows)
        }

    scores: dict[str, Any] = {"images": len(chosen), "rules": {}, "untrained_network": {}, "clear_maps": {}}
    for rule in config.rules:
        responses = mapping.class_maps(network, inner(variables), inputs, rule=rule)
        scores["rules"][rule] = score(responses, by_grade=True)
        scores["clear_maps"][rule] = {"predicted_grade_percent": own_share(responses, grades)}
        scores["untrained_network"][rule] = score(mapping.class_maps(network, inner(untrained), inputs, rule=rule))
    through = mapping.class_maps(module.apply, variables, images, rule=config.rule)
    return scores | {"through_the_normalisation": {config.rule: score(through)}}


def inner(variables: Any) -> dict[str, Any]:
    """Returns the variables of the network behind the normalisation."""
    return {"params": variables["params"]["network"]}


def _normalised(images: UInt8[np.ndarray, "N S S 3"]) -> Float[np.ndarray, "N S S 3"]:
    return mapping.mapped(lambda _, batch: normalise(batch), None, images)


def own_share(responses: Float[np.ndarray, "N K H W"], labels: Int[np.ndarray, " N"]) -> float:
    """Returns the part of the CLEAR maps' dominant response that belongs to one class, in percent; mean of images."""
    dominant = np.maximum(responses.max(axis=1), 0)
    own = dominant * (responses.argmax(axis=1) == labels[:, None, None])
    return round(100 * float(np.mean(own.sum((1, 2)) / np.maximum(dominant.sum((1, 2)), 1e-30))), 2)


def _readings(
    config: Config, network: nn.Module, variables: Any, test: Photographs, probabilities: Float[np.ndarray, "N K"]
) -> list[tuple[Reading | None, Reading | None]]:
    """For each grade the first photograph that is graded rightly and the first that is not, in the test set's order."""
    right = probabilities.argmax(axis=1) == test.grades
    places = [
        np.flatnonzero((test.grades == grade) & (right == whether))[:1]
        for grade in range(len(GRADES))
        for whether in (True, False)
    ]
    rows = np.concatenate(places)
    inputs, predicted = _normalised(test.images[rows]), probabilities[rows].argmax(axis=1)
    clear = mapping.mapped(jaxclear.clear_map(network.apply, rule=config.rule), variables, inputs)
    responses = mapping.of_class(mapping.class_maps(network.apply, variables, inputs, rule=config.rule), predicted)
    readings: dict[int, Reading] = {}
    for index, row in enumerate(rows):
        regions = attentive_regions(responses[index], sigma=config.size / 64, most=1)
        readings[int(row)] = Reading(
            photograph=test.images[row],
            clear=jax.tree.map(lambda values, at=index: values[at : at + 1], clear),
            region=regions[0] if regions else None,
            grade=int(test.grades[row]),
            probabilities=probabilities[row],
            name=test.ids[row],
        )
    found = [readings[int(place[0])] if len(place) else None for place in places]
    return list(zip(found[::2], found[1::2], strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""

    def start(folder: str | None, workdir: pathlib.Path) -> dict[str, Any]:
        return run(Config(source=folder) if folder else phantom_config(), workdir)

    results = medical.command(
        "retinopathy", __doc__, arguments, start, ["{}.png"], folder="the folder of the Kaggle challenge"
    )
    figures = results["figures"]
    print(f"accuracy {figures['accuracy_percent']} %, kappa {figures['quadratic_kappa']} on {results['measured_on']}")
    for rule, scores in results.get("maps", {}).get("rules", {}).items():
        print(f"{rule:10s} {scores['share_percent']} % of the response on {scores['area_percent']} % of the fundus")


if __name__ == "__main__":
    main()
