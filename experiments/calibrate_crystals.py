"""How far to trust the crystal network: calibrated probabilities, and structures that belong to none of its classes.

Source: C. Guo et al., ICML 2017 (temperature scaling, expected calibration error); Y. Sun et al., ICML 2022 (distance
    to the nearest neighbours in feature space).
Command: python -m experiments.calibrate_crystals STRUCTURES [--workdir DIR] [--ship]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. With --ship the reference
    and the results go into the package and into experiments/results/.
Run time: 10 minutes on 2 busy CPU cores for 9,313 POSCAR files.
Published: nothing to compare with.
Own figure: experiments/results/calibrate_crystals.json.

The reference is made of damaged training structures, and of damaged ordered compounds of their elements whose atoms sit
on the lattice of a class: rocksalt, CsCl, zincblende, L1_2, D0_3. The temperature is chosen on structures of the
development elements, one half of them damaged moderately, the other fully; the threshold on every other stranger
(`jaxclear.crystals.strangers`): 5 % of these are accepted. The figures are those of the test elements and of the other
strangers, which had no part in any choice. Members and strangers get the same random damage: "moderate" is half of what
the network was trained on, "full" is all of it.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.crystal_study import (
    TEST_ELEMENTS,
    Labelled,
    atomic_numbers,
    damaged_batches,
    damaged_examples,
    equal_counts,
    halves_of_strangers,
    known_species,
    labelled,
    ordered_compounds,
    roles,
    training_species,
)
from experiments.records import command, provenance
from jaxclear import models, training
from jaxclear.crystals import outside
from jaxclear.crystals.cells import cluster, standard_cell
from jaxclear.crystals.orient import orient
from jaxclear.crystals.strangers import Strangers
from jaxclear.crystals.structures import Crystal
from jaxclear.metrics import area_under, roc_curve

PACKAGE_REFERENCE = pathlib.Path(models.__file__).parent / "data" / "crystal-reference.safetensors"
RESULTS = pathlib.Path(__file__).parent / "results" / "calibrate_crystals.json"
ACCEPTED = 0.05
"""Share of the development strangers that the threshold accepts."""
KEPT = 0.95
"""Share of the members at which the strangers accepted are counted too."""
BINS = 15
"""Of the expected calibration error."""
SEVERITIES = {"moderate": 0.5, "full": 1.0}
"""Of the random damage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        reference: damaged training structures to keep, of all classes together.
        compounds: ordered compounds of training elements to keep beside them, damaged, and as many to test, of others.
        development: damaged structures of development elements.
        tested: damaged structures of test elements.
        strangers: at most so many of them.
        copies: of each stranger, damaged differently.
        seed: of the draws and the damage.
    """

    source: str
    reference: int = 8400
    compounds: int = 800
    development: int = 2800
    tested: int = 2800
    strangers: int = 1000
    copies: int = 10
    seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(source=source, reference=14, compounds=5, development=14, tested=14, strangers=8, copies=1)


def run(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Calibrates, measures, and returns the results, written to `workdir` beside the reference.

    Raises:
        DatasetError: the source holds no usable structures.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    study, model = labelled(config.source), models.load("crystal")
    parts = roles(study.dataset)
    clear = ~study.dataset.near_degenerate
    members = functools.partial(damaged_examples, study)
    images, _ = members(
        parts.training, equal_counts(config.reference), severity=SEVERITIES["moderate"], seed=config.seed
    )
    ordered = _damaged_compounds(
        study, training_species(study), config.compounds, config.seed + 3, SEVERITIES["moderate"]
    )
    reference = outside.Reference(outside.features_of(model, np.concatenate([images, ordered])), 1.0, 2.0)
    development = parts.development[clear[parts.development]]
    halves = [
        members(development, equal_counts(config.development // 2), severity=severity, seed=config.seed + 1)
        for severity in SEVERITIES.values()
    ]
    logits = np.concatenate([_logits(model, images) for images, _ in halves])
    temperature = fitted_temperature(logits, np.concatenate([labels for _, labels in halves]))
    known, unknown = halves_of_strangers(config.strangers)
    images = _damaged_strangers(known, known_species(study), config.copies, config.seed + 2, SEVERITIES["moderate"])
    threshold = float(np.quantile(outside.outside_scores(model, images, reference), ACCEPTED))
    reference = reference._replace(temperature=temperature, threshold=threshold)
    figures = {}
    for number, (name, severity) in enumerate(SEVERITIES.items()):
        seed = config.seed + 10 + number
        tested = members(parts.test[clear[parts.test]], equal_counts(config.tested), severity=severity, seed=seed)
        others = _damaged_strangers(unknown, known_species(study), config.copies, seed, severity)
        ordered = _damaged_compounds(study, atomic_numbers(TEST_ELEMENTS), config.compounds, seed, severity)
        kept = outside.outside_scores(model, ordered, reference) <= reference.threshold
        figures[name] = _figures(model, reference, tested, others) | {
            "ordered_compounds": len(ordered),
            "ordered_compounds_kept_percent": round(100 * float(kept.mean()), 2),
        }
    results = {
        "experiment": "calibrate_crystals",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "network": model.metadata["sha256"],
        "temperature": round(temperature, 4),
        "threshold": round(threshold, 5),
        "strangers": {"count": len(unknown.names), "space_groups": len(np.unique(unknown.space_groups))},
        "figures": figures,
        **made_by,
    }
    summary = {"command": "python -m experiments.calibrate_crystals STRUCTURES", "commit": results["commit"]}
    outside.save(workdir / PACKAGE_REFERENCE.name, reference, model, json.dumps(summary))
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


def _damaged_compounds(
    study: Labelled, elements: Int[np.ndarray, " choices"], count: int, seed: int, severity: float
) -> Float[np.ndarray, "count 64 64 3"]:
    """Fingerprints of damaged ordered compounds of two of some elements each."""
    pieces = [orient(crystal).cluster for crystal in ordered_compounds(elements, count, seed=seed)]
    return damaged_batches(pieces, known_species(study), severity=severity, seed=seed)


def _damaged_strangers(
    unknown: Strangers, species: Int[np.ndarray, " species"], copies: int, seed: int, severity: float
) -> Float[np.ndarray, "N 64 64 3"]:
    """Fingerprints of damaged strangers, each cut from its standard cell where it has one."""
    pieces = [_trimmed(cluster(standard_cell(crystal).crystal)) for crystal in unknown.crystals]
    return damaged_batches(pieces * copies, species, severity=severity, seed=seed)


def _trimmed(crystal: Crystal, most: int = 200) -> Crystal:
    """The `most` atoms nearest to the centre, for large cells."""
    order = np.argsort(np.linalg.norm(crystal.positions - crystal.positions.mean(axis=0), axis=1), kind="stable")
    kept = np.sort(order[:most])
    return crystal._replace(
        positions=crystal.positions[kept], numbers=crystal.numbers[kept], occupancies=crystal.occupancies[kept]
    )


def _logits(model: models.LoadedModel, images: Float[np.ndarray, "N 64 64 3"]) -> Float[np.ndarray, "N K"]:
    """Scores up to a constant a row, which neither softmax nor temperature notices."""
    return np.log(np.maximum(training.predict(model.apply, model.variables, images), 1e-38))


def fitted_temperature(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]) -> float:
    """The temperature with the lowest cross entropy."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        chances = outside.calibrated(logits, float(np.exp(logarithm)))
        return -float(np.log(chances[np.arange(len(labels)), labels] + 1e-38).mean())

    found: Any = minimize_scalar(loss, bounds=(-2.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def calibration_error(chances: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]) -> float:
    """Expected calibration error: distance of confidence to accuracy, averaged over bins of confidence by size."""
    confidence, correct = chances.max(axis=1), chances.argmax(axis=1) == labels
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((correct[index == b].astype(float) - confidence[index == b]).sum()) for b in range(BINS)]
    return float(sum(gaps) / len(labels))


def auroc(members: Float[np.ndarray, " M"], others: Float[np.ndarray, " N"]) -> float:
    """The chance that a stranger's score is above a member's, ties half."""
    strange = np.repeat([0, 1], [len(members), len(others)])
    return area_under(roc_curve(np.concatenate([members, others]), strange))


def _figures(
    model: models.LoadedModel,
    reference: outside.Reference,
    members: tuple[Float[np.ndarray, "N 64 64 3"], Int[np.ndarray, " N"]],
    others: Float[np.ndarray, "M 64 64 3"],
) -> dict[str, Any]:
    """Calibration on members, and how well strangers are told from them."""
    images, labels = members
    logits, foreign = _logits(model, images), _logits(model, others)
    inside, out = outside.outside_scores(model, images, reference), outside.outside_scores(model, others, reference)
    before, after = (outside.calibrated(logits, t) for t in (1.0, reference.temperature))
    surest = outside.calibrated(foreign, reference.temperature).max(axis=1)
    return {
        "members": len(labels),
        "strangers": len(others),
        "accuracy_percent": round(100 * float((after.argmax(axis=1) == labels).mean()), 2),
        "calibration_error_percent": {
            "without temperature": round(100 * calibration_error(before, labels), 2),
            "with temperature": round(100 * calibration_error(after, labels), 2),
        },
        "auroc": {
            "distance to neighbours": round(auroc(inside, out), 4),
            "softmax": round(auroc(-after.max(axis=1), -surest), 4),
        },
        "members_kept_percent": round(100 * float((inside <= reference.threshold).mean()), 2),
        "strangers_accepted_percent": round(100 * float((out <= reference.threshold).mean()), 2),
        "strangers_accepted_at_95_percent_of_members_percent": round(
            100 * float((out <= np.quantile(inside, KEPT)).mean()), 2
        ),
        "strangers_with_softmax_above_0.9_percent": round(100 * float((surest > 0.9).mean()), 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    ship = {PACKAGE_REFERENCE.name: PACKAGE_REFERENCE, RESULTS.name: RESULTS}
    results = command(
        "calibrate_crystals", __doc__, arguments, lambda source, workdir: run(Config(source=source), workdir), ship
    )
    for name, figures in results["figures"].items():
        print(name, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
