"""The crystal classifier that ships as default: the network of table 3.1, trained on damaged structures.

Source: the network is that of D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of
    Waterloo (2020), table 3.1, which is trained on pristine structures there (experiments/train_crystals.py).
Command: python -m experiments.train_crystals_damaged STRUCTURES [--workdir DIR] [--ship]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. With --ship the weights and
    the results go into the package and into experiments/results/. A run that was broken off goes on from its last
    epoch.
Run time: 40 minutes on 2 busy CPU cores for 9,313 POSCAR files.
Published: nothing; the table of accuracies is experiments/table_3_2.py.
Own figure: experiments/results/train_crystals_damaged.json, on development elements, which are not those of the table.

Each training structure outside the near-degenerate band is drawn several times, the classes in fixed numbers and the
distinct structures of a class equally often, cut as published or as a ball, and damaged at random:
experiments/crystal_study.py, `random_damage`.
Structures are scaled by the network of jaxclear/crystals/scale.py. The optimiser is the published one with a rate that
falls to zero along a cosine.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.crystal_study import damaged_examples, equal_counts, labelled, roles
from experiments.records import command, provenance, trained
from experiments.train_crystals import RECIPES
from jaxclear import models, training
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.models import weights

RESULTS = pathlib.Path(__file__).parent / "results" / "train_crystals_damaged.json"
PACKAGE_WEIGHTS = pathlib.Path(models.__file__).parent / "data" / "crystal.safetensors"
EXAMPLES: dict[str, int] = {
    "bct139": 5000, "bct141": 4000, "hex/rh": 8000, "sc": 3000, "fcc": 4000, "diamond": 3000, "bcc": 4000
}  # fmt: skip
"""More of the classes that have more geometries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        share: of the numbers of `EXAMPLES`.
        development: damaged structures of development elements to validate on.
        optimisation: settings of the train loop.
        seed: of the draw and the damage.
    """

    source: str
    share: float = 1.0
    development: int = 1400
    optimisation: training.TrainConfig = RECIPES["decayed"]
    seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(
        source=source, share=0.0005, development=14, optimisation=training.TrainConfig(epochs=1, batch_size=8)
    )


def run(config: Config, workdir: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains, validates, and returns the results, written to `workdir` beside the weights.

    Raises:
        DatasetError: the source holds no usable structures.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    study = labelled(config.source)
    parts = roles(study.dataset)
    counts = {name: max(1, round(config.share * number)) for name, number in EXAMPLES.items()}
    images, labels = damaged_examples(study, parts.training, counts, seed=config.seed)
    outside = parts.development[~study.dataset.near_degenerate[parts.development]]
    even = equal_counts(config.development)
    validation = damaged_examples(study, outside, even, seed=config.seed + 1)
    module, _ = models.build("crystal")
    fitted = training.fit(
        module,
        images,
        labels,
        config.optimisation,
        validation=validation,
        checkpoint=workdir / "train_crystals_damaged.checkpoint",
        made_by=made_by["commit"],
        progress=progress,
    )
    found = training.evaluate(module.apply, fitted.variables, *validation)
    results = {
        "experiment": "train_crystals_damaged",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "examples": dict(zip(CLASS_NAMES, np.bincount(labels, minlength=len(CLASS_NAMES)).tolist(), strict=True)),
        "structures": {"training": len(parts.training), "development": len(outside)},
        "classes": CLASS_NAMES,
        "development_accuracy_percent": round(100 * found.accuracy, 3),
        "development_confusion": found.confusion.tolist(),
        **trained(fitted.history),
        **made_by,
    }
    summary = {
        "command": "python -m experiments.train_crystals_damaged STRUCTURES",
        "commit": results["commit"],
        "training": "elemental solids damaged at random, split by element",
    }
    metadata = {"class_names": json.dumps(CLASS_NAMES), "training": json.dumps(summary), "length_scale": "learned"}
    results["weights_sha256"] = weights.save(workdir / "crystal.safetensors", fitted.variables, metadata)
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    ship = {PACKAGE_WEIGHTS.name: PACKAGE_WEIGHTS, RESULTS.name: RESULTS}
    results = command(
        "train_crystals_damaged", __doc__, arguments, lambda source, workdir: run(Config(source=source), workdir), ship
    )
    print(f"development elements, damaged at random: {results['development_accuracy_percent']} %")


if __name__ == "__main__":
    main()
