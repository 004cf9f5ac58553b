"""A damaged crystal as the cluster that the pristine one would have given, with the damage in it.

The published protocol cuts a cluster from the standard cell of the pristine crystal and damages that. From a structure
that is damaged already, and turned, the same cluster follows by way of its average: the sites are those of the ideal
cluster, the atoms on them the structure's own.

Source: the cluster is that of D. Kumar, Class Based Strategies for Understanding Neural Networks, University of
Waterloo (2020), appendix A; the recovery is this project's.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals import lattice as lattices
from jaxclear.crystals.average import AverageCell, average_cell, nearest_site
from jaxclear.crystals.cells import LOWEST_STANDARD_GROUP, cluster
from jaxclear.crystals.structures import Crystal

BALL_SITES = 160
"""Sites of the ball that is cut from a larger piece without periods: the network has learnt from balls of 100 to 190,
and a larger one has sharper peaks than any that it knows."""
_EDGE = 1e-3
"""An atom so little outside the cluster, in lengths of the standard cell, still belongs to it."""


class Recovered(NamedTuple):
    """A damaged crystal in the standard setting.

    Attributes:
        cluster: finite, without periods, along the axes of the standard cell; the structure's own atoms, strain
            included.
        d_nn: mean nearest-neighbour distance of the ideal cluster, Å: the length to scale by.
        space_group: of the average, 16 to 230.
        rotation: from the structure's frame to that of the cluster: ``r_standard = rotation @ r`` and a translation.
        lattice: primitive lattice vectors in the structure's frame, Å, rows; its own where it was taken as given.
        average: the rest of what was found.
    """

    cluster: Crystal
    d_nn: float
    space_group: int
    rotation: Float[np.ndarray, "3 3"]
    lattice: Float[np.ndarray, "3 3"]
    average: AverageCell


def recover(crystal: Crystal, *, min_atoms: int = 128, symprec: float = 0.01) -> Recovered | None:
    """The damaged atoms of a crystal in its standard setting, or None when no lattice with axes is found.

    The cluster is the parallelepiped that :func:`~jaxclear.crystals.cluster` cuts from the ideal cell, vacancies
    counted as atoms; where the structure is smaller than that, periodic images fill it. Of a structure that is
    symmetric as given (see :func:`~jaxclear.crystals.average_cell`) it is the cluster of its standard cell. A piece of
    crystal without periods is turned, and what is outside the ball of `BALL_SITES` sites around its centre is left out.

    Args:
        crystal: checked.
        min_atoms: fewest sites of the cluster.
        symprec: tolerance of the symmetry search in the structure as given, Å.
    """
    average = average_cell(crystal, symprec=symprec)
    if average is None or average.space_group < LOWEST_STANDARD_GROUP:
        return None
    if np.isinf(average.evidence):
        piece = cluster(average.crystal, min_atoms=min_atoms)
    elif not crystal.pbc.any():
        piece = _ball(crystal, average)
    else:
        piece = _refilled(crystal, average, min_atoms)
    return Recovered(piece, average.d_nn, average.space_group, average.rotation, average.motif.lattice, average)


def _ball(crystal: Crystal, average: AverageCell) -> Crystal:
    """The atoms of a piece without periods in the ball of `BALL_SITES` sites, filled or not, around their centre.

    Of a piece that is hollow there, or in parts, the ball is where most of its atoms are.
    """
    from scipy.spatial import KDTree

    density = len(average.motif.sites) / abs(np.linalg.det(average.motif.lattice))
    radius = (3 * BALL_SITES / (4 * np.pi * density)) ** (1 / 3)
    positions = crystal.positions
    tree = KDTree(positions)
    inside = tree.query_ball_point(positions.mean(axis=0), radius, return_sorted=True)
    counts = tree.query_ball_point(positions, radius, return_length=True)
    if 2 * len(inside) < counts.max():
        inside = tree.query_ball_point(positions[counts.argmax()], radius, return_sorted=True)
    return crystal._replace(
        positions=positions[inside] @ average.rotation.T,
        numbers=crystal.numbers[inside],
        occupancies=crystal.occupancies[inside],
    )


def _refilled(crystal: Crystal, average: AverageCell, min_atoms: int) -> Crystal:
    """The ideal cluster with the atoms of the structure on its sites, and those between them."""
    standard = average.crystal
    count = len(average.sites)
    places = Crystal(
        standard.cell,
        average.sites,
        np.ones(count, dtype=np.int32),
        np.ones(count),
        np.ones(3, dtype=bool),
        crystal.name,
    )
    ideal = cluster(places, min_atoms=min_atoms)
    repeats = np.rint(np.linalg.norm(ideal.cell, axis=1) / np.linalg.norm(standard.cell, axis=1)).astype(int)
    owners, steps = nearest_site(ideal.positions @ np.linalg.inv(standard.cell), average)
    on_place, atoms = _atoms_at(crystal, average, owners, steps)
    motif = average.motif
    moves = (steps[on_place] - motif.steps[atoms]) @ motif.lattice
    loose, images = _between(crystal, average, repeats)
    positions = np.concatenate([crystal.positions[atoms] + moves, images]) @ average.rotation.T
    chosen = np.concatenate([atoms, loose])
    return Crystal(
        ideal.cell,
        positions,
        crystal.numbers[chosen],
        crystal.occupancies[chosen],
        np.zeros(3, dtype=bool),
        crystal.name,
    )


def _atoms_at(
    crystal: Crystal, average: AverageCell, owners: Int[np.ndarray, " places"], steps: Int[np.ndarray, "places 3"]
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
    """Which atom is on which place: pairs of indices, several or none a place."""
    motif = average.motif
    periods = np.rint(crystal.cell @ np.linalg.inv(motif.lattice)).astype(np.int64)
    form = lattices.hermite(periods)
    on_site = np.flatnonzero(motif.site_of_atom >= 0)
    of_atoms = _key(motif.site_of_atom[on_site], motif.steps[on_site], form)
    of_places = _key(owners, steps, form)
    order = np.argsort(of_atoms, kind="stable")
    first = np.searchsorted(of_atoms[order], of_places, side="left")
    counts = np.searchsorted(of_atoms[order], of_places, side="right") - first
    places = np.repeat(np.arange(len(of_places)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, on_site[order[first[places] + within]]


def _key(
    owners: Int[np.ndarray, " places"], steps: Int[np.ndarray, "places 3"], form: Int[np.ndarray, "3 3"]
) -> Int[np.ndarray, " places"]:
    """One number for each site and translation, the same for periodic images.

    Args:
        owners: sites of the primitive cell.
        steps: lattice translations.
        form: the periods of the structure in the primitive lattice, in Hermite normal form.
    """
    steps = steps.copy()
    for axis in range(3):
        steps -= (steps[:, axis] // form[axis, axis])[:, None] * form[axis]
    for axis in range(3):
        owners = owners * form[axis, axis] + steps[:, axis]
    return owners


def _between(
    crystal: Crystal, average: AverageCell, repeats: Int[np.ndarray, "3"]
) -> tuple[Int[np.ndarray, " images"], Float[np.ndarray, "images 3"]]:
    """Atoms on no site with their periodic images in the cluster, in the structure's frame."""
    motif, setting = average.motif, average.setting
    loose = np.flatnonzero(motif.site_of_atom < 0)
    if not len(loose):
        return loose, np.zeros((0, 3))
    to_standard = np.linalg.inv(motif.lattice) @ setting.matrix.T
    places = crystal.positions[loose] @ to_standard + setting.origin
    periods = crystal.cell @ to_standard
    inverse = np.linalg.inv(periods)
    # All images in the box: bounds of the box in the structure's own cell.
    corners = np.stack(np.meshgrid(*((0.0, n) for n in repeats), indexing="ij"), axis=-1).reshape(-1, 3) @ inverse
    low = np.floor(corners.min(axis=0) - (places @ inverse).max(axis=0)).astype(int)
    high = np.ceil(corners.max(axis=0) - (places @ inverse).min(axis=0)).astype(int)
    shifts = np.stack(
        np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    images = places[:, None] + shifts @ periods
    atom, shift = np.nonzero(np.all((images >= -_EDGE) & (images < repeats - _EDGE), axis=-1))
    return loose[atom], crystal.positions[loose[atom]] + shifts[shift] @ crystal.cell
