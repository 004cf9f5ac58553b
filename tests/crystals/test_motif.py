import itertools

import numpy as np
from ase.build import bulk, molecule

from jaxclear.crystals import average_cell, lattice, motif, read
from tests.crystals.supercells import primitive, random_matrix, supercell, turned


def copies_of(atoms, seed, sigma):
    rng = np.random.default_rng(seed)
    cell = primitive(atoms)
    structure = supercell(cell, random_matrix(rng, 40, 60))
    steps = lattice.reduction(cell.cell)
    noise = sigma * rng.normal(size=structure.positions.shape)
    return cell, steps @ cell.cell, structure._replace(positions=structure.positions + noise)


def test_sites_are_means_of_copies():
    cell, basis, structure = copies_of(bulk("Si"), 1, 0.1)
    found = motif.average(basis, structure.positions, structure.occupancies, d_nn=2.2)
    assert len(found.sites) == 2
    copies = len(structure.numbers) / 2
    np.testing.assert_allclose(found.weights, copies)
    gaps = (found.sites[:, None] - cell.positions) @ np.linalg.inv(basis)
    distances = np.linalg.norm((gaps - np.round(gaps)) @ basis, axis=-1).min(axis=1)
    assert distances.max() < 4 * 0.1 * np.sqrt(3 / copies)
    # Every atom is its site, a lattice translation and its displacement.
    rebuilt = found.sites[found.site_of_atom] + found.steps @ basis + found.displacements
    np.testing.assert_allclose(rebuilt, structure.positions, atol=1e-9)
    np.testing.assert_allclose(found.variances.mean(), 3 * 0.1**2, rtol=0.25)


def test_the_nearest_copy_is_taken():
    _, basis, structure = copies_of(bulk("Ti"), 2, 0.15)
    found = motif.average(basis, structure.positions, structure.occupancies, d_nn=2.7)
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ basis
    for atom in range(0, len(structure.numbers), 7):
        others = found.sites + found.steps[atom] @ basis
        places = (others[:, None] + steps).reshape(-1, 3)
        nearest = np.linalg.norm(places - structure.positions[atom], axis=1).min()
        np.testing.assert_allclose(np.linalg.norm(found.displacements[atom]), nearest, atol=1e-9)


def test_atoms_between_the_sites_belong_to_none():
    _, basis, structure = copies_of(bulk("Cu"), 3, 0.02)
    hole = structure.positions[:2] + [3.61 / 2, 0, 0]
    weights = np.ones(len(structure.numbers) + 2)
    found = motif.average(basis, np.vstack([structure.positions, hole]), weights, d_nn=2.55)
    assert len(found.sites) == 1
    assert (found.site_of_atom[-2:] == -1).all()
    assert (found.site_of_atom[:-2] == 0).all()


def test_spacing():
    rng = np.random.default_rng(4)
    for atoms, expected in ((bulk("Cu"), 3.61 / np.sqrt(2)), (bulk("Fe"), 2.87 * np.sqrt(3) / 2)):
        structure = turned(supercell(primitive(atoms), random_matrix(rng, 8, 50)), rng)
        cell = lattice.reduced(structure.cell)
        np.testing.assert_allclose(motif.spacing(structure, cell), expected, rtol=1e-6)


def test_odd_structures_end_in_an_answer():
    box = molecule("CH3CH2OH")
    box.set_cell([14, 14, 14])
    box.pbc = True
    assert average_cell(read(box)[0]) is None or average_cell(read(box)[0]).space_group > 0
    assert average_cell(read(molecule("H2O"))[0]) is None
    slab = bulk("Cu", cubic=True).repeat((2, 2, 3))
    slab.center(vacuum=8, axis=2)
    found = average_cell(read(slab)[0])
    assert found is None or found.space_group > 0
