import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal as from_group
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from jaxclear.crystals import average_cell, read, space_group, standard_cell
from jaxclear.crystals.defects import strain
from tests.crystals.supercells import glass, kept, primitive, random_matrix, supercell, turned

TETRAGONAL = [from_group("In", [(0, 0, 0)], spacegroup=139, cellpar=[3.2, 3.2, 5.6, 90, 90, 90], primitive_cell=True)]
DIAMOND_LIKE = from_group("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.8, 5.8, 3.2, 90, 90, 90], primitive_cell=True)
ELEMENTS = [bulk("Po"), bulk("Cu"), bulk("Fe"), bulk("Si"), bulk("Ti"), bulk("Bi"), *TETRAGONAL, DIAMOND_LIKE]


def damaged(crystal, rng, *, sigma=0.0, vacancies=0.0):
    crystal = kept(crystal, rng.permutation(len(crystal.numbers))[round(vacancies * len(crystal.numbers)) :])
    return crystal._replace(positions=crystal.positions + sigma * rng.normal(size=crystal.positions.shape))


@settings(deadline=None, max_examples=examples(15))
@given(
    st.integers(0, len(ELEMENTS) - 1),
    st.integers(0, 10**6),
    st.sampled_from([(0.0, 0.0), (0.06, 0.0), (0.05, 0.25), (0.0, 0.3)]),
)
def test_the_group_is_that_of_the_pristine_crystal(which, seed, damage):
    rng = np.random.default_rng(seed)
    cell = primitive(ELEMENTS[which])
    matrix = random_matrix(rng, 60, 120)
    structure = damaged(turned(supercell(cell, matrix), rng), rng, sigma=damage[0], vacancies=damage[1])
    found = average_cell(structure)
    standard = standard_cell(cell)
    assert found.space_group == found.arrangement_group == space_group(cell)
    assert len(found.crystal.numbers) == len(standard.crystal.numbers)
    assert found.copies == abs(round(np.linalg.det(matrix)))
    np.testing.assert_allclose(found.crystal.cell, standard.crystal.cell, atol=1e-3)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(found.rotation) > 0
    np.testing.assert_allclose(found.occupancies.mean(), 1 - damage[1], atol=0.02)
    np.testing.assert_allclose(np.sqrt(np.mean(found.spreads**2)), np.sqrt(3) * damage[0], rtol=0.2, atol=1e-6)


def test_rotation_and_lattice_belong_together():
    rng = np.random.default_rng(2)
    structure = damaged(turned(supercell(primitive(bulk("Ti")), random_matrix(rng, 60, 80)), rng), rng, sigma=0.05)
    found = average_cell(structure)
    # The primitive vectors, turned, are lattice vectors of the standard cell; those of the structure are whole.
    in_standard = found.motif.lattice @ found.rotation.T @ np.linalg.inv(found.crystal.cell)
    np.testing.assert_allclose(in_standard, np.round(in_standard), atol=1e-6)
    periods = structure.cell @ np.linalg.inv(found.motif.lattice)
    np.testing.assert_allclose(periods, np.round(periods), atol=1e-8)


def test_few_intensities_that_differ():
    # 47 of 67 sites: the median of the background's few intensities is less than half their mean.
    rng = np.random.default_rng(367264)
    cell = primitive(bulk("Po"))
    found = average_cell(damaged(turned(supercell(cell, random_matrix(rng, 60, 120)), rng), rng, vacancies=0.3))
    assert (found.space_group, found.copies) == (221, 67)


def test_one_vacancy_in_a_cube_of_fcc():
    structure = read(bulk("Cu", cubic=True).repeat((2, 2, 4)))[0]
    structure = kept(structure, np.arange(1, 64))
    found = average_cell(structure)
    assert (space_group(structure), found.space_group, len(found.crystal.numbers)) == (123, 225, 4)


def test_symmetric_structures_are_taken_as_they_are():
    for atoms in (bulk("Cu"), bulk("Ti"), bulk("Si", cubic=True), bulk("NaCl", "rocksalt", a=5.6)):
        structure = read(atoms)[0]
        found = average_cell(structure)
        standard = standard_cell(structure)
        assert found.space_group == standard.space_group
        np.testing.assert_allclose(found.crystal.cell, standard.crystal.cell, atol=1e-8)


COMPOUNDS = [
    (bulk("NaCl", "rocksalt", a=5.6), 225, 221, 8),
    (bulk("CsCl", "cesiumchloride", a=4.1), 221, 229, 2),
    (bulk("ZnS", "zincblende", a=5.4), 216, 227, 8),
    (from_group(["Au", "Cu"], [(0, 0, 0), (0, 0.5, 0.5)], spacegroup=221, cellpar=[3.7] * 3 + [90] * 3), 221, 225, 4),
]


@pytest.mark.parametrize(("atoms", "group", "arrangement", "count"), COMPOUNDS)
def test_ordered_compounds(atoms, group, arrangement, count):
    rng = np.random.default_rng(1)
    copies = 120 // len(atoms)
    structure = turned(supercell(primitive(atoms), random_matrix(rng, copies, copies + 20)), rng)
    found = average_cell(damaged(structure, rng, sigma=0.06, vacancies=0.1))
    assert (found.space_group, found.arrangement_group, len(found.crystal.numbers)) == (group, arrangement, count)


def test_a_random_alloy_is_one_kind_of_site():
    rng = np.random.default_rng(4)
    structure = turned(supercell(primitive(bulk("Cu")), random_matrix(rng, 100, 160)), rng)
    gold = rng.uniform(size=len(structure.numbers)) < 0.4
    structure = structure._replace(numbers=np.where(gold, 79, 29).astype(np.int32))
    found = average_cell(damaged(structure, rng, sigma=0.05))
    assert (found.space_group, len(found.sites)) == (225, 4)
    assert found.crystal.numbers.tolist() == [29, 79] * 4
    np.testing.assert_allclose(found.crystal.occupancies[1::2], gold.mean())


def test_strain_is_idealised():
    rng = np.random.default_rng(6)
    for seed in range(5):
        structure = turned(supercell(primitive(bulk("Cu")), random_matrix(rng, 60, 110)), rng)
        found = average_cell(damaged(strain(structure, 0.01, seed=seed), rng, sigma=0.02))
        assert found.space_group == 225
        assert 0 < found.strain < 0.0135


@pytest.mark.parametrize("core", [1.2, 1.7, 2.0])
def test_a_glass_has_no_lattice(core):
    rng = np.random.default_rng(11)
    for count in (64, 120):
        assert average_cell(glass(rng, count, core)) is None
