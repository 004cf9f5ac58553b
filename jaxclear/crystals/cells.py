"""From a crystal to the finite, scaled and padded cluster of atoms that the fingerprint takes.

The published preparation: the standard conventional cell, repeated along its shortest extent until there are at least
128 atoms, scaled so that the mean distance between nearest neighbours is 1, its charge-weighted centre at the origin.

Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), appendix A;
A. Ziletti et al., Nat. Commun. 9, 2775 (2018).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.spglib_datasets import dataset_of
from jaxclear.crystals.structures import MAX_ATOMS, MIN_DISTANCE, Crystal, StructureError, completed_cell, read

BUCKETS = (160, 256, 512, 1024, 2048, MAX_ATOMS)
"""Sizes to which clusters are padded, so that few programs are compiled."""
MIN_CLOUD = 100
"""A structure without any period is taken as a finite piece of a crystal from this many atoms on."""
LOWEST_STANDARD_GROUP = 16
"""The first orthorhombic space group: cells of lower symmetry have no axes that a convention could align."""

Orientation = Literal["standard", "as given"]


class StandardCell(NamedTuple):
    """A crystal in its standard setting, when it has one."""

    crystal: Crystal
    space_group: int
    """1 to 230 as spglib finds it; 0 when it finds none."""
    orientation: Orientation
    """"standard" when the cell was replaced by the conventional one, "as given" when the structure was kept."""


class PaddedAtoms(NamedTuple):
    """Clusters of equal length for the kernels; NumPy arrays as :func:`pad` makes them, or JAX arrays."""

    positions: Float[Any, "*batch atoms 3"]
    """In units of the mean nearest-neighbour distance, charge-weighted centre at the origin; 0 for padding."""
    species: Int[Any, "*batch atoms"]
    """Rows of the form-factor table, which are atomic numbers; 0 for padding."""
    occupancies: Float[Any, "*batch atoms"]
    """Weights; 0 for padding."""


def symmetry_dataset(crystal: Crystal, *, symprec: float = 0.01, angle_tolerance: float = -1.0) -> Any | None:
    """The dataset of spglib for a crystal with three periods, or None when it finds no symmetry.

    Species that share a site count as one kind of atom. The entry ``std_types`` numbers the kinds of
    :func:`occupied_sites` from 1.
    """
    if not crystal.pbc.all():
        return None
    sites = occupied_sites(crystal)
    fractions = sites.positions @ np.linalg.inv(crystal.cell)
    return dataset_of(crystal.cell, fractions, sites.kinds, symprec=symprec, angle_tolerance=angle_tolerance)


class OccupiedSites(NamedTuple):
    """The distinct places of a crystal and what sits on them."""

    positions: Float[np.ndarray, "sites 3"]
    kinds: Int[np.ndarray, " sites"]
    contents: list[tuple[tuple[int, float], ...]]
    """For each kind the (atomic number, occupancy) pairs on such a site."""


def occupied_sites(crystal: Crystal) -> OccupiedSites:
    """Atoms grouped into sites; only partial occupancy puts several atoms on one."""
    if np.all(crystal.occupancies == 1.0):
        species, kinds = np.unique(crystal.numbers, return_inverse=True)
        return OccupiedSites(crystal.positions, kinds, [((int(number), 1.0),) for number in species])
    first = _first_atom_of_site(crystal)
    owners = np.unique(first)
    contents: dict[tuple[tuple[int, float], ...], int] = {}
    kinds = []
    for owner in owners:
        on_site = np.flatnonzero(first == owner)
        content = tuple(sorted((int(crystal.numbers[i]), round(float(crystal.occupancies[i]), 6)) for i in on_site))
        kinds.append(contents.setdefault(content, len(contents)))
    return OccupiedSites(crystal.positions[owners], np.array(kinds), list(contents))


def _first_atom_of_site(crystal: Crystal) -> Int[np.ndarray, " atoms"]:
    """For each atom the lowest index of an atom at the same place."""
    first = np.arange(len(crystal.numbers))
    cell = completed_cell(crystal)
    inverse = np.linalg.inv(cell)
    for atom in range(len(first)):
        if first[atom] != atom:
            continue
        delta = (crystal.positions[atom:] - crystal.positions[atom]) @ inverse
        delta -= np.where(crystal.pbc, np.round(delta), 0.0)
        same = atom + np.flatnonzero(np.linalg.norm(delta @ cell, axis=1) < MIN_DISTANCE)
        first[same] = np.minimum(first[same], atom)
    return first


def standard_cell(crystal: Crystal, *, symprec: float = 0.01, angle_tolerance: float = -1.0) -> StandardCell:
    """The standard conventional cell of a crystal in its standard orientation, as spglib idealises it.

    The idealised cell (``no_idealize=False`` in spglib's words) is meant: only it has a fixed orientation, however the
    given structure was rotated. Displacements up to ``symprec`` vanish with it. A structure in which spglib finds
    nothing, or a group below 16 (triclinic, monoclinic: most cells with a vacancy), keeps its cell and its orientation;
    so do slabs, wires and clusters.

    Args:
        crystal: the structure; checked.
        symprec: tolerance of the symmetry search in Å.
        angle_tolerance: tolerance of angles in degrees; spglib's own choice when negative.
    """
    if not crystal.pbc.all():
        return StandardCell(crystal, 0, "as given")
    dataset = symmetry_dataset(crystal, symprec=symprec, angle_tolerance=angle_tolerance)
    number = 0 if dataset is None else int(dataset.number)
    if dataset is None or number < LOWEST_STANDARD_GROUP:
        return StandardCell(crystal, number, "as given")
    return StandardCell(in_standard_setting(crystal, dataset), number, "standard")


def in_standard_setting(crystal: Crystal, dataset: Any) -> Crystal:
    """The idealised standard cell of a crystal, from its :func:`symmetry_dataset`."""
    contents_of = occupied_sites(crystal).contents
    cell = np.array(dataset.std_lattice, dtype=np.float64)
    places = np.array(dataset.std_positions, dtype=np.float64) @ cell
    contents = [contents_of[kind - 1] for kind in dataset.std_types]
    index = np.repeat(np.arange(len(places)), [len(content) for content in contents])
    numbers = np.array([number for content in contents for number, _ in content], dtype=np.int32)
    occupancies = np.array([occupancy for content in contents for _, occupancy in content], dtype=np.float64)
    return Crystal(cell, places[index], numbers, occupancies, crystal.pbc, crystal.name)


def cluster(crystal: Crystal, *, min_atoms: int = 128) -> Crystal:
    """A finite parallelepiped of at least ``min_atoms`` atoms, without periods.

    The shortest extent is doubled, tripled and so on (the first axis where two are equal) until there are enough atoms.
    Only periods are repeated: a slab grows within its plane. A structure with no period is taken as it is when it has
    ``MIN_CLOUD`` atoms or more.

    Raises:
        StructureError: for fewer atoms than ``MIN_CLOUD`` without any period.
    """
    count = len(crystal.numbers)
    if not crystal.pbc.any():
        if count < MIN_CLOUD:
            raise StructureError(
                f"{crystal.name}: expected a periodic cell, or a piece of a crystal with at least {MIN_CLOUD} atoms, "
                f"got {count} atom{'s' * (count > 1)} without a cell; give the lattice vectors"
            )
        return crystal
    lengths = np.where(crystal.pbc, np.linalg.norm(crystal.cell, axis=1), np.inf)
    repeats = np.ones(3, dtype=int)
    while count * repeats.prod() < min_atoms:
        extents = lengths * repeats
        repeats[np.argmax(extents <= extents.min() * (1 + 1e-6))] += 1
    steps = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (crystal.positions + steps @ np.where(crystal.pbc[:, None], crystal.cell, 0.0)).reshape(-1, 3)
    numbers, occupancies = np.tile(crystal.numbers, len(steps)), np.tile(crystal.occupancies, len(steps))
    cell = crystal.cell * repeats[:, None]
    return Crystal(cell, positions, numbers, occupancies, np.zeros(3, dtype=bool), crystal.name)


def nearest_neighbour_distance(positions: Float[np.ndarray, "atoms 3"]) -> float:
    """Mean over the atoms of a finite cluster of the distance to the nearest other one, in the units of the positions.

    Atoms within 0.1 Å of each other are species that share one site; the site counts once.

    Raises:
        StructureError: when there are fewer than two sites.
    """
    from scipy.spatial import KDTree

    tree = KDTree(positions)
    distances = tree.query(positions, k=2)[0][:, 1] if len(positions) > 1 else np.zeros(1)
    if np.any(distances < MIN_DISTANCE):
        shared = tree.query_pairs(MIN_DISTANCE, output_type="ndarray")
        positions = np.delete(positions, shared.max(axis=1), axis=0) if len(shared) else positions
        if len(positions) < 2:
            raise StructureError("expected at least two sites, got one; give a periodic structure")
        distances = KDTree(positions).query(positions, k=2)[0][:, 1]
    return float(distances.mean())


def bucket(count: int) -> int:
    """The padded size for ``count`` atoms, the smallest of ``BUCKETS`` that holds them.

    Raises:
        StructureError: for more atoms than the largest bucket.
    """
    for size in BUCKETS:
        if count <= size:
            return size
    raise StructureError(f"expected at most {MAX_ATOMS} atoms, got {count}; cut out a region of 128 to 256 atoms")


def pad(clusters: Sequence[Crystal], d_nn: float | Sequence[float] | None = None) -> PaddedAtoms:
    """Finite clusters as padded arrays: scaled by the nearest-neighbour distance, centred, in float32.

    Args:
        clusters: finite pieces as :func:`cluster` cuts them, with or without defects added.
        d_nn: nearest-neighbour distance in Å, one for all or one each; measured in each cluster by default.

    Raises:
        ValueError: for distances that are not above 0, or not as many as clusters.
        StructureError: for more atoms than the largest bucket holds.
    """
    scales = _scales(clusters, d_nn)
    size = bucket(max((len(crystal.numbers) for crystal in clusters), default=0))
    batch = len(clusters)
    positions = np.zeros((batch, size, 3), dtype=np.float32)
    species = np.zeros((batch, size), dtype=np.int32)
    occupancies = np.zeros((batch, size), dtype=np.float32)
    for row, crystal in enumerate(clusters):
        count = len(crystal.numbers)
        centre = np.average(crystal.positions, axis=0, weights=crystal.numbers * crystal.occupancies)
        positions[row, :count] = (crystal.positions - centre) / scales[row]
        species[row, :count] = crystal.numbers
        occupancies[row, :count] = crystal.occupancies
    return PaddedAtoms(positions, species, occupancies)


def _scales(clusters: Sequence[Crystal], d_nn: float | Sequence[float] | None) -> Float[np.ndarray, " batch"]:
    """The length by which each cluster is divided, Å."""
    if d_nn is None:
        return np.array([nearest_neighbour_distance(crystal.positions) for crystal in clusters])
    scales = np.asarray(d_nn, dtype=np.float64)
    if scales.shape not in ((), (len(clusters),)):
        raise ValueError(
            f"expected one nearest-neighbour distance for each of {len(clusters)} clusters, got {scales.size}"
        )
    if not np.all((scales > 0) & np.isfinite(scales)):
        raise ValueError(f"expected nearest-neighbour distances above 0 Å, got {scales.min()}")
    return np.broadcast_to(scales, len(clusters))


def clusters_of(
    crystals: Iterable[Crystal],
    *,
    orientation: Orientation = "standard",
    min_atoms: int = 128,
    symprec: float = 0.01,
    angle_tolerance: float = -1.0,
) -> list[Crystal]:
    """Finite clusters of structures, cut from their standard cells or from the cells as given.

    Args:
        crystals: structures; checked.
        orientation: "standard" finds the conventional cell first (see :func:`standard_cell`), "as given" does not.
        min_atoms: fewest atoms of a cluster.
        symprec: tolerance of the symmetry search in Å.
        angle_tolerance: tolerance of angles in degrees; spglib's own choice when negative.

    Raises:
        ValueError: for an unknown orientation.
        StructureError: when a structure cannot be used.
    """
    if orientation not in ("standard", "as given"):
        raise ValueError(f'expected orientation "standard" or "as given", got {orientation!r}')
    if orientation == "standard":
        crystals = (standard_cell(c, symprec=symprec, angle_tolerance=angle_tolerance).crystal for c in crystals)
    return [cluster(crystal, min_atoms=min_atoms) for crystal in crystals]


def prepare(
    structures: Any,
    *,
    orientation: Orientation = "standard",
    nearest_neighbour_distance: float | Sequence[float] | None = None,
    min_atoms: int = 128,
    symprec: float = 0.01,
    angle_tolerance: float = -1.0,
) -> PaddedAtoms:
    """Padded, scaled and centred clusters of structures, ready for ``fingerprint_kernel``.

    Args:
        structures: anything :func:`~jaxclear.crystals.read` takes.
        orientation: "standard" finds the conventional cell first, "as given" keeps axes as they are.
        nearest_neighbour_distance: Å, one for all or one each; measured by default.
        min_atoms: fewest atoms of a cluster.
        symprec: tolerance of the symmetry search in Å.
        angle_tolerance: tolerance of angles in degrees; spglib's own choice when negative.

    Raises:
        StructureError: when a structure cannot be used.
    """
    clusters = clusters_of(
        read(structures),
        orientation=orientation,
        min_atoms=min_atoms,
        symprec=symprec,
        angle_tolerance=angle_tolerance,
    )
    return pad(clusters, nearest_neighbour_distance)
