"""Who names the class of a damaged crystal, how often rightly, and how many structures a second?

    python benchmarks/bench_spglib.py [--quick] [--structures N] [--source STRUCTURES] [--json]

Structures: `jaxclear.crystals.members`, which needs no file, of elements that were in the network's training too (what
is learnt is the arrangement, but see experiments/table_3_2.py for elements held out); or those of --source, labelled by
spglib. Each is put in its standard setting, cut to 128 atoms or more, and damaged as in table 3.2: a row a contender
and kind of damage. All get the same damaged structure, in memory, the symmetry finders as a periodic cell:

- network: fingerprint, length scale and network, in batches; it uses all cores, everybody else here only one;
- averaged cell: `jaxclear.crystals.average_cell`, the lattice by diffraction and spglib on it; no network;
- spglib over tolerances of 1e-5 to 0.5 Å, the tolerance of angles free or 5°; "best" is the best of all of them for
  that damage in hindsight, at the rate of that one search;
- pymatgen: `SpacegroupAnalyzer` at its own tolerance (0.01 Å, 5°) and at 0.1 Å;
- MatID: symmetry-based clustering and the symmetry of the cell that it finds; moyopy at 1e-4 (its own), 0.01 and 0.1 Å;
- OVITO: polyhedral template matching, the most frequent type. It knows no tetragonal and of class hex/rh only hcp,
  hexagonal diamond and graphene: compare `cubic`, the accuracy on sc, fcc, diamond and bcc.

What is not installed is left out (`pip install 'jaxclear[bench]'`). `accuracy` is in percent, `structures_s` by the
clock, `structures_cpu_s` by the processor's time, which others on the machine disturb less. Contenders take turns
kind of damage by kind of damage.
"""

import argparse
import collections
import functools
import importlib.util
import logging
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing
from experiments import table_3_2
from jaxclear.crystals import datasets, members
from jaxclear.crystals.cells import cluster, standard_cell
from jaxclear.crystals.explain import class_probabilities
from jaxclear.crystals.structures import Crystal, to_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group, space_group

TOLERANCES = (1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.35, 0.5)
ANGLES = {"free": -1.0, "5°": 5.0}
DAMAGES = (
    *("pristine", "sigma 0.02 A", "sigma 0.06 A", "sigma 0.1 d_nn", "vacancies 1 %", "vacancies 25 %"),
    *("substitutions 50 %", "strain 4 %", "sigma 0.1 d_nn, vacancies 25 %"),
)
CUBIC = [CLASS_NAMES.index(name) for name in ("sc", "fcc", "diamond", "bcc")]
SLOW = {"MatID": 14}
"""Contenders that are asked about so many structures only."""
COLUMNS = {
    **{"damage": "s", "contender": "s", "structures": "d", "accuracy": ".1f", "cubic": ".1f"},
    **{"structures_s": ".1f", "structures_cpu_s": ".1f"},
}

Answer = Callable[[Crystal], int]
"""The class of a structure; -1 for none."""


def one_by_one(answer: Answer, crystals: Sequence[Crystal]) -> list[int]:
    """Returns the class that a finder gives each structure."""
    return [answer(crystal) for crystal in crystals]


def network(crystals: Sequence[Crystal]) -> list[int]:
    """Returns the class that the network gives each structure, fingerprints included."""
    finite = [crystal._replace(pbc=np.zeros(3, bool)) for crystal in crystals]
    return class_probabilities(finite).argmax(axis=1).tolist()


def _label(number: int | None) -> int:
    label = None if number is None else class_of_space_group(number)
    return -1 if label is None else label


def _spglib(tolerance: float, angle: float, crystal: Crystal) -> int:
    return _label(space_group(crystal, symprec=tolerance, angle_tolerance=angle))


def _pymatgen(tolerance: float, crystal: Crystal) -> int:
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    numbers = crystal.numbers.tolist()
    structure = Structure(crystal.cell, numbers, crystal.positions, coords_are_cartesian=True)
    try:
        return _label(SpacegroupAnalyzer(structure, symprec=tolerance).get_space_group_number())
    except Exception:  # it raises where spglib finds nothing
        return -1


def _moyopy(tolerance: float, crystal: Crystal) -> int:
    import moyopy  # pyright: ignore[reportMissingImports]

    positions = np.linalg.solve(crystal.cell.T, crystal.positions.T).T
    cell = moyopy.Cell(crystal.cell.tolist(), positions.tolist(), crystal.numbers.tolist())
    try:
        return _label(moyopy.MoyoDataset(cell, symprec=tolerance).number)
    except Exception:  # it raises where it finds nothing
        return -1


def _ovito(crystal: Crystal) -> int:
    from ovito.io.ase import ase_to_ovito  # pyright: ignore[reportMissingImports]
    from ovito.modifiers import PolyhedralTemplateMatchingModifier  # pyright: ignore[reportMissingImports]
    from ovito.pipeline import Pipeline, StaticSource  # pyright: ignore[reportMissingImports]

    matching = PolyhedralTemplateMatchingModifier()
    types = PolyhedralTemplateMatchingModifier.Type
    named = {types.FCC: "fcc", types.HCP: "hex/rh", types.BCC: "bcc", types.SC: "sc", types.CUBIC_DIAMOND: "diamond"}
    named |= {types.HEX_DIAMOND: "hex/rh", types.GRAPHENE: "hex/rh"}
    for kind in named:
        matching.structures[kind].enabled = True
    pipeline = Pipeline(source=StaticSource(data=ase_to_ovito(to_ase(crystal))))
    pipeline.modifiers.append(matching)
    found = collections.Counter(np.asarray(pipeline.compute().particles["Structure Type"]).tolist())
    [(kind, _)] = found.most_common(1)
    return CLASS_NAMES.index(named[types(kind)]) if types(kind) in named else -1


def contenders(quick: bool) -> dict[str, Callable[[Sequence[Crystal]], list[int]]]:
    """Returns those that are installed, by name."""
    one: dict[str, Answer] = {"averaged cell": table_3_2.averaged}
    for tolerance in (1e-3, 1e-2, 0.1) if quick else TOLERANCES:
        for angle, degrees in ANGLES.items():
            one[f"spglib {tolerance:g} Å, angles {angle}"] = functools.partial(_spglib, tolerance, degrees)
    one |= {f"pymatgen {tolerance:g} Å": functools.partial(_pymatgen, tolerance) for tolerance in (0.01, 0.1)}
    if _installed("moyopy"):
        logging.getLogger("moyo").setLevel(logging.ERROR)  # it comments on every supercell
        one |= {f"moyopy {tolerance:g} Å": functools.partial(_moyopy, tolerance) for tolerance in (1e-4, 0.01, 0.1)}
    if _installed("matid"):
        one["MatID"] = table_3_2.matid
    if _installed("ovito"):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        one["OVITO"] = _ovito
    return {"network": network} | {name: functools.partial(one_by_one, answer) for name, answer in one.items()}


def _installed(name: str) -> bool:
    there = importlib.util.find_spec(name) is not None
    if not there:
        print(f"{name} is left out: not installed", file=sys.stderr)
    return there


def supercells(source: str | None, count: int) -> tuple[list[Crystal], np.ndarray]:
    """Returns pristine supercells in the standard setting and their classes, at most so many."""
    dataset = members(count) if source is None else datasets.load(source)
    chosen = np.linspace(0, len(dataset.crystals) - 1, min(count, len(dataset.crystals))).astype(int)
    cells = [standard_cell(dataset.crystals[index]).crystal for index in chosen.tolist()]
    return [cluster(cell)._replace(pbc=np.ones(3, bool)) for cell in cells], dataset.labels[chosen]


def bench(damage: str, crystals: Sequence[Crystal], labels: np.ndarray, asked: dict[str, Any]) -> list[timing.Row]:
    """Returns one row a contender for one kind of damage, and one for the best of spglib's."""
    [column] = [column for column in table_3_2.COLUMNS if column.name == damage]
    damaged = [column.damage(crystal, 7919 * number) for number, crystal in enumerate(crystals)]
    rows = []
    for name, answer in asked.items():
        few = slice(SLOW.get(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            begun, busy = time.perf_counter(), time.process_time()
            found = np.array(answer(damaged[few]))
            seconds, busy = time.perf_counter() - begun, time.process_time() - busy
        right, cubic = found == labels[few], np.isin(labels[few], CUBIC)
        row = {"damage": damage, "contender": name, "structures": len(found), "accuracy": 100 * right.mean()}
        row |= {"cubic": 100 * right[cubic].mean()}
        rows.append(row | {"structures_s": len(found) / seconds, "structures_cpu_s": len(found) / busy})
    searches = [row for row in rows if row["contender"].startswith("spglib")]
    best = max(searches, key=lambda row: row["accuracy"])
    return [*rows, {**best, "contender": "spglib, best", "search": best["contender"]}]


def measure(options: argparse.Namespace) -> list[timing.Row]:
    """Returns the rows of all kinds of damage."""
    crystals, labels = supercells(options.source, options.structures or (14 if options.quick else 56))
    asked = contenders(options.quick)
    for answer in asked.values():
        answer(crystals[: len(crystals) if answer is network else 1])  # compiles, imports, fills caches
    rows = []
    for damage in DAMAGES[::3] if options.quick else DAMAGES:
        rows += bench(damage, crystals, labels, asked)
        print(f"{damage}: done", file=sys.stderr)
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument("--structures", type=int, metavar="N", help="at most so many")
    parser.add_argument("--source", metavar="STRUCTURES", help="folder, archive or file of structures")


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS, add=add_options)
