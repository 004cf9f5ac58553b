"""The reciprocal-lattice points under the pixels of a fingerprint.

A pixel of the rotation ``M`` sees the wave vector ``q = M^-1 s`` of the crystal. The cluster of ``N_1 x N_2 x N_3``
cells ``a_1, a_2, a_3`` scatters there with the structure factor of the nearest point ``G_hkl`` times the shape
function::

    I(q) ~ |F_hkl|^2 prod_i [sin(pi N_i x_i) / (N_i sin(pi x_i))]^2        x_i = q . a_i - h_i

The pixel lies under the peak ``hkl`` when ``N_i |x_i| <= 1`` on every axis, which is within the first zero of that
function: in length ``1 / (N_i |a_i|)``, the finite-size width of the cluster. Points whose structure factor vanishes
(systematic absences) are no peaks. Wave vectors are in cycles per nearest-neighbour distance.

Indices are those of the cell that is given, the standard conventional one as a rule; a family ``{hkl}`` holds what the
point group of its space group and Friedel's law make equal.

Source: C. Kittel, Introduction to Solid State Physics, chapter 2, for structure factor and shape function.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.beam import PUBLISHED, Beam, wave_vectors
from jaxclear.crystals.cells import cluster as cut
from jaxclear.crystals.cells import nearest_neighbour_distance, standard_cell, symmetry_dataset
from jaxclear.crystals.form_factors import form_factors
from jaxclear.crystals.structures import Crystal

ABSENT = 1e-3
"""A structure factor below this part of its largest possible value is an absence."""
BESIDE = 1.0
"""How far outside the detector points are looked for that may be nearest to a pixel, in 1/d_nn."""


class PeakError(ValueError):
    """Peaks that cannot be indexed, or a class that is not there; the message says what to do."""


class Family(NamedTuple):
    """Reciprocal-lattice points that symmetry makes equal."""

    name: str
    """``{111}``; with spaces where an index is negative or above 9."""
    hkl: tuple[int, int, int]
    """The member with the fewest negative indices, of these the largest in order."""
    multiplicity: int
    d_spacing: float
    """Å."""
    radius: float
    """``|G|`` in 1/d_nn."""
    structure_factor: float
    """``|F|`` of one cell in electrons, at the scale of the fingerprint."""


class PeakIndex(NamedTuple):
    """The reciprocal-lattice point nearest to each pixel in each of its six shots; absences are no points.

    Axes are those of :func:`~jaxclear.crystals.beam.wave_vectors`: detector x and y, channel, rotation.
    """

    hkl: Int[np.ndarray, "pixels pixels 3 2 3"]
    """Zero where the pixel is dropped."""
    family: Int[np.ndarray, "pixels pixels 3 2"]
    """Index into `families`, -1 where the pixel is dropped."""
    distance: Float[np.ndarray, "pixels pixels 3 2"]
    """``|q - G|`` in 1/d_nn; infinite where the pixel is dropped."""
    offset: Float[np.ndarray, "pixels pixels 3 2"]
    """The same in finite-size widths, ``max_i N_i |x_i|``: up to 1 the pixel lies under the peak."""
    intensity: Float[np.ndarray, "pixels pixels 3 2"]
    """``|F|^2`` times the shape function, relative to the brightest; 0 where the pixel lies under no peak."""
    families: tuple[Family, ...]
    """By radius."""


def index_peaks(
    cell: Crystal, cluster: Crystal | None = None, *, d_nn: float | None = None, beam: Beam = PUBLISHED
) -> PeakIndex:
    """The reciprocal-lattice point under each pixel of a crystal's fingerprint.

    Args:
        cell: the periodic cell, in the orientation in which it stands in the beam; as a rule
            ``standard_cell(crystal).crystal``.
        cluster: the piece in the beam, cut from that cell, with or without defects; by default the one that
            :func:`~jaxclear.crystals.cluster` cuts.
        d_nn: length by which the cluster was divided, Å; its mean nearest-neighbour distance by default.
        beam: the simulated experiment.

    Raises:
        PeakError: for a cell without three periods, or a cluster that is not made of whole cells of it.

    Example:
        >>> from ase.build import bulk
        >>> from jaxclear.crystals import read, standard_cell
        >>> index = index_peaks(standard_cell(read(bulk("Cu"))[0]).crystal)
        >>> [family.name for family in index.families[:3]]
        ['{111}', '{200}', '{220}']
    """
    if not cell.pbc.all():
        raise PeakError(f"{cell.name}: expected a cell with three periods, got pbc {cell.pbc.tolist()}")
    piece = cut(cell) if cluster is None else cluster
    repeats = _repeats(cell, piece)
    d_nn = nearest_neighbour_distance(piece.positions) if d_nn is None else d_nn
    lattice = cell.cell / d_nn
    vectors = wave_vectors(beam)
    kept = ~np.isnan(vectors[:, :, 0, 0, 0])
    seen = vectors[kept]  # (kept, 3, 2, 3)
    furthest = float(np.linalg.norm(seen, axis=-1).max())
    points, factors = _points(cell, lattice, furthest + BESIDE)
    fractions = seen @ lattice.T
    offset, nearest = _nearest(points * repeats, fractions * repeats)
    differences = fractions - points[nearest]
    under = offset <= 1
    intensity = np.where(under, factors[nearest] ** 2 * _shape_function(differences, repeats), 0.0)
    families, member_of = _families(cell, points, factors, d_nn)
    distance = np.linalg.norm(differences @ np.linalg.inv(lattice).T, axis=-1)

    def whole(values: np.ndarray, dropped: float) -> np.ndarray:
        full = np.full((*kept.shape, *values.shape[1:]), dropped, values.dtype)
        full[kept] = values
        return full

    brightest = max(float(intensity.max()), np.finfo(float).tiny)
    return PeakIndex(
        hkl=whole(points[nearest], 0),
        family=whole(member_of[nearest], -1),
        distance=whole(distance, np.inf),
        offset=whole(offset, np.inf),
        intensity=whole(intensity / brightest, 0.0),
        families=families,
    )


def _repeats(cell: Crystal, cluster: Crystal) -> Int[np.ndarray, "3"]:
    """How many cells the cluster has along each axis."""
    ratio = cluster.cell @ np.linalg.inv(cell.cell)
    repeats = np.round(np.diag(ratio)).astype(int)
    if np.any(repeats < 1) or not np.allclose(ratio, np.diag(repeats), atol=1e-3):
        raise PeakError(
            f"{cluster.name}: expected a cluster of whole cells, got cell vectors that are {ratio.round(3).tolist()} "
            "of the cell's; pass the cell that the cluster was cut from"
        )
    return repeats


def _points(
    cell: Crystal, lattice: Float[np.ndarray, "3 3"], furthest: float
) -> tuple[Int[np.ndarray, "points 3"], Float[np.ndarray, " points"]]:
    """All hkl up to a length with a structure factor, without 000, and their ``|F|``."""
    most = np.floor(furthest * np.linalg.norm(lattice, axis=1)).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij")
    points = np.stack(grid, axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(points @ np.linalg.inv(lattice).T, axis=1)
    inside = (lengths <= furthest) & points.any(axis=1)
    points, lengths = points[inside], lengths[inside]
    places = cell.positions @ np.linalg.inv(cell.cell)
    species, kinds = np.unique(cell.numbers, return_inverse=True)
    weights = form_factors(species, lengths)
    total = np.zeros(len(points), complex)
    for kind, weight in enumerate(weights):
        here = kinds == kind
        total += weight * (np.exp(-2j * np.pi * (points @ places[here].T)) @ cell.occupancies[here])
    largest = np.bincount(kinds, weights=cell.occupancies) @ np.abs(weights)
    present = np.abs(total) > ABSENT * largest
    return points[present], np.abs(total[present])


def _nearest(
    points: Float[np.ndarray, "points 3"], wanted: Float[np.ndarray, "kept 3 2 3"]
) -> tuple[Float[np.ndarray, "kept 3 2"], Int[np.ndarray, "kept 3 2"]]:
    """Distance to the nearest point and its number, as the largest difference along an axis."""
    from scipy.spatial import KDTree

    distances, nearest = KDTree(points).query(wanted, p=np.inf)
    return np.asarray(distances), np.asarray(nearest)


def _shape_function(differences: Float[np.ndarray, "... 3"], repeats: Int[np.ndarray, "3"]) -> Float[np.ndarray, "..."]:
    """``prod_i [sin(pi N_i x_i) / (N_i sin(pi x_i))]^2`` for ``N_i |x_i| <= 1``; one cell has no shape of its own."""
    one_cell = np.sinc(differences)
    ratio = np.sinc(differences * repeats) / np.where(repeats == 1, 1.0, np.maximum(one_cell, 1e-9))
    return (np.where(repeats == 1, 1.0, ratio) ** 2).prod(axis=-1)


def _families(
    cell: Crystal, points: Int[np.ndarray, "points 3"], factors: Float[np.ndarray, " points"], d_nn: float
) -> tuple[tuple[Family, ...], Int[np.ndarray, " points"]]:
    """The families by radius, and the family of each point."""
    dataset = symmetry_dataset(cell)
    operations = np.eye(3, dtype=int)[None] if dataset is None else np.unique(np.asarray(dataset.rotations), axis=0)
    images = np.concatenate([points @ operations, -points @ operations])  # h' = h W, for x' = W x
    names, member_of = np.unique(_canonical(images), axis=0, return_inverse=True)
    lengths = np.linalg.norm(names @ np.linalg.inv(cell.cell).T, axis=1)
    order = np.lexsort((*-names.T, lengths.round(9)))
    rank = np.argsort(order)[member_of.reshape(-1)]
    families = []
    for number, family in enumerate(order):
        members = rank == number
        hkl = (int(names[family, 0]), int(names[family, 1]), int(names[family, 2]))
        strongest = float(factors[members].max())
        d_spacing = float(1 / lengths[family])
        families.append(Family(_family_name(hkl), hkl, int(members.sum()), d_spacing, d_nn / d_spacing, strongest))
    return tuple(families), rank


def _canonical(images: Int[np.ndarray, "operations points 3"]) -> Int[np.ndarray, "points 3"]:
    """For each point the image with the fewest negative indices, the largest in order of these."""
    base = 2 * int(np.abs(images).max()) + 1
    negative = (images < 0).sum(axis=-1)
    order = (images @ np.array([base**2, base, 1])) - negative * base**4
    return np.take_along_axis(images, order.argmax(axis=0)[None, :, None], axis=0)[0]


def _family_name(hkl: tuple[int, int, int]) -> str:
    separator = "" if all(0 <= index <= 9 for index in hkl) else " "
    return "{" + separator.join(map(str, hkl)) + "}"


def cell_of(cluster: Crystal) -> Crystal:
    """The standard cell that an undamaged cluster was cut from, found by its symmetry.

    Raises:
        PeakError: when the cluster has not the symmetry, or another setting than the standard one.
    """
    periodic = cluster._replace(pbc=np.ones(3, dtype=bool))
    found = standard_cell(periodic) if abs(np.linalg.det(cluster.cell)) > 0 else None
    if found is None or found.orientation != "standard":
        raise PeakError(f"{cluster.name}: expected a cluster with symmetry, got a damaged one; pass its pristine cell")
    _repeats(found.crystal, cluster)
    return found.crystal
