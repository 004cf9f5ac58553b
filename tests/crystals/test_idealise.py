import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import idealise, lattice, space_group
from tests.crystals.supercells import primitive, supercell

ORDERS = [(bulk("Po"), 48), (bulk("Cu"), 48), (bulk("Fe"), 48), (bulk("Si"), 48), (bulk("Ti"), 24), (bulk("Bi"), 12)]


def reduced(atoms):
    cell = primitive(atoms)
    basis = lattice.reduced(cell.cell)
    return basis, cell.positions @ np.linalg.inv(basis), np.zeros(len(atoms), int)


@pytest.mark.parametrize(("atoms", "order"), ORDERS)
def test_operations_are_those_of_the_point_group(atoms, order):
    basis, fractions, kinds = reduced(atoms)
    found = idealise.operations(basis, fractions, kinds, strain=0.01, allowed=np.full(len(kinds), 0.05))
    assert len(found.rotations) == order
    assert idealise.is_group(found.rotations)
    assert not idealise.is_group(found.rotations[1:])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, len(ORDERS) - 1), st.integers(0, 10**6))
def test_noise_is_idealised_away(which, seed):
    rng = np.random.default_rng(seed)
    atoms, _ = ORDERS[which]
    basis, fractions, kinds = reduced(atoms)
    tensor = rng.normal(size=(3, 3))
    tensor = 0.004 * (tensor + tensor.T) / np.abs(np.linalg.eigvalsh(tensor + tensor.T)).max()
    rough = basis @ (np.eye(3) + tensor)
    moved = fractions + 0.02 * rng.uniform(-1, 1, fractions.shape) @ np.linalg.inv(basis)
    ideal = idealise.idealised(rough, moved, kinds, strain=0.0135, allowed=np.full(len(kinds), 0.1))
    made = primitive(atoms)._replace(cell=ideal.lattice, positions=ideal.fractions @ ideal.lattice)
    assert space_group(made, symprec=1e-4) == space_group(primitive(atoms))
    assert ideal.strain < 0.009


def test_a_large_distortion_stays():
    basis, fractions, kinds = reduced(bulk("Cu"))
    stretched = basis @ np.diag([1, 1, 1.05])
    ideal = idealise.idealised(stretched, fractions, kinds, strain=0.0135, allowed=np.array([0.1]))
    assert len(ideal.operations.rotations) == 16
    np.testing.assert_allclose(ideal.lattice, stretched, atol=1e-9)


def test_pure_translation():
    structure = supercell(primitive(bulk("Cu")), np.diag([3, 1, 1]))
    fractions = structure.positions @ np.linalg.inv(structure.cell)
    allowed = np.full(3, 0.05)
    numerators, order = idealise.pure_translation(structure.cell, fractions, np.zeros(3, int), allowed=allowed)
    assert order == 3
    assert numerators[0] % 3
    assert not numerators[1:].any()
    assert idealise.pure_translation(structure.cell, fractions, np.array([0, 0, 1]), allowed=allowed) is None
