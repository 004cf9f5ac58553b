"""Maps over big structures: a made bicrystal of known truth, grains, voids, files and mistakes."""

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk

from jaxclear import crystals
from jaxclear.crystals import StructureError, map_regions
from jaxclear.crystals.orient import OrientedCluster
from jaxclear.crystals.region_cutting import RegionError
from jaxclear.crystals.regions import write

D_NN = 2.5


def half(kind, count, length=None):
    """A block of cubic cells of one kind with the common nearest-neighbour distance."""
    a = D_NN * {"fcc": np.sqrt(2), "bcc": 2 / np.sqrt(3)}[kind]
    atoms = bulk("Fe", kind, a=a, cubic=True) * count
    if length is not None:
        atoms.set_cell([atoms.cell.lengths()[0], length, length], scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def bicrystal():
    left = half("fcc", (8, 4, 4))
    right = half("bcc", (10, 5, 5), left.cell.lengths()[1])
    border = left.cell.lengths()[0]
    right.positions[:, 0] += border
    both = left + right
    both.set_cell([border + right.cell.lengths()[0], *left.cell.lengths()[1:]])
    both.pbc = True
    both.rattle(0.03, seed=1)
    return both, border, np.r_[np.full(len(left), 4), np.full(len(right), 6)]


@pytest.fixture(scope="module")
def found(bicrystal):
    return map_regions(bicrystal[0])


def distance_to_border(x, bicrystal):
    atoms, border, _ = bicrystal
    length = atoms.cell.lengths()[0]
    return np.minimum(np.minimum(x, np.abs(x - border)), length - x)


def test_regions_away_from_the_border_have_the_class_of_their_half(bicrystal, found):
    _, border, _ = bicrystal
    x = found.centres[:, 0]
    inside = distance_to_border(x, bicrystal) > found.size / 2
    truth = np.where(x < border, 4, 6)
    assert inside.sum() > 30
    np.testing.assert_array_equal(found.predicted_class[inside], truth[inside])
    assert found.confidence[inside].min() > 0.9
    assert found.d_nn == pytest.approx(D_NN, abs=0.1)


@pytest.mark.parametrize("interpolation", ["vote", "nearest"])
def test_every_atom_has_a_class(bicrystal, found, interpolation):
    atoms, _, truth = bicrystal
    if interpolation == "nearest":
        found = map_regions(atoms, interpolation=interpolation, shape="sphere", size=7.0)
    assert found.atom_class.shape == found.atom_confidence.shape == truth.shape
    assert found.atom_class.min() >= 0
    np.testing.assert_allclose(found.atom_probabilities.sum(axis=1), 1, atol=1e-5)
    inside = distance_to_border(atoms.positions[:, 0] % atoms.cell.lengths()[0], bicrystal) > found.size / 2
    assert inside.sum() > 300
    np.testing.assert_array_equal(found.atom_class[inside], truth[inside])


def test_the_file_is_read_back_by_ase(bicrystal, found, tmp_path):
    atoms, _, _ = bicrystal
    write(tmp_path / "mapped.xyz", atoms, found)
    again = ase.io.read(tmp_path / "mapped.xyz")
    np.testing.assert_array_equal(again.numbers, atoms.numbers)
    np.testing.assert_allclose(again.positions, atoms.positions, atol=1e-6)
    np.testing.assert_array_equal(again.arrays["crystal_class"], found.atom_class)
    np.testing.assert_allclose(again.arrays["confidence"], found.atom_confidence, atol=1e-6)
    assert again.info["crystal_class_names"].split()[4] == "4=fcc"
    np.testing.assert_allclose(again.cell.array, atoms.cell.array, atol=1e-6)


@pytest.mark.thorough
def test_grains_are_turned_by_a_function():
    turned = bulk("Fe", "bcc", a=D_NN * 2 / np.sqrt(3), cubic=True) * 9
    turned.pbc = False
    turned.rotate(30, (1, 1, 0))
    back = bulk("Fe", cubic=True)
    back.rotate(30, (1, 1, 0), rotate_cell=True)
    rotation = back.cell.array / back.cell.lengths()[0]

    def turn(region):
        straight = region._replace(positions=region.positions @ rotation.T)
        return OrientedCluster(region.name, straight, "standard", 229, D_NN)

    asked = []
    found = map_regions(turned, orient=turn, stride=6.0, shape="sphere", progress=lambda *done: asked.append(done))
    classified = found.atoms >= 64
    assert np.all(found.predicted_class[classified] == 6)
    assert asked[-1] == (classified.sum(), classified.sum())
    nowhere = map_regions(turned, orient=lambda region: None, stride=6.0)
    assert np.all(nowhere.predicted_class == -1)
    assert np.all(nowhere.atom_class == -1)
    assert not nowhere.atom_confidence.any()


def test_lattices_of_turned_grains_are_found():
    turned = bulk("Fe", "bcc", a=D_NN * 2 / np.sqrt(3), cubic=True) * 8
    turned.rattle(0.03, seed=1)
    turned.rotate(30, (1, 2, 3), rotate_cell=True)
    found = map_regions(turned, orient="recover", stride=8.0)
    assert np.all(found.predicted_class == 6)
    assert np.all(found.atom_class == 6)
    by_processes = map_regions(turned, orient="recover", stride=8.0, workers=2)
    np.testing.assert_array_equal(by_processes.probabilities, found.probabilities)
    as_given = [map_regions(turned, stride=12.0, workers=workers).probabilities for workers in (0, 2)]
    np.testing.assert_array_equal(*as_given)


def test_voids_are_not_classified():
    atoms = bulk("Cu", cubic=True) * (14, 4, 4)
    del atoms[(atoms.positions[:, 0] > 18) & (atoms.positions[:, 0] < 40)]
    found = map_regions(atoms)
    empty = found.atoms < 64
    assert 0 < empty.sum() < len(empty)
    assert np.all(found.predicted_class[empty] == -1)
    assert found.atom_class.min() == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 0.0}, "stride above 0"),
        ({"size": np.inf}, "size above 0"),
        ({"atoms": 0}, "atoms above 0"),
        ({"unit": "nm"}, "unit to be 'd_nn' or 'Å', got 'nm'"),
        ({"shape": "ball"}, "shape to be 'cube' or 'sphere'"),
        ({"interpolation": "none"}, "interpolation to be"),
        ({"orient": "up"}, 'orient to be "as given"'),
        ({"workers": -1}, "workers of at least 0, got -1"),
        ({"min_atoms": 1}, "min_atoms of at least 2"),
        ({"size": 2.0}, "at least 64 atoms"),
        ({"size": 20.0}, "at most 4096 atoms"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(RegionError, match=words):
        map_regions(bulk("Cu"), **options)


def test_bad_structures(found, tmp_path):
    with pytest.raises(RegionError, match="expected one structure, got 2"):
        map_regions([bulk("Cu"), bulk("Fe")])
    with pytest.raises(StructureError, match="no such file"):
        map_regions(tmp_path / "none.xyz")
    with pytest.raises(RegionError, match="two sites"):
        map_regions(ase.Atoms("Cu", pbc=False))
    with pytest.raises(RegionError, match="a map of 1 atoms"):
        write(tmp_path / "other.xyz", bulk("Cu"), found)


def test_matter_of_no_class_has_none():
    half = bulk("Fe", cubic=True) * (8, 8, 8)
    glass = crystals.to_ase(crystals.amorphous("Zr", atoms=600))
    found = map_regions(glass, stride=4.0)
    assert np.mean(found.atom_class == -1) > 0.9
    assert np.nanmedian(found.outside_scores) > 10 * np.nanmedian(map_regions(half, stride=4.0).outside_scores)
