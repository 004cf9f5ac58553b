"""Defects: exact numbers, the statistics they promise, the same on arrays, crystals and ase.Atoms."""

import ase
import jax
import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.geometry import get_distances
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import defect_kernels, defects, read
from jaxclear.crystals.cells import PaddedAtoms

COPPER = bulk("Cu", cubic=True) * (4, 4, 2)
CRYSTAL = read(COPPER)[0]
KINDS = {
    "displacements": lambda structure, seed: defects.displacements(structure, 0.1, seed=seed),
    "correlated": lambda structure, seed: defects.displacements(structure, 0.1, seed=seed, correlation=5.0),
    "vacancies": lambda structure, seed: defects.vacancies(structure, 0.25, seed=seed),
    "substitutions": lambda structure, seed: defects.substitutions(structure, 0.5, seed=seed),
    "interstitials": lambda structure, seed: defects.interstitials(structure, 0.1, seed=seed),
    "strain": lambda structure, seed: defects.strain(structure, 0.04, seed=seed),
    "sublattice": lambda structure, seed: defects.remove_sublattice(structure, EVERY_FOURTH, 0.5, seed=seed),
}
EVERY_FOURTH = np.arange(len(COPPER)) % 4 == 0


def padded(count, size):
    rng = np.random.default_rng(count)
    return PaddedAtoms(
        np.pad(rng.uniform(0, 5, (count, 3)), ((0, size - count), (0, 0))).astype(np.float32),
        np.pad(np.full(count, 29, np.int32), (0, size - count)),
        np.pad(np.ones(count, np.float32), (0, size - count)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_crystals_and_ase_get_the_same_defects_and_seeds_reproduce(kind):
    damaged, atoms = KINDS[kind](CRYSTAL, 3), KINDS[kind](COPPER, 3)
    assert isinstance(atoms, ase.Atoms)
    np.testing.assert_array_equal(damaged.positions, atoms.positions)
    np.testing.assert_array_equal(damaged.numbers, atoms.numbers)
    np.testing.assert_allclose(damaged.cell, atoms.cell.array)
    again, other = KINDS[kind](CRYSTAL, 3), KINDS[kind](CRYSTAL, 4)
    np.testing.assert_array_equal(damaged.positions, again.positions)
    changed = damaged.positions.shape != other.positions.shape or not np.array_equal(damaged.positions, other.positions)
    assert changed or not np.array_equal(damaged.numbers, other.numbers)
    assert len(COPPER) == 128, "the structure that was given stays as it is"


REMOVE, SUBSTITUTE, INSERT = map(jax.jit, (defect_kernels.remove, defect_kernels.substitute, defect_kernels.insert))


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_numbers_are_exact(count, share, seed):
    atoms, key = padded(count, 48), jax.random.key(seed)
    wanted = round(np.float32(share) * count)
    assert int(defect_kernels.count_of(atoms, share)) == wanted
    left = REMOVE(key, atoms, wanted)
    assert int((np.asarray(left.occupancies) > 0).sum()) == max(1, count - wanted)
    assert np.all(np.asarray(left.positions)[np.asarray(left.occupancies) == 0] == 0)
    swapped = SUBSTITUTE(key, atoms, wanted, np.array([13, 29]))
    assert int((np.asarray(swapped.species) == 13).sum()) == wanted
    more = INSERT(key, atoms, wanted)
    added = np.asarray(more.occupancies) > atoms.occupancies
    assert added.sum() == min(wanted, 48 - count)
    np.testing.assert_array_equal(np.asarray(more.positions)[:count], atoms.positions[:count])
    assert np.all(np.asarray(more.species)[added] == 29)


def test_a_thousand_copies_are_one_call_that_equals_a_thousand():
    atoms = padded(40, 48)
    keys = jax.random.split(jax.random.key(0), 1000)

    def damaged(key):
        return defect_kernels.remove(key, defect_kernels.displace(key, atoms, 0.1), 10)

    many = jax.jit(jax.vmap(damaged))(keys)
    assert np.all((np.asarray(many.occupancies) > 0).sum(axis=1) == 30)
    for row in (0, 500, 999):
        np.testing.assert_allclose(many.positions[row], damaged(keys[row]).positions, atol=1e-6)
    survivors = (np.asarray(many.occupancies)[:, :40] > 0).mean(axis=0)
    assert np.all(np.abs(survivors - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 1000)), "every atom as likely as the others"


def test_displacements_are_gaussian_and_in_the_unit_asked_for():
    steps = [defects.displacements(CRYSTAL, 0.1, seed=seed).positions - CRYSTAL.positions for seed in range(20)]
    drawn = np.ravel(steps)
    assert abs(drawn.mean()) < 5 * 0.1 / np.sqrt(drawn.size)
    assert abs(drawn.std() / 0.1 - 1) < 5 / np.sqrt(2 * drawn.size)
    assert abs((drawn**4).mean() / 0.1**4 - 3) < 0.3
    relative = defects.displacements(CRYSTAL, 0.1, seed=0, unit="d_nn").positions - CRYSTAL.positions
    np.testing.assert_allclose(relative, steps[0] * 3.61 / np.sqrt(2), rtol=1e-4, atol=1e-6)


def test_correlated_displacements_have_the_covariance_that_is_documented():
    atoms = padded(40, 40)
    keys = jax.random.split(jax.random.key(1), 4000)
    moved = jax.vmap(lambda key: defect_kernels.displace(key, atoms, 0.2, correlation=2.0).positions)(keys)
    steps = np.asarray(moved, np.float64) - atoms.positions
    covariance = np.einsum("nia,nja->ij", steps, steps) / (3 * len(steps))
    squared = ((atoms.positions[:, None] - atoms.positions) ** 2).sum(axis=-1)
    np.testing.assert_allclose(covariance, 0.04 * np.exp(-squared / 8), atol=0.04 * 0.06)


def test_a_sublattice_alone_loses_atoms():
    damaged = defects.remove_sublattice(CRYSTAL, EVERY_FOURTH, 1.0, seed=0)
    np.testing.assert_array_equal(damaged.positions, CRYSTAL.positions[~EVERY_FOURTH])
    partly = defects.remove_sublattice(COPPER, EVERY_FOURTH, count=5, seed=0)
    assert len(partly) == 128 - 5
    kept = {tuple(row) for row in np.round(partly.positions, 6)}
    assert {tuple(row) for row in np.round(COPPER.positions[~EVERY_FOURTH], 6)} < kept


def test_interstitials_lie_in_holes_across_the_periods():
    damaged = defects.interstitials(COPPER, count=20, seed=0)
    assert len(damaged) == 148
    distances = get_distances(damaged.positions[128:], COPPER.positions, cell=COPPER.cell, pbc=True)[1]
    # Half the lattice constant is the way from the largest hole of fcc to its neighbours.
    assert distances.min(axis=1).min() > 0.4 * 3.61 / np.sqrt(2)
    assert distances.min(axis=1).max() < 3.61 / 2 + 1e-3


def test_strain_is_homogeneous_and_as_large_as_asked_for():
    strained = defects.strain(COPPER, 0.04, seed=5)
    gradient = np.linalg.solve(COPPER.cell.array, strained.cell.array)
    np.testing.assert_allclose(gradient, gradient.T, atol=1e-6)
    assert np.abs(np.linalg.eigvalsh(gradient) - 1).max() == pytest.approx(0.04, abs=1e-5)
    np.testing.assert_allclose(strained.positions, COPPER.positions @ gradient, atol=1e-4)


def test_what_is_not_damaged_is_kept():
    atoms = COPPER.copy()
    atoms.info["origin"] = "measured"
    atoms.set_array("label", np.arange(128))
    thinned = defects.vacancies(atoms, 0.25, seed=1)
    np.testing.assert_array_equal(thinned.positions, COPPER.positions[thinned.arrays["label"]])
    assert thinned.info["origin"] == "measured"
    for untouched in (defects.displacements(CRYSTAL, 0.0, seed=0), defects.strain(CRYSTAL, 0.0, seed=0)):
        np.testing.assert_array_equal(untouched.positions, CRYSTAL.positions)
    slab = fcc111("Cu", (5, 5, 4), vacuum=10.0)
    grown = defects.interstitials(slab, 0.05, seed=0)
    assert grown.positions[:, 2].max() <= slab.positions[:, 2].max()


def test_substituted_species_are_others():
    swapped = defects.substitutions(CRYSTAL, 0.5, species=[13, 29, 79], seed=0)
    assert sorted(np.unique(swapped.numbers)) == [13, 29, 79]
    assert (swapped.numbers != 29).sum() == 64
    anything = defects.substitutions(CRYSTAL, 1.0, seed=0).numbers
    assert 29 not in anything
    assert len(np.unique(anything)) > 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: defects.vacancies(CRYSTAL, 1.2, seed=0), "fraction of vacancies from 0 to 1, got 1.2"),
        (lambda: defects.vacancies(CRYSTAL, -0.1, seed=0), "fraction of vacancies from 0 to 1, got -0.1"),
        (lambda: defects.vacancies(CRYSTAL, float("nan"), seed=0), "fraction of vacancies from 0 to 1, got nan"),
        (lambda: defects.vacancies(CRYSTAL, 0.999, seed=0), "one atom to stay, got 128 vacancies in 128"),
        (lambda: defects.vacancies(CRYSTAL, count=129, seed=0), "from 0 to 128 of vacancies, as many as there are"),
        (lambda: defects.vacancies(CRYSTAL, count=1.5, seed=0), "a whole number from 0 to 128 of vacancies, .*got 1.5"),
        (lambda: defects.vacancies(CRYSTAL, "half", seed=0), "fraction of vacancies from 0 to 1, got 'half'"),
        (lambda: defects.vacancies(CRYSTAL, 0.5, seed="a"), "a seed that is a whole number, got 'a'"),
        (lambda: defects.vacancies("x.cif", 0.5, seed=0), "expected a Crystal or ase.Atoms, got str"),
        (lambda: defects.vacancies(CRYSTAL, 0.1, count=3, seed=0), "either a fraction or a count"),
        (lambda: defects.vacancies(CRYSTAL, seed=0), "either a fraction or a count"),
        (lambda: defects.interstitials(CRYSTAL, count=-1, seed=0), "from 0 to 128 of interstitials"),
        (lambda: defects.substitutions(CRYSTAL, 2.0, seed=0), "fraction of substitutions"),
        (lambda: defects.substitutions(CRYSTAL, 0.5, species=29, seed=0), "other than those of the structure"),
        (lambda: defects.substitutions(CRYSTAL, 0.5, species=[0, 13], seed=0), "atomic numbers 1 to 98"),
        (lambda: defects.remove_sublattice(CRYSTAL, EVERY_FOURTH[:5], 0.5, seed=0), "one truth value for each of 128"),
        (lambda: defects.remove_sublattice(CRYSTAL, np.arange(128), 0.5, seed=0), "one truth value for each of 128"),
        (lambda: defects.displacements(CRYSTAL, -1.0, seed=0), "finite sigma"),
        (lambda: defects.displacements(CRYSTAL, 0.1, seed=0, unit="nm"), "unit"),
        (lambda: defects.displacements(CRYSTAL, 0.1, seed=0, correlation=0.0), "correlation length above 0"),
        (lambda: defects.strain(CRYSTAL, 0.5, seed=0), "strain from 0 to below 0.5"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()
