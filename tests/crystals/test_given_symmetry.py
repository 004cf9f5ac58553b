import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal as ase_crystal

from jaxclear.crystals.cells import standard_cell, symmetry_dataset
from jaxclear.crystals.given_symmetry import EXACT, diffraction, given_symmetry
from tests.crystals.supercells import glass, kept, primitive, random_matrix, supercell, turned

SYMPREC = 0.01
STRUCTURES = {
    "Cu": bulk("Cu"),
    "Fe": bulk("Fe"),
    "Si": bulk("Si"),
    "Mg": bulk("Mg"),
    "NaCl": bulk("NaCl", "rocksalt", a=5.64),
    "Sn": ase_crystal("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.83, 5.83, 3.18, 90, 90, 90], primitive_cell=True),
}


def large(name, seed=0):
    rng = np.random.default_rng(seed)
    return turned(supercell(primitive(STRUCTURES[name]), random_matrix(rng, 20, 40)), rng)


def symmetry(crystal):
    return given_symmetry(crystal, diffraction(crystal, cutoff=3.0), SYMPREC)


@pytest.mark.parametrize("name", STRUCTURES)
def test_one_copy_has_the_symmetry_of_the_supercell(name):
    whole = large(name)
    found = symmetry(whole)
    assert len(found.primitive.numbers) == len(STRUCTURES[name])
    assert found.dataset.number == symmetry_dataset(whole, symprec=SYMPREC).number

    # Its sites, moved by its own lattice, are the atoms of the supercell.
    gaps = (whole.positions[:, None] - found.primitive.positions) @ np.linalg.inv(found.primitive.cell)
    distances = np.linalg.norm((gaps - np.rint(gaps)) @ found.primitive.cell, axis=-1)
    assert distances.min(axis=1).max() < 1e-9
    np.testing.assert_array_equal(found.primitive.numbers[distances.argmin(axis=1)], whole.numbers)
    copies = len(whole.numbers) // len(found.primitive.numbers)
    assert np.linalg.det(found.primitive.cell) * copies == pytest.approx(abs(np.linalg.det(whole.cell)))
    periods = whole.cell @ np.linalg.inv(found.primitive.cell)
    np.testing.assert_allclose(periods, np.rint(periods), atol=1e-9)


@pytest.mark.parametrize("name", ["Cu", "Mg", "NaCl"])
def test_the_standard_cell_is_that_of_the_supercell(name):
    whole, found = large(name), symmetry(large(name))
    ours, theirs = standard_cell(found.primitive).crystal, standard_cell(whole).crystal
    np.testing.assert_allclose(ours.cell, theirs.cell, atol=1e-6)
    gaps = (ours.positions[:, None] - theirs.positions) @ np.linalg.inv(theirs.cell)
    distances = np.linalg.norm((gaps - np.rint(gaps)) @ theirs.cell, axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-6)


def test_atoms_that_are_no_exact_copies_are_given_whole():
    whole = large("Cu")
    moved = whole._replace(positions=whole.positions.copy())
    moved.positions[3] += [2 * EXACT * SYMPREC, 0, 0]  # within the tolerance: still copper to spglib
    found = symmetry(moved)
    assert len(found.primitive.numbers) == len(moved.numbers)
    assert found.dataset.number == 225


def test_another_species_on_one_site_ends_the_period():
    whole = large("Cu")
    numbers = whole.numbers.copy()
    numbers[5] = 28
    found = symmetry(whole._replace(numbers=numbers))
    assert len(found.primitive.numbers) == len(numbers)
    assert found.dataset.number < 225


def test_a_vacancy_ends_the_period():
    whole = large("Si")
    damaged = kept(whole, np.arange(1, len(whole.numbers)))
    found = symmetry(damaged)
    assert len(found.primitive.numbers) == len(damaged.numbers)
    assert found.dataset.number < 227


def test_partly_occupied_sites_are_given_whole():
    whole = supercell(primitive(bulk("Fe", cubic=True)), 2 * np.eye(3, dtype=int))
    occupancies = np.ones(len(whole.numbers))
    occupancies[0] = 0.5
    found = symmetry(whole._replace(occupancies=occupancies))
    assert len(found.primitive.numbers) == len(whole.numbers)
    assert found.dataset.number == 221


def test_displaced_atoms_in_a_skew_cell_are_not_searched(monkeypatch):
    monkeypatch.setattr("jaxclear.crystals.given_symmetry.symmetry_dataset", None)  # a call would fail
    whole = large("Cu", seed=1)
    displaced = whole.positions + np.random.default_rng(1).normal(0, 0.05, whole.positions.shape)
    assert symmetry(whole._replace(positions=displaced)) is None


def test_a_glass_in_a_cube_has_the_symmetry_of_nothing():
    assert symmetry(glass(np.random.default_rng(0), 120, 2.2)).dataset.number == 1
