"""The symmetry of ideal cells by their shape, against spglib's own answer for the very cell."""

import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal as spaced
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import shapes, spglib_datasets
from jaxclear.crystals.cells import symmetry_dataset
from jaxclear.crystals.structures import read
from tests.crystals.reference import rotation
from tests.crystals.supercells import primitive

CELLS = {
    "Cu": bulk("Cu"),
    "Fe": bulk("Fe"),
    "Si": bulk("Si"),
    "Po": bulk("Po"),
    "Ti": bulk("Ti"),
    "Sn": spaced("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.8, 5.8, 3.2, 90, 90, 90]),
    "In": spaced("In", [(0, 0, 0)], spacegroup=139, cellpar=[3.3, 3.3, 4.9, 90, 90, 90]),
    "ZnS": bulk("ZnS", "zincblende", a=5.4),
    "rutile": spaced(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]),
}


@pytest.mark.parametrize("name", CELLS)
@settings(deadline=None, max_examples=15)
@given(
    st.floats(0.2, 5.0),
    st.tuples(*[st.floats(0, 360)] * 2),
    st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_number_lattice_and_setting(name, size, angles, shift):
    cell = primitive(CELLS[name])
    turn = rotation(0, angles[0]) @ rotation(2, angles[1])
    moved = cell._replace(cell=size * cell.cell @ turn.T, positions=size * cell.positions @ turn.T + np.array(shift))
    spglib_datasets.forget()
    own = symmetry_dataset(moved, symprec=1e-4 * size)
    got = shapes.ideal_dataset(moved)
    assert got.number == own.number
    np.testing.assert_allclose(got.std_lattice, own.std_lattice, atol=1e-6 * size)
    # The setting maps every site of the cell onto one of the standard cell, of its own kind.
    fractions = moved.positions @ np.linalg.inv(moved.cell)
    kinds = np.unique(moved.numbers, return_inverse=True)[1] + 1
    for place, kind in zip(fractions @ got.transformation_matrix.T + got.origin_shift, kinds, strict=True):
        gaps = place - got.std_positions[np.asarray(got.std_types) == kind]
        assert np.abs(gaps - np.rint(gaps)).max(axis=1).min() < 1e-6


def test_equal_shapes_are_asked_for_once(monkeypatch):
    spglib_datasets.forget()
    asked, own = [], spglib_datasets._asked
    monkeypatch.setattr(spglib_datasets, "_asked", lambda *cell: asked.append(cell) or own(*cell))
    for size in (0.9, 1.0, 1.3):
        for angle in (0, 20, 77):
            cell = primitive(bulk("Cu"))
            turn = rotation(1, angle)
            shapes.ideal_dataset(cell._replace(cell=size * cell.cell @ turn.T, positions=cell.positions + angle))
    assert len(asked) == 2  # at a tolerance below and one above


def test_other_shapes_are_others():
    cells = [read(bulk("In", "bct", a=3.3, c=c))[0] for c in (4.9, 4.9 * (1 + 1e-7))]
    lengths = [shapes.ideal_dataset(cell).std_lattice[2, 2] for cell in cells]
    np.testing.assert_allclose(lengths, [4.9, 4.9 * (1 + 1e-7)], rtol=1e-10)
