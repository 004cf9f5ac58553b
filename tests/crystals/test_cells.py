import ase
import numpy as np
import pytest
from ase.build import bulk, graphene
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from jaxclear.crystals import (
    StructureError,
    cluster,
    nearest_neighbour_distance,
    pad,
    prepare,
    read,
    standard_cell,
)
from jaxclear.crystals.cells import BUCKETS, bucket
from tests.crystals.reference import rotation


def one(atoms):
    return read(atoms)[0]


@pytest.mark.parametrize(
    ("atoms", "group", "count"),
    [
        (bulk("Cu"), 225, 4),
        (bulk("Fe").repeat(2), 229, 2),
        (bulk("Si"), 227, 8),
        (bulk("Ti"), 194, 2),
        (bulk("Bi"), 166, 6),
        (bulk("In"), 139, 2),
        (bulk("Po"), 221, 1),
    ],
)
def test_standard_cell(atoms, group, count):
    turned = atoms.copy()
    turned.rotate(31, (1, -2, 3), rotate_cell=True)
    for version in (atoms, turned):
        standard, number, orientation = standard_cell(one(version))
        assert (number, len(standard.numbers), orientation) == (group, count, "standard")
        a, b, c = standard.cell
        np.testing.assert_allclose([a[1], a[2], b[2], c[0], c[1]], 0, atol=1e-8)  # a along x, c along z


def test_a_damaged_cell_is_kept_as_given():
    atoms = bulk("Cu", cubic=True).repeat(2)
    del atoms[[0, 5]]
    atoms.rattle(0.1, seed=1)
    crystal = one(atoms)
    standard, group, orientation = standard_cell(crystal)
    assert (group, orientation) == (1, "as given")
    assert standard is crystal


def test_spglib_finding_nothing_is_no_error():
    crystal = one(ase.Atoms("Cu2", [(0, 0, 0), (0, 0, 0.3)], cell=[3, 3, 3], pbc=True))
    assert standard_cell(crystal, symprec=0.5) == (crystal, 0, "as given")


def test_shared_sites_keep_their_symmetry():
    structure = Structure(
        Lattice.cubic(3.6), [{"Cu": 0.75, "Au": 0.25}] * 4, bulk("Cu", cubic=True).get_scaled_positions()
    )
    standard, group, _ = standard_cell(one(structure))
    assert group == 225
    assert sorted(zip(standard.numbers, standard.occupancies, strict=True)) == [(29, 0.75)] * 4 + [(79, 0.25)] * 4
    ordered = standard_cell(
        one(Structure.from_spacegroup(221, Lattice.cubic(3.7), ["Au", "Cu"], [[0] * 3, [0, 0.5, 0.5]]))
    )
    assert ordered.space_group == 221


def test_cluster_repeats_the_shortest_extent():
    crystal = one(ase.Atoms("Cu", cell=[2, 3, 4], pbc=True))
    piece = cluster(crystal, min_atoms=128)
    assert len(piece.numbers) == 7 * 5 * 4  # 14, 15 and 16 Å
    np.testing.assert_allclose(np.diag(piece.cell), [14, 15, 16])
    assert not piece.pbc.any()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(2, 9), min_size=3, max_size=3), st.integers(1, 300))
def test_cluster_is_compact(lengths, min_atoms):
    piece = cluster(one(ase.Atoms("Cu", cell=lengths, pbc=True)), min_atoms=min_atoms)
    assert len(piece.numbers) >= min_atoms
    extents = np.diag(piece.cell)
    repeats = np.round(extents / lengths)
    # No axis was lengthened while another was shorter.
    assert all(extents[i] - lengths[i] <= extents.min() * (1 + 1e-5) for i in range(3) if repeats[i] > 1)
    np.testing.assert_allclose(np.ptp(piece.positions, axis=0), extents - lengths, atol=1e-9)


def test_a_sheet_without_a_third_vector():
    sheet = graphene(vacuum=None)
    piece = cluster(one(sheet))
    assert len(piece.numbers) >= 128
    assert np.ptp(piece.positions[:, 2]) == 0


def test_a_piece_of_a_crystal_is_taken_as_it_is():
    atoms = bulk("Cu", cubic=True).repeat(3)
    atoms.pbc = False
    assert len(cluster(one(atoms)).numbers) == 108
    with pytest.raises(StructureError, match="at least 100 atoms, got 32 atoms without a cell"):
        cluster(one(atoms[:32]))


@pytest.mark.parametrize(("lattice", "factor"), [("sc", 1), ("bcc", np.sqrt(3) / 2), ("fcc", np.sqrt(0.5))])
def test_nearest_neighbour_distance(lattice, factor):
    positions = cluster(one(bulk("Cu", lattice, a=4.0))).positions
    assert nearest_neighbour_distance(positions) == pytest.approx(4 * factor)


def test_shared_sites_count_once():
    line = np.array([[0, 0, 0], [2, 0, 0], [6, 0, 0], [6, 0, 0], [6, 0, 0]], float)
    assert nearest_neighbour_distance(line) == pytest.approx((2 + 2 + 4) / 3)
    with pytest.raises(StructureError, match="at least two sites"):
        nearest_neighbour_distance(np.zeros((2, 3)))


def test_padded_atoms_are_scaled_and_centred():
    atoms = prepare([bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6)])
    assert atoms.positions.shape == (2, 160, 3)
    assert atoms.positions.dtype == atoms.occupancies.dtype == np.float32
    assert atoms.species.dtype == np.int32
    for row in range(2):
        weights = atoms.species[row] * atoms.occupancies[row]
        np.testing.assert_allclose(weights @ atoms.positions[row] / weights.sum(), 0, atol=1e-6)
        real = atoms.positions[row, atoms.occupancies[row] > 0]
        assert nearest_neighbour_distance(real.astype(float)) == pytest.approx(1, abs=1e-6)
    assert not atoms.species[atoms.occupancies == 0].any()


def test_given_nearest_neighbour_distance():
    once, twice = (
        prepare(bulk("Cu"), nearest_neighbour_distance=1),
        prepare([bulk("Cu")] * 2, nearest_neighbour_distance=[1, 2]),
    )
    np.testing.assert_allclose(twice.positions[0], once.positions[0])
    np.testing.assert_allclose(twice.positions[1], once.positions[0] / 2)
    with pytest.raises(ValueError, match="one nearest-neighbour distance for each of 1 clusters, got 2"):
        pad([cluster(one(bulk("Cu")))], [1.0, 2.0])
    with pytest.raises(ValueError, match="above 0"):
        pad([cluster(one(bulk("Cu")))], 0.0)


def test_defects_go_between_cluster_and_padding():
    piece = cluster(one(bulk("Fe")))
    keep = np.arange(len(piece.numbers)) % 4 > 0
    damaged = piece._replace(
        positions=piece.positions[keep], numbers=piece.numbers[keep], occupancies=piece.occupancies[keep]
    )
    assert np.count_nonzero(pad([piece, damaged]).occupancies[1]) == keep.sum()


@given(st.integers(1, BUCKETS[-1]))
def test_bucket(count):
    assert bucket(count) == min(size for size in BUCKETS if size >= count)


def test_bucket_of_too_many():
    with pytest.raises(StructureError, match="at most 4096 atoms, got 4097"):
        bucket(4097)


def test_orientation_as_given_keeps_axes():
    atoms = bulk("Fe", cubic=True)
    atoms.rotate(30, "z", rotate_cell=True)
    given, upright = prepare(atoms, orientation="as given"), prepare(bulk("Fe", cubic=True))
    turned = upright.positions[0] @ rotation(2, 30).T
    np.testing.assert_allclose(given.positions[0], turned, atol=1e-5)
    np.testing.assert_allclose(prepare(atoms).positions, upright.positions, atol=1e-5)
