"""Strangers: of no class whatever the tolerance, distinct, physically possible; packings without order."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import class_of_space_group, structures, to_ase
from jaxclear.crystals.duplicates import first_of_each, periodic_neighbour_distances
from jaxclear.crystals.strangers import amorphous, strangers


@pytest.fixture(scope="module")
def found():
    return strangers(member_lattices=True)


def _spglib_group(crystal, symprec, *, blind=False):
    import spglib

    atoms = to_ase(crystal)
    numbers = np.ones(len(atoms)) if blind else atoms.numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about the way in which spglib 2.7 reports errors
        return spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), numbers), symprec).number


def test_there_are_many_and_none_is_of_a_class(found):
    strange = ~found.member_lattice
    assert strange.sum() >= 190
    assert len(set(found.space_groups[strange])) >= 80
    assert len(set(found.names)) == len(found.names) == len(found.crystals) == len(found.space_groups)
    assert all(class_of_space_group(int(group)) is None for group in found.space_groups)


def test_space_groups_are_those_of_spglib_and_species_do_not_make_the_difference(found):
    rng = np.random.default_rng(0)
    for index in rng.choice(np.flatnonzero(~found.member_lattice), 40, replace=False):
        crystal = found.crystals[index]
        assert found.space_groups[index] == _spglib_group(crystal, 0.01)
        for tolerance in (0.01, 0.1):
            assert class_of_space_group(_spglib_group(crystal, tolerance)) is None
            assert class_of_space_group(_spglib_group(crystal, tolerance, blind=True)) is None


@pytest.mark.parametrize(
    ("words", "lattice"),
    [
        ("Zincblende", 227),
        ("Wurtzite", 194),
        ("Chalcopyrite", 227),
        ("half-Heusler", 225),
        ("Tetraauricupride", 139),
        ("Tungsten Carbide", 194),
        ("gamma CuTi", 229),
    ],
)
def test_ordered_compounds_on_the_lattice_of_a_class_are_marked(words, lattice, found):
    (index,) = (i for i, name in enumerate(found.names) if words in name)
    assert found.member_lattice[index]
    blind = {_spglib_group(found.crystals[index], tolerance, blind=True) for tolerance in (0.01, 0.1, 0.2, 0.3)}
    assert lattice in blind


@pytest.mark.parametrize(
    ("words", "group"),
    [
        ("graphene", 191),
        ("boron nitride, one layer", 187),
        ("MoS2, one layer 2H", 187),
        ("MoS2, one layer 1T", 164),
        ("CaTiO3", 62),
        ("LaMnO3", 62),
        ("LiNbO3", 161),
        ("BiFeO3", 161),
        ("PbTiO3", 99),
        ("A_oC4_63_c alpha U (U)", 63),
        ("A_cI58_217_ac2g alpha (Mn)", 217),
        ("amorphous Si", 1),
    ],
)
def test_what_must_be_among_them(words, group, found):
    index = found.names.index(words)
    assert found.space_groups[index] == group
    assert not found.member_lattice[index]


def test_they_can_be_used_and_are_distinct(found):
    crystals = [structures.checked(crystal) for crystal in found.crystals]
    shortest = [periodic_neighbour_distances(c.cell, c.positions, 1).min() for c in crystals]
    assert 0.95 < min(shortest) < max(shortest) < 4
    assert np.array_equal(first_of_each(crystals), np.arange(len(crystals)))


@settings(deadline=None, max_examples=20)
@given(symbol=st.sampled_from(["Si", "Cs", "Fe", "H"]), atoms=st.integers(16, 200), seed=st.integers(0, 2**32 - 1))
def test_packings_keep_their_distance_and_have_no_order(symbol, atoms, seed):
    from ase.data import atomic_numbers, covalent_radii

    crystal = structures.checked(amorphous(symbol, atoms=atoms, seed=seed))
    diameter = 2 * covalent_radii[atomic_numbers[symbol]]
    assert len(crystal.numbers) == atoms
    shortest = to_ase(crystal).get_all_distances(mic=True)[~np.eye(atoms, dtype=bool)].min()
    assert 0.9 * diameter <= shortest + 1e-9
    assert 0.8 <= np.linalg.det(crystal.cell) / atoms / diameter**3 <= 1.2
    assert _spglib_group(crystal, 0.1) == 1
    again = amorphous(symbol, atoms=atoms, seed=seed)
    np.testing.assert_array_equal(again.positions, crystal.positions)


@pytest.mark.parametrize(("symbol", "atoms"), [("Xx", 64), ("X", 64), ("Si", 4)])
def test_packings_that_cannot_be_made(symbol, atoms):
    with pytest.raises(ValueError, match="expected"):
        amorphous(symbol, atoms=atoms)


def test_the_default_leaves_out_marked_ones_and_takes_a_seed():
    once, other = (strangers(glasses=("Fe",), seed=seed) for seed in (0, 1))
    assert not once.member_lattice.any()
    assert once.names == other.names
    assert not np.array_equal(once.crystals[-1].positions, other.crystals[-1].positions)
