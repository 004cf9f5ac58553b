import ase
import numpy as np
import pytest
from ase.build import bulk, molecule

from jaxclear.crystals import CLASS_NAMES, class_of_space_group, classify_spglib, near_degenerate, read, space_group


def one(atoms):
    return read(atoms)[0]


def tetragonal(group, ratio):
    if group == 139:
        return bulk("In", "bct", a=3.2, c=3.2 * ratio)
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0, 0.5, 0.25), (0.5, 0, 0.75)]
    return ase.Atoms("Sn4", scaled_positions=places, cell=[5.8, 5.8, 5.8 * ratio], pbc=True)


def rhombohedral(ratio, z=None):
    heights = (0.0,) if z is None else (z, -z)
    places = [(x, y, c + h) for x, y, c in ((0, 0, 0), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)) for h in heights]
    cell = 3.5 * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, ratio]])
    return ase.Atoms(f"As{len(places)}", scaled_positions=places, cell=cell, pbc=True)


def test_classes():
    expected = {
        "In": "bct139",
        "Sn": "bct141",
        "Ti": "hex/rh",
        "Bi": "hex/rh",
        "Po": "sc",
        "Cu": "fcc",
        "Si": "diamond",
        "Fe": "bcc",
    }
    for symbol, name in expected.items():
        atoms = tetragonal(141, 0.54) if symbol == "Sn" else bulk(symbol)
        assert CLASS_NAMES[class_of_space_group(space_group(one(atoms)))] == name
    assert class_of_space_group(1) is None


def test_tolerances():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.001, seed=0)
    assert classify_spglib(one(atoms)) == {"tight": None, "medium": 4, "loose": 4}
    del atoms[[0, 3, 7]]
    assert set(classify_spglib(one(atoms)).values()) == {None}


def test_no_periods_no_group():
    assert space_group(one(molecule("H2O"))) is None
    assert not near_degenerate(one(molecule("H2O")))


NEAR = [
    (tetragonal(139, 1.43), True),
    (tetragonal(139, 1.02), True),
    (tetragonal(139, 1.2), False),
    (tetragonal(141, 1.40), True),
    (tetragonal(141, 0.54), False),
    (rhombohedral(2.48), True),
    (rhombohedral(1.25), True),
    (rhombohedral(0.625), True),
    (rhombohedral(2.0), False),
    (rhombohedral(2.48, 0.25), True),
    (rhombohedral(2.48, 0.252), True),
    (rhombohedral(2.48, 0.125), True),
    (rhombohedral(2.48, 0.375), True),
    (rhombohedral(1.25, 0.25), True),
    (rhombohedral(2.48, 0.227), False),
    (rhombohedral(2.8, 0.25), False),
    (bulk("Cu"), False),
    (bulk("Ti"), False),
    (bulk("NaCl", "rocksalt", a=5.6), False),
]


@pytest.mark.parametrize(("atoms", "near"), NEAR)
def test_near_degenerate(atoms, near):
    assert near_degenerate(one(atoms)) == near
    assert near_degenerate(one(atoms.repeat((2, 1, 1)))) == near


def test_special_geometries_are_the_other_class():
    exact = {
        "fcc": [tetragonal(139, np.sqrt(2)), rhombohedral(np.sqrt(6))],
        "bcc": [tetragonal(139, 1.0), rhombohedral(np.sqrt(0.375)), rhombohedral(np.sqrt(1.5), 0.25)],
        "sc": [rhombohedral(np.sqrt(1.5)), rhombohedral(np.sqrt(6), 0.25)],
        "diamond": [tetragonal(141, np.sqrt(2)), rhombohedral(np.sqrt(6), 0.125)],
    }
    for name, structures in exact.items():
        for atoms in structures:
            assert CLASS_NAMES[class_of_space_group(space_group(one(atoms)))] == name
