"""Remembered answers of spglib, against what it says of the very cell."""

import dataclasses

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import spglib_datasets
from jaxclear.crystals.spglib_datasets import dataset_of


def of_unit_volume(name, strain=0.0, shift=0.0, *, cubic=True):
    """Cell, fractions and kinds of a cubic element, strained along c, its last atom shifted along c."""
    atoms = bulk(name, cubic=cubic)
    cell, fractions = atoms.cell.array / atoms.get_volume() ** (1 / 3), atoms.get_scaled_positions()
    cell[2] *= 1 + strain
    fractions[-1, 2] += shift
    return cell, fractions, np.zeros(len(fractions), int)


@pytest.fixture
def asked(monkeypatch):
    """Tolerances that spglib was asked for."""
    spglib_datasets.forget()
    seen = []
    own = spglib_datasets._asked
    monkeypatch.setattr(spglib_datasets, "_asked", lambda *cell: seen.append(cell[3]) or own(*cell))
    return seen


def answer(cell, size, symprec, angle_tolerance=-1.0):
    return dataset_of(size * cell[0], *cell[1:], symprec=symprec, angle_tolerance=angle_tolerance)


def assert_equal(found, expected, *, atol):
    assert (found is None) == (expected is None)
    for field in dataclasses.fields(expected) if expected else ():
        value, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray) and other.dtype.kind == "f" and atol:
            gaps = value - other
            gaps -= np.round(gaps) if field.name in ("origin_shift", "translations", "std_positions") else 0
            np.testing.assert_allclose(gaps, 0, atol=atol)
        else:
            np.testing.assert_array_equal(value, other)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["Cu", "Fe", "Si", "Po"]),
    st.booleans(),
    st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 3e-3]),
    st.sampled_from([0.0, 1e-12, 2e-4, 5e-3]),
    st.lists(st.tuples(st.floats(2, 8), st.sampled_from([1e-5, 1e-3, 0.01, 0.03, 0.1])), min_size=1, max_size=4),
)
def test_answers_are_spglibs_own(name, cubic, strain, shift, questions):
    cell = of_unit_volume(name, strain, shift, cubic=cubic)
    for size, symprec in questions:
        expected = spglib_datasets._asked(size * cell[0], *cell[1:], symprec, -1.0)
        assert_equal(answer(cell, size, symprec), expected, atol=1e-8)


def test_sizes_are_asked_for_together(asked):
    cell = of_unit_volume("Cu")
    sizes = (4.0, 3.0, 3.6, 3.9)
    found = [answer(cell, size, 0.01) for size in sizes]
    assert len(asked) == 2
    assert 2 * asked[0] == asked[1]
    assert asked[0] <= min(0.01 / size for size in sizes) < max(0.01 / size for size in sizes) < asked[1]
    np.testing.assert_allclose([dataset.std_lattice[0, 0] for dataset in found], sizes)


def test_an_answer_does_not_depend_on_what_was_asked_before():
    cell = of_unit_volume("Si", cubic=False)
    spglib_datasets.forget()
    alone = answer(cell, 3.7, 0.01)
    spglib_datasets.forget()
    for size in (3.1, 5.9, 3.9):
        answer(cell, size, 0.01)
    assert_equal(answer(cell, 3.7, 0.01), alone, atol=0)


def test_one_space_group_with_more_and_with_fewer_atoms():
    """27 cubes, the atoms along the edges a little off: 221 with 27 atoms, or with one."""
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    on_edge = np.count_nonzero(steps, axis=1) == 1
    fractions = steps / 3 + 0.004 * on_edge[:, None] * np.sign(steps * (3 - 2 * steps))
    cell = 6 * np.eye(3), fractions, np.zeros(27, int)
    fine, finer, coarse = (spglib_datasets._asked(*cell, symprec, -1.0) for symprec in (1e-3, 1e-4, 0.2))
    assert (fine.number, coarse.number) == (221, 221)
    assert (len(fine.std_types), len(coarse.std_types)) == (27, 1)
    assert spglib_datasets._same(fine, finer)
    assert not spglib_datasets._same(fine, coarse)


def test_where_the_ends_differ_the_cell_itself_is_asked_about(asked):
    cell = of_unit_volume("Si", shift=2e-3)
    numbers = {answer(cell, 5.0, symprec).number for symprec in np.geomspace(1e-3, 0.1, 12)}
    assert len(numbers) > 1
    asked.clear()
    for symprec in np.geomspace(1e-3, 0.1, 12):
        answer(cell, 5.0, symprec)
    assert 0 < len(asked) < 12
    assert set(asked) <= set(np.geomspace(1e-3, 0.1, 12))


@pytest.mark.parametrize(
    "other",
    [of_unit_volume("Cu", strain=1e-7), of_unit_volume("Cu", shift=1e-7), (*of_unit_volume("Cu")[:2], np.arange(4))],
)
def test_other_shapes_are_others(other, asked):
    answer(of_unit_volume("Cu"), 4.0, 0.01)
    asked.clear()
    answer(other, 4.0, 0.01)
    assert len(asked) == 2
    answer(of_unit_volume("Cu"), 4.0, 0.01, angle_tolerance=5.0)
    assert len(asked) == 4


def test_other_lattices_and_large_cells_are_asked_about_themselves(asked):
    cell, fractions, _ = of_unit_volume("Cu")
    steps = np.stack(np.meshgrid(*[[0, 1]] * 3), axis=-1).reshape(-1, 1, 3)
    many = 2 * cell, ((fractions + steps) / 2).reshape(-1, 3), np.zeros(32, int)
    hexagonal = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 1]]), np.zeros((1, 3)), np.zeros(1, int)
    for other in (many, of_unit_volume("Cu", strain=0.1), hexagonal):
        answer(other, 4.0, 0.01)
    assert asked == [0.01] * 3


def test_remembered_answers_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        answer(of_unit_volume("Cu"), 4.0, 0.01).rotations[0, 0, 0] = 5
