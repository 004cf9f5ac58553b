"""Remembered answers of spglib, against what it says of the very cell."""

import dataclasses

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import spglib_datasets
from jaxclear.crystals.spglib_datasets import dataset_of


def conventional(name, strain=0.0, shift=0.0):
    """Cell, fractions and kinds, of unit volume: a cubic cell, strained along c, its last atom shifted along c."""
    atoms = bulk(name, cubic=True)
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


def assert_equal(found, expected):
    assert (found is None) == (expected is None)
    for field in dataclasses.fields(expected) if expected else ():
        value, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray) and other.dtype.kind == "f":
            np.testing.assert_allclose(value, other, atol=1e-8)
        else:
            np.testing.assert_array_equal(value, other)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["Cu", "Fe", "Si"]),
    st.sampled_from([0.0, 1e-4, 3e-3]),
    st.sampled_from([0.0, 2e-4, 5e-3]),
    st.lists(st.tuples(st.floats(2, 8), st.sampled_from([1e-5, 1e-3, 0.01, 0.03, 0.1])), min_size=2, max_size=6),
)
def test_answers_are_spglibs_whatever_was_asked_before(name, strain, shift, questions):
    spglib_datasets.forget()
    cell = conventional(name, strain, shift)
    for size, symprec in questions:
        expected = spglib_datasets._asked(size * cell[0], *cell[1:], symprec, -1.0)
        assert_equal(answer(cell, size, symprec), expected)


def test_sizes_between_two_that_were_asked_for_are_not_asked_for(asked):
    cell = conventional("Cu")
    sizes = (4.0, 2.0, 3.0, 3.9, 4.0)
    found = [answer(cell, size, 0.01) for size in sizes]
    assert len(asked) == 2
    np.testing.assert_allclose([dataset.std_lattice[0, 0] for dataset in found], sizes)


def test_what_lies_between_two_space_groups_is_asked(asked):
    cell = conventional("Cu", strain=3e-3)
    assert [answer(cell, 4.0, symprec).number for symprec in (1e-3, 0.1, 0.02)] == [139, 225, 225]
    assert asked == [1e-3, 0.1, 0.02]
    assert answer(cell, 4.0, 0.05).number == 225  # between two of one group
    assert len(asked) == 3


def test_one_space_group_with_more_and_with_fewer_atoms():
    """Two cubes on each other, one cube's atom a little off: 123 with two atoms, or with one."""
    spglib_datasets.forget()
    cell = np.diag([1.0, 1.0, 2.2]), np.array([[0, 0, 0], [0, 0, 0.5 + 0.003]]), np.zeros(2, int)
    fine, coarse, between = (answer(cell, 3.0, symprec) for symprec in (1e-3, 0.1, 0.05))
    assert (fine.number, len(fine.std_types)) == (123, 2)
    assert (coarse.number, len(coarse.std_types)) == (123, 1)
    assert_equal(between, spglib_datasets._asked(3 * cell[0], *cell[1:], 0.05, -1.0))


def test_one_cubic_space_group_with_more_and_with_fewer_atoms():
    """27 cubes, the atoms along the edges a little off: 221 with 27 atoms, or with one."""
    spglib_datasets.forget()
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    on_edge = np.count_nonzero(steps, axis=1) == 1
    fractions = steps / 3 + 0.004 * on_edge[:, None] * np.sign(steps * (3 - 2 * steps))
    cell = np.eye(3), fractions, np.zeros(27, int)
    fine, coarse, between = (answer(cell, 6.0, symprec) for symprec in (1e-3, 0.2, 0.05))
    assert (fine.number, len(fine.std_types)) == (221, 27)
    assert (coarse.number, len(coarse.std_types)) == (221, 1)
    assert_equal(between, spglib_datasets._asked(6 * cell[0], *cell[1:], 0.05, -1.0))


def test_few_answers_are_remembered(asked):
    cell = conventional("Cu")
    for size in np.linspace(3, 5, 30):
        assert answer(cell, size, 0.01).number == 225
    (answers,) = spglib_datasets._known.values()
    assert len(answers) == 2


def test_remembered_answers_cannot_be_changed():
    spglib_datasets.forget()
    cell = conventional("Cu")
    for size in (4.0, 2.0, 3.0):
        found = answer(cell, size, 0.01)
    with pytest.raises(ValueError, match="read-only"):
        found.rotations[0, 0, 0] = 5


@pytest.mark.parametrize(
    "other", [conventional("Cu", strain=1e-7), conventional("Cu", shift=1e-7), (*conventional("Cu")[:2], np.arange(4))]
)
def test_other_shapes_are_others(other, asked):
    answer(conventional("Cu"), 4.0, 0.01)
    answer(other, 4.0, 0.01)
    answer(conventional("Cu"), 4.0, 0.01, angle_tolerance=5.0)
    assert len(asked) == 3


def test_large_cells_are_not_remembered(asked):
    cell, fractions, _ = conventional("Cu")
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 1, 3)
    many = (3 * cell, ((fractions + steps) / 3).reshape(-1, 3), np.zeros(108, int))
    assert [answer(many, 4.0, 0.01).number for _ in range(2)] == [225, 225]
    assert len(asked) == 2
    assert not spglib_datasets._known


def test_only_the_last_shapes_are_remembered(asked, monkeypatch):
    monkeypatch.setattr(spglib_datasets, "_SHAPES", 2)
    cells = [conventional(name) for name in ("Cu", "Fe", "Cu", "Si", "Cu", "Fe")]
    for cell in cells:
        answer(cell, 4.0, 0.01)
    assert len(asked) == 4  # copper was asked for again in time, iron was not
