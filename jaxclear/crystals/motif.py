"""The atoms of a damaged crystal averaged over the copies of its primitive cell.

Folded into one primitive cell, the atoms of a crystal lie in clouds around its sites, however many are missing. The
maxima of their smoothed density are the first guess of the sites; the mean of the atoms nearest to each is the next.

Lattice vectors are rows; all lengths in Å.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.structures import Crystal

GRID = 0.2
"""Spacing of the density grid, in nearest-neighbour distances."""
SMOOTHING = 0.2
"""Standard deviation by which the density is smoothed, in nearest-neighbour distances."""
LEAST_OCCUPANCY = 0.3
"""A site with less than this part of the median occupancy, or a maximum lower than this part of the highest one, is no
site: atoms between the sites make such."""
REACH = 0.5
"""Atoms farther than this from every site, in nearest-neighbour distances, belong to none."""
ROUNDS = 4

_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
_NEIGHBOURS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])


class Motif(NamedTuple):
    """Sites of a primitive cell and the atoms on them, in the frame of the structure."""

    lattice: Float[np.ndarray, "3 3"]
    """Primitive lattice vectors, a reduced basis."""
    sites: Float[np.ndarray, "sites 3"]
    """Mean position on each site, Cartesian."""
    site_of_atom: Int[np.ndarray, " atoms"]
    """-1 for atoms between the sites."""
    steps: Int[np.ndarray, "atoms 3"]
    """The lattice translation from the site to the copy of it that the atom is on."""
    displacements: Float[np.ndarray, "atoms 3"]
    """From that copy to the atom."""
    weights: Float[np.ndarray, " sites"]
    """Sum of the occupancies of the atoms of each site."""

    @property
    def variances(self) -> Float[np.ndarray, " sites"]:
        """Mean squared displacement of the atoms of each site, all three coordinates together, Å^2."""
        on_site = self.site_of_atom >= 0
        squares = (self.displacements[on_site] ** 2).sum(axis=1)
        counts = np.bincount(self.site_of_atom[on_site], minlength=len(self.sites))
        sums = np.bincount(self.site_of_atom[on_site], weights=squares, minlength=len(self.sites))
        return sums / np.maximum(counts, 1)


def spacing(crystal: Crystal, cell: Float[np.ndarray, "3 3"]) -> float:
    """The median distance to the nearest neighbour, periodic images included, Å.

    Args:
        crystal: a structure with three periods.
        cell: a reduced basis of its lattice.
    """
    from scipy.spatial import KDTree

    inverse = np.linalg.inv(cell)
    fractions = crystal.positions @ inverse % 1.0
    margins = 2.0 * (abs(np.linalg.det(cell)) / len(fractions)) ** (1 / 3) * np.linalg.norm(inverse, axis=0)
    images = fractions
    for axis, margin in enumerate(margins):
        whole = int(np.ceil(margin))
        copies = [images + step * np.eye(3)[axis] for step in range(-whole, whole + 1)]
        near = np.concatenate(copies)
        images = near[(near[:, axis] > -margin) & (near[:, axis] < 1 + margin)]
    distances = KDTree(images @ cell).query(fractions @ cell, k=min(4, len(images)))[0]
    # The atom itself, or a second species on its site, is no neighbour.
    distances[distances < 0.1] = np.inf
    nearest = distances.min(axis=1)
    return float(np.median(nearest[np.isfinite(nearest)])) if np.isfinite(nearest).any() else float(margins.max())


def average(
    lattice: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "atoms 3"],
    weights: Float[np.ndarray, " atoms"],
    *,
    d_nn: float,
    least_occupancy: float = LEAST_OCCUPANCY,
) -> Motif:
    """The motif of atoms folded into a primitive cell.

    Args:
        lattice: a reduced basis.
        positions: Cartesian, Å.
        weights: occupancies of the atoms.
        d_nn: nearest-neighbour distance of the sites, Å; an estimate will do.
        least_occupancy: of a site, relative to the median.
    """
    sites = _maxima(lattice, positions, weights, d_nn, least_occupancy)
    for _ in range(ROUNDS):
        motif = assigned(lattice, sites, positions, weights, reach=REACH * d_nn)
        strong = motif.weights > least_occupancy * np.median(motif.weights)
        if not strong.any():
            return motif
        sites = motif.sites[strong]
    return assigned(lattice, sites, positions, weights, reach=REACH * d_nn)


def assigned(
    lattice: Float[np.ndarray, "3 3"],
    sites: Float[np.ndarray, "sites 3"],
    positions: Float[np.ndarray, "atoms 3"],
    weights: Float[np.ndarray, " atoms"],
    *,
    reach: float,
) -> Motif:
    """The motif whose sites are the means of the atoms nearest to given sites.

    Args:
        lattice: a reduced basis.
        sites: Cartesian, Å.
        positions: Cartesian, Å.
        weights: occupancies of the atoms.
        reach: atoms farther from every site belong to none, Å.
    """
    inverse = np.linalg.inv(lattice)
    offsets = (positions @ inverse)[:, None] - (sites @ inverse)[None]
    steps = np.floor(offsets)
    # In a reduced basis the nearest lattice point is a corner of the parallelepiped around.
    deltas = (offsets - steps) @ lattice
    corners = _CORNERS @ lattice
    squares = (deltas**2).sum(-1)[..., None] - 2 * deltas @ corners.T + (corners**2).sum(axis=1)
    best = squares.reshape(len(positions), -1).argmin(axis=1)
    owner, corner = best // len(corners), best % len(corners)
    atoms = np.arange(len(positions))
    displacements = deltas[atoms, owner] - corners[corner]
    steps = (steps[atoms, owner] + _CORNERS[corner]).astype(np.int64)
    owner = np.where((displacements**2).sum(axis=1) <= reach**2, owner, -1)
    on_site = owner >= 0
    sums = np.bincount(owner[on_site], weights=weights[on_site], minlength=len(sites))
    means = (
        np.stack(
            [
                np.bincount(owner[on_site], weights=weights[on_site] * d, minlength=len(sites))
                for d in displacements[on_site].T
            ],
            axis=1,
        )
        / np.maximum(sums, 1e-12)[:, None]
    )
    return Motif(lattice, sites + means, owner, steps, displacements - means[owner] * on_site[:, None], sums)


def _maxima(
    lattice: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "atoms 3"],
    weights: Float[np.ndarray, " atoms"],
    d_nn: float,
    least: float,
) -> Float[np.ndarray, "sites 3"]:
    """Maxima of the smoothed density of atoms folded into a cell, Cartesian, highest first and apart."""
    shape = np.maximum(4, np.ceil(np.linalg.norm(lattice, axis=1) / (GRID * d_nn))).astype(int)
    inverse = np.linalg.inv(lattice)
    cells = np.floor(positions @ inverse % 1.0 * shape).astype(int) % shape
    density = np.bincount(np.ravel_multi_index(cells.T, shape), weights=weights, minlength=shape.prod()).reshape(shape)
    frequencies = np.stack(np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij"), axis=-1)
    squares = ((frequencies @ inverse.T) ** 2).sum(axis=-1)
    smooth = np.fft.ifftn(np.fft.fftn(density) * np.exp(-2 * (np.pi * SMOOTHING * d_nn) ** 2 * squares)).real
    highest = smooth > least * smooth.max()
    around = np.pad(smooth, 1, mode="wrap")
    for step in _NEIGHBOURS:
        before, after = (
            around[tuple(slice(1 + s, 1 + s + n) for s, n in zip(direction, shape, strict=True))]
            for direction in (-step, step)
        )
        # Strict on one side: of two equal neighbours one stays.
        highest &= (smooth >= before) & (smooth > after)
    places = np.argwhere(highest) if highest.any() else np.argwhere(smooth == smooth.max())[:1]
    places = places[np.argsort(-smooth[tuple(places.T)], kind="stable")]
    sites: list[np.ndarray] = []
    for fraction in (places + 0.5) / shape:
        gaps = np.array(sites).reshape(-1, 3) - fraction
        gaps = (gaps - np.floor(gaps))[:, None] - _CORNERS
        if not sites or np.linalg.norm(gaps @ lattice, axis=-1).min() > REACH * d_nn:
            sites.append(fraction)
    return np.array(sites) @ lattice
