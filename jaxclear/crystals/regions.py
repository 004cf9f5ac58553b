"""Maps of the crystal classes over big and mixed structures: polycrystals, films, molecular dynamics frames.

Regions of equal size around the points of a grid (strided pattern matching) are cut from the structure, periods
honoured, and classified each by itself, in batches on the device. Every atom then has the class of the nearest region,
or a vote of the regions near it. Memory does not grow with the number of regions in work; of the whole structure
there are positions, images within half a region of its faces, and a search tree.

The network knows crystals in standard orientation. Regions keep the axes of the file unless `orient` turns them: in a
polycrystal each grain has axes of its own.

Source: A. Ziletti, A. Leitherer, M. Scheffler and L. M. Ghiringhelli, Nat. Commun. 12, 6234 (2021), for strided pattern
matching; regions of 128 to 256 atoms as in D. Kumar, Class Based Strategies for Understanding Neural Networks,
University of Waterloo (2020), appendix A.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.cells import MAX_ATOMS
from jaxclear.crystals.explain import judge_oriented, shipped_model
from jaxclear.crystals.orient import OrientedCluster
from jaxclear.crystals.orient import orient as find_axes
from jaxclear.crystals.outside import reference_for
from jaxclear.crystals.region_cutting import Cutter, RegionError, Shape, Surroundings, grid
from jaxclear.crystals.structures import Crystal, StructureError, read, to_ase
from jaxclear.worker_processes import mapped

if TYPE_CHECKING:
    import ase

    from jaxclear.models import LoadedModel

CHUNK = 512
"""Regions that are cut before they are classified."""
NEIGHBOURS = 8
"""Regions that vote on an atom, the corners of its cell of the grid."""
_ATOMS_AT_ONCE = 65536

Interpolation = Literal["vote", "nearest"]
Orient = Callable[[Crystal], OrientedCluster | Crystal | None]
"""Turns a region to the standard setting of its crystal; None where it finds no lattice."""


class RegionMap(NamedTuple):
    """Classes over a structure; host arrays.

    Attributes:
        centres: (R, 3), the grid points, Å.
        atoms: (R,), atoms in each region.
        probabilities: (R, K), class probabilities; zero where a region has no class.
        outside_scores: (R,), distance from what the network has learnt (:mod:`jaxclear.crystals.outside`); NaN where a
            region was not put before it, or the network has no reference.
        predicted_class: (R,), the most probable class; -1 where a region has too few atoms, no lattice was found, or
            it is outside the classes.
        confidence: (R,), its calibrated probability.
        atom_probabilities: (N, K), the same for each atom of the structure, in its order.
        atom_class: (N,), -1 where no classified region is near.
        atom_confidence: (N,).
        class_names: one name a class.
        size: edge of a cube or diameter of a sphere, Å.
        stride: largest distance of two grid points along a lattice vector, Å.
        d_nn: median nearest-neighbour distance, Å.
    """

    centres: Float[np.ndarray, "R 3"]
    atoms: Int[np.ndarray, " R"]
    probabilities: Float[np.ndarray, "R K"]
    outside_scores: Float[np.ndarray, " R"]
    predicted_class: Int[np.ndarray, " R"]
    confidence: Float[np.ndarray, " R"]
    atom_probabilities: Float[np.ndarray, "N K"]
    atom_class: Int[np.ndarray, " N"]
    atom_confidence: Float[np.ndarray, " N"]
    class_names: tuple[str, ...]
    size: float
    stride: float
    d_nn: float


def map_regions(
    structure: Any,
    *,
    atoms: int = 200,
    size: float | None = None,
    stride: float | None = None,
    unit: Literal["d_nn", "Å"] = "d_nn",
    shape: Shape | None = None,
    orient: Orient | Literal["as given", "recover"] = "as given",
    min_atoms: int = 64,
    interpolation: Interpolation = "vote",
    model: "LoadedModel | None" = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RegionMap:
    """Classes and confidences over one structure of any number of atoms.

    Args:
        structure: one structure, anything :func:`~jaxclear.crystals.read` takes; the limit on atoms does not apply.
        atoms: how many a region should have on average; sets its size, by the density around the atoms.
        size: edge of a cube or diameter of a sphere instead.
        stride: distance of grid points, made smaller to fit the periods; half the size by default.
        unit: of `size` and `stride`: the structure's median nearest-neighbour distance, or Å.
        shape: of a region; cubes are aligned with the Cartesian axes. By default cubes where these are kept, and
            spheres, which look the same from all sides, where regions are turned.
        orient: "as given" keeps the axes; "recover" finds each region's lattice in its own diffraction
            (:func:`~jaxclear.crystals.recover`); or a function that turns a region, and returns None to leave it out.
        min_atoms: regions with fewer atoms (voids, corners) are not classified.
        interpolation: an atom takes the "nearest" region's probabilities, or the mean of the eight nearest ones, with
            weights ``exp(-2 (d / stride)^2)`` of their distances ("vote").
        model: another network than the shipped one.
        workers: processes that turn the regions; 0 for this one alone. A script that asks for some needs the usual
            ``if __name__ == "__main__"``, and a function given as `orient` has to stand in a module.
        progress: called with the regions done and their number.

    Raises:
        StructureError: when the structure cannot be used.
        RegionError: for not exactly one structure, regions of too many atoms or all of too few, a size or stride that
            is not above 0, workers below 0, or an unknown unit, shape, orientation or interpolation.

    Example:
        >>> from ase.build import bulk
        >>> found = map_regions(bulk("Cu", cubic=True) * (6, 6, 6))
        >>> {found.class_names[k] for k in found.atom_class}
        {'fcc'}
    """
    turn = _orienter(orient)
    shape = shape or ("cube" if orient == "as given" else "sphere")
    _check_options(atoms, size, stride, unit, shape, interpolation, min_atoms, workers)
    crystal = one_structure(structure)
    model = shipped_model() if model is None else model
    surroundings = Surroundings(crystal)
    d_nn, volume = surroundings.lengths()
    length = d_nn if unit == "d_nn" else 1.0
    filled = atoms * volume * (6 / np.pi if shape == "sphere" else 1.0)
    extent = filled ** (1 / 3) if size is None else size * length
    step = extent / 2 if stride is None else stride * length
    centres = grid(crystal, surroundings.positions, extent, step)
    cutter = Cutter(crystal, surroundings, extent, shape)
    counts = cutter.counts(centres)
    used = _usable(crystal, counts, min_atoms, extent)
    # By size, so that the regions of a chunk are padded alike and few programs are compiled.
    order = used[np.argsort(counts[used], kind="stable")]
    with mapped(turn, 0 if orient == "as given" else workers) as turned:
        probabilities, outside = _judged(cutter, centres, order, turned, model, progress)
    reference = reference_for(model.metadata.get("sha256"))
    if reference is not None:
        probabilities[outside > reference.threshold] = 0.0
    spread = _spread(crystal, surroundings, centres, probabilities, extent, step, interpolation)
    return RegionMap(
        centres=centres,
        atoms=counts,
        probabilities=probabilities,
        outside_scores=outside,
        predicted_class=_winner(probabilities),
        confidence=probabilities.max(axis=1),
        atom_probabilities=spread,
        atom_class=_winner(spread),
        atom_confidence=spread.max(axis=1),
        class_names=tuple(model.class_names),
        size=extent,
        stride=step,
        d_nn=d_nn,
    )


def _usable(crystal: Crystal, counts: Int[np.ndarray, " R"], min_atoms: int, extent: float) -> Int[np.ndarray, " used"]:
    """The regions with enough atoms.

    Raises:
        RegionError: there are none, or one has too many.
    """
    if counts.max() > MAX_ATOMS:
        raise RegionError(
            f"{crystal.name}: expected regions of at most {MAX_ATOMS} atoms, got {counts.max()}; make them smaller "
            f"than {extent:.3g} Å"
        )
    used = np.flatnonzero(counts >= min_atoms)
    if not len(used):
        raise RegionError(
            f"{crystal.name}: expected regions of at least {min_atoms} atoms, got {counts.max()} at most; make them "
            f"larger than {extent:.3g} Å"
        )
    return used


def _judged(
    cutter: Cutter,
    centres: Float[np.ndarray, "R 3"],
    order: Int[np.ndarray, " used"],
    turned: Callable[[Iterable[Crystal]], Iterable[Any]],
    model: "LoadedModel",
    progress: Callable[[int, int], None] | None,
) -> tuple[Float[np.ndarray, "R K"], Float[np.ndarray, " R"]]:
    """Probabilities and outside scores of the regions in that order; zero and NaN for those that were not turned."""
    probabilities = np.zeros((len(centres), len(model.class_names)), np.float32)
    outside = np.full(len(centres), np.nan)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        pieces = [_oriented(piece) for piece in turned(cutter.cut(centres[chunk]))]
        found = [piece for piece in pieces if piece is not None]
        if found:
            rows = chunk[[piece is not None for piece in pieces]]
            probabilities[rows], outside[rows] = judge_oriented(found, model=model)
        if progress is not None:
            progress(start + len(chunk), len(order))
    return probabilities, outside


def one_structure(source: Any, *, index: int | str = ":") -> Crystal:
    """The one structure of a file or an object, with any number of atoms.

    Args:
        source: as :func:`~jaxclear.crystals.read` takes it.
        index: which frame of a file with many.

    Raises:
        StructureError: when it cannot be used.
        RegionError: when there are several, or not the frame that is asked for.
    """
    try:
        crystals = read(source, index=index, max_atoms=None)
    except StructureError as error:
        if isinstance(error.__cause__, StopIteration | IndexError):
            raise RegionError(f"{source}: expected a frame that is there, got {index}") from error
        raise
    if len(crystals) != 1:
        raise RegionError(f"expected one structure, got {len(crystals)}; choose one frame")
    return crystals[0]


def write(
    path: str | os.PathLike[str], structure: Any, found: RegionMap, *, source: Any = None, index: int | str = ":"
) -> None:
    """Writes a structure as extended xyz with the class and the confidence of each atom.

    The columns are `crystal_class` (a number, -1 for none), and `confidence`; the comment line has the names. What
    ASE finds in ``arrays`` and ``info`` of a file, or an ``ase.Atoms`` has in them, stays.

    Args:
        path: the file; replaced if it is there.
        structure: what was mapped, as :func:`~jaxclear.crystals.map_regions` takes it.
        found: its map.
        source: where the structure came from, if that is not it: the file of a :class:`~jaxclear.crystals.Crystal` that
            was read before, for what ASE finds in it.
        index: which frame of a file with many.

    Raises:
        StructureError: when the structure cannot be used.
        RegionError: for a map of another number of atoms.
    """
    import ase.io

    crystal = one_structure(structure, index=index)
    if len(found.atom_class) != len(crystal.numbers):
        raise RegionError(f"expected a map of {len(crystal.numbers)} atoms, got one of {len(found.atom_class)}")
    atoms = _with_own_numbers(structure if source is None else source, index, crystal)
    atoms.set_array("crystal_class", found.atom_class.astype(np.int32))
    atoms.set_array("confidence", found.atom_confidence.astype(np.float64))
    atoms.info["crystal_class_names"] = " ".join(f"{k}={name}" for k, name in enumerate(found.class_names))
    ase.io.write(os.fspath(path), atoms, format="extxyz")


def _with_own_numbers(source: Any, index: int | str, crystal: Crystal) -> "ase.Atoms":
    """The structure with all that ASE knows of it, where that has the same atoms; else with positions only."""
    import ase
    import ase.io

    found = source
    if isinstance(source, str | os.PathLike):
        with contextlib.suppress(Exception):  # what ASE cannot read was read otherwise
            found = ase.io.read(os.fspath(source), index=-1 if index == ":" else index)
    if not isinstance(found, ase.Atoms) or not np.array_equal(found.numbers, crystal.numbers):
        return to_ase(crystal)
    return found.copy() if np.allclose(found.positions, crystal.positions) else to_ase(crystal)


def _check_options(
    atoms: int,
    size: float | None,
    stride: float | None,
    unit: str,
    shape: str,
    interpolation: str,
    min_atoms: int,
    workers: int,
) -> None:
    for name, length in (("atoms", atoms), ("size", size), ("stride", stride)):
        if length is not None and not 0 < length < np.inf:
            raise RegionError(f"expected {name} above 0, got {length}")
    for name, value, known in (
        ("unit", unit, ("d_nn", "Å")),
        ("shape", shape, ("cube", "sphere")),
        ("interpolation", interpolation, ("vote", "nearest")),
    ):
        if value not in known:
            raise RegionError(f"expected {name} to be {' or '.join(map(repr, known))}, got {value!r}")
    if min_atoms < 2:
        raise RegionError(f"expected min_atoms of at least 2, got {min_atoms}")
    if workers < 0:
        raise RegionError(f"expected workers of at least 0, got {workers}")


def _orienter(orient: Orient | str) -> Orient:
    if callable(orient):
        return orient
    if orient == "as given":
        return lambda region: region
    if orient == "recover":
        return _recovered
    raise RegionError(f'expected orient to be "as given", "recover" or a function, got {orient!r}')


def _recovered(region: Crystal) -> OrientedCluster | None:
    piece = find_axes(region)
    return None if piece.orientation == "not found" else piece._replace(found=None)


def _oriented(piece: OrientedCluster | Crystal | None) -> OrientedCluster | None:
    return OrientedCluster(piece.name, piece, "as given", None) if isinstance(piece, Crystal) else piece


def _spread(
    crystal: Crystal,
    surroundings: Surroundings,
    centres: Float[np.ndarray, "R 3"],
    probabilities: Float[np.ndarray, "R K"],
    size: float,
    stride: float,
    interpolation: Interpolation,
) -> Float[np.ndarray, "N K"]:
    """Each atom's class probabilities; zero where no classified region reaches it."""
    from scipy.spatial import KDTree

    spread = np.zeros((len(crystal.numbers), probabilities.shape[1]), np.float32)
    classified = np.flatnonzero(probabilities.any(axis=1))
    if not len(classified):
        return spread
    reach = np.sqrt(3) / 2 * size
    places, owners = surroundings.with_images(surroundings.wrapped(centres[classified]), reach)
    tree = KDTree(places)
    voters = 1 if interpolation == "nearest" else min(NEIGHBOURS, tree.n)
    for start in range(0, len(spread), _ATOMS_AT_ONCE):
        atoms = slice(start, start + _ATOMS_AT_ONCE)
        distances, near = (np.reshape(v, (-1, voters)) for v in tree.query(surroundings.positions[atoms], k=voters))
        weights = np.exp(-2 * (distances**2 - distances[:, :1] ** 2) / stride**2) * (distances <= reach)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
        spread[atoms] = np.einsum("av,avk->ak", weights, probabilities[classified[owners[near]]])
    return spread


def _winner(probabilities: Float[np.ndarray, "n K"]) -> Int[np.ndarray, " n"]:
    """The most probable class, -1 where there are no probabilities."""
    return np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), -1)
