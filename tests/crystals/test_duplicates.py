"""Duplicates: one crystal in other cells, orientations and origins is found, another crystal is not."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from effort import examples
from jaxclear.crystals import from_ase
from jaxclear.crystals.duplicates import first_of_each, periodic_neighbour_distances, regroup


def _hexagonal(symbol, sites, a, c, group=166):
    return crystal([symbol] * len(sites), sites, spacegroup=group, cellpar=[a, a, c, 90, 90, 120])


SOLIDS = {
    "fcc": bulk("Al", "fcc", a=4.05),
    "other volume": bulk("Al", "fcc", a=4.06),
    "other element": bulk("Ag", "fcc", a=4.05),
    "bcc": bulk("Al", "bcc", a=3.21),
    "diamond": bulk("Al", "diamond", a=5.43),
    "hcp": bulk("Al", "hcp", a=2.9, c=4.7),
    "other c/a, same volume": bulk("Al", "hcp", a=2.9 / 1.003, c=4.7 * 1.003**2),
    "arsenic": _hexagonal("As", [(0, 0, 0.227)], 3.76, 10.55),
    "arsenic of another height": _hexagonal("As", [(0, 0, 0.220)], 3.76, 10.55),
    "graphite": _hexagonal("C", [(0, 0, 1 / 4), (1 / 3, 2 / 3, 1 / 4)], 2.46, 6.71, 194),
    "dhcp": _hexagonal("C", [(0, 0, 0), (1 / 3, 2 / 3, 1 / 4)], 2.46, 6.71, 194),
    "rocksalt": bulk("NaCl", "rocksalt", a=5.64),
    "fluorite": bulk("CaF2", "fluorite", a=5.46),
    "zincblende": bulk("GaAs", "zincblende", a=5.65),
}


def _described_otherwise(atoms, seed):
    """The same crystal in a supercell, turned, moved, with its atoms and its lattice vectors in another order."""
    rng = np.random.default_rng(seed)
    while abs(round(np.linalg.det(matrix := rng.integers(-1, 3, (3, 3))))) not in (1, 2, 3):
        pass
    atoms = make_supercell(atoms, matrix, tol=1e-3)
    atoms.positions += rng.uniform(-3, 3, 3)
    turn = Rotation.random(rng=rng).as_matrix()
    atoms.set_cell(atoms.cell.array @ turn.T, scale_atoms=False)
    atoms.positions = atoms.positions @ turn.T
    return from_ase(atoms[rng.permutation(len(atoms))])


@settings(deadline=None, max_examples=examples(6))
@given(st.integers(0, 2**32 - 1))
def test_one_crystal_is_found_in_any_description_and_others_are_told_apart(seed):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(SOLIDS)), 2))
    names = list(SOLIDS)
    found = first_of_each(_described_otherwise(SOLIDS[names[k]], rng.integers(2**32)) for k in truth)
    expected = [truth.tolist().index(k) for k in truth]
    assert found.tolist() == expected


def test_nothing_is_torn_apart_at_the_edge_of_a_bin():
    edges = np.exp(3 * np.log(2.0) + 0.003 * np.arange(1, 40)) ** (1 / 3)
    pairs = [from_ase(bulk("Po", "sc", a=float(a * (1 + shift)))) for a in edges[::4] for shift in (-1e-5, 1e-5)]
    assert first_of_each(pairs).tolist() == [2 * (k // 2) for k in range(len(pairs))]


def _first_by_plain_loops(volumes, tolerance):
    firsts, owners = [], []
    for index, volume in enumerate(volumes):
        for first in firsts:
            ratio = (volume / volumes[first]) ** (1 / 3)
            if max(ratio, 1 / ratio) <= 1 + tolerance:
                owners.append(first)
                break
        else:
            firsts.append(index)
            owners.append(index)
    return owners


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 540), min_size=1, max_size=40), st.sampled_from([0.001, 0.01, 0.05]))
def test_the_sorted_search_finds_what_plain_loops_find(steps, tolerance):
    edges = 3.0 * np.exp(3.7e-4 * np.array(steps))  # no two lengths differ by just the tolerance
    solids = [from_ase(bulk("Po", "sc", a=float(edge))) for edge in edges]
    volumes = [float(np.linalg.det(solid.cell)) for solid in solids]
    found = first_of_each(solids, tolerance=tolerance)
    assert found.tolist() == _first_by_plain_loops(volumes, tolerance)
    # What the documentation promises: first ones differ pairwise, everything else agrees with its own.
    lengths = np.cbrt(volumes)
    firsts = np.unique(found)
    for i, j in itertools.combinations(firsts, 2):
        assert max(lengths[i] / lengths[j], lengths[j] / lengths[i]) > 1 + tolerance
    assert np.all(np.abs(np.log(lengths / lengths[found])) <= np.log1p(tolerance))


def test_fractions_of_a_site_matter():
    def alloy(share):
        atoms = from_ase(bulk("Cu"))
        numbers, shares = np.array([29, 79], np.int32), np.array([share, 1 - share])
        return atoms._replace(numbers=numbers, occupancies=shares, positions=np.zeros((2, 3)))

    assert first_of_each([alloy(0.5), alloy(0.25), alloy(0.5), alloy(0.75)]).tolist() == [0, 1, 0, 3]


def test_structures_without_a_space_group_equal_only_copies():
    slab = from_ase(bulk("Cu"))._replace(pbc=np.array([True, True, False]))
    moved = slab._replace(positions=slab.positions + 0.1)
    assert first_of_each([slab, moved, slab._replace(name="copy")]).tolist() == [0, 1, 0]


def test_no_structures():
    assert first_of_each([]).tolist() == []


@pytest.mark.parametrize("tolerance", [0, -1, 1, float("nan")])
def test_tolerances_that_mean_nothing(tolerance):
    with pytest.raises(ValueError, match="expected a tolerance above 0 and below 1, got"):
        first_of_each([], tolerance=tolerance)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_periodic_distances_against_ase(seed):
    from ase.neighborlist import neighbor_list

    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 9, 3)) + rng.uniform(-1, 1, (3, 3))
    positions = rng.uniform(-10, 10, (rng.integers(1, 6), 3))
    atoms = bulk("Cu")[[0] * len(positions)]
    atoms.set_cell(cell)
    atoms.positions = positions
    found = periodic_neighbour_distances(cell, positions, 5)
    index, distances = neighbor_list("id", atoms, float(found.max()) + 0.1)
    for atom, row in enumerate(found):
        np.testing.assert_allclose(row, np.sort(distances[index == atom])[:5], atol=1e-9)


def test_groups_among_a_choice():
    first = np.array([0, 1, 0, 1, 4])
    assert regroup(first, np.array([4, 2, 0])).tolist() == [0, 1, 1]
    assert regroup(first, np.arange(5)).tolist() == first.tolist()
