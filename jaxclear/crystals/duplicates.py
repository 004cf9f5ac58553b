"""Which structures of a data set are one crystal, computed or measured twice.

Two structures are the same when they agree in space group, in what occupies which kind of site, and, within a
tolerance, in every length: the edges of the conventional cell and the distances from the atoms to their neighbours. No
value is rounded, so none is torn apart at the edge of a bin: structures are kept sorted by volume and compared with the
neighbours in that order.
"""

import bisect
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.cells import occupied_sites, symmetry_dataset
from jaxclear.crystals.structures import Crystal

__all__ = ["TOLERANCE", "first_of_each", "periodic_neighbour_distances", "regroup"]

TOLERANCE = 0.001
"""Default relative difference of two lengths that count as equal; .3 % in volume."""
NEIGHBOURS = 12
"""How many neighbours of each atom are compared."""


class _Description(NamedTuple):
    """What two structures are compared by."""

    kind: Hashable
    """Space group and occupied sites: equal or not."""
    lengths: Float[np.ndarray, " n"]
    """Logarithms of lengths, the third root of the volume an atom first: equal within the tolerance."""


def first_of_each(
    crystals: Iterable[Crystal], *, tolerance: float = TOLERANCE, symprec: float = 0.01
) -> Int[np.ndarray, " N"]:
    """For each structure the index of the first one that it duplicates; its own index when it is the first.

    A structure belongs to the earliest of the first ones that it agrees with: same space group; same elements (and
    occupancies) on sites of the same number and symmetry; the third root of the volume an atom, the three edges of the
    conventional cell and the mean distances from the atoms of each kind to their first twelve neighbours all within
    the tolerance. So any two first ones differ, and every other structure agrees with its own first one; no chain of
    small steps joins structures that are far apart. Cubic structures of one element differ in volume only.

    Site letters are not compared, as they depend on the choice of the origin: site symmetries are. Without a space
    group (fewer than three periods) or in groups below 16, whose conventional cells are not unique, two descriptions of
    one crystal may be taken for two crystals, never the reverse.

    Args:
        crystals: structures; checked.
        tolerance: largest relative difference of two lengths that count as equal.
        symprec: tolerance of the symmetry search in Å.

    Returns:
        Indices, never larger than a structure's own.

    Raises:
        ValueError: for a tolerance that is not above 0 and below 1.

    Example:
        >>> from ase.build import bulk
        >>> from jaxclear.crystals.structures import from_ase
        >>> first_of_each([from_ase(bulk("Cu", a=a)) for a in (3.6, 3.7, 3.601)])
        array([0, 1, 0])
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"expected a tolerance above 0 and below 1, got {tolerance}")
    step = np.log1p(tolerance)
    firsts: dict[Hashable, list[tuple[float, int, Float[np.ndarray, " n"]]]] = {}
    owners = []
    for index, crystal in enumerate(crystals):
        kind, lengths = _described(crystal, symprec)
        alike = firsts.setdefault(kind, [])
        size = float(lengths[0])
        low = bisect.bisect_left(alike, size - step, key=_size)
        high = bisect.bisect_right(alike, size + step, key=_size)
        same = [owner for _, owner, other in alike[low:high] if np.abs(other - lengths).max() <= step]
        if not same:
            bisect.insort(alike, (size, index, lengths), key=_size)
        owners.append(min(same, default=index))
    return np.array(owners, dtype=np.int64)


def regroup(first: Int[np.ndarray, " N"], index: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
    """The same groups among a choice of structures: for each the position, in the choice, of its group's first there.

    Args:
        first: groups as :func:`first_of_each` finds them.
        index: the structures chosen.

    Example:
        >>> regroup(np.array([0, 1, 0, 1]), np.array([3, 2, 1]))
        array([0, 1, 0])
    """
    places: dict[int, int] = {}
    owners = [places.setdefault(owner, place) for place, owner in enumerate(first[index].tolist())]
    return np.array(owners, dtype=np.int64)


def periodic_neighbour_distances(
    cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"], count: int
) -> Float[np.ndarray, "atoms count"]:
    """Distances from each atom of a periodic cell to its nearest neighbours, images included, nearest first (Å).

    Args:
        cell: lattice vectors as rows, Å.
        positions: Å.
        count: how many neighbours of each atom.
    """
    from scipy.spatial import KDTree

    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    # A sphere with three times the volume of so many atoms holds them nearly always; empty space needs larger ones.
    radius = (3 * (count + 1) * abs(np.linalg.det(cell)) / len(positions) * 3 / (4 * np.pi)) ** (1 / 3)
    inside = positions - np.floor(positions @ np.linalg.inv(cell)) @ cell
    while True:
        reach = np.ceil(radius / heights).astype(int)
        steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
        images = (inside + (steps @ cell)[:, None]).reshape(-1, 3)
        distances = KDTree(images).query(inside, k=count + 1)[0][:, 1:]
        if distances.max() <= radius:
            return distances
        radius *= 1.5


def _size(entry: tuple[float, int, Float[np.ndarray, " n"]]) -> float:
    return entry[0]


def _described(crystal: Crystal, symprec: float) -> _Description:
    """The description of one structure; one without a space group is like no other but its own copy."""
    dataset = symmetry_dataset(crystal, symprec=symprec)
    if dataset is None:
        return _Description(tuple(array.tobytes() for array in crystal[:-1]), np.zeros(1))
    contents = occupied_sites(crystal).contents
    kinds = np.asarray(dataset.std_types) - 1
    cell = np.asarray(dataset.std_lattice)
    distances = periodic_neighbour_distances(cell, np.asarray(dataset.std_positions) @ cell, NEIGHBOURS)
    order = sorted(range(len(contents)), key=contents.__getitem__)
    lengths = [
        [(abs(np.linalg.det(cell)) / len(kinds)) ** (1 / 3)],
        np.sort(np.linalg.norm(cell, axis=1)),
        *(distances[kinds == kind].mean(axis=0) for kind in order),
    ]
    return _Description((int(dataset.number), _orbits(dataset, contents)), np.log(np.concatenate(lengths)))


def _orbits(dataset: Any, contents: list[tuple[tuple[int, float], ...]]) -> Hashable:
    """What occupies each orbit of the conventional cell, on how many sites of which symmetry, in no order."""
    inputs = np.zeros(int(dataset.mapping_to_primitive.max()) + 1, int)
    inputs[dataset.mapping_to_primitive] = np.arange(len(dataset.mapping_to_primitive))
    orbits = dataset.crystallographic_orbits[inputs[dataset.std_mapping_to_primitive]]
    found = []
    for orbit in np.unique(orbits):
        members = orbits == orbit
        # The axes of a symbol may be permuted by another choice of the origin: its letters are what stays.
        symmetry = "".join(sorted(dataset.site_symmetry_symbols[orbit]))
        found.append((contents[dataset.std_types[np.argmax(members)] - 1], int(members.sum()), symmetry))
    return tuple(sorted(found))
