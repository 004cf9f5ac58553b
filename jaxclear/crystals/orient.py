"""Which way a structure is put in the beam: its standard cell, found again where damage hides it, or its own axes."""

from typing import Literal, NamedTuple

import numpy as np

from jaxclear.crystals.average import AverageCell
from jaxclear.crystals.cells import Orientation, cluster
from jaxclear.crystals.recover import Recovered, recover
from jaxclear.crystals.structures import Crystal

FoundOrientation = Literal["standard", "recovered", "as given", "not found"]


class OrientedCluster(NamedTuple):
    """A finite piece of a crystal, ready for the beam, and how its axes were found.

    Attributes:
        name: where the structure came from.
        cluster: the piece, unscaled, Å.
        orientation: "standard" for an undamaged structure, "recovered" for a damaged one whose lattice was found
            again, "as given" where nothing was looked for, "not found" where nothing was found: the
            axes are then those of the file.
        space_group: of the averaged cell; None where nothing was looked for or found.
        d_nn: nearest-neighbour distance of the undamaged crystal, Å, where it is known; the network's own measure is
            used where it is not.
        found: the recovery behind "standard" and "recovered".
    """

    name: str
    cluster: Crystal
    orientation: FoundOrientation
    space_group: int | None
    d_nn: float | None = None
    found: Recovered | None = None


def orient(crystal: Crystal, *, orientation: Orientation = "standard", symprec: float = 0.01) -> OrientedCluster:
    """Returns the finite cluster of a structure, along the axes of its standard cell where it has one.

    Args:
        crystal: the structure; checked.
        orientation: "standard" looks for the lattice, whatever the cell, its orientation and the damage
            (:func:`~jaxclear.crystals.recover`); "as given" keeps the axes, as the published protocol does for clusters
            that it damaged itself.
        symprec: tolerance of the symmetry search in the structure as given, Å.

    Raises:
        StructureError: when the structure cannot be used.
        ValueError: for an unknown orientation.
    """
    if orientation == "as given":
        return OrientedCluster(crystal.name, cluster(crystal), "as given", None)
    if orientation != "standard":
        raise ValueError(f'expected orientation "standard" or "as given", got {orientation!r}')
    found = recover(crystal, symprec=symprec)
    if found is None:
        return OrientedCluster(crystal.name, cluster(crystal), "not found", None)
    how: FoundOrientation = "standard" if _is_undamaged(found.average, symprec) else "recovered"
    return OrientedCluster(crystal.name, found.cluster, how, found.space_group, found.d_nn, found)


def _is_undamaged(average: AverageCell, symprec: float) -> bool:
    """Whether every site of the average is filled, and every atom on its place."""
    return bool(np.allclose(average.occupancies, 1.0)) and float(average.spreads.max()) < symprec
