"""How often a damaged crystal of unknown axes is named: its lattice found, its class, and the verdict on strangers.

Source: this project's; the structures and the damage are those of D. Kumar, "Class Based Strategies for Understanding
    Neural Networks", University of Waterloo (2020), table 3.2, with the orientation and the cell unknown.
Command: python -m experiments.recover_lattice STRUCTURES [--workdir DIR] [--ship]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. With --ship the results go
    into experiments/results/.
Run time: 20 minutes of one core, 60 on two cores that other work kept busy.
Published: none; a symmetry search on such cells answers P1 (table 3.2, 0 %).
Own figure: experiments/results/recover_lattice.json.

Each trial draws a structure outside the near-degenerate band, a supercell of its primitive cell by a random integer
matrix, 60 to 400 sites, turned at random, its axes and atoms permuted, and damages it. It counts as found when the
space group of the averaged cell is of the right class; beside it stands what `jaxclear.crystals.classify` makes of it:
the network's class, and whether it is called a member of it. Parameters were chosen on other elements than those
tested. Strangers are those that had no part in the choice of the verdict's threshold, treated alike.
"""

import dataclasses
import json
import pathlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.crystal_study import TEST_ELEMENTS, ball, halves_of_strangers
from experiments.records import command, interval_percent, provenance, say_to
from jaxclear.crystals import datasets, defects
from jaxclear.crystals.cells import cluster, nearest_neighbour_distance, standard_cell, symmetry_dataset
from jaxclear.crystals.explain import judge_oriented, shipped_model, verdicts
from jaxclear.crystals.orient import OrientedCluster, orient
from jaxclear.crystals.structures import Crystal
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group

RESULTS = pathlib.Path(__file__).parent / "results" / "recover_lattice.json"


class Damage(NamedTuple):
    """What is done to a structure, in this order: vacancies, interstitials, strain, displacements."""

    vacancies: float = 0.0
    interstitials: float = 0.0
    strain: float = 0.0
    sigma: float = 0.0
    """Å."""
    relative_sigma: float = 0.0
    """In nearest-neighbour distances of the pristine crystal."""


CELLS: dict[str, Damage] = {
    "pristine": Damage(),
    "sigma 0.06 A, vacancies 40 %": Damage(vacancies=0.4, sigma=0.06),
    "sigma 0.1 d_nn, vacancies 25 %": Damage(vacancies=0.25, relative_sigma=0.1),
    "sigma 0.13 d_nn": Damage(relative_sigma=0.13),
    "strain 1 %, sigma 0.02 A": Damage(strain=0.01, sigma=0.02),
    "interstitials 5 %, sigma 0.02 A": Damage(interstitials=0.05, sigma=0.02),
}
BALLS: dict[str, Damage] = {
    "pristine": Damage(),
    "sigma 0.05 d_nn": Damage(relative_sigma=0.05),
    "vacancies 20 %": Damage(vacancies=0.2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        elements: of the structures that are tried.
        trials: supercells a column.
        ball_trials: spherical clusters a column.
        strangers: at most so many of them.
        copies: of each stranger a column.
        sites: fewest and most sites of a supercell.
        ball_atoms: fewest and most atoms of a cluster, vacancies not counted.
        seed: of all draws.
    """

    source: str
    elements: tuple[str, ...] = TEST_ELEMENTS
    trials: int = 1000
    ball_trials: int = 1000
    strangers: int = 1000
    copies: int = 3
    sites: tuple[int, int] = (60, 400)
    ball_atoms: tuple[int, int] = (100, 400)
    seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(
        source=source,
        elements=("Cu",),
        trials=2,
        ball_trials=1,
        strangers=2,
        copies=1,
        sites=(60, 120),
        ball_atoms=(100, 140),
    )


def run(config: Config, workdir: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Tries all columns and returns the results, written to `workdir`.

    Raises:
        DatasetError: the source holds no usable structures, or none of the elements.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    made_by = provenance()
    say = say_to(progress)
    dataset = datasets.load(config.source)
    chosen = np.isin(dataset.elements, config.elements) & ~dataset.near_degenerate
    if not chosen.any():
        raise datasets.DatasetError(f"expected structures of {', '.join(config.elements)}, got none outside the band")
    pool = datasets.take(dataset, np.flatnonzero(chosen))
    figures: dict[str, dict[str, Any]] = {"supercells": {}, "clusters": {}, "strangers": {}}
    for kind, columns, trials in (("supercells", CELLS, config.trials), ("clusters", BALLS, config.ball_trials)):
        for number, (name, damage) in enumerate(columns.items()):
            figures[kind][name] = _column(pool, damage, kind, trials, config, number)
            say(f"{kind}, {name}: {figures[kind][name]}")
    _, unknown = halves_of_strangers(config.strangers)
    for number, (name, damage) in enumerate(CELLS.items()):
        figures["strangers"][name] = _strangers(unknown.crystals * config.copies, damage, config, number)
        say(f"strangers, {name}: {figures['strangers'][name]}")
    results = {
        "experiment": "recover_lattice",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "structures": {"labelled": len(dataset.labels), "tried": len(pool.labels)},
        "figures": figures,
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


def _column(
    pool: datasets.LabelledStructures, damage: Damage, kind: str, trials: int, config: Config, number: int
) -> dict[str, Any]:
    """Accuracy with its interval, errors by class and the processor time of one kind of damage."""
    rng = np.random.default_rng([config.seed, number, kind == "clusters"])
    errors: Counter[str] = Counter()
    pieces, labels, seconds = [], [], []
    for _ in range(trials):
        index = int(rng.integers(len(pool.labels)))
        pristine = standard_cell(pool.crystals[index]).crystal
        piece = (
            random_supercell(primitive(pristine), config.sites, rng)
            if kind == "supercells"
            else _ball(pristine, config, damage.vacancies, rng)
        )
        damaged = turned_and_damaged(piece, pristine, damage, rng)
        before = time.process_time()
        pieces.append(orient(damaged))
        seconds.append(time.process_time() - before)
        labels.append(pool.labels[index])
        if class_of_space_group(pieces[-1].space_group or 0) != labels[-1]:
            errors[CLASS_NAMES[labels[-1]]] += 1
    predicted, judged = _judged(pieces)
    right, named = trials - errors.total(), predicted == np.array(labels)
    return {
        **_share("percent", right, trials),
        "trials": trials,
        "errors": dict(errors),
        "classify": {
            **_share("class_percent", int(named.sum()), trials),
            "class_and_member_percent": round(100 * float((named & (judged == "member")).mean()), 2),
            "verdicts": {word: int(number) for word, number in Counter(judged.tolist()).items()},
        },
        "cpu_ms": {
            "median": round(1e3 * float(np.median(seconds)), 1),
            "mean": round(1e3 * float(np.mean(seconds)), 1),
        },
    }


def _strangers(crystals: Sequence[Crystal], damage: Damage, config: Config, number: int) -> dict[str, Any]:
    """The verdicts on supercells of strangers, damaged and turned."""
    rng = np.random.default_rng([config.seed, number, 2])
    pieces = []
    for crystal in crystals:
        piece = random_supercell(crystal, config.sites, rng)
        pieces.append(orient(turned_and_damaged(piece, crystal, damage, rng)))
    _, judged = _judged(pieces)
    accepted = int((judged == "member").sum())
    verdict_counts = {word: int(count) for word, count in Counter(judged.tolist()).items()}
    return {**_share("accepted_percent", accepted, len(pieces)), "trials": len(pieces), "verdicts": verdict_counts}


def _judged(pieces: Sequence[OrientedCluster]) -> tuple[Int[np.ndarray, " n"], Any]:
    """The network's class of each piece, and the verdict."""
    probabilities, scores = judge_oriented(pieces)
    return probabilities.argmax(axis=1), np.array(verdicts(pieces, scores, model=shipped_model()))


def _share(name: str, right: int, count: int) -> dict[str, Any]:
    return {name: round(100 * right / count, 2), "interval_95": interval_percent(right, count)}


def primitive(crystal: Crystal) -> Crystal:
    """Returns a primitive cell of a standard cell, as spglib chooses it.

    Raises:
        ValueError: for a structure without symmetry.
    """
    dataset = symmetry_dataset(crystal, symprec=1e-4)
    if dataset is None:
        raise ValueError(f"expected a standard cell, got {crystal.name}, in which spglib finds no symmetry")
    first = np.unique(dataset.mapping_to_primitive, return_index=True)[1]
    return crystal._replace(
        cell=np.array(dataset.primitive_lattice),
        positions=crystal.positions[first],
        numbers=crystal.numbers[first],
        occupancies=crystal.occupancies[first],
    )


def supercell(crystal: Crystal, matrix: Int[np.ndarray, "3 3"]) -> Crystal:
    """Returns the supercell whose lattice vectors are ``matrix @ cell``.

    Raises:
        ValueError: for a matrix without volume.
    """
    count = abs(round(np.linalg.det(matrix)))
    if count == 0:
        raise ValueError(f"expected a matrix with a determinant other than 0, got {matrix.tolist()}")
    reach = np.abs(matrix).sum(axis=0)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.rint(grid @ np.linalg.inv(matrix) * count).astype(np.int64) % count
    steps = grid[np.unique(inside, axis=0, return_index=True)[1]] @ crystal.cell
    positions = (steps[:, None] + crystal.positions).reshape(-1, 3)
    numbers, occupancies = np.tile(crystal.numbers, len(steps)), np.tile(crystal.occupancies, len(steps))
    return Crystal(matrix @ crystal.cell, positions, numbers, occupancies, crystal.pbc, crystal.name)


def random_supercell(cell: Crystal, sites: tuple[int, int], rng: np.random.Generator) -> Crystal:
    """Returns a supercell by a random integer matrix, its number of sites drawn about evenly on a logarithmic scale."""
    count = len(cell.numbers)
    fewest, most = -(-sites[0] // count), sites[1] // count
    if most <= 1:
        return cell
    wanted = max(fewest, np.exp(rng.uniform(*np.log(sites))) / count)
    while True:
        matrix = rng.integers(-5, 6, (3, 3))
        copies = abs(round(np.linalg.det(matrix)))
        near = 0.8 * wanted <= copies <= 1.25 * wanted or copies == min(round(wanted), most)
        if fewest <= copies <= most and near:
            return supercell(cell, matrix)


def _ball(pristine: Crystal, config: Config, vacancies: float, rng: np.random.Generator) -> Crystal:
    """A ball from which a random number of atoms is left without its vacancies."""
    left = int(rng.integers(config.ball_atoms[0], config.ball_atoms[1] + 1))
    return ball(pristine, int(np.ceil(left / (1 - vacancies))), rng)


def turned_and_damaged(piece: Crystal, pristine: Crystal, damage: Damage, rng: np.random.Generator) -> Crystal:
    """Returns a piece of a pristine crystal in unknown axes and damaged; lengths are those of the pristine one."""
    d_nn = nearest_neighbour_distance(cluster(pristine).positions)
    return _damaged(_turned(piece, rng), damage, d_nn, rng)


def _turned(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The structure rotated and shifted at random, lattice vectors and atoms in another order."""
    rotation = random_rotation(rng)
    order = rng.permutation(len(crystal.numbers))
    positions = crystal.positions @ rotation.T + rng.uniform(-10, 10, 3)
    return crystal._replace(
        cell=(crystal.cell @ rotation.T)[rng.permutation(3)],
        positions=positions[order],
        numbers=crystal.numbers[order],
        occupancies=crystal.occupancies[order],
    )


def random_rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Returns a rotation drawn evenly from all."""
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    return matrix if np.linalg.det(matrix) > 0 else -matrix


def _damaged(crystal: Crystal, damage: Damage, d_nn: float, rng: np.random.Generator) -> Crystal:
    def seed() -> int:
        return int(rng.integers(2**31))

    if damage.vacancies:
        crystal = defects.vacancies(crystal, damage.vacancies, seed=seed())
    if damage.interstitials:
        crystal = defects.interstitials(crystal, damage.interstitials, seed=seed())
    if damage.strain:
        crystal = defects.strain(crystal, damage.strain, seed=seed())
    sigma = damage.sigma + damage.relative_sigma * d_nn
    return defects.displacements(crystal, sigma, seed=seed()) if sigma else crystal


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    ship = {RESULTS.name: RESULTS}
    results = command(
        "recover_lattice", __doc__, arguments, lambda source, workdir: run(Config(source=source), workdir), ship
    )
    for kind, columns in results["figures"].items():
        for name, figure in columns.items():
            percent = figure["accepted_percent" if kind == "strangers" else "percent"]
            print(f"{kind:10s} {name:32s} {percent:6.2f} % {figure['interval_95']} {figure.get('classify', '')}")


if __name__ == "__main__":
    main()
