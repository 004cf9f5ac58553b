"""Crystal structures as plain arrays, read from files, ASE and pymatgen.

Conventions: lattice vectors are the *rows* of ``cell``; cell and positions are Cartesian and in Å. A site that several
species share (partial occupancy, a disordered alloy) becomes one atom a species, each weighted by its fraction: the
weights enter the structure factor, so what diffracts is the average structure. Oxidation states are dropped.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxclear.crystals import cif
from jaxclear.crystals.form_factors import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    import ase
    from pymatgen.core import IMolecule, IStructure, Structure

MAX_ATOMS = 4096
"""The largest structure that is taken; the fingerprint is defined for 128 to 256 atoms."""
MIN_DISTANCE = 0.1
"""Two atoms closer than this (Å) are at one place: a mistake unless their occupancies add up to one site."""
_GIVE_UP = 3
"""Frames in a row that cannot be read after which the rest of a file is given up."""


class StructureError(ValueError):
    """A structure, or the file that should hold one, cannot be used; the message says what to do."""


class Crystal(NamedTuple):
    """One structure as host arrays; build it with :func:`from_ase`, :func:`from_pymatgen` or :func:`read`."""

    cell: Float[np.ndarray, "3 3"]
    """Lattice vectors as rows, Å; rows of zeros along directions that are not periodic are allowed."""
    positions: Float[np.ndarray, "atoms 3"]
    """Cartesian positions, Å."""
    numbers: Int[np.ndarray, " atoms"]
    """Atomic numbers."""
    occupancies: Float[np.ndarray, " atoms"]
    """Fraction of the site that the atom fills, 0 < occupancy <= 1."""
    pbc: Bool[np.ndarray, "3"]
    """Which lattice vectors are periods."""
    name: str
    """Where the structure came from, for messages."""


def from_ase(atoms: "ase.Atoms", *, name: str | None = None, max_atoms: int | None = MAX_ATOMS) -> Crystal:
    """The structure of an ``ase.Atoms``; fractional occupancies that ASE kept from a CIF file are honoured.

    Args:
        atoms: the structure.
        name: for messages; its formula by default.
        max_atoms: most atoms that are taken; None for any number, for functions that work on regions.

    Raises:
        StructureError: when the structure cannot be used.
    """
    positions = np.array(atoms.positions, dtype=np.float64)
    numbers = np.array(atoms.numbers, dtype=np.int32)
    occupancies = np.ones(len(numbers))
    name = name or (str(atoms.symbols) if len(numbers) else "structure")
    sites = atoms.info.get("occupancy")
    kinds = atoms.arrays.get("spacegroup_kinds")
    if sites and kinds is not None and len(kinds) == len(numbers):
        positions, numbers, occupancies = _split_shared_sites(positions, kinds, sites, numbers)
    crystal = Crystal(np.array(atoms.cell.array), positions, numbers, occupancies, np.array(atoms.pbc), name)
    return checked(crystal, max_atoms=max_atoms)


def _split_shared_sites(
    positions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    sites: dict[Any, dict[str, float]],
    numbers: Int[np.ndarray, " sites"],
) -> tuple[Float[np.ndarray, "atoms 3"], Int[np.ndarray, " atoms"], Float[np.ndarray, " atoms"]]:
    """One atom for each species of each site, from ASE's ``info["occupancy"]`` (kind -> {symbol: fraction})."""
    from ase.data import atomic_numbers

    index, species, fractions = [], [], []
    for site, kind in enumerate(kinds):
        shares = sites.get(str(kind), sites.get(kind))
        for symbol, fraction in shares.items() if shares else (("", 1.0),):
            index.append(site)
            species.append(atomic_numbers.get(symbol, numbers[site]))
            fractions.append(fraction)
    return positions[index], np.array(species, dtype=np.int32), np.array(fractions, dtype=np.float64)


def from_pymatgen(
    structure: "IStructure | IMolecule", *, name: str | None = None, max_atoms: int | None = MAX_ATOMS
) -> Crystal:
    """The structure of a pymatgen ``Structure`` or ``Molecule``, disordered sites included; arguments of `from_ase`.

    Raises:
        StructureError: when the structure cannot be used.
    """
    index, numbers, occupancies = [], [], []
    for site, shares in enumerate(structure.species_and_occu):
        for species, fraction in shares.items():
            index.append(site)
            numbers.append(getattr(species, "Z", 0) if _is_real(species) else 0)
            occupancies.append(fraction)
    lattice = getattr(structure, "lattice", None)
    cell = np.zeros((3, 3)) if lattice is None else np.array(lattice.matrix, dtype=np.float64)
    pbc = np.zeros(3, dtype=bool) if lattice is None else np.array(lattice.pbc, dtype=bool)
    positions = np.array(structure.cart_coords, dtype=np.float64).reshape(-1, 3)[index].reshape(-1, 3)
    name = name or (structure.formula if index else "structure")
    arrays = np.array(numbers, dtype=np.int32), np.array(occupancies, dtype=np.float64)
    return checked(Crystal(cell, positions, *arrays, pbc, name), max_atoms=max_atoms)


def _is_real(species: Any) -> bool:
    """Whether a pymatgen species is an element: its dummies answer a made-up atomic number."""
    return type(species).__name__ != "DummySpecies"


def to_ase(crystal: Crystal) -> "ase.Atoms":
    """An ``ase.Atoms`` with the same atoms; occupancies other than 1 are kept in ``arrays["occupancies"]``."""
    import ase

    atoms = ase.Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.cell, pbc=crystal.pbc)
    if np.any(crystal.occupancies != 1.0):
        atoms.set_array("occupancies", np.array(crystal.occupancies))
    return atoms


def checked(crystal: Crystal, *, max_atoms: int | None = MAX_ATOMS) -> Crystal:
    """The same structure, when it can be used.

    Args:
        crystal: the structure.
        max_atoms: most atoms that are taken; None for any number.

    Raises:
        StructureError: for no atoms, a NaN or infinity, an unknown species, a cell without volume, an occupancy
            outside (0, 1], more than `max_atoms` atoms, or two atoms at one place.
    """
    name, count = crystal.name, len(crystal.numbers)
    if count == 0:
        raise StructureError(f"{name}: expected at least one atom, got none; check that the file holds a structure")
    # Fractional coordinates in such a cell are no positions either.
    if not np.all(np.isfinite(crystal.cell)):
        raise StructureError(f"{name}: expected a finite cell, got {crystal.cell.tolist()}; repair the lattice vectors")
    if not np.all(np.isfinite(crystal.positions)):
        bad = int(np.argmin(np.isfinite(crystal.positions).all(axis=1)))
        raise StructureError(
            f"{name}: expected finite positions, got {crystal.positions[bad]} for atom {bad}; repair it"
        )
    known = (crystal.numbers >= 1) & (crystal.numbers <= MAX_ATOMIC_NUMBER)
    if not np.all(known):
        bad = int(np.argmin(known))
        raise StructureError(
            f"{name}: expected elements 1 (H) to {MAX_ATOMIC_NUMBER} (Cf), got atomic number {crystal.numbers[bad]} "
            f"for atom {bad}; name the species, or remove dummy atoms"
        )
    if not np.all((crystal.occupancies > 0) & (crystal.occupancies <= 1 + 1e-6)):
        raise StructureError(
            f"{name}: expected occupancies above 0 and up to 1, got {crystal.occupancies.min()} to "
            f"{crystal.occupancies.max()}; remove empty sites and mend the others"
        )
    if max_atoms is not None and count > max_atoms:
        raise StructureError(
            f"{name}: expected at most {max_atoms} atoms, got {count}; cut out a region of 128 to 256 atoms"
        )
    periods = crystal.cell[crystal.pbc]
    if len(periods) and np.sqrt(max(np.linalg.det(periods @ periods.T), 0.0)) < 1e-3:
        raise StructureError(
            f"{name}: expected independent lattice vectors along the periodic directions, got {periods.tolist()}; "
            "repair the cell, or switch the periodicity off"
        )
    _check_distances(crystal)
    return crystal


def _check_distances(crystal: Crystal) -> None:
    """Raise for two atoms at one place in the cell, images included, unless their occupancies share one site."""
    from scipy.spatial import KDTree

    if len(crystal.numbers) == 1:
        return
    cell = completed_cell(crystal)
    inverse = np.linalg.inv(cell)
    fractions = crystal.positions @ inverse
    fractions -= np.where(crystal.pbc, np.floor(fractions), 0.0)
    fractions[(fractions >= 1) & crystal.pbc] = 0.0  # a floor of -1e-17 leaves 1.0
    # Along the normal of each pair of lattice vectors no distance is longer than the real one: candidates, in a box.
    heights = 1 / np.linalg.norm(inverse, axis=0)
    tree = KDTree(fractions * heights, boxsize=np.where(crystal.pbc, heights, 0.0))
    for i, j in tree.query_pairs(MIN_DISTANCE, p=np.inf):
        delta = fractions[i] - fractions[j]
        delta -= np.where(crystal.pbc, np.round(delta), 0.0)
        distance = np.linalg.norm(delta @ cell)
        if distance < MIN_DISTANCE and crystal.occupancies[i] + crystal.occupancies[j] > 1 + 1e-3:
            raise StructureError(
                f"{crystal.name}: expected atoms apart, got atoms {i} and {j} within {distance:.3f} Å of each other; "
                "remove duplicates, or give occupancies that share the site"
            )


def completed_cell(crystal: Crystal) -> Float[np.ndarray, "3 3"]:
    """The cell with the rows that are no periods replaced by unit vectors normal to the periods (Å)."""
    if crystal.pbc.all():
        return crystal.cell
    cell = crystal.cell.copy()
    periods = cell[crystal.pbc]
    normals = np.linalg.svd(periods)[2][len(periods) :] if len(periods) else np.eye(3)
    cell[~crystal.pbc] = normals
    return cell


def read(source: Any, *, index: int | str | slice = ":", max_atoms: int | None = MAX_ATOMS) -> list[Crystal]:
    """All structures of a file, an object or a sequence of them, checked and in order.

    Files are read by ASE, and by pymatgen where ASE cannot. Fractional occupancies of CIF files are kept.

    Args:
        source: a path to a file that ASE or pymatgen reads, an ``ase.Atoms``, a pymatgen ``Structure`` or ``Molecule``,
            a :class:`Crystal`, or a sequence of any of these.
        index: which frames of a file with many, in ASE's notation; all by default.
        max_atoms: most atoms of a structure; None for any number, as :func:`~jaxclear.crystals.map_regions` takes.

    Raises:
        StructureError: when a file is missing, a folder, empty, cut off, not text where text is expected, of an unknown
            format, or when a structure in it cannot be used (see :func:`checked`).

    Example:
        >>> from ase.build import bulk
        >>> read(bulk("Cu"))[0].numbers
        array([29], dtype=int32)
    """
    if isinstance(source, Crystal):
        return [checked(source, max_atoms=max_atoms)]
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source), index, max_atoms)
    if _is_instance(source, "ase.atoms", "Atoms"):
        return [from_ase(source, max_atoms=max_atoms)]
    if _is_instance(source, "pymatgen.core.structure", "IStructure", "IMolecule"):
        return [from_pymatgen(source, max_atoms=max_atoms)]
    if isinstance(source, Iterable) and not isinstance(source, bytes | dict | np.ndarray):
        return [crystal for part in source for crystal in read(part, index=index, max_atoms=max_atoms)]
    raise StructureError(
        f"expected a file name, ase.Atoms, pymatgen Structure, Crystal, or a sequence of these, got "
        f"{type(source).__name__}; convert it to one of them"
    )


def read_frames(path: str | os.PathLike[str]) -> tuple[list[Crystal], list[tuple[str, str]]]:
    """The structures of a file that can be used, and why its other frames cannot.

    A frame that cannot be used costs only itself. Where the reader of a format stops at a frame, it is started again
    behind it; after three frames in a row that it cannot read, the rest of the file is given up.

    Args:
        path: a file that ASE or pymatgen reads.

    Returns:
        The structures, and names and messages of the frames that failed. A name is that of the file, with ``@`` and the
        number of the frame when there are several.

    Raises:
        StructureError: when there is no such file, or no frame of it can be read.
    """
    path = Path(path)
    _expect_file(path)
    frames = _frames(path)
    if all(isinstance(frame, Exception) for frame in frames):
        return _read_file(path, ":", MAX_ATOMS), []
    usable, failures = [], []
    for number, frame in enumerate(frames):
        name = str(path) if len(frames) == 1 else f"{path}@{number}"
        try:
            if isinstance(frame, Exception):
                raise StructureError(_why_unreadable(name, frame))
            usable.append(from_ase(frame, name=name))
        except StructureError as error:
            failures.append((name, str(error)))
    return usable, failures


def _frames(path: Path) -> "list[ase.Atoms | Exception]":
    """The frames of a file, with what its reader raised where it could not read one."""
    frames: list[ase.Atoms | Exception] = []
    stuck = 0
    while stuck < _GIVE_UP:
        try:
            for atoms in _iread(path, slice(len(frames), None)):
                frames.append(atoms)
                stuck = 0
            return frames
        except Exception as error:  # every format's parser fails in its own way
            frames.append(error)
            stuck += 1
    return frames[: len(frames) - _GIVE_UP + 1]


def _is_instance(value: Any, module: str, *names: str) -> bool:
    """Whether ``value`` is of a class of ``module``, without importing it: an instance's module is there already."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, tuple(getattr(loaded, name) for name in names))


def _read_file(path: Path, index: int | str | slice, max_atoms: int | None) -> list[Crystal]:
    """The structures of one file."""
    _expect_file(path)
    try:
        frames = list(_iread(path, index))
    except Exception as error:  # every format's parser fails in its own way
        structure = None if isinstance(error, UnicodeDecodeError) else _read_with_pymatgen(path, error)
        if structure is None:
            raise StructureError(_why_unreadable(path, error)) from error
        if not _at_index([structure], index):
            raise _none_there(path, index) from IndexError(index)
        return [from_pymatgen(structure, name=str(path), max_atoms=max_atoms)]
    if not frames:
        raise _none_there(path, index) from (IndexError(index) if isinstance(index, int) else None)
    names = [str(path)] if len(frames) == 1 else [f"{path}@{frame}" for frame in range(len(frames))]
    return [from_ase(atoms, name=name, max_atoms=max_atoms) for atoms, name in zip(frames, names, strict=True)]


def _none_there(path: Path, index: int | str | slice) -> StructureError:
    return StructureError(f"{path}: expected at least one structure, got none; check the file and the index {index!r}")


def _at_index(frames: list[Any], index: int | str | slice) -> list[Any]:
    """The frames at an index in ASE's notation, none where there is none."""
    from ase.utils import string2index

    which: Any = string2index(index) if isinstance(index, str) else index
    if isinstance(which, slice):
        return frames[which]
    if not isinstance(which, int | np.integer):  # a query of a data base
        return []
    return [frames[which]] if -len(frames) <= which < len(frames) else []


def _iread(path: Path, index: int | str | slice) -> "Iterator[ase.Atoms]":
    """The structures of a file by ASE."""
    import ase.io

    return cif.iread(path, index) if path.suffix.lower() == ".cif" else iter(ase.io.iread(path, index=index))


def _expect_file(path: Path) -> None:
    """Raise for a folder, a missing or an empty file."""
    if path.is_dir():
        raise StructureError(f"{path}: expected a structure file, got a folder; name the files in it")
    if not path.exists():
        raise StructureError(f"{path}: expected a structure file, got no such file; check the name")
    if path.stat().st_size == 0:
        raise StructureError(f"{path}: expected a structure file, got an empty one; write it again")


def _read_with_pymatgen(path: Path, error: Exception) -> "Structure | IMolecule | None":
    """The structure that pymatgen finds in a file that ASE could not read, or None when it finds none."""
    from ase.io.formats import UnknownFileTypeError
    from pymatgen.core import Molecule, Structure

    # Pymatgen takes the atoms that are there from an xyz file cut short, which ASE rejects: no second opinion on those.
    for kind in (Structure, Molecule) if isinstance(error, UnknownFileTypeError) else (Structure,):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return kind.from_file(str(path))
        except Exception:  # the reason shown is that of ASE, which was asked first
            continue
    return None


def _why_unreadable(path: Path | str, error: Exception) -> str:
    """One sentence for a parser's failure."""
    if isinstance(error, UnicodeDecodeError):
        return (
            f"{path}: expected text in UTF-8, got byte 0x{error.object[error.start]:02x} at {error.start}; "
            "convert the file to UTF-8"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{path}: expected a complete file in a format that ASE or pymatgen reads, got an error "
        f"({type(error).__name__}: {reason[:200]}); check its format and its end"
    )
