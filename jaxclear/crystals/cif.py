"""CIF files by ASE's parser, without its comparison of every atom with every other where nothing is to compare."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import ase
    from ase.io.cif import CIFBlock

_SAME_PLACE = 1e-3
"""Fractional coordinates that differ by less are the same to ASE."""


def iread(path: Path, index: int | str | slice) -> "Iterator[ase.Atoms]":
    """The structures of a CIF file, one a block that has atoms.

    Args:
        path: the file.
        index: which of them, in ASE's notation.

    Raises:
        Exception: as ASE's parser does; many kinds.
    """
    from ase.io.cif import parse_cif
    from ase.utils import string2index

    try:
        blocks = [block for block in parse_cif(str(path)) if block.has_structure()]
    except AssertionError as error:  # without a word
        raise ValueError("the text is not that of a CIF file") from error
    which: Any = string2index(index) if isinstance(index, str) else index
    yield from map(_atoms, blocks[which] if isinstance(which, slice) else [blocks[which]])


def _atoms(block: "CIFBlock") -> "ase.Atoms":
    """The atoms of a block. ASE's own way takes time that grows with the square of the atoms listed."""
    if block.get_cell().rank == 3 and _lists_every_atom(block):
        atoms = block.get_unsymmetrized_structure()
        atoms.pbc = True
        atoms.wrap(eps=0.0)
        if not _meet(atoms):
            return atoms
    return block.get_atoms()


def _lists_every_atom(block: "CIFBlock") -> bool:
    """Whether the block has no symmetry to apply, and no site that is filled in part."""
    occupancies: Any = block.get("_atom_site_occupancy")
    full = occupancies is None or all(value == 1 for value in occupancies)
    return full and len(block.get_spacegroup(subtrans_included=True).get_symop()) == 1


def _meet(atoms: "ase.Atoms") -> bool:
    """Whether two atoms are listed at one place or at periodic images of it, which ASE makes one of."""
    from scipy.spatial import KDTree

    places = atoms.get_scaled_positions(wrap=True)
    places[places >= 1] = 0.0
    return bool(KDTree(places, boxsize=1.0).query_pairs(_SAME_PLACE, p=np.inf))
