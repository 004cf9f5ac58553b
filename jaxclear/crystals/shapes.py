"""The symmetry of ideal cells, by their shape.

What spglib says of a cell is the same for cells that differ in size, in orientation and by a translation alone: all
simple cubic, fcc, bcc and diamond crystals are few shapes, ideal ones are equal to the last digits, and of those it is
asked a few times in all (:mod:`~jaxclear.crystals.spglib_datasets`).
"""

import dataclasses
from typing import Any

import numpy as np

from jaxclear.crystals.spglib_datasets import dataset_of, rounded
from jaxclear.crystals.structures import Crystal

TOLERANCE = 1e-3
"""Of spglib's search, in units of the cube root of the volume of a site."""


def ideal_dataset(cell: Crystal) -> Any | None:
    """The dataset of spglib for an ideal cell, or None when it finds no symmetry.

    Of its entries those of the standard setting hold for the cell: `number`, `transformation_matrix`, `origin_shift`,
    `std_lattice`, `std_positions`, `std_types`; the others are those of a cell of its shape.

    Args:
        cell: with exact symmetry and three periods, right-handed; its numbers are kinds of sites.
    """
    size = abs(np.linalg.det(cell.cell)) ** (1 / 3)
    fractions = cell.positions @ np.linalg.inv(cell.cell)
    # What is rounded is rounded to a whole cell less, not to the cell's other end.
    places = rounded(fractions - fractions[0]) % 1.0
    lattice = np.linalg.cholesky(rounded(cell.cell @ cell.cell.T / size**2))
    kinds = np.unique(cell.numbers, return_inverse=True)[1]
    symprec = TOLERANCE * len(kinds) ** (-1 / 3)
    found = dataset_of(lattice, places, kinds, symprec=symprec, angle_tolerance=-1.0)
    if found is None:
        return None
    moved = np.asarray(found.origin_shift) - np.asarray(found.transformation_matrix) @ fractions[0]
    return dataclasses.replace(found, std_lattice=np.asarray(found.std_lattice) * size, origin_shift=moved % 1.0)
