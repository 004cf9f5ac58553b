"""Crystal structures, their diffraction fingerprints and the symmetry baseline."""

from jaxclear.crystals.cells import (
    PaddedAtoms,
    StandardCell,
    cluster,
    nearest_neighbour_distance,
    pad,
    prepare,
    standard_cell,
)
from jaxclear.crystals.fingerprint import fingerprint, fingerprint_kernel
from jaxclear.crystals.structures import Crystal, StructureError, from_ase, from_pymatgen, read, to_ase

__all__ = [
    "Crystal",
    "PaddedAtoms",
    "StandardCell",
    "StructureError",
    "cluster",
    "fingerprint",
    "fingerprint_kernel",
    "from_ase",
    "from_pymatgen",
    "nearest_neighbour_distance",
    "pad",
    "prepare",
    "read",
    "standard_cell",
    "to_ase",
]
