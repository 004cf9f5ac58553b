"""The symmetry that a periodic structure shows as given, searched for only where there may be one, and in few atoms.

A symmetry search of a supercell takes a time that grows with the square of its atoms, to find the many copies of a
small cell first. The structure factors tell both beforehand: whether there can be a period shorter than the cell's, and
which. Where the atoms repeat themselves with it, far within the tolerance, spglib is given one copy.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals import lattice as lattices
from jaxclear.crystals import motif as motifs
from jaxclear.crystals.cells import symmetry_dataset
from jaxclear.crystals.idealise import lattice_rotations
from jaxclear.crystals.structure_factors import Spectrum, spectrum
from jaxclear.crystals.structures import Crystal

MOST_WAVES = 600
"""Wave vectors that are taken for each atom: more than a solid has."""
BEYOND_TOLERANCE = 4.0
"""Intensity, over that of atoms displaced by the tolerance along the wave, of a wave that no symmetry puts out."""
SPANNING = 30
"""Waves that are looked at for a basis of the reciprocal lattice."""
EXACT = 0.1
"""Part of the tolerance within which the atoms of a supercell are copies of those of one cell."""


class Diffraction(NamedTuple):
    """A structure's reduced cell, its nearest-neighbour distance, atoms of each species, and structure factors."""

    cell: Float[np.ndarray, "3 3"]
    d_nn: float
    counts: Float[np.ndarray, " species"]
    spectrum: Spectrum


class GivenSymmetry(NamedTuple):
    """What spglib finds, and in what."""

    primitive: Crystal
    """The structure, or one copy of what it is made of."""
    dataset: Any
    """spglib's, of that, with the one description of :mod:`jaxclear.crystals.settings`."""


def diffraction(structure: Crystal, *, cutoff: float) -> Diffraction:
    """Returns the structure factors of a structure with three periods.

    Args:
        structure: checked.
        cutoff: greatest wave vector, in units of 1 / nearest-neighbour distance.
    """
    cell = lattices.reduced(structure.cell)
    d_nn = motifs.spacing(structure, cell)
    _, kinds = np.unique(structure.numbers, return_inverse=True)
    # The box around a molecule or a slab has wave vectors without end.
    most = (3 * MOST_WAVES * len(kinds) / (2 * np.pi * abs(np.linalg.det(cell)))) ** (1 / 3)
    waves = spectrum(cell, structure.positions, kinds, structure.occupancies, cutoff=min(cutoff / d_nn, most))
    return Diffraction(cell, d_nn, np.bincount(kinds, weights=structure.occupancies), waves)


def given_symmetry(structure: Crystal, waves: Diffraction, symprec: float) -> GivenSymmetry | None:
    """Returns the symmetry of a structure as given, or None where it has no group with axes.

    Without a period shorter than the cell's, axes need a cell that has them. A period ``t`` puts out every wave with
    ``G . t`` not whole, for each species: where those that are there span the whole reciprocal lattice there is none.

    Args:
        structure: with three periods.
        waves: of the structure.
        symprec: tolerance of the search, Å.
    """
    intensities = np.abs(waves.spectrum.amplitudes) ** 2
    tolerated = waves.counts[:, None] * (2 * np.pi * waves.spectrum.lengths * symprec) ** 2
    there = waves.spectrum.indices[(intensities > BEYOND_TOLERANCE * tolerated).any(axis=0)][:SPANNING]
    basis = lattices.hermite(there)
    copies = abs(round(float(np.linalg.det(basis)))) if len(basis) == 3 else 0
    strain = symprec / float(np.linalg.norm(waves.cell, axis=1).min())
    if copies == 1 and len(lattice_rotations(waves.cell, strain)[0]) <= 2:
        return None
    one = _one_copy(structure, np.linalg.inv(basis).T @ waves.cell, copies, EXACT * symprec) if copies > 1 else None
    primitive = structure if one is None else one
    if np.linalg.det(primitive.cell) < 0:
        primitive = primitive._replace(cell=-primitive.cell)
    dataset = symmetry_dataset(primitive, symprec=symprec)
    return None if dataset is None else GivenSymmetry(primitive, dataset)


def _one_copy(structure: Crystal, lattice: Float[np.ndarray, "3 3"], copies: int, tolerance: float) -> Crystal | None:
    """The atoms of one cell, where each has all its copies within a distance (Å), and all sites are filled alike."""
    if len(structure.numbers) % copies or np.any(structure.occupancies != 1.0):
        return None
    lattice = lattices.reduced(lattice)
    fractions = structure.positions @ np.linalg.inv(lattice)
    left = np.arange(len(fractions))
    owners: list[Int[np.ndarray, " copies"]] = []
    while len(left):
        gaps = fractions[left] - fractions[left[0]]
        same = np.linalg.norm((gaps - np.rint(gaps)) @ lattice, axis=1) <= tolerance
        if same.sum() != copies or np.ptp(structure.numbers[left[same]]):
            return None
        owners.append(left[same])
        left = left[~same]
    firsts = np.array([group[0] for group in owners])
    return structure._replace(
        cell=lattice,
        positions=structure.positions[firsts],
        numbers=structure.numbers[firsts],
        occupancies=structure.occupancies[firsts],
    )
