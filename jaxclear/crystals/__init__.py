"""Crystal structures, their diffraction fingerprints and the symmetry baseline.

The function :func:`fingerprint` has the name of its module; import the module's other names from
``jaxclear.crystals.fingerprint``.
"""

from jaxclear.crystals.cells import (
    PaddedAtoms,
    StandardCell,
    cluster,
    nearest_neighbour_distance,
    pad,
    prepare,
    standard_cell,
)
from jaxclear.crystals.explain import CrystalExplanation, explain
from jaxclear.crystals.fingerprint import Beam, fingerprint, fingerprint_kernel
from jaxclear.crystals.structures import Crystal, StructureError, from_ase, from_pymatgen, read, to_ase
from jaxclear.crystals.symmetry import CLASS_NAMES, class_of_space_group, classify_spglib, near_degenerate, space_group

__all__ = [
    "CLASS_NAMES",
    "Beam",
    "Crystal",
    "CrystalExplanation",
    "PaddedAtoms",
    "StandardCell",
    "StructureError",
    "class_of_space_group",
    "classify_spglib",
    "cluster",
    "explain",
    "fingerprint",
    "fingerprint_kernel",
    "from_ase",
    "from_pymatgen",
    "near_degenerate",
    "nearest_neighbour_distance",
    "pad",
    "prepare",
    "read",
    "space_group",
    "standard_cell",
    "to_ase",
]
