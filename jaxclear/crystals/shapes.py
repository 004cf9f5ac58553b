"""The symmetry of ideal cells, asked of spglib once a shape.

spglib takes milliseconds for a cubic cell of one atom, longer than all else that finds a damaged crystal's lattice.
What it says of a cell is the same for cells that differ in size, in orientation and by a translation alone: all simple
cubic, fcc, bcc and diamond crystals are few shapes, and ideal ones are equal to the last digits.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxclear.crystals.cells import symmetry_dataset
from jaxclear.crystals.structures import Crystal

TOLERANCE = 1e-3
"""Of spglib's search, in units of the cube root of the volume of a site."""
_DIGITS = 10
"""Equal digits make a shape."""


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
    places = np.round(fractions - fractions[0], _DIGITS) % 1.0 + 0.0
    metric = np.round(cell.cell @ cell.cell.T / size**2, _DIGITS) + 0.0
    found = _of_shape(metric.tobytes(), places.tobytes(), np.asarray(cell.numbers, np.int32).tobytes())
    if found is None:
        return None
    moved = np.asarray(found.origin_shift) - np.asarray(found.transformation_matrix) @ fractions[0]
    return dataclasses.replace(found, std_lattice=np.asarray(found.std_lattice) * size, origin_shift=moved % 1.0)


@functools.lru_cache(maxsize=256)
def _of_shape(metric: bytes, places: bytes, numbers: bytes) -> Any | None:
    """The dataset of the cell of unit volume with its first site at the origin."""
    lattice = np.linalg.cholesky(np.frombuffer(metric).reshape(3, 3))
    fractions, kinds = np.frombuffer(places).reshape(-1, 3), np.frombuffer(numbers, np.int32)
    count = len(kinds)
    cell = Crystal(lattice, fractions @ lattice, kinds, np.ones(count), np.ones(3, bool), "ideal cell")
    return symmetry_dataset(cell, symprec=TOLERANCE * count ** (-1 / 3))
