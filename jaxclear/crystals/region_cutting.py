"""Regions of a big structure: what is around a point, across periods, and the grid of points.

Periods of any cell are honoured by images: the atoms within reach of a face are repeated outside of it, in a search
tree without periods.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.structures import MIN_DISTANCE, Crystal, completed_cell

Shape = Literal["cube", "sphere"]

_SAMPLE = 4096
_NEIGHBOURS = 32


class RegionError(ValueError):
    """A map that cannot be made; the message says what to do."""


class Surroundings:
    """Wrapped positions of a structure and how to find what is near across its periods."""

    def __init__(self, crystal: Crystal):
        self._cell = completed_cell(crystal)
        self._pbc = crystal.pbc
        self._inverse = np.linalg.inv(self._cell)
        self.positions = self.wrapped(crystal.positions)

    def wrapped(self, positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Positions moved into the cell by whole periods."""
        fractions = positions @ self._inverse
        return positions - np.where(self._pbc, np.floor(fractions), 0.0) @ self._cell

    def with_images(
        self, positions: Float[np.ndarray, "n 3"], reach: float
    ) -> tuple[Float[np.ndarray, "m 3"], Int[np.ndarray, " m"]]:
        """Wrapped positions and all their images up to `reach` outside the cell, and whose image each is."""
        fractions = positions @ self._inverse
        margin = np.where(self._pbc, reach * np.linalg.norm(self._inverse, axis=0), np.inf)
        most = np.where(self._pbc, np.ceil(np.where(self._pbc, margin, 0.0)), 0).astype(int)
        places, owners = [], []
        for shift in np.ndindex(*(2 * most + 1)):
            step = np.array(shift) - most
            moved = fractions + step
            near = np.flatnonzero(np.all((moved >= -margin) & (moved <= 1 + margin), axis=1))
            places.append(positions[near] + step @ self._cell)
            owners.append(near)
        return np.concatenate(places), np.concatenate(owners)

    def lengths(self) -> tuple[float, float]:
        """Nearest-neighbour distance, Å, and volume of an atom, Å³: medians over an even sample of the atoms.

        The volume is that of the sphere that holds an atom's 32 neighbours, so that empty space beside them is none of
        theirs. Species that share a site count once for the distance.
        """
        from scipy.spatial import KDTree

        sample = self.positions[:: max(1, len(self.positions) // _SAMPLE)]
        # Twice the radius of such a sphere, if they filled the structure's box evenly.
        reach = 4 * (max(self._volume(), MIN_DISTANCE) / len(self.positions)) ** (1 / 3)
        tree = KDTree(self.with_images(self.positions, reach)[0])
        count = min(_NEIGHBOURS + 1, tree.n)
        distances = np.asarray(tree.query(sample, k=count)[0]).reshape(len(sample), -1)
        others = np.where(distances >= MIN_DISTANCE, distances, np.inf).min(axis=1)
        if not np.isfinite(others).any():
            raise RegionError("expected at least two sites, got one; give a larger structure")
        volume = 4 / 3 * np.pi * distances[:, -1] ** 3 / count
        return float(np.median(others[np.isfinite(others)])), float(np.median(volume))

    def _volume(self) -> float:
        """Of the box, Å³: the extent of the atoms where there is no period."""
        fractions = self.positions @ self._inverse
        extents = np.where(self._pbc, 1.0, np.ptp(fractions, axis=0) + 1.0)
        return float(abs(np.linalg.det(self._cell)) * extents.prod())


class Cutter:
    """Cuts regions out of a structure."""

    def __init__(self, crystal: Crystal, surroundings: Surroundings, size: float, shape: Shape):
        from scipy.spatial import KDTree

        reach = size / 2 * (np.sqrt(3) if shape == "cube" else 1.0)
        self._positions, self._owners = surroundings.with_images(surroundings.positions, reach)
        self._tree = KDTree(self._positions)
        self._crystal = crystal
        self._half, self._norm = size / 2, np.inf if shape == "cube" else 2.0

    def counts(self, centres: Float[np.ndarray, "R 3"]) -> Int[np.ndarray, " R"]:
        """Atoms in the regions around points."""
        return np.asarray(self._tree.query_ball_point(centres, self._half, self._norm, return_length=True))

    def cut(self, centres: Float[np.ndarray, "n 3"]) -> Iterator[Crystal]:
        """The regions around points as finite clusters."""
        whole = self._crystal
        for members in self._tree.query_ball_point(centres, self._half, self._norm, return_sorted=True):
            atoms = self._owners[members]
            yield Crystal(
                np.zeros((3, 3)),
                self._positions[members],
                whole.numbers[atoms],
                whole.occupancies[atoms],
                np.zeros(3, dtype=bool),
                whole.name,
            )


def grid(crystal: Crystal, positions: Float[np.ndarray, "N 3"], size: float, stride: float) -> Float[np.ndarray, "R 3"]:
    """Grid points along the lattice vectors; where there is no period, within the atoms by half a region."""
    cell = completed_cell(crystal)
    fractions = positions @ np.linalg.inv(cell)
    axes = []
    for axis in range(3):
        if crystal.pbc[axis]:
            count = int(np.ceil(np.linalg.norm(cell[axis]) / stride - 1e-9))
            axes.append((np.arange(count) + 0.5) / count)
            continue
        low, high = fractions[:, axis].min() + size / 2, fractions[:, axis].max() - size / 2
        count = 1 + int(np.ceil(max(high - low, 0.0) / stride - 1e-9))
        axes.append(np.linspace(low, high, count) if count > 1 else np.array([(low + high) / 2]))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
