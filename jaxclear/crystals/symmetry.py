"""Classes of crystal structures by space group: what a symmetry search with a tolerance says.

This is the baseline of the crystal study. It answers with a space group at a tolerance, and for a cell with one atom
missing mostly with a group of low symmetry, which belongs to no class.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxclear.crystals.cells import symmetry_dataset
from jaxclear.crystals.structures import Crystal

CLASS_NAMES = ("bct139", "bct141", "hex/rh", "sc", "fcc", "diamond", "bcc")
"""The classes of the published network, in its order; hexagonal and rhombohedral structures share one."""

_CLASS_OF_GROUP = {139: 0, 141: 1, 166: 2, 194: 2, 221: 3, 225: 4, 227: 5, 229: 6}


class Tolerance(NamedTuple):
    """How far a structure may deviate from a symmetry that it is said to have."""

    symprec: float
    """Å."""
    angle: float
    """Degrees; spglib's own choice when negative."""


TOLERANCES: Mapping[str, Tolerance] = {
    "tight": Tolerance(1e-4, 1.0),
    "medium": Tolerance(1e-2, -1.0),
    "loose": Tolerance(0.1, 5.0),
}
"""Tight and loose are those of the original authors' later scripts; medium is chosen here, the thesis gives none."""


def space_group(crystal: Crystal, *, symprec: float = 0.01, angle_tolerance: float = -1.0) -> int | None:
    """The number of the space group that spglib finds, 1 to 230; None for no result or fewer than three periods.

    Args:
        crystal: the structure; checked.
        symprec: tolerance in Å.
        angle_tolerance: tolerance in degrees; spglib's own choice when negative.
    """
    dataset = symmetry_dataset(crystal, symprec=symprec, angle_tolerance=angle_tolerance)
    return None if dataset is None else int(dataset.number)


def class_of_space_group(number: int) -> int | None:
    """The index into ``CLASS_NAMES`` of a space group, or None for one of no class.

    Example:
        >>> CLASS_NAMES[class_of_space_group(225)]
        'fcc'
    """
    return _CLASS_OF_GROUP.get(number)


def classify_spglib(crystal: Crystal, *, tolerances: Mapping[str, Tolerance] | None = None) -> dict[str, int | None]:
    """The index of the class that spglib finds at each tolerance, or None where its group belongs to no class.

    Args:
        crystal: the structure; checked.
        tolerances: by name; ``TOLERANCES`` by default.
    """
    answers = {}
    for name, (symprec, angle) in (TOLERANCES if tolerances is None else tolerances).items():
        group = space_group(crystal, symprec=symprec, angle_tolerance=angle)
        answers[name] = None if group is None else class_of_space_group(group)
    return answers


class _Special(NamedTuple):
    """A geometry at which a structure of one class is one of another."""

    group: int
    atoms: int
    """In the conventional cell."""
    ratio: float
    """c/a of the conventional cell; hexagonal axes for group 166."""
    separation: float | None
    """Distance of the two atoms on the threefold axis in units of c, 2z of Wyckoff position 6c."""
    becomes: str


_SPECIAL = (
    _Special(139, 2, np.sqrt(2), None, "fcc"),
    _Special(139, 2, 1.0, None, "bcc"),
    _Special(141, 4, np.sqrt(2), None, "diamond"),
    _Special(166, 3, np.sqrt(6), None, "fcc"),
    _Special(166, 3, np.sqrt(1.5), None, "sc"),
    _Special(166, 3, np.sqrt(0.375), None, "bcc"),
    _Special(166, 6, np.sqrt(6), 1 / 2, "sc"),
    _Special(166, 6, np.sqrt(6), 1 / 4, "diamond"),
    _Special(166, 6, np.sqrt(1.5), 1 / 2, "bcc"),
)


def near_degenerate(
    crystal: Crystal, *, band: float = 0.03, symprec: float = 0.01, angle_tolerance: float = -1.0
) -> bool:
    """Whether a structure lies within a band of the geometry of another class, so that its label is ambiguous.

    Structures of one atom a primitive cell (139, 166), and those of two that one Wyckoff position places (141, 4a; 166,
    6c), meet the cubic ones at certain axial ratios, the last also at certain heights: 139 at c/a √2 (fcc) and 1 (bcc);
    141 at √2 (diamond); 166 at hexagonal c/a √6 (fcc), √1.5 (sc), √.375 (bcc), with two atoms at √6 and z 1/4 (sc) or
    1/8 (diamond), and at √1.5 and z 1/4 (bcc). Compounds have none of these.

    Args:
        crystal: the structure; checked.
        band: largest relative deviation of the axial ratio, and of z, that counts as near.
        symprec: tolerance of the symmetry search in Å.
        angle_tolerance: tolerance in degrees; spglib's own choice when negative.
    """
    dataset = symmetry_dataset(crystal, symprec=symprec, angle_tolerance=angle_tolerance)
    if dataset is None or len(set(dataset.std_types)) > 1:
        return False
    a, _, c = np.linalg.norm(dataset.std_lattice, axis=1)
    for special in _SPECIAL:
        if (int(dataset.number), len(dataset.std_types)) != (special.group, special.atoms):
            continue
        if abs(c / a / special.ratio - 1) > band:
            continue
        if special.separation is None:
            return True
        separation = _separation_on_axis(np.asarray(dataset.std_positions))
        if abs(separation / special.separation - 1) <= band:
            return True
    return False


def _separation_on_axis(positions: np.ndarray) -> float:
    """Distance in units of c, at most 1/2, of the two atoms on the threefold axis through the origin."""
    offset = positions[:, :2] - np.round(positions[:, :2])
    on_axis = positions[np.linalg.norm(offset, axis=1) < 0.05, 2]
    if len(on_axis) != 2:
        raise RuntimeError(f"expected two atoms on the threefold axis, got {len(on_axis)}")
    separation = (on_axis[1] - on_axis[0]) % 1
    return float(min(separation, 1 - separation))
