"""The demonstration: the elemental crystals that ASE carries, pristine and damaged, named by network and by spglib.

Damage is added after the standard cell was found, as in the published study. spglib sees a periodic supercell of the
standard cell with damage of the same kind and size.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxclear import plot
from jaxclear.crystals import CLASS_NAMES, Crystal, class_of_space_group, from_ase, space_group, standard_cell
from jaxclear.crystals.cells import cluster
from jaxclear.crystals.defects import displacements, vacancies
from jaxclear.crystals.explain import explain_clusters

RULE = "guided"
"""The published crystal maps are guided; `deconvnet` answers nowhere above zero in this network."""

Damage = Callable[[Crystal, int], Crystal]

DAMAGE: dict[str, Damage] = {
    "pristine": lambda crystal, seed: crystal,
    "displaced, sigma 0.02 Å": lambda crystal, seed: displacements(crystal, 0.02, seed=seed),
    "displaced, sigma 0.06 Å": lambda crystal, seed: displacements(crystal, 0.06, seed=seed),
    "vacancies, 25 %": lambda crystal, seed: vacancies(crystal, 0.25, seed=seed),
}


def run(out: Path, tolerances: Mapping[str, float]) -> None:
    """Classifies and explains the crystals, prints the table and writes the picture to `out`."""
    started = time.perf_counter()
    cells, labels = _elements()
    print(f"{len(cells)} elemental crystals of ASE's Delta-codes collection, of {len(set(labels.tolist()))} classes\n")
    print(f"{'share named correctly':26s} {'network':>8s}" + "".join(f"{'spglib ' + t:>15s}" for t in tolerances))
    examples = []
    for name, damage in DAMAGE.items():
        clusters = [damage(cluster(cell), seed) for seed, cell in enumerate(cells)]
        found = explain_clusters(clusters, rule=RULE)
        supercells = [damage(_supercell(cell), seed) for seed, cell in enumerate(cells)]
        shares = [
            np.mean(
                [_spglib_class(crystal, symprec) == label for crystal, label in zip(supercells, labels, strict=True)]
            )
            for symprec in tolerances.values()
        ]
        right = np.mean(found.predicted_class == labels)
        print(f"{name:26s} {right:8.1%}" + "".join(f"{share:15.1%}" for share in shares), flush=True)
        examples.append(found)
    chosen = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    for name, found in zip(("pristine", "vacancies"), (examples[0], examples[-1]), strict=True):
        titles = [f"{cells[row].name}, {name}" for row in chosen]
        plot.save(plot.crystal_gallery(found, chosen, titles), out / f"{name}.png")
    print(f"\npictures: {out / 'pristine.png'}, {out / 'vacancies.png'}   ({time.perf_counter() - started:.0f} s)")


def _elements() -> tuple[list[Crystal], np.ndarray]:
    """Returns the standard cells of the crystals that belong to a class, and their classes."""
    from ase.collections import dcdft

    cells, labels = [], []
    for name in dcdft.names:
        cell = standard_cell(from_ase(dcdft[name], name=name))
        label = class_of_space_group(cell.space_group or 0)
        if label is not None:
            cells.append(cell.crystal._replace(name=f"{name} ({CLASS_NAMES[label]})"))
            labels.append(label)
    return cells, np.array(labels)


def _supercell(crystal: Crystal) -> Crystal:
    """Returns a periodic 3 x 3 x 3 supercell."""
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    return crystal._replace(
        cell=crystal.cell * 3,
        positions=(crystal.positions + steps @ crystal.cell).reshape(-1, 3),
        numbers=np.tile(crystal.numbers, 27),
        occupancies=np.tile(crystal.occupancies, 27),
    )


def _spglib_class(crystal: Crystal, symprec: float) -> int | None:
    number = space_group(crystal, symprec=symprec)
    return None if number is None else class_of_space_group(number)
