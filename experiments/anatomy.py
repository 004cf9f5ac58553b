"""Regions of the body from radiographs: three networks, what they attend to, and whether that alone is enough.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), 3.5, table
    3.3 and figures 3.6 to 3.12.
Command: python -m experiments.anatomy IMAGECLEF_FOLDER [--workdir DIR] [--record]
    the folder of the ImageCLEF 2009 medical annotation task; classes of at least 50 radiographs, a tenth is the test
    set. A run that was broken off goes on from its last epoch.
    python -m experiments.anatomy --phantoms [--workdir DIR] [--record]
    the same on drawn phantoms of eight regions, 64 pixels wide, and the maps scored against the bones that differ.
Run time: phantoms: `seconds` in experiments/results/anatomy-phantoms.json. Untimed on the data set, not at hand here.
Published: accuracy 71.1 % (shallow), 90.36 % (deep), 95.62 % (deep, augmented) on 14,676 radiographs of 24 classes.
Own figure: none on the data set; experiments/results/anatomy-phantoms.json and figures/anatomy-phantoms*.png on
    phantoms, which say nothing about radiographs.

The attentive response map of an image is the maximum over the responses of the 25 most activated units of the last
convolution below the class layer. Its focus area is where it is strongest, after smoothing: so many percent of the
image. Landmark ablation: keep only the focus area (the rest black) and classify again; remove it and classify again;
and both with the same mask shifted at random, a region of the same area and shape that the map did not mark.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from scipy.ndimage import binary_dilation

import jaxclear
from experiments import mapping, medical, phantoms_limbs
from experiments.anatomy_augment import Augment
from experiments.anatomy_figures import Example, ablation_figure, focus_figure, maps_figure
from experiments.records import interval_percent, provenance, say_to, trained
from jaxclear import models, plot, training
from jaxclear.attention import focus_area
from jaxclear.class_backprop import Apply
from jaxclear.data import gather, holdout
from jaxclear.data.imageclef import Radiographs
from jaxclear.data.sources import Subset, as_source
from jaxclear.dataset.sources import Failure
from jaxclear.inputs import as_floats
from jaxclear.strong_features import keep

LAST_CONVOLUTION = -2
"""The one below the class layer."""


class Study(NamedTuple):
    """One of the three networks: its layer table, whether its images are augmented, the published accuracy."""

    network: str
    augmented: bool
    published: float


STUDIES = {
    "shallow": Study("anatomy-shallow", False, 71.1),
    "deep": Study("anatomy-deep", False, 90.36),
    "deep, augmented": Study("anatomy-deep", True, 95.62),
}
RECIPE = training.TrainConfig(epochs=40, batch_size=32, learning_rate=5e-4, decay="cosine")
AUGMENT = Augment()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: the task's folder; None for phantoms.
        size: height and width of a radiograph, pixels.
        minimum: radiographs that a class needs.
        test_share: part of the radiographs that no training sees.
        optimisation: settings of the train loop.
        augment: of the third network.
        units: most activated units whose responses make a map.
        rule: of the ablation and the pictures.
        rules: that are scored against known landmarks.
        areas: focus areas, parts of the image.
        explained: at most so many images of the test set are explained, the first ones.
        phantoms: how many, where there is no folder.
        margin: pixels round a landmark that still count as on it: responses lie along edges.
        shown: regions in the pictures.
        networks: which of the `STUDIES`.
        seed: of the split, the phantoms and the control masks.
    """

    source: str | None = None
    size: int = 224
    minimum: int = 50
    test_share: float = 0.1
    optimisation: training.TrainConfig = RECIPE
    augment: Augment = AUGMENT
    units: int = 25
    rule: str = "deconvnet"
    rules: tuple[str, ...] = mapping.RULES
    areas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    explained: int = 500
    phantoms: int = 560
    margin: int = 1
    shown: int = 5
    networks: tuple[str, ...] = tuple(STUDIES)
    seed: int = 0


def phantom_config() -> Config:
    """Returns the settings of the run on phantoms: small enough for two cores and ten minutes."""
    optimisation = dataclasses.replace(RECIPE, epochs=8, learning_rate=2e-3, muon_learning_rate=0.03, warmup=0.1)
    return Config(size=64, test_share=0.3, optimisation=optimisation, explained=64)


def smoke_config(source: str | None) -> Config:
    """Returns settings that run in seconds."""
    optimisation = dataclasses.replace(RECIPE, epochs=1, batch_size=4)
    return Config(
        source=source,
        size=32,
        minimum=2,
        test_share=0.3,
        optimisation=optimisation,
        units=2,
        rules=("deconvnet",),
        areas=(0.1, 0.3),
        explained=8,
        phantoms=24,
        shown=2,
        networks=("shallow",),
    )


class Images(NamedTuple):
    """One side of the split, in memory; `landmarks` are known of phantoms, and empty otherwise."""

    images: UInt8[np.ndarray, "N S S 1"]
    labels: Int[np.ndarray, " N"]
    ids: tuple[str, ...]
    landmarks: Bool[np.ndarray, "N S S"]
    failures: tuple[Failure, ...]


class Trained(NamedTuple):
    """A network of the study and what it says of the test set and of the images that are explained."""

    apply: Apply
    variables: Any
    evaluation: training.Evaluation
    history: tuple[training.EpochRecord, ...]
    attention: Float[np.ndarray, "M S S"]


def run(config: Config, workdir: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains the three networks, maps, ablates, draws, and returns the results, written to `workdir`.

    Raises:
        DataError: the folder is not the task's, or a split cannot be made.
        TrainingError: a checkpoint of another run lies in `workdir`.
    """
    name = "anatomy" if config.source else "anatomy-phantoms"
    workdir.mkdir(parents=True, exist_ok=True)
    started, made_by, say = time.perf_counter(), provenance(), say_to(progress)
    train, test, classes, missing = _data(config)
    left_out = medical.left_out(missing, (*train.failures, *test.failures), say)
    say(f"{len(train.images)} radiographs of {len(classes)} classes to train on, {len(test.images)} to test on")
    explained = Images._make(part[: config.explained] for part in test)
    found: dict[str, Trained] = {}
    figures: dict[str, Any] = {}
    for title in config.networks:
        study = STUDIES[title]
        say(f"{title}:")
        stem = workdir / f"{name}-{title.replace(', ', '-')}"
        found[title] = _train(config, study, train, test, explained, len(classes), stem, made_by["commit"], progress)
        figures[title] = _figures(config, study, found[title], explained)
        say(f"{title}: {figures[title]['accuracy_percent']} %, {figures[title]['ablation']}")
    examples = _examples(config, found, explained)
    subject = "Radiographs" if config.source else "Phantoms (drawings, no radiographs)"
    pictures = {
        "": maps_figure(examples, title=subject, networks=config.networks, classes=classes),
        "-focus": focus_figure(examples[:1], title=subject, networks=config.networks, classes=classes),
        "-ablation": ablation_figure(figures, title=subject),
    }
    for suffix, picture in pictures.items():
        plot.save(picture, workdir / f"{name}{suffix}.png", dpi=130)
    results = {
        "experiment": name,
        "measured_on": "the data set" if config.source else "phantoms: drawings, not radiographs",
        "config": medical.settings(config),
        "radiographs": {"train": len(train.images), "test": len(test.images), "explained": len(explained.images)},
        "left_out": left_out,
        "classes": classes,
        "networks": figures,
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    medical.write_results(workdir, name, results)
    return results


def _data(config: Config) -> tuple[Images, Images, tuple[str, ...], tuple[Failure, ...]]:
    """Both sides of the split, the names of the classes, and what the folder lacks."""
    missing, landmarks = (), np.zeros((0, config.size, config.size), bool)
    if config.source:
        source = Radiographs(config.source, size=config.size, minimum=config.minimum, incomplete="record")
        classes, missing = source.classes, source.failures
    else:
        made = phantoms_limbs.make(config.phantoms, config.size, seed=config.seed)
        source, classes, landmarks = as_source((made.images, made.labels)), phantoms_limbs.REGIONS, made.landmarks
    split = holdout(source, config.test_share, seed=config.seed)

    def gathered(part: Subset) -> Images:
        known = gather(part, on_error="record")
        marked = landmarks[part.indices] if len(landmarks) else landmarks
        return Images(known.images, known.labels, known.ids, marked, known.failures)

    return gathered(split.train), gathered(split.test), classes, missing


def _train(
    config: Config,
    study: Study,
    train: Images,
    test: Images,
    explained: Images,
    classes: int,
    stem: pathlib.Path,
    commit: str | None,
    progress: bool,
) -> Trained:
    """Trains one network, or takes up its training; weights go beside the checkpoint."""
    module, _ = models.build(study.network, classes=classes)
    optimisation = config.optimisation
    if study.augmented:
        optimisation = dataclasses.replace(optimisation, augment=config.augment)
    fitted = training.fit(
        module,
        train.images,
        train.labels,
        optimisation,
        checkpoint=stem.with_name(f"{stem.name}.checkpoint"),
        made_by=commit,
        progress=progress,
    )
    notes = {"training": json.dumps({"study": stem.name})}
    models.save_weights(stem.with_name(f"{stem.name}.safetensors"), fitted.variables, notes)
    found = training.evaluate(module.apply, fitted.variables, test.images, test.labels)
    attention = attention_maps(module.apply, fitted.variables, explained.images, rule=config.rule, units=config.units)
    return Trained(module.apply, fitted.variables, found, fitted.history, attention)


def attention_maps(
    apply: Apply, variables: Any, images: np.ndarray, *, rule: str, units: int
) -> Float[np.ndarray, "N S S"]:
    """Returns the attentive response map of each image: the maximum over the most activated units' responses."""
    respond = jaxclear.unit_responses(apply, LAST_CONVOLUTION, top_n=units, rule=rule)
    return mapping.mapped(lambda tree, batch: respond(tree, batch).dominant.sum(axis=-1), variables, images)


def _figures(config: Config, study: Study, found: Trained, explained: Images) -> dict[str, Any]:
    """What is reported of one network."""
    right = int(np.trace(found.evaluation.confusion))
    figures: dict[str, Any] = {
        "accuracy_percent": round(100 * found.evaluation.accuracy, 2),
        "interval_95": interval_percent(right, int(found.evaluation.confusion.sum())),
        "published_percent": study.published if config.source else None,
        "confusion": found.evaluation.confusion.tolist(),
        "ablation": _ablation(config, found, explained),
        **trained(found.history),
    }
    if len(explained.landmarks):
        figures["ablation"] |= _landmark_ablation(found, explained)
        figures["maps"] = _map_scores(config, found, explained)
    return figures


def kept(images: Float[np.ndarray, "N S S 1"], masks: Bool[np.ndarray, "N S S"]) -> Float[np.ndarray, "N S S 1"]:
    """Returns images with nothing but the pixels of their masks; the rest is black, as air is."""
    return np.asarray(keep(jnp.asarray(images), jnp.asarray(masks), 0.0))


def _accuracy(found: Trained, images: Float[np.ndarray, "M S S 1"], labels: Int[np.ndarray, " M"]) -> float:
    return round(100 * training.evaluate(found.apply, found.variables, images, labels).accuracy, 2)


def focus_sigma(size: int) -> float:
    """Returns the width of the Gaussian, in pixels, that turns a speckled map into areas: 1/48 of the image."""
    return size / 48


def _ablation(config: Config, found: Trained, explained: Images) -> dict[str, Any]:
    """Accuracy with nothing but the focus area, without it, and with and without as much elsewhere, in percent."""
    floats = np.asarray(as_floats(explained.images))
    check = functools.partial(_accuracy, found, labels=explained.labels)
    rng = np.random.default_rng(config.seed)
    columns = []
    for area in config.areas:
        masks = np.stack([focus_area(one, area, sigma=focus_sigma(config.size)) for one in found.attention])
        elsewhere = np.stack([medical.moved(mask, rng) for mask in masks])
        columns.append(
            {
                "area_percent": round(100 * float(masks.mean()), 2),
                "kept": check(kept(floats, masks)),
                "kept_elsewhere": check(kept(floats, elsewhere)),
                "removed": check(kept(floats, ~masks)),
                "removed_elsewhere": check(kept(floats, ~elsewhere)),
            }
        )
    return {"full_image": check(floats), "focus_areas": columns}


def _landmark_ablation(found: Trained, explained: Images) -> dict[str, Any]:
    """The same with the true landmarks."""
    floats = np.asarray(as_floats(explained.images))
    return {
        "true_landmarks": {
            "area_percent": round(100 * float(explained.landmarks.mean()), 2),
            "kept": _accuracy(found, kept(floats, explained.landmarks), explained.labels),
            "removed": _accuracy(found, kept(floats, ~explained.landmarks), explained.labels),
        }
    }


def _map_scores(config: Config, found: Trained, explained: Images) -> dict[str, Any]:
    """Where the maps lie: those of the most activated units for each rule, and that of the true class for one."""
    near = np.ones((3, 3), bool)
    masks = np.stack([binary_dilation(mask, near, iterations=config.margin) for mask in explained.landmarks])
    scores: dict[str, Any] = {"units": {}, "class": {}}
    for rule in config.rules:
        attention = found.attention
        if rule != config.rule:
            attention = attention_maps(found.apply, found.variables, explained.images, rule=rule, units=config.units)
        scores["units"][rule] = medical.truth_scores(attention, masks, medical.moved, seed=config.seed)
    responses = mapping.class_maps(found.apply, found.variables, explained.images, rule=config.rule)
    own = mapping.of_class(responses, explained.labels)
    scores["class"][config.rule] = medical.truth_scores(own, masks, medical.moved, seed=config.seed)
    return scores


def _examples(config: Config, found: dict[str, Trained], explained: Images) -> list[Example]:
    """For each of the commonest classes the first image that all networks name rightly, or else its first image."""
    probabilities = np.stack([one.evaluation.probabilities[: len(explained.labels)] for one in found.values()])
    right = (probabilities.argmax(axis=-1) == explained.labels).all(axis=0)
    rows = []
    for label in np.argsort(-np.bincount(explained.labels), kind="stable")[: config.shown]:
        own = np.flatnonzero(explained.labels == label)
        rows.append(int(own[right[own]][0] if right[own].any() else own[0]))
    images = np.asarray(as_floats(explained.images[rows]))
    units = np.stack([_unit_maps(config, one, images) for one in found.values()])
    attention = np.stack([one.attention[rows] for one in found.values()])
    last = list(found.values())[-1]
    area, sigma = config.areas[len(config.areas) // 2], focus_sigma(config.size)
    focus = np.stack([focus_area(one, area, sigma=sigma) for one in attention[-1]])
    cut = np.stack([kept(images, focus), kept(images, ~focus)])
    answers = np.stack([training.predict(last.apply, last.variables, part) for part in cut])
    return [
        Example(
            image=images[index, ..., 0],
            label=int(explained.labels[row]),
            attention=attention[:, index],
            probabilities=probabilities[:, row],
            units=units[:, index],
            cut=cut[:, index, ..., 0],
            cut_probabilities=answers[:, index],
            landmarks=explained.landmarks[row] if len(explained.landmarks) else None,
            sigma=sigma,
            area=area,
        )
        for index, row in enumerate(rows)
    ]


def _unit_maps(config: Config, found: Trained, images: np.ndarray) -> Float[np.ndarray, "E n S S"]:
    """The responses of the five most activated units to each image."""
    respond = jaxclear.unit_responses(found.apply, LAST_CONVOLUTION, top_n=min(5, config.units), rule=config.rule)

    def by_image(variables: Any, batch: Array) -> Array:
        return jnp.swapaxes(respond(variables, batch).responses.sum(axis=-1), 0, 1)

    return mapping.mapped(by_image, found.variables, images)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""

    def start(folder: str | None, workdir: pathlib.Path) -> dict[str, Any]:
        return run(Config(source=folder) if folder else phantom_config(), workdir)

    pictures = ["{}.png", "{}-focus.png", "{}-ablation.png"]
    results = medical.command("anatomy", __doc__, arguments, start, pictures, folder="the folder of ImageCLEF 2009")
    for title, figures in results["networks"].items():
        print(f"{title:16s} {figures['accuracy_percent']} % on {results['measured_on']}")
        for column in figures["ablation"]["focus_areas"]:
            print("    " + ", ".join(f"{key} {value}" for key, value in column.items()))


if __name__ == "__main__":
    main()
