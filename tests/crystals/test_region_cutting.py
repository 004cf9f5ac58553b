"""Regions against plain loops over periodic images, and the lengths of known crystals."""

import itertools

import ase
import numpy as np
import pytest
from ase.build import bulk, graphene
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import Crystal, read
from jaxclear.crystals.region_cutting import Cutter, Surroundings, grid


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(1, 40),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    shape=st.sampled_from(["cube", "sphere"]),
    size=st.floats(1.0, 9.0),
)
def test_regions_are_those_of_a_plain_loop_over_images(seed, count, pbc, shape, size):
    rng = np.random.default_rng(seed)
    cell = 4 * np.eye(3) + rng.uniform(-1.2, 1.2, (3, 3))
    fractions = rng.uniform(-0.5, 1.5, (count, 3))
    atoms = ase.Atoms(rng.integers(1, 90, count), positions=fractions @ cell, cell=cell, pbc=pbc)
    crystal = Crystal(cell, atoms.positions, atoms.numbers, np.ones(count), np.array(pbc), "random")
    centres = grid(crystal, Surroundings(crystal).positions, size, 3.0)[:5]
    cutter = Cutter(crystal, Surroundings(crystal), size, shape)
    steps = itertools.product(*(range(-6, 7) if periodic else (0,) for periodic in pbc))
    images = (atoms.positions + np.array(list(steps))[:, None] @ cell).reshape(-1, 3)
    numbers = np.tile(atoms.numbers, len(images) // count)
    for centre, region in zip(centres, cutter.cut(centres), strict=True):
        away = images - centre
        far = np.abs(away).max(axis=1) if shape == "cube" else np.linalg.norm(away, axis=1)
        expected = far <= size / 2
        assert len(region.numbers) == expected.sum()
        first, second = (
            sorted(map(tuple, np.column_stack([z, np.round(x, 6) + 0.0])))
            for z, x in ((numbers[expected], images[expected]), (region.numbers, region.positions))
        )
        np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_array_equal(cutter.counts(centres), [len(region.numbers) for region in cutter.cut(centres)])


def test_the_grid_fits_the_periods_and_stays_within_a_film():
    film = bulk("Cu", cubic=True) * (6, 6, 10)
    film.pbc = (True, True, False)
    crystal = read(film)[0]
    centres = grid(crystal, crystal.positions, 10.0, 7.0)
    x = np.unique(centres[:, 0].round(6))
    np.testing.assert_allclose(np.diff(x), film.cell.lengths()[0] / len(x))
    assert np.diff(x).max() <= 7.0
    assert centres[:, 2].min() == pytest.approx(5.0)
    assert centres[:, 2].max() == pytest.approx(crystal.positions[:, 2].max() - 5.0)
    assert np.diff(np.unique(centres[:, 2].round(6))).max() <= 7.0


@pytest.mark.parametrize(
    ("atoms", "d_nn", "volume"),
    [
        (bulk("Cu"), 3.61 / np.sqrt(2), 3.61**3 / 4),
        (bulk("Si"), 5.43 * np.sqrt(3) / 4, 5.43**3 / 8),
        (bulk("Fe", cubic=True) * 4, 2.87 * np.sqrt(3) / 2, 2.87**3 / 2),
    ],
)
def test_lengths_are_those_of_the_crystal(atoms, d_nn, volume):
    found = Surroundings(read(atoms)[0]).lengths()
    assert found[0] == pytest.approx(d_nn, rel=1e-6)
    assert found[1] == pytest.approx(volume, rel=0.35)  # whole shells of neighbours


def test_empty_space_is_no_volume_of_the_atoms():
    slab = bulk("Cu", cubic=True) * (6, 6, 6)
    whole = Surroundings(read(slab)[0]).lengths()
    slab.center(vacuum=40, axis=2)
    np.testing.assert_allclose(Surroundings(read(slab)[0]).lengths(), whole, rtol=0.02)


def test_a_single_layer_has_lengths():
    sheet = graphene(size=(2, 2, 1), vacuum=10)
    sheet.pbc = (True, True, False)
    d_nn, volume = Surroundings(read(sheet)[0]).lengths()
    assert d_nn == pytest.approx(2.46 / np.sqrt(3), rel=1e-3)
    assert np.isfinite(volume)
