import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import lattice, structure_factors
from tests.crystals.supercells import glass, kept, primitive, random_matrix, supercell, turned

integers = st.integers(-6, 6)
matrices = st.lists(st.lists(integers, min_size=3, max_size=3), min_size=3, max_size=3).map(np.array)


@settings(deadline=None, max_examples=60)
@given(matrices.filter(lambda m: abs(np.linalg.det(m)) > 0.5))
def test_hermite_spans_the_same_lattice(rows):
    form = lattice.hermite(rows)
    assert np.array_equal(form, np.triu(form))
    assert np.all(np.diag(form) > 0)
    for column in range(3):
        assert np.all((form[:column, column] >= 0) & (form[:column, column] < form[column, column]))
    assert round(np.linalg.det(form)) == abs(round(np.linalg.det(rows)))
    relation = rows @ np.linalg.inv(form)
    np.testing.assert_allclose(relation, np.round(relation), atol=1e-8)
    assert lattice.members(rows, form).all()


@settings(deadline=None, max_examples=60)
@given(matrices, matrices)
def test_hermite_does_not_depend_on_the_rows_that_span(rows, factors):
    np.testing.assert_array_equal(lattice.hermite(np.vstack([rows[::-1], factors @ rows])), lattice.hermite(rows))


def test_hermite_of_fewer_dimensions():
    form = lattice.hermite(np.array([[2, 4, 0], [3, 6, 0]]))
    assert form.tolist() == [[1, 2, 0]]
    assert lattice.members(np.array([[5, 10, 0], [5, 10, 1], [1, 1, 0]]), form).tolist() == [True, False, False]


@settings(deadline=None, max_examples=40)
@given(matrices.filter(lambda m: abs(np.linalg.det(m)) > 0.5))
def test_a_reduced_basis_has_the_shortest_vectors(rows):
    cell = rows @ np.array([[2.0, 0.1, 0], [0.3, 2.4, 0], [0.2, -0.5, 3.1]])
    steps = lattice.reduction(cell)
    assert round(abs(np.linalg.det(steps))) == 1
    basis = steps @ cell
    assert np.linalg.det(basis) > 0
    grid = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(basis, axis=1)
    # No lattice vector that needs the i-th basis vector or a later one is shorter than that one.
    for i in range(3):
        others = np.linalg.norm(grid[np.any(grid[:, i:], axis=1)] @ basis, axis=1)
        assert others.min() >= lengths[i] * (1 - 1e-8)


def search(crystal):
    cell = lattice.reduced(crystal.cell)
    count = len(crystal.numbers)
    kinds, counts = np.zeros(count, int), np.array([float(count)])
    spectrum = structure_factors.spectrum(cell, crystal.positions, kinds, crystal.occupancies, cutoff=1.1)
    return lattice.find_sublattice(spectrum, *structure_factors.signal(spectrum, counts))


@pytest.mark.parametrize("atoms", [bulk("Cu"), bulk("Fe"), bulk("Si"), bulk("Ti")])
@pytest.mark.parametrize(("sigma", "vacancies"), [(0, 0), (0.06, 0), (0.06, 0.4)])
def test_the_index_is_the_number_of_copies(atoms, sigma, vacancies):
    rng = np.random.default_rng(7)
    cell = primitive(atoms)
    for _ in range(3):
        matrix = random_matrix(rng, 60, 110)
        crystal = turned(supercell(cell, matrix), rng)
        crystal = kept(crystal, rng.permutation(len(crystal.numbers))[round(vacancies * len(crystal.numbers)) :])
        crystal = crystal._replace(positions=crystal.positions + sigma * rng.normal(size=crystal.positions.shape))
        found = search(crystal)
        assert abs(round(np.linalg.det(found.basis))) == abs(round(np.linalg.det(matrix)))


def test_a_glass_has_little_evidence():
    rng = np.random.default_rng(5)
    for core in (1.2, 1.9):
        found = search(glass(rng, 100, core))
        assert found is None or found.evidence < 25


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(0, 30), st.integers(1, 5), st.booleans())
def test_evidence_of_several_choices_is_that_of_each(seed, count, choices, some_certain):
    """By columns and one by one, against a plain loop."""
    rng = np.random.default_rng(seed)
    proof = lattice._Proof(rng.normal(size=count), rng.random(count) < (0.2 if some_certain else 0.0))
    waves = np.arange(count)
    chosen = rng.random((count, choices)) < 0.6
    expected = []
    for column in chosen.T:
        best, sure, total, certain = -np.inf, False, 0.0, False
        for wave in np.flatnonzero(column):
            total += proof.evidence[wave]
            certain |= bool(proof.certain[wave])
            if total > best:
                best, sure = total, certain
        expected.append(0.0 if not column.any() else best if sure else min(best, 0.0))
    one_by_one = [lattice._gain(proof, np.flatnonzero(column)) for column in chosen.T]
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-12)
    if count:
        # Only what is above zero counts: sums of columns begin at the zero of waves that are not chosen.
        together = lattice._gains(proof, waves, chosen)
        np.testing.assert_allclose(np.maximum(together, 0), np.maximum(expected, 0), rtol=1e-12, atol=1e-12)
