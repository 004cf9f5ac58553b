"""Crystals of none of the seven classes, and matter without order, to see what a classifier says about strangers.

A network with seven outputs gives one of seven answers to everything. These structures measure how sure it is of an
answer that cannot be right. Each has a space group that is none of the eight, and keeps that when its species are
ignored: zincblende is diamond then, and an ordered alloy on a bcc lattice is bcc, and whoever calls them so is not
wrong. Structures whose vacancies, but not species, are ordered on a lattice of a class are not told apart from others.

Source: M. J. Mehl et al., The AFLOW Library of Crystallographic Prototypes, Comput. Mater. Sci. 136, S1 (2017), as
pymatgen carries it; the structures of two-dimensional materials and wurtzite that ASE builds; perovskites as named in
:data:`PEROVSKITES`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxclear.crystals import symmetry
from jaxclear.crystals.structures import Crystal, StructureError, from_ase, from_pymatgen

__all__ = ["Strangers", "amorphous", "strangers"]

GLASSES = ("Al", "Au", "B", "C", "Cu", "Fe", "Ga", "Ge", "Ni", "Se", "Si", "Zr")
"""Elements of the structures without order, one each."""
LOOSE = (0.01, 0.1, 0.2, 0.3)
"""Tolerances of the symmetry search in Å at none of which a stranger may have a group of a class."""
CLOSEST = 0.9
"""Shortest distance in a structure without order, in units of the sum of two covalent radii."""

_Site = tuple[str, tuple[float, float, float]]


class Strangers(NamedTuple):
    """Structures of no class.

    Attributes:
        crystals: The structures.
        names: What they are: prototype and mineral, or formula.
        space_groups: International number, at 0.01 Å; 1 for structures without order.
        member_lattice: Whether the atoms sit, within a loose tolerance and species ignored, as those of a group of a
            class do.
    """

    crystals: tuple[Crystal, ...]
    names: tuple[str, ...]
    space_groups: Int[np.ndarray, " N"]
    member_lattice: Bool[np.ndarray, " N"]


class _Perovskite(NamedTuple):
    """A perovskite in a group of lower symmetry than its parent."""

    name: str
    group: int
    edges: tuple[float, float, float]
    """Å; hexagonal axes for groups 160 to 167."""
    sites: tuple[_Site, ...]


PEROVSKITES = (
    _Perovskite(
        "CaTiO3",
        62,
        (5.442, 7.640, 5.380),
        (
            ("Ca", (0.035, 0.25, 0.993)),
            ("Ti", (0.0, 0.0, 0.5)),
            ("O", (0.484, 0.25, 0.071)),
            ("O", (0.289, 0.037, 0.711)),
        ),
    ),
    _Perovskite(
        "LaMnO3",
        62,
        (5.742, 7.668, 5.532),
        (
            ("La", (0.049, 0.25, 0.992)),
            ("Mn", (0.0, 0.0, 0.5)),
            ("O", (0.487, 0.25, 0.075)),
            ("O", (0.307, 0.038, 0.726)),
        ),
    ),
    _Perovskite(
        "SrTiO3, low temperature",
        140,
        (5.511, 5.511, 7.796),
        (
            ("Sr", (0.0, 0.5, 0.25)),
            ("Ti", (0.0, 0.0, 0.0)),
            ("O", (0.0, 0.0, 0.25)),
            ("O", (0.245, 0.745, 0.0)),
        ),
    ),
    _Perovskite(
        "PbTiO3",
        99,
        (3.904, 3.904, 4.152),
        (
            ("Pb", (0.0, 0.0, 0.0)),
            ("Ti", (0.5, 0.5, 0.538)),
            ("O", (0.5, 0.5, 0.112)),
            ("O", (0.5, 0.0, 0.617)),
        ),
    ),
    _Perovskite(
        "LaAlO3",
        167,
        (5.365, 5.365, 13.11),
        (("La", (0.0, 0.0, 0.25)), ("Al", (0.0, 0.0, 0.0)), ("O", (0.525, 0.0, 0.25))),
    ),
    _Perovskite(
        "LiNbO3",
        161,
        (5.148, 5.148, 13.863),
        (("Li", (0.0, 0.0, 0.279)), ("Nb", (0.0, 0.0, 0.0)), ("O", (0.048, 0.343, 0.063))),
    ),
    _Perovskite(
        "BiFeO3",
        161,
        (5.58, 5.58, 13.87),
        (("Bi", (0.0, 0.0, 0.0)), ("Fe", (0.0, 0.0, 0.221)), ("O", (0.443, 0.012, 0.954))),
    ),
)
"""Typical room-temperature coordinates, rounded to three decimals; cubic perovskites are of group 221, a class."""


def strangers(*, member_lattices: bool = False, glasses: Sequence[str] = GLASSES, seed: int = 0) -> Strangers:
    """The structures of no class that come with pymatgen and ASE, and made ones without order.

    Prototypes of the AFLOW library in other groups than the eight, two-dimensional materials in a box of vacuum,
    perovskites, wurtzite, and random packings.

    Args:
        member_lattices: also those whose atoms sit as in a class when species are ignored, marked as such.
        glasses: elements of the structures without order, one each.
        seed: of these.

    Returns:
        The structures; the order is always the same.

    Raises:
        ValueError: an unknown element.

    Example:
        >>> found = strangers(glasses=("Si",))
        >>> len(found.crystals) > 150, bool(found.member_lattice.any())
        (True, False)
    """
    crystals, groups, marks = [], [], []
    for crystal in _ordered():
        group = symmetry.space_group(crystal) or 1
        if symmetry.class_of_space_group(group) is not None:
            continue
        mark = _on_member_lattice(crystal)
        if member_lattices or not mark:
            crystals.append(crystal)
            groups.append(group)
            marks.append(mark)
    for number, symbol in enumerate(glasses):
        crystals.append(amorphous(symbol, seed=seed + number))
        groups.append(1)
        marks.append(False)
    return Strangers(
        tuple(crystals),
        tuple(crystal.name for crystal in crystals),
        np.array(groups, np.int32),
        np.array(marks, bool),
    )


def amorphous(symbol: str, *, atoms: int = 128, seed: int = 0) -> Crystal:
    """A random packing of one element in a periodic cube: short-range order of distances, no order beyond.

    Random points, pushed apart until none are closer than 0.9 times two covalent radii, at a volume an atom drawn
    between 0.8 and 1.2 times the cube of two covalent radii (fcc has 0.71, sc 1).

    Args:
        symbol: of the element.
        atoms: how many, at least 16.
        seed: of the points and of the volume.

    Raises:
        ValueError: an unknown element, or fewer atoms.
    """
    from ase.data import atomic_numbers, covalent_radii
    from scipy.spatial import KDTree

    if symbol not in atomic_numbers or symbol == "X":
        raise ValueError(f"expected the symbol of an element, got {symbol!r}")
    if atoms < 16:
        raise ValueError(f"expected at least 16 atoms, got {atoms}")
    rng = np.random.default_rng(seed)
    number = atomic_numbers[symbol]
    diameter = 2 * float(covalent_radii[number])
    edge = diameter * float(atoms * rng.uniform(0.8, 1.2)) ** (1 / 3)
    closest = CLOSEST * diameter
    positions = rng.uniform(0, edge, (atoms, 3))
    while len(pairs := KDTree(positions, boxsize=edge).query_pairs(closest, output_type="ndarray")):
        apart = positions[pairs[:, 0]] - positions[pairs[:, 1]]
        apart -= edge * np.round(apart / edge)
        distance = np.linalg.norm(apart, axis=1, keepdims=True)
        push = apart / distance * (0.51 * (closest - distance) + 1e-3 * diameter)
        np.add.at(positions, pairs[:, 0], push)
        np.add.at(positions, pairs[:, 1], -push)
        positions %= edge
        positions[positions >= edge] = 0.0  # the remainder of a tiny negative number is the edge itself
    cell, whole = edge * np.eye(3), np.ones(3, bool)
    return Crystal(cell, positions, np.full(atoms, number, np.int32), np.ones(atoms), whole, f"amorphous {symbol}")


def _on_member_lattice(crystal: Crystal) -> bool:
    """Whether a loose search finds the group of a class, with the species or without."""
    blind = crystal._replace(numbers=np.ones_like(crystal.numbers), occupancies=np.ones_like(crystal.occupancies))
    groups = (symmetry.space_group(one, symprec=tolerance) for one in (crystal, blind) for tolerance in LOOSE)
    return any(group is not None and symmetry.class_of_space_group(group) is not None for group in groups)


def _ordered() -> Iterator[Crystal]:
    """All candidates that are crystals, named."""
    yield from _from_aflow()
    yield from _two_dimensional()
    yield from _perovskites()
    yield from _wurtzites()


def _from_aflow() -> Iterator[Crystal]:
    """The prototypes that pymatgen carries; those of more atoms than a fingerprint takes are left out."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure, tags = entry["snl"].structure, entry["tags"]
        try:
            yield from_pymatgen(structure, name=f"{tags['aflow']} {tags['mineral']} ({structure.reduced_formula})")
        except StructureError:
            continue


def _two_dimensional() -> Iterator[Crystal]:
    from ase.build import graphene, mx2

    layers = {
        "graphene": graphene(),
        "silicene": graphene("Si2", a=3.87, thickness=0.45),
        "boron nitride, one layer": graphene("BN", a=2.50),
        "MoS2, one layer 2H": mx2("MoS2", "2H"),
        "MoS2, one layer 1T": mx2("MoS2", "1T"),
        "WSe2, one layer 2H": mx2("WSe2", "2H", a=3.32, thickness=3.36),
        "PtSe2, one layer 1T": mx2("PtSe2", "1T", a=3.75, thickness=2.65),
    }
    for name, atoms in layers.items():
        atoms.center(vacuum=7.5, axis=2)
        atoms.pbc = True
        yield from_ase(atoms, name=name)


def _perovskites() -> Iterator[Crystal]:
    from ase.spacegroup import crystal

    for name, group, edges, sites in PEROVSKITES:
        angles = (90, 90, 120) if 160 <= group <= 167 else (90, 90, 90)
        symbols, places = zip(*sites, strict=True)
        yield from_ase(crystal(symbols, places, spacegroup=group, cellpar=[*edges, *angles]), name=name)


def _wurtzites() -> Iterator[Crystal]:
    from ase.build import bulk

    for formula, a, c in (("ZnO", 3.25, 5.21), ("GaN", 3.19, 5.19)):
        yield from_ase(bulk(formula, "wurtzite", a=a, c=c), name=f"{formula} wurtzite")
