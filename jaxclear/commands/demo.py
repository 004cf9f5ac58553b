"""`jaxclear demo`: real crystals, pristine and damaged, named by the network and by spglib, and pictures of why.

The crystals are the elements of ASE's Delta-codes collection that belong to one of the seven classes, and white tin for
the class that has no member there. Damage is added after the standard cell was found, as in the published study; the
damaged cluster with its periods is what spglib gets.

Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), table 3.2;
K. Lejaeghere et al., Science 351, aad3000 (2016) for the structures; white tin at room temperature, a 5.8316 Å,
c 3.1815 Å.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxclear.commands.terminal import Progress, folder, keep_compiled_programs, table
from jaxclear.crystals.cells import cluster, standard_cell
from jaxclear.crystals.defects import displacements, strain, vacancies
from jaxclear.crystals.explain import CrystalExplanation, class_probabilities, explain_clusters
from jaxclear.crystals.structures import Crystal, from_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, TOLERANCES, class_of_space_group, classify_spglib

SEED = 2020

DAMAGE: dict[str, Callable[[Crystal, int], Crystal]] = {
    "pristine": lambda crystal, seed: crystal,
    "displaced, σ = 0.001 Å": lambda crystal, seed: displacements(crystal, 0.001, seed=seed),
    "displaced, σ = 0.02 Å": lambda crystal, seed: displacements(crystal, 0.02, seed=seed),
    "displaced, σ = 0.06 Å": lambda crystal, seed: displacements(crystal, 0.06, seed=seed),
    "displaced, σ = 0.1 Å": lambda crystal, seed: displacements(crystal, 0.1, seed=seed),
    "displaced, σ = 0.1 neighbour distances": lambda crystal, seed: displacements(crystal, 0.1, seed=seed, unit="d_nn"),
    "1 % of the atoms missing": lambda crystal, seed: vacancies(crystal, 0.01, seed=seed),
    "25 % of the atoms missing": lambda crystal, seed: vacancies(crystal, 0.25, seed=seed),
    "60 % of the atoms missing": lambda crystal, seed: vacancies(crystal, 0.6, seed=seed),
    "strained by 3 %": lambda crystal, seed: strain(crystal, 0.03, seed=seed),
}

SHOWN = ("In", "β-Sn", "Mg", "Po", "Cu", "Si", "Fe")
"""The crystals of the picture, one of each class."""


class Sample(NamedTuple):
    """A crystal of known class and its cluster in standard orientation, periods kept."""

    name: str
    label: int
    cluster: Crystal


def run(options: argparse.Namespace) -> int:
    """Runs the demonstration; returns the exit code."""
    started = time.perf_counter()
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it would print its misgivings about damaged cells
    out = folder(options.out or options.default_out)
    keep_compiled_programs()
    progress = Progress()
    progress.show("reading crystals", force=True)
    samples = elements()
    progress.clear()
    print(
        f"{len(samples)} elemental crystals (ASE's Delta-codes set, and white tin, β-Sn) of {len(CLASS_NAMES)} classes"
    )
    print("Named correctly by the shipped network, and by spglib at three tolerances:\n")
    mistakes = compare(samples, progress)
    _print_mistakes(mistakes)
    progress.show("drawing", force=True)
    files = draw(samples, out)
    progress.clear()
    print("\nPictures: " + "\n          ".join(str(file) for file in files))
    print(f"Took {time.perf_counter() - started:.0f} s.")
    return 0


def elements() -> list[Sample]:
    """Returns the crystals and their classes: what spglib finds in the undamaged structure at 0.01 Å."""
    from ase.collections import dcdft
    from ase.spacegroup import crystal as from_wyckoff

    white_tin = from_wyckoff("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.8316, 5.8316, 3.1815, 90, 90, 90])
    samples = []
    for name, atoms in [*((name, dcdft[name]) for name in dcdft.names), ("β-Sn", white_tin)]:
        found = standard_cell(from_ase(atoms, name=name))
        label = class_of_space_group(found.space_group)
        if label is not None:
            periods = np.ones(3, dtype=bool)
            samples.append(Sample(name, label, cluster(found.crystal)._replace(pbc=periods)))
    return samples


def compare(samples: Sequence[Sample], progress: Progress) -> dict[str, list[str]]:
    """Prints the table and returns what the network named wrongly, by damage."""
    labels = np.array([sample.label for sample in samples])
    rows, mistakes = [], {}
    for number, (words, damage) in enumerate(DAMAGE.items(), start=1):
        progress.show(f"{number}/{len(DAMAGE)}  {words}", force=True)
        damaged = [damage(sample.cluster, SEED + k) for k, sample in enumerate(samples)]
        named = class_probabilities(damaged).argmax(axis=1).tolist()
        answers = [classify_spglib(crystal) for crystal in damaged]
        shares = [
            np.mean([answer[t] == label for answer, label in zip(answers, labels, strict=True)]) for t in TOLERANCES
        ]
        rows.append([words, *(f"{100 * share:.1f} %" for share in (np.mean(named == labels), *shares))])
        mistakes[words] = [
            f"{samples[k].name} ({CLASS_NAMES[labels[k]]}) as {CLASS_NAMES[named[k]]}"
            for k in np.flatnonzero(named != labels).tolist()
        ]
    progress.clear()
    header = ["", "network", *(f"spglib {tolerance.symprec:g} Å" for tolerance in TOLERANCES.values())]
    print(table(header, rows))
    return mistakes


def _print_mistakes(mistakes: dict[str, list[str]]) -> None:
    print(
        "\nThe classes are those that spglib finds in the pristine crystals at 0.01 Å, and damage came after they were"
    )
    print("turned to their standard cells. Most of these elements were among the network's training crystals, damaged.")
    where: dict[str, list[str]] = {}
    for words, names in mistakes.items():
        for name in names:
            where.setdefault(name, []).append(words)
    if not where:
        print("The network made no mistake here.")
        return
    print("What the network named wrongly:")
    for name, places in sorted(where.items(), key=lambda item: -len(item[1]))[:12]:
        print(f"  {name}: {f'in all {len(DAMAGE)} rows' if len(places) == len(DAMAGE) else '; '.join(places)}")
    if len(where) > 12:
        print(f"  and {len(where) - 12} more")


def draw(samples: Sequence[Sample], out: Path) -> list[Path]:
    """Writes the pictures and returns their files."""
    from jaxclear import plot

    chosen = [(k, sample) for k, sample in enumerate(samples) if sample.name in SHOWN]
    chosen.sort(key=lambda pair: SHOWN.index(pair[1].name))
    whole = [sample.cluster for _, sample in chosen]
    thinned = [vacancies(sample.cluster, 0.25, seed=SEED + k) for k, sample in chosen]
    damaged = [displacements(crystal, 0.06, seed=SEED + k) for (k, _), crystal in zip(chosen, thinned, strict=True)]
    found = explain_clusters([*whole, *damaged])
    count = len(chosen)
    pristine, broken = _rows(found, slice(0, count)), _rows(found, slice(count, None))
    labels = np.array([sample.label for _, sample in chosen])
    gallery = plot.crystal_gallery(
        pristine,
        broken,
        titles=[sample.name for _, sample in chosen],
        true_classes=labels,
        damage="25 % of the atoms missing (rings), the others displaced by σ = 0.06 Å",
        missing=[_missing(a.positions, b.positions) for a, b in zip(whole, thinned, strict=True)],
    )
    files = [out / "gallery.png"]
    plot.save(gallery, files[0])
    for row, (_, sample) in enumerate(chosen):
        for words, explained in (("pristine", pristine), ("damaged", broken)):
            lost = _missing(whole[row].positions, thinned[row].positions) if words == "damaged" else None
            file = out / f"{sample.name.replace('β', 'beta')}-{words}.png"
            title = f"{sample.name} ({CLASS_NAMES[sample.label]}), {words}: {_answer(explained, row)}"
            plot.save(plot.crystal_figure(explained, row, title=title, missing=lost), file)
            files.append(file)
    return [files[0], out / "NAME-pristine.png and NAME-damaged.png of each crystal in the gallery"]


def _rows(found: CrystalExplanation, part: slice) -> CrystalExplanation:
    """Some of the structures of an explanation; class names and colours belong to all."""
    taken = {
        name: type(value)(*(v[part] for v in value)) if name == "clear" else value[part]
        for name, value in found._asdict().items()
        if name not in ("class_names", "colours")
    }
    return found._replace(**taken)


def _missing(whole: Float[np.ndarray, "n 3"], kept: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "k 3"]:
    """The positions of `whole` that are not in `kept`."""
    left = set(map(tuple, kept.tolist()))
    return np.array([position for position in whole.tolist() if tuple(position) not in left]).reshape(-1, 3)


def _answer(found: CrystalExplanation, row: int) -> str:
    from jaxclear.drawing import certainty

    predicted = int(found.predicted_class[row])
    return f"named {found.class_names[predicted]} ({certainty(float(found.probabilities[row, predicted]))})"
