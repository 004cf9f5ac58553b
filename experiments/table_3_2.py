"""Table 3.2 and beyond: who still names the class of a damaged crystal.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), table 3.2;
    A. Ziletti et al., Nat. Commun. 9, 2775 (2018).
Command: python -m experiments.table_3_2 STRUCTURES [--workdir DIR] [--matid 60] [--finders N] [--leave-out COLUMN …]
    [--record]
    STRUCTURES is a folder, an archive or a file of crystal structures; spglib labels them. Columns that are done are
    kept in DIR. With --record the results go into experiments/results/. MatID comes with `pip install matid`.
Run time: 2.5 hours on 2 CPU cores for 9,313 POSCAR files with --matid 1000 --finders 1000, as recorded; half of it is
    MatID, most of the rest the sweep of spglib. It was done in two sittings, the second on the columns of the first.
Published: network 100 % in all ten columns up to "vacancies 25 %"; spglib at its loose tolerance 99.99, 99.99, 99.99,
    75.22, 0, 0 % over the displacements, and at most .02 % with vacancies.
Own figure: experiments/results/table_3_2.json.

The structures are those of elements kept out of the training of every network and look-up here. Each is put in its
standard setting and cut as published, then damaged; all contenders get the same damaged structure, the symmetry finders
as a periodic cell, some of them on fewer structures: every figure has its count. The contenders:

- the network that ships (trained on damaged structures), and the published one (trained on pristine ones);
- a look-up of the nearest pristine fingerprint, scaled as published and by the learned length scale;
- spglib at each tolerance, and at the best of them in hindsight for each column;
- spglib on the averaged cell (`jaxclear.crystals.average_cell`);
- MatID: symmetry-based clustering (`SBC`), then its symmetry analysis of the cell that it found.

Intervals are Wilson's, 95 %. "outside_band" leaves out structures within 3 % of a geometry of another class.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from experiments.crystal_study import Labelled, ball, labelled, roles
from experiments.records import interval_percent, one_line, provenance, write_whole
from experiments.train_crystals import NearestNeighbour
from jaxclear import models
from jaxclear.crystals import datasets, defects
from jaxclear.crystals.average import average_cell
from jaxclear.crystals.explain import class_probabilities
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.scale import length_scales
from jaxclear.crystals.structures import Crystal, to_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group, space_group

RESULTS = pathlib.Path(__file__).parent / "results" / "table_3_2.json"
TOLERANCES = (1e-3, 1e-2, 5e-2, 0.1, 0.2, 0.35)
"""Of spglib's search, Å; its tolerance of angles is its own choice."""

Damage = Callable[[Crystal, int], Crystal]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table.

    Attributes:
        name: what was done to the structures.
        damage: the same, of a structure and a seed.
        published: whether the thesis has this column.
        ball: whether the structure is a ball of 150 atoms without periods instead of a supercell.
    """

    name: str
    damage: Damage
    published: bool = False
    ball: bool = False


def _displaced(sigma: float, unit: str, correlation: float | None = None) -> Damage:
    return lambda crystal, seed: defects.displacements(crystal, sigma, seed=seed, unit=unit, correlation=correlation)


def _thinned(fraction: float) -> Damage:
    return lambda crystal, seed: defects.vacancies(crystal, fraction, seed=seed)


def _both(sigma: float, fraction: float) -> Damage:
    return lambda crystal, seed: _displaced(sigma, "d_nn")(_thinned(fraction)(crystal, seed), seed + 1)


def _swapped(fraction: float) -> Damage:
    return lambda crystal, seed: defects.substitutions(crystal, fraction, seed=seed)


def _strained(amount: float) -> Damage:
    return lambda crystal, seed: defects.strain(crystal, amount, seed=seed)


def _everything(crystal: Crystal, seed: int) -> Crystal:
    crowded = defects.interstitials(_strained(0.02)(crystal, seed), 0.02, seed=seed)
    return _both(0.05, 0.25)(_swapped(0.1)(crowded, seed), seed)


COLUMNS = (
    Column(name="pristine", damage=lambda crystal, seed: crystal),
    *(Column(name=f"sigma {s} A", damage=_displaced(s, "Å"), published=True) for s in (0.001, 0.002, 0.005)),
    *(Column(name=f"sigma {s} A", damage=_displaced(s, "Å"), published=True) for s in (0.01, 0.02, 0.06)),
    *(Column(name=f"vacancies {p} %", damage=_thinned(p / 100), published=True) for p in (1, 2, 15, 25)),
    *(Column(name=f"sigma {s} d_nn", damage=_displaced(s, "d_nn")) for s in (0.05, 0.1, 0.15, 0.2)),
    *(Column(name=f"vacancies {p} %", damage=_thinned(p / 100)) for p in (40, 60, 70, 80)),
    *(Column(name=f"substitutions {p} %", damage=_swapped(p / 100)) for p in (10, 50)),
    *(Column(name=f"strain {p} %", damage=_strained(p / 100)) for p in (1, 2, 4, 5)),
    Column(name="interstitials 5 %", damage=lambda crystal, seed: defects.interstitials(crystal, 0.05, seed=seed)),
    Column(name="sigma 0.1 d_nn, correlated over 2 d_nn", damage=_displaced(0.1, "d_nn", correlation=2.0)),
    Column(name="sigma 0.05 d_nn, vacancies 25 %", damage=_both(0.05, 0.25)),
    Column(name="sigma 0.1 d_nn, vacancies 25 %", damage=_both(0.1, 0.25)),
    Column(name="strain 2 %, interstitials 2 %, 10 % swapped, sigma 0.05 d_nn, vacancies 25 %", damage=_everything),
    Column(name="ball", damage=lambda crystal, seed: crystal, ball=True),
    Column(name="ball, sigma 0.1 d_nn, vacancies 25 %", damage=_both(0.1, 0.25), ball=True),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        source: folder, archive or file of structures.
        columns: names of those to compute.
        finders: structures a column for spglib and the averaged cell.
        matid: structures a column for MatID, which takes a third of a second each.
        processes: for the symmetry finders.
        seed: of the damage.
    """

    source: str
    columns: tuple[str, ...] = tuple(column.name for column in COLUMNS)
    finders: int = 1_000_000
    matid: int = 60
    processes: int = 2
    seed: int = 0


def smoke_config(source: str) -> Config:
    """Returns settings that run in seconds on a handful of structures."""
    return Config(source=source, columns=("sigma 0.02 A", "ball"), matid=0, processes=1)


def run(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Computes the columns that are not in `workdir` yet, and returns the results, written there.

    Raises:
        DatasetError: the source holds no usable structures.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    study = labelled(config.source)
    parts = roles(study.dataset)
    contenders = Contenders(study, parts.training, workdir)
    key = _key(config, study, contenders, made_by)
    figures = {}
    for number, column in enumerate(COLUMNS):
        if column.name in config.columns:
            kept = workdir / f"column_{number:02d}_{key}.json"
            if not kept.exists():
                started = time.perf_counter()
                found = _column(study, parts.test, column, contenders, config)
                found |= {"seconds": round(time.perf_counter() - started, 1), "commit": made_by["commit"]}
                write_whole(kept, json.dumps(found))
            figures[column.name] = {"published": column.published, **json.loads(kept.read_text())}
            print(_line(column.name, figures[column.name]), file=sys.stderr, flush=True)
    results = {
        "experiment": "table_3_2",
        "config": dataclasses.asdict(config) | {"source": pathlib.Path(config.source).name},
        "test_structures": len(parts.test),
        "near_degenerate": int(study.dataset.near_degenerate[parts.test].sum()),
        "networks": {name: model.metadata["sha256"] for name, model in contenders.networks.items()},
        "columns": figures,
        **made_by,
    }
    (workdir / RESULTS.name).write_text(json.dumps(results, indent=1) + "\n")
    return results


class Contenders:
    """The networks and the look-ups, made ready once."""

    def __init__(self, study: Labelled, training: Int[np.ndarray, " n"], workdir: pathlib.Path):
        self.networks = {
            "network": models.load("crystal"),
            "published network": models.load("crystal", variant="pristine"),
        }
        pristine = datasets.fingerprints(datasets.take(study.dataset, training), cache_dir=workdir)
        self._nearest = NearestNeighbour(pristine, study.dataset.labels[training])

    def answers(self, clusters: Sequence[Crystal]) -> dict[str, Int[np.ndarray, " n"]]:
        """The class that each gives each cluster."""
        found = {
            name: class_probabilities(clusters, model=model).argmax(axis=1) for name, model in self.networks.items()
        }
        found["look-up"] = self._nearest(fingerprint_clusters(clusters))
        found["look-up, learned scale"] = self._nearest(fingerprint_clusters(clusters, d_nn=length_scales(clusters)))
        return found


def _key(config: Config, study: Labelled, contenders: Contenders, made_by: dict[str, Any]) -> str:
    """A digest of all that decides a column but the code itself, whose commit each column names."""
    choices = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("columns", "processes")
    }
    networks = {name: model.metadata["sha256"] for name, model in contenders.networks.items()}
    told = json.dumps([choices, networks, made_by["versions"], datasets.digest_of(study.clusters)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _column(
    study: Labelled, rows: Int[np.ndarray, " n"], column: Column, contenders: Contenders, config: Config
) -> dict[str, Any]:
    """The figures of one column, by contender."""
    seeds = config.seed + 7919 * rows
    pieces = [
        ball(study.cells[row], 150, np.random.default_rng(seed)) if column.ball else _supercell(study, row)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True)
    ]
    damaged = [column.damage(piece, seed) for piece, seed in zip(pieces, seeds.tolist(), strict=True)]
    answers = contenders.answers([crystal._replace(pbc=np.zeros(3, bool)) for crystal in damaged])
    answers |= _symmetry_answers(damaged, config)
    labels, band = study.dataset.labels[rows], study.dataset.near_degenerate[rows]
    figures = {name: _figures(answer, labels, band) for name, answer in answers.items()}
    swept = [name for name in figures if name.startswith("spglib at")]
    if swept:
        best = max(swept, key=lambda name: figures[name]["outside_band"]["percent"])
        figures["spglib, best in hindsight"] = figures[best] | {"tolerance": best}
    return {"contenders": figures}


def _supercell(study: Labelled, row: int) -> Crystal:
    """The published cluster with its periods, as the symmetry finders need it."""
    return study.clusters[row]._replace(pbc=np.ones(3, bool))


def _symmetry_answers(damaged: Sequence[Crystal], config: Config) -> dict[str, Int[np.ndarray, " n"]]:
    """The class that each symmetry finder gives each structure; -1 for none, -2 where it was not asked."""
    tasks: dict[str, Callable[[Crystal], int]] = {"averaged cell": averaged}
    if damaged[0].pbc.all():
        tasks |= {f"spglib at {tolerance:g} A": functools.partial(_spglib, tolerance) for tolerance in TOLERANCES}
        if config.matid:
            tasks["MatID"] = matid
    found = {}
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of JAX
    with concurrent.futures.ProcessPoolExecutor(config.processes, mp_context=context) as pool:
        for name, task in tasks.items():
            asked = min(config.matid if name == "MatID" else config.finders, len(damaged))
            chosen = np.linspace(0, len(damaged) - 1, asked).astype(int)
            answers = np.full(len(damaged), -2)
            answers[chosen] = list(pool.map(task, [damaged[i] for i in chosen.tolist()], chunksize=8))
            found[name] = answers
    return found


def _class(number: int | None) -> int:
    label = None if number is None else class_of_space_group(number)
    return -1 if label is None else label


def _spglib(tolerance: float, crystal: Crystal) -> int:
    return _class(space_group(crystal, symprec=tolerance))


def averaged(crystal: Crystal) -> int:
    """The class of the averaged cell; -1 for none."""
    found = average_cell(crystal)
    return -1 if found is None else _class(found.space_group)


def matid(crystal: Crystal) -> int:
    """The class of the largest region that symmetry-based clustering finds; -1 for none."""
    from matid.clustering import SBC  # pyright: ignore[reportMissingImports]
    from matid.symmetry import SymmetryAnalyzer  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            regions = SBC().get_clusters(to_ase(crystal))
            largest = max(regions, key=lambda region: len(region.indices))
            return _class(SymmetryAnalyzer(largest.get_cell(), symmetry_tol=0.1).get_space_group_number())
        except Exception:  # its failures are of many kinds, and all of them are no answer
            return -1


def _figures(answers: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], band: Bool[np.ndarray, " n"]) -> dict:
    """Accuracies of the structures that were asked about."""
    asked = answers != -2
    correct = answers == labels
    return {
        "all": share(int(correct[asked].sum()), int(asked.sum())),
        "outside_band": share(int((correct & asked & ~band).sum()), int((asked & ~band).sum())),
        "by_class": {
            name: share(
                int(correct[asked & ~band & (labels == label)].sum()), int((asked & ~band & (labels == label)).sum())
            )
            for label, name in enumerate(CLASS_NAMES)
        },
    }


def share(correct: int, count: int) -> dict[str, Any]:
    """A share in percent with its interval; None of nothing."""
    if count == 0:
        return {"percent": None, "interval": None, "correct": 0, "count": 0}
    percent, interval = round(100 * correct / count, 2), interval_percent(correct, count)
    return {"percent": percent, "interval": interval, "correct": correct, "count": count}


def _line(name: str, column: dict[str, Any]) -> str:
    shown = (
        "network", "published network", "look-up", "look-up, learned scale", "averaged cell",
        "spglib, best in hindsight", "MatID",
    )  # fmt: skip
    found = column["contenders"]
    shares = (f"{found[who]['outside_band']['percent']:6.2f}" if who in found else "     -" for who in shown)
    return f"{name[:40]:40s} " + " ".join(shares)


def _kept(left_out: Sequence[str]) -> tuple[str, ...]:
    names = [column.name for column in COLUMNS]
    unknown = sorted(set(left_out) - set(names))
    if unknown:
        raise ValueError(f"expected columns out of {', '.join(names)}, got {', '.join(unknown)}")
    return tuple(name for name in names if name not in left_out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder, archive or file of crystal structures")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir/table_3_2"))
    parser.add_argument("--matid", type=int, default=60, help="structures a column for MatID; 0 leaves it out")
    parser.add_argument("--finders", type=int, default=1_000_000, help="structures a column for the symmetry finders")
    parser.add_argument("--leave-out", nargs="*", default=(), metavar="COLUMN", help="columns not to compute, by name")
    parser.add_argument("--record", action="store_true", help="write the results into the checkout")
    options = parser.parse_args(arguments)
    with one_line("table_3_2"):
        chosen = {"columns": _kept(options.leave_out), "finders": options.finders, "matid": options.matid}
        run(Config(source=options.source, **chosen), options.workdir)
    if options.record:
        RESULTS.write_bytes((options.workdir / RESULTS.name).read_bytes())


if __name__ == "__main__":
    main()
