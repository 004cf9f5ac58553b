"""Damage to structures: displacements, vacancies, substitutions, interstitials, strain, a sublattice removed.

Each function takes a :class:`~jaxclear.crystals.Crystal` or an ``ase.Atoms`` and returns the same kind, in Å. The same
seed gives the same defects; numbers are exact, and one that cannot be met is an error. The published protocol damages
the finite cluster, after its standard cell was found, so that it keeps the orientation of the pristine crystal.

The work is done by :mod:`jaxclear.crystals.defect_kernels`, pure functions of a key on padded arrays.

Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), table 3.2 and
figure 3.4, for displacements, vacancies and the removal of a sublattice; the other kinds are this project's.
"""

import numbers
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxclear.crystals import defect_kernels
from jaxclear.crystals.cells import PaddedAtoms, bucket, cluster, nearest_neighbour_distance
from jaxclear.crystals.form_factors import MAX_ATOMIC_NUMBER
from jaxclear.crystals.structures import Crystal, completed_cell, from_ase

if TYPE_CHECKING:
    import ase

Structure = TypeVar("Structure", Crystal, "ase.Atoms")

_displaced = jax.jit(defect_kernels.displace)
_removed = jax.jit(defect_kernels.remove)
_substituted = jax.jit(defect_kernels.substitute)
_inserted = jax.jit(defect_kernels.insert)


def displacements(
    structure: Structure, sigma: float, *, seed: int, unit: str = "Å", correlation: float | None = None
) -> Structure:
    """The structure with each coordinate of each atom moved by a Gaussian of standard deviation `sigma`.

    Args:
        structure: a cluster or a supercell.
        sigma: in `unit`.
        seed: of the draw.
        unit: "Å", or "d_nn" for the structure's own mean nearest-neighbour distance; of `correlation` too.
        correlation: length over which neighbours move together, see `defect_kernels.displace`; independent
            atoms by default.

    Raises:
        ValueError: for a negative or infinite `sigma`, a `correlation` that is not above 0, or an unknown unit.
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"expected a finite sigma of at least 0, got {sigma}")
    if correlation is not None and not 0 < correlation < np.inf:
        raise ValueError(f"expected a finite correlation length above 0, got {correlation}")
    if unit not in ("Å", "d_nn"):
        raise ValueError(f'expected unit "Å" or "d_nn", got {unit!r}')
    crystal = _crystal(structure)
    length = 1.0 if unit == "Å" else _spacing(crystal)
    scaled = None if correlation is None else correlation * length
    made = _displaced(_key(seed), _padded(crystal), sigma * length, correlation=scaled)
    return _rebuilt(structure, crystal, made)


def vacancies(structure: Structure, fraction: float | None = None, *, count: int | None = None, seed: int) -> Structure:
    """The structure without a random fraction of its atoms, rounded to whole atoms, or without `count` of them.

    Args:
        structure: a cluster or a supercell.
        fraction: of the atoms, 0 to below 1.
        count: the exact number instead.
        seed: of the choice.

    Raises:
        ValueError: for a fraction outside [0, 1], both or neither of fraction and count, or when no atom would stay.
    """
    crystal = _crystal(structure)
    everywhere = np.ones(len(crystal.numbers), bool)
    return remove_sublattice(structure, everywhere, fraction, count=count, seed=seed)


def remove_sublattice(
    structure: Structure,
    sites: Bool[np.ndarray, " atoms"],
    fraction: float | None = None,
    *,
    count: int | None = None,
    seed: int,
) -> Structure:
    """The structure without a random fraction of the atoms on chosen sites, as from bcc to simple cubic.

    Args:
        structure: a cluster or a supercell.
        sites: which atoms belong to the sublattice.
        fraction: of these atoms, 0 to 1.
        count: the exact number instead.
        seed: of the choice.

    Raises:
        ValueError: for sites that are not one truth value an atom, and as :func:`vacancies`.
    """
    crystal = _crystal(structure)
    sites = np.asarray(sites)
    if sites.shape != crystal.numbers.shape or sites.dtype != bool:
        raise ValueError(f"expected one truth value for each of {len(crystal.numbers)} atoms, got {sites.shape} values")
    removed = _whole("vacancies", fraction, count, int(sites.sum()))
    if removed >= len(crystal.numbers):
        raise ValueError(f"expected at least one atom to stay, got {removed} vacancies in {len(crystal.numbers)} atoms")
    atoms = _padded(crystal)
    among = np.pad(sites, (0, len(atoms.species) - len(sites)))
    return _rebuilt(structure, crystal, _removed(_key(seed), atoms, removed, among=among))


def substitutions(
    structure: Structure,
    fraction: float | None = None,
    *,
    count: int | None = None,
    species: int | Int[np.ndarray, " choices"] | None = None,
    seed: int,
) -> Structure:
    """The structure with a random fraction of its atoms replaced by other species.

    Args:
        structure: a cluster or a supercell.
        fraction: of the atoms, 0 to 1.
        count: the exact number instead.
        species: atomic numbers to draw from, for each atom without its own; 1 to 98 by default.
        seed: of the choice.

    Raises:
        ValueError: for atomic numbers outside 1 to 98, a choice that leaves an atom its own species alone, and as
            :func:`vacancies`.
    """
    crystal = _crystal(structure)
    choices = np.arange(1, MAX_ATOMIC_NUMBER + 1) if species is None else np.unique(np.atleast_1d(species))
    if choices.min() < 1 or choices.max() > MAX_ATOMIC_NUMBER:
        raise ValueError(f"expected atomic numbers 1 to {MAX_ATOMIC_NUMBER}, got {choices.min()} to {choices.max()}")
    if len(choices) == 1 and choices[0] in crystal.numbers:
        raise ValueError(f"expected a species other than those of the structure, got {choices[0]}, which is there")
    changed = _whole("substitutions", fraction, count, len(crystal.numbers))
    made = _substituted(_key(seed), _padded(crystal), changed, choices)
    return _rebuilt(structure, crystal, made)


def interstitials(
    structure: Structure, fraction: float | None = None, *, count: int | None = None, seed: int
) -> Structure:
    """The structure with additional atoms of its own species in its holes, as `defect_kernels.insert` does.

    Args:
        structure: a cluster or a supercell.
        fraction: of the number of atoms, 0 to 1.
        count: the exact number instead, at most one for each atom.
        seed: of the draw.

    Raises:
        ValueError: as :func:`vacancies`.
    """
    crystal = _crystal(structure)
    added = _whole("interstitials", fraction, count, len(crystal.numbers))
    atoms = _padded(crystal, room=added)
    made = _inserted(_key(seed), atoms, added, lattice=_periods(crystal))
    return _rebuilt(structure, crystal, made)


def strain(structure: Structure, amount: float, *, seed: int) -> Structure:
    """The structure and its cell under a random homogeneous strain whose largest principal strain is `amount`.

    Args:
        structure: a cluster or a supercell.
        amount: 0 to below 0.5.
        seed: of the draw.

    Raises:
        ValueError: for an amount outside [0, 0.5).
    """
    if not 0 <= amount < 0.5:
        raise ValueError(f"expected a strain from 0 to below 0.5, got {amount}")
    crystal = _crystal(structure)
    tensor = np.asarray(defect_kernels.strain_tensor(_key(seed), amount), dtype=np.float64)
    deformed = crystal._replace(cell=crystal.cell + crystal.cell @ tensor)
    made = defect_kernels.deform(_padded(crystal), tensor)
    return _rebuilt(structure, deformed, made, before=crystal)


def _whole(what: str, fraction: float | None, count: int | None, most: int) -> int:
    """The exact number of defects asked for, checked against the number of atoms that can have one."""
    if (fraction is None) == (count is None):
        raise ValueError(f"expected either a fraction or a count of {what}, got {fraction} and {count}")
    if fraction is not None:
        if not isinstance(fraction, numbers.Real) or not 0 <= fraction <= 1:
            raise ValueError(f"expected a fraction of {what} from 0 to 1, got {fraction!r}")
        return round(float(fraction) * most)
    if not isinstance(count, numbers.Integral) or not 0 <= count <= most:
        raise ValueError(
            f"expected a whole number from 0 to {most} of {what}, as many as there are atoms for them, got {count!r}"
        )
    return int(count)


def _key(seed: Any) -> Key[Array, ""]:
    if not isinstance(seed, numbers.Integral):
        raise ValueError(f"expected a seed that is a whole number, got {seed!r}")
    return jax.random.key(int(seed))


def _crystal(structure: Any) -> Crystal:
    """The structure as a Crystal with the same atoms in the same order."""
    if isinstance(structure, Crystal):
        return structure
    if not hasattr(structure, "positions"):
        raise ValueError(
            f"expected a Crystal or ase.Atoms, got {type(structure).__name__}; jaxclear.crystals.read reads files"
        )
    crystal = from_ase(structure)
    if len(crystal.numbers) != len(structure):
        raise ValueError(
            f"expected one species a site, got {len(crystal.numbers)} on {len(structure)} sites; "
            "pass the Crystal that jaxclear.crystals.read returns, which weights them"
        )
    return crystal


def _spacing(crystal: Crystal) -> float:
    """Mean nearest-neighbour distance in Å, periods included."""
    return nearest_neighbour_distance((cluster(crystal) if crystal.pbc.any() else crystal).positions)


def _periods(crystal: Crystal) -> Float[np.ndarray, "3 3"] | None:
    """Lattice vectors for distances to the nearest image, out of reach where there is no period; None without any."""
    if not crystal.pbc.any():
        return None
    return completed_cell(crystal) * np.where(crystal.pbc, 1.0, 1e6)[:, None]


def _padded(crystal: Crystal, *, room: int = 0) -> PaddedAtoms:
    """The structure's arrays in Å, neither scaled nor centred, with padding for at least `room` more atoms."""
    count = len(crystal.numbers)
    missing = bucket(count + room) - count
    return PaddedAtoms(
        np.pad(crystal.positions.astype(np.float32), ((0, missing), (0, 0))),
        np.pad(crystal.numbers.astype(np.int32), (0, missing)),
        np.pad(crystal.occupancies.astype(np.float32), (0, missing)),
    )


def _rebuilt(structure: Any, crystal: Crystal, made: PaddedAtoms, *, before: Crystal | None = None) -> Any:
    """The structure of the kind that was given, with the atoms that a kernel made of `before`.

    Only what a kernel changed is taken from its float32 numbers, so an atom that was left alone stays where it was.
    """
    before = crystal if before is None else before
    count = len(before.numbers)
    positions = np.asarray(made.positions, dtype=np.float64)
    positions[:count] += before.positions - before.positions.astype(np.float32)
    kept = np.asarray(made.occupancies) > 0
    occupancies = np.asarray(made.occupancies, dtype=np.float64)
    occupancies[:count] = before.occupancies
    species = np.asarray(made.species, dtype=np.int32)
    changed = crystal._replace(positions=positions[kept], numbers=species[kept], occupancies=occupancies[kept])
    if isinstance(structure, Crystal):
        return changed
    atoms = structure[np.flatnonzero(kept[:count])]
    for _ in range(int(kept[count:].sum())):
        atoms.append("X")
    atoms.set_cell(changed.cell)
    atoms.set_positions(changed.positions)
    atoms.set_atomic_numbers(changed.numbers)
    return atoms
