"""The crystal classifier: the network of table 3.1 on pristine fingerprints, tested on elements it never saw.

Source: A. Ziletti, D. Kumar, M. Scheffler, L. Ghiringhelli, "Insightful classification of crystal structures using deep
    learning", Nat. Commun. 9, 2775 (2018); D. Kumar, "Class Based Strategies for Understanding Neural Networks",
    University of Waterloo (2020), tables 3.1 and 3.2.
Command: python -m experiments.train_crystals STRUCTURES --seed 2 [--workdir DIR] [--ship]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. With --ship the weights and
    the results go into the package and into experiments/results/. --recipe published trains without the decay below.
Run time: 14 minutes on 2 busy CPU cores for 9,313 POSCAR files, half of it training.
Published: 100 % on pristine structures and on each damaged column of table 3.2, with a random 90/10 split.
Own figure: experiments/results/train_crystals.json, on elements kept out of training.

Deviations from the source: the split is by element (a random split puts copies of one structure on both sides), the
form factors are those of the element itself, and the learning rate falls to zero along a cosine: held constant, as
published, validation with seed 0 went 100, 100, 99.8, 51.5, 99.8 % over the five epochs. As the decay was chosen on the
validation elements of seed 0, the shipped network and its figures are those of seed 2, which was run once, afterwards.
Everything else is as published: Adam at 1e-3, batches of 32, 5 epochs, cross-entropy, no augmentation, pristine
structures only. Structures within 3 % of a geometry of another class stay in training and are reported apart.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.records import one_line, provenance, say_to, trained
from jaxclear import models, training
from jaxclear.crystals import datasets, defects
from jaxclear.crystals.cells import clusters_of
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.structures import Crystal
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.models import weights

PACKAGE_WEIGHTS = pathlib.Path(models.__file__).parent / "data" / "crystal-pristine.safetensors"
RESULTS = pathlib.Path(__file__).parent / "results" / "train_crystals.json"

RECIPES = {
    "published": training.TrainConfig(epochs=5, batch_size=32, learning_rate=1e-3),
    "decayed": training.TrainConfig(epochs=5, batch_size=32, learning_rate=1e-3, decay="cosine"),
}

# Columns of table 3.2 that show the network's range; the whole table is an experiment of its own.
DAMAGE: dict[str, Callable[[Crystal, int], Crystal]] = {
    "sigma 0.02 A": lambda crystal, seed: defects.displacements(crystal, 0.02, seed=seed),
    "sigma 0.06 A": lambda crystal, seed: defects.displacements(crystal, 0.06, seed=seed),
    "vacancies 1 %": lambda crystal, seed: defects.vacancies(crystal, 0.01, seed=seed),
    "vacancies 25 %": lambda crystal, seed: defects.vacancies(crystal, 0.25, seed=seed),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        validation_elements: elements kept out of training, by name, or how many to draw by the seed.
        optimisation: settings of the train loop.
        split_seed: of the draw of the validation elements and of the damage.
    """

    source: str
    validation_elements: int | tuple[str, ...] = 10
    optimisation: training.TrainConfig = RECIPES["decayed"]
    split_seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(
        source=source,
        validation_elements=("Cu",),
        optimisation=training.TrainConfig(epochs=1, batch_size=8),
        split_seed=1,
    )


def run(config: Config, workdir: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains, evaluates, and returns the results, written to `workdir` beside the weights.

    A run that was broken off goes on from its last epoch.

    Raises:
        DatasetError: the source holds no usable structures, or the split cannot be made.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    made_by = provenance()  # now: the code that runs is the code that is there when it starts
    say = say_to(progress)
    dataset = datasets.load(config.source)
    dropped, unreadable = dict(dataset.dropped), len(dataset.failures)
    say(f"{len(dataset.labels)} labelled, dropped {dropped}, {unreadable} unreadable")
    images = datasets.fingerprints(dataset, cache_dir=workdir)
    split = datasets.split_by_element(dataset, config.validation_elements, seed=config.split_seed)
    say(f"validation elements {', '.join(split.elements)}: {len(split.validation)} structures")
    module, _ = models.build("crystal")
    fitted = training.fit(
        module,
        images[split.training],
        dataset.labels[split.training],
        config.optimisation,
        validation=(images[split.validation], dataset.labels[split.validation]),
        checkpoint=workdir / "train_crystals.checkpoint",
        made_by=made_by["commit"],
        progress=progress,
    )
    held_out = datasets.take(dataset, split.validation)
    classify = functools.partial(training.predict, module.apply, fitted.variables)
    nearest = NearestNeighbour(images[split.training], dataset.labels[split.training])
    figures = {"pristine": _figures(held_out, images[split.validation], classify, nearest)}
    clusters = clusters_of(held_out.crystals)
    for name, damage in DAMAGE.items():
        damaged = [damage(cluster, config.split_seed + number) for number, cluster in enumerate(clusters)]
        figures[name] = _figures(held_out, fingerprint_clusters(damaged), classify, nearest)
        say(f"{name}: {figures[name]['network']}")
    results = {
        "experiment": "train_crystals",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "structures": _counted(dataset, split, held_out),
        "classes": CLASS_NAMES,
        "figures": figures,
        **trained(fitted.history),
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    summary = {
        "command": f"python -m experiments.train_crystals STRUCTURES --seed {config.split_seed}",
        "commit": results["commit"],
        "training": "pristine elemental solids, split by element",
        "accuracy": figures["pristine"]["network"],
    }
    results["weights_sha256"] = weights.save(
        workdir / "crystal.safetensors",
        fitted.variables,
        {"class_names": json.dumps(CLASS_NAMES), "training": json.dumps(summary)},
    )
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


def _counted(
    dataset: datasets.LabelledStructures, split: datasets.Split, held_out: datasets.LabelledStructures
) -> dict[str, Any]:
    """How many structures there were, and what became of them."""
    return {
        "labelled": len(dataset.labels),
        "training": len(split.training),
        "validation": len(split.validation),
        "near_degenerate_in_validation": int(held_out.near_degenerate.sum()),
        "dropped": dict(dataset.dropped),
        "unreadable": len(dataset.failures),
        "duplicates": dataset.duplicates,
        "validation_elements": split.elements,
    }


class NearestNeighbour:
    """A 1-nearest-neighbour look-up by Euclidean distance on fingerprints: the baseline without a network."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Keeps one of each group of images that agree to 1/250 in every pixel."""
        coarse = np.round(images.reshape(len(images), -1) * 250).astype(np.uint8)
        _, first = np.unique(coarse, axis=0, return_index=True)
        self._images = images[first].reshape(len(first), -1)
        self._labels = labels[first]
        self._norms = (self._images**2).sum(axis=1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the label of the nearest kept image."""
        flat = images.reshape(len(images), -1)
        nearest = [
            np.argmin(self._norms - 2 * (part @ self._images.T), axis=1)
            for part in np.array_split(flat, 1 + len(flat) // 256)
        ]
        return self._labels[np.concatenate(nearest)]


def _figures(
    held_out: datasets.LabelledStructures,
    images: np.ndarray,
    classify: Callable[[np.ndarray], np.ndarray],
    nearest: NearestNeighbour,
) -> dict[str, Any]:
    """Accuracies in percent, with and without the near-degenerate band, and the confusion of the network."""
    clear = ~held_out.near_degenerate
    predicted = classify(images).argmax(axis=-1)
    looked_up = nearest(images)
    confusion = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(confusion, (held_out.labels, predicted), 1)
    return {
        "network": _percent(predicted == held_out.labels, clear),
        "nearest_neighbour": _percent(looked_up == held_out.labels, clear),
        "confusion": confusion.tolist(),
    }


def _percent(correct: np.ndarray, clear: np.ndarray) -> dict[str, Any]:
    return {
        "all": round(100 * float(correct.mean()), 3),
        "outside_band": round(100 * float(correct[clear].mean()), 3),
        "errors_outside_band": int((~correct[clear]).sum()),
        "count_outside_band": int(clear.sum()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder, archive or file of crystal structures")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir/train_crystals"))
    parser.add_argument("--seed", type=int, default=2, help="of the split, the weights and the damage")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="decayed")
    parser.add_argument("--ship", action="store_true", help="write weights and results into the checkout")
    options = parser.parse_args(arguments)
    with one_line("train_crystals"):
        recipe = dataclasses.replace(RECIPES[options.recipe], seed=options.seed)
        results = run(Config(source=options.source, optimisation=recipe, split_seed=options.seed), options.workdir)
    if options.ship:
        for made, place in (
            (options.workdir / "crystal.safetensors", PACKAGE_WEIGHTS),
            (options.workdir / RESULTS.name, RESULTS),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(made.read_bytes())
    for name, figures in results["figures"].items():
        network = figures["network"]
        print(f"{name:16s} network {network['all']:7.3f} %, outside the band {network['outside_band']:7.3f} %")


if __name__ == "__main__":
    main()
