import numpy as np
import pytest
from ase.build import bulk

from jaxclear.crystals import average_cell, cloud, space_group
from tests.crystals.supercells import ball, glass, primitive


def centred_ball(atoms, count, seed):
    piece = ball(primitive(atoms), count, np.random.default_rng(seed))
    return piece.positions - piece.positions.mean(axis=0)


def test_radius_and_volume_of_a_ball():
    positions = centred_ball(bulk("Cu"), 400, 0)
    volume = 400 * 3.61**3 / 4
    np.testing.assert_allclose(cloud.volume(positions), volume, rtol=0.05)
    np.testing.assert_allclose(cloud.radius(positions), (3 * volume / (4 * np.pi)) ** (1 / 3), rtol=0.02)


def test_peaks_are_at_lattice_points():
    positions = centred_ball(bulk("Fe"), 300, 1)
    peaks, _ = cloud.find_peaks(positions, d_nn=cloud.spacing(positions))
    lengths = np.linalg.norm(peaks.vectors[:12], axis=1) * 2.87
    allowed = np.sqrt([2, 4, 6, 8, 10, 12])
    assert np.abs(lengths[:, None] - allowed).min(axis=1).max() < 0.08


@pytest.mark.parametrize("atoms", [bulk("Cu"), bulk("Fe"), bulk("Po"), bulk("Ti")])
def test_the_lattice_of_a_ball(atoms):
    rng = np.random.default_rng(4)
    for count in (120, 300):
        piece = ball(primitive(atoms), count, rng)
        piece = piece._replace(positions=piece.positions + 0.08 * rng.normal(size=piece.positions.shape))
        found = average_cell(piece)
        assert found.space_group == space_group(primitive(atoms))
        volume = abs(np.linalg.det(atoms.cell))
        np.testing.assert_allclose(np.linalg.det(found.motif.lattice), volume, rtol=0.03)


def test_a_glass_has_no_lattice():
    rng = np.random.default_rng(6)
    structure = glass(rng, 140, 1.8)
    assert average_cell(structure._replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, bool))) is None
