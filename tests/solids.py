"""A folder of small elemental solids, one of each class and element, for the experiments on crystals."""

import ase.io
from ase.build import bulk
from ase.spacegroup import crystal


def write_solids(folder, symbols):
    """Writes seven structures an element, POSCAR, none near a geometry of another class."""
    folder.mkdir()
    for number, symbol in enumerate(symbols):
        a = 3.5 + 0.1 * number
        for kind in ("sc", "fcc", "bcc", "diamond"):
            ase.io.write(folder / f"{symbol}-{kind}.vasp", bulk(symbol, kind, a=a))
        ase.io.write(folder / f"{symbol}-hcp.vasp", bulk(symbol, "hcp", a=a, c=1.6 * a))
        for group, ratio in ((139, 1.8), (141, 0.6)):
            atoms = crystal(symbol, [(0, 0, 0)], spacegroup=group, cellpar=[a, a, ratio * a, 90, 90, 90])
            ase.io.write(folder / f"{symbol}-{group}.vasp", atoms)
    return folder
