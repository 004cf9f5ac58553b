"""Labelled elemental crystals that need no file: prototypes of the eight space groups, over their parameters.

Fourteen prototypes with any element on their sites, the axial ratios and heights that elemental solids in data bases
have, and interatomic distances around two covalent radii. What a network is trained on when there is nothing but this
package.

Source: prototypes by their label in M. J. Mehl et al., The AFLOW Library of Crystallographic Prototypes, Comput. Mater.
Sci. 136, S1 (2017); ranges measured on the elemental solids of AFLOWLIB that A. Ziletti et al., Nat. Commun. 9, 2775
(2018) used; covalent radii of B. Cordero et al., Dalton Trans., 2832 (2008), as ASE carries them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxclear.crystals import symmetry
from jaxclear.crystals.datasets import TOLERANCES, LabelledStructures, Progress
from jaxclear.crystals.duplicates import first_of_each, periodic_neighbour_distances
from jaxclear.crystals.structures import Crystal, from_ase

__all__ = ["ELEMENTS", "PROTOTYPES", "Prototype", "build", "members"]

ELEMENTS = (
    *("Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Sc", "Ti", "V", "Cr"),
    *("Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc"),
    *("Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm"),
    *("Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl"),
    *("Pb", "Bi", "Po", "Ac", "Th", "Pa", "U", "Np", "Pu"),
)
"""The elements that are used by default."""
VOLUMES = (5.5, 90.0)
"""Smallest and largest volume an atom, Å3."""
DISTANCES = (0.8, 1.4)
"""Smallest and largest shortest distance, in units of two covalent radii."""
_DRAWS = 1000


class Prototype(NamedTuple):
    """An arrangement of atoms up to its scale, with the ranges of its parameters.

    Attributes:
        name: AFLOW label and mineral.
        space_group: International number.
        sites: Fractional coordinates of one atom each Wyckoff position in the standard conventional cell (hexagonal
            axes for group 166, the first origin of group 227); None is the free height.
        ratios: Smallest, most frequent and largest c/a; 1 for cubic prototypes.
        heights: Smallest and largest free height, in units of c.
    """

    name: str
    space_group: int
    sites: tuple[tuple[float, float, float | None], ...]
    ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)
    heights: tuple[float, float] = (0.0, 0.0)


_THIRD = (1 / 3, 2 / 3)

PROTOTYPES = (
    Prototype("A_tI2_139_a indium", 139, ((0, 0, 0),), (1.24, 1.52, 3.95)),
    Prototype("A_tI4_141_a beta tin", 141, ((0, 0, 0),), (0.20, 0.54, 1.32)),
    Prototype("A_hR1_166_a mercury", 166, ((0, 0, 0),), (0.62, 2.14, 2.48)),
    Prototype("A_hR2_166_c arsenic", 166, ((0, 0, None),), (1.26, 2.78, 5.06), (0.187, 0.241)),
    Prototype("A_hR3_166_ac samarium", 166, ((0, 0, 0), (0, 0, None)), (7.19, 7.23, 7.35), (0.221, 0.2235)),
    Prototype("A_hR12_166_2h boron", 166, ((0.7844, 0.2156, 0.226), (0.1961, 0.8039, 0.0245)), (2.3, 2.56, 2.8)),
    Prototype("A_hP2_194_c magnesium", 194, ((*_THIRD, 0.25),), (0.97, 1.63, 4.36)),
    Prototype("A_hP4_194_bc graphite", 194, ((0, 0, 0.25), (*_THIRD, 0.25)), (0.93, 2.73, 3.29)),
    Prototype("A_hP4_194_ac lanthanum", 194, ((0, 0, 0), (*_THIRD, 0.25)), (3.21, 3.22, 3.28)),
    Prototype("A_hP4_194_f lonsdaleite", 194, ((*_THIRD, None),), (1.62, 1.65, 1.67), (0.060, 0.064)),
    Prototype("A_cP1_221_a polonium", 221, ((0, 0, 0),)),
    Prototype("A_cF4_225_a copper", 225, ((0, 0, 0),)),
    Prototype("A_cF8_227_a diamond", 227, ((0, 0, 0),)),
    Prototype("A_cI2_229_a tungsten", 229, ((0, 0, 0),)),
)
"""The prototypes of the classes' elemental solids; both 166 and 194 have four, of one class together."""


def build(prototype: Prototype, symbol: str, *, ratio: float, height: float = 0.0, distance: float = 1.0) -> Crystal:
    """The standard conventional cell of a prototype.

    Args:
        prototype: one of :data:`PROTOTYPES`, or one's own.
        symbol: the element.
        ratio: c/a; 1 for cubic prototypes.
        height: the free height, in units of c; without meaning where there is none.
        distance: shortest interatomic distance, Å.

    Raises:
        ValueError: an unknown element, or a ratio or a distance that is not above 0.
        StructureError: a cell without volume.
    """
    from ase.data import atomic_numbers
    from ase.spacegroup import crystal

    if symbol not in atomic_numbers:
        raise ValueError(f"expected the symbol of an element, got {symbol!r}")
    if not (ratio > 0 and distance > 0):
        raise ValueError(f"expected a ratio and a distance above 0, got {ratio} and {distance}")
    gamma = 120 if prototype.space_group in (166, 194) else 90
    basis = [(x, y, height if z is None else z) for x, y, z in prototype.sites]
    atoms = crystal(
        [symbol] * len(basis),
        basis,
        spacegroup=prototype.space_group,
        cellpar=[10, 10, 10 * ratio, 90, 90, gamma],
    )
    atoms.info.clear()
    shortest = periodic_neighbour_distances(atoms.cell.array, atoms.positions, 1).min()
    atoms.set_cell(atoms.cell.array * distance / shortest, scale_atoms=True)
    return from_ase(atoms, name=f"{prototype.name} {symbol}")


def members(
    count: int,
    *,
    seed: int = 0,
    elements: Sequence[str] = ELEMENTS,
    near_degenerate: bool = False,
    progress: Progress | None = None,
) -> LabelledStructures:
    """Elemental crystals of the seven classes, the classes in turn, with labels that spglib confirms.

    Structure `i` is of class `i % 7`; the eight prototypes of the class of groups 166 and 194 take turns as well.
    Element, axial ratio and height are drawn at random (the ratio from a triangular distribution of its logarithm that
    peaks at the most frequent one), and so is the shortest distance, between 0.8 and 1.4 times two covalent radii as
    far as that gives 5.5 to 90 Å3 an atom. A longer list begins with the shorter one of the same seed.

    Args:
        count: how many structures.
        seed: of the draws.
        elements: symbols to draw from.
        near_degenerate: also structures within 3 % of the geometry of another class; marked in the result.
        progress: called with the number of structures made and their total.

    Returns:
        Labelled structures as :func:`~jaxclear.crystals.datasets.load` returns them, none dropped; two cubic ones of
        one element may be duplicates by chance.

    Raises:
        ValueError: fewer than one structure, or an unknown element, or none that fits a prototype.

    Example:
        >>> found = members(7, elements=("Fe", "Au"))
        >>> found.labels
        array([0, 1, 2, 3, 4, 5, 6], dtype=int32)
    """
    from ase.data import atomic_numbers, chemical_symbols, covalent_radii

    if count < 1:
        raise ValueError(f"expected at least one structure, got {count}")
    unknown = sorted(set(elements) - set(atomic_numbers) | set(elements) & {"X"})
    if unknown or not elements:
        raise ValueError(f"expected symbols of elements, got {', '.join(unknown) or 'none'}")
    diameters = {symbol: 2 * float(covalent_radii[atomic_numbers[symbol]]) for symbol in elements}
    families: list[list[Prototype]] = [[] for _ in symmetry.CLASS_NAMES]
    for prototype in PROTOTYPES:
        families[symmetry.class_of_space_group(prototype.space_group) or 0].append(prototype)
    rng = np.random.default_rng(seed)
    chosen, crystals, near = [], [], []
    for index in range(count):
        turn, label = divmod(index, len(families))
        prototype = families[label][turn % len(families[label])]
        crystal, marked = _member(prototype, diameters, near_degenerate, rng)
        chosen.append(prototype.space_group)
        crystals.append(crystal)
        near.append(marked)
        if progress is not None:
            progress(index + 1, count)
    return LabelledStructures(
        crystals=tuple(crystals),
        labels=np.arange(count, dtype=np.int32) % len(families),
        space_groups=np.array(chosen, np.int32),
        elements=tuple(chemical_symbols[crystal.numbers[0]] for crystal in crystals),
        near_degenerate=np.array(near, bool),
        dropped={},
        failures=(),
        duplicate_of=first_of_each(crystals),
    )


def _member(
    prototype: Prototype, diameters: dict[str, float], near_degenerate: bool, rng: np.random.Generator
) -> tuple[Crystal, bool]:
    """One structure of a prototype whose group spglib finds at every tolerance, and whether it is near-degenerate."""
    for _ in range(_DRAWS):
        crystal = _drawn(prototype, diameters, rng)
        near = crystal is not None and symmetry.near_degenerate(crystal)
        if crystal is None or (near and not near_degenerate):
            continue
        groups = {symmetry.space_group(crystal, symprec=tolerance) for tolerance in TOLERANCES}
        if groups == {prototype.space_group}:
            return crystal, near
    raise ValueError(
        f"expected elements that fit {prototype.name} with {VOLUMES[0]} to {VOLUMES[1]} Å3 an atom, got "
        f"{', '.join(diameters)}; add others"
    )


def _drawn(prototype: Prototype, diameters: dict[str, float], rng: np.random.Generator) -> Crystal | None:
    """One draw, or None when no distance gives the element a volume within the limits."""
    symbol = list(diameters)[rng.integers(len(diameters))]
    low, mode, high = np.log(prototype.ratios)
    ratio = float(np.exp(low if low == high else rng.triangular(low, mode, high)))
    crystal = build(prototype, symbol, ratio=ratio, height=float(rng.uniform(*prototype.heights)))
    volume = abs(np.linalg.det(crystal.cell)) / len(crystal.numbers)  # an atom, at a distance of 1 Å
    limits = (np.array(VOLUMES) / volume) ** (1 / 3)
    shortest = max(DISTANCES[0] * diameters[symbol], limits[0])
    longest = min(DISTANCES[1] * diameters[symbol], limits[1])
    if shortest >= longest:
        return None
    distance = rng.uniform(shortest, longest)
    return crystal._replace(cell=crystal.cell * distance, positions=crystal.positions * distance)
