"""How many damaged crystals of unknown axes are named a second, from the cell to class and verdict?

    python benchmarks/bench_classify.py [--quick] [--structures N] [--json]

`jaxclear.crystals.classify(crystals, maps=False, workers=N)`, with no worker and with one a core: the lattice of each
cell is found, its fingerprint computed, and the network, the verdict and spglib asked. Structures:
`jaxclear.crystals.members`, which needs no file, as supercells by random integer matrices of 60 to 400 sites, turned at
random and damaged as experiments/recover_lattice.py says, all its kinds of damage in turn.

A call is made with few structures and with many; `structures_s` is what the many more take, `start_s` what a call takes
beside: processes are started, programs are compiled. `cpu_ms` is the processor's time for each of the many more, of
this process and its workers, which others on the machine disturb less. `accuracy` is in percent of the many.
"""

import argparse
import pathlib
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing
from experiments.recover_lattice import CELLS, Config, primitive, random_supercell, turned_and_damaged
from jaxclear import crystals
from jaxclear.crystals import spglib_datasets
from jaxclear.crystals.cells import standard_cell
from jaxclear.crystals.structures import Crystal
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.worker_processes import cores

COLUMNS = {
    **{"workers": "d", "structures": "d", "structures_s": ".1f", "cpu_ms": ".1f", "start_s": ".1f"},
    **{"accuracy": ".2f"},
}


def cells(count: int) -> tuple[list[Crystal], Int[np.ndarray, " count"]]:
    """Returns damaged cells of unknown axes, and their classes."""
    rng = np.random.default_rng(0)
    made = crystals.members(count)
    found = []
    for number, crystal in enumerate(made.crystals):
        pristine = standard_cell(crystal).crystal
        cell = random_supercell(primitive(pristine), Config(source="").sites, rng)
        found.append(turned_and_damaged(cell, pristine, tuple(CELLS.values())[number % len(CELLS)], rng))
    return found, made.labels


def _timed(structures: Sequence[Crystal], workers: int) -> tuple[float, float, list[str]]:
    """Seconds, the processor's seconds, and the classes of a call."""
    spglib_datasets.forget()
    begun, busy = time.perf_counter(), _processor()
    results = crystals.classify(structures, maps=False, workers=workers).results
    return time.perf_counter() - begun, _processor() - busy, [result.predicted for result in results]


def _processor() -> float:
    """The processor's seconds of this process and of those that it started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def measure(options: argparse.Namespace) -> list[timing.Row]:
    """Returns a row a number of workers."""
    many = options.structures or (120 if options.quick else 1400)
    few = many // 7
    structures, labels = cells(many)
    rng = np.random.default_rng(1)
    order = rng.permutation(many)
    structures, labels = [structures[number] for number in order.tolist()], labels[order]
    rows = []
    for workers in (0, cores()):
        _timed(structures[:few], workers)  # compiles
        short, long = _timed(structures[:few], workers), _timed(structures, workers)
        seconds, busy = long[0] - short[0], long[1] - short[1]
        right = np.array(long[2]) == np.array(CLASS_NAMES)[labels]
        rows.append(
            {
                "workers": workers,
                "structures": many,
                "structures_s": (many - few) / seconds,
                "cpu_ms": 1e3 * busy / (many - few),
                "start_s": short[0] - few * seconds / (many - few),
                "accuracy": 100 * float(right.mean()),
            }
        )
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument("--structures", type=int, metavar="N", help="so many")


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS, add=add_options)
