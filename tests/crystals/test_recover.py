import itertools

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from effort import examples
from jaxclear.crystals import classify, cluster, recover, standard_cell
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.structures import to_ase
from tests.crystals.reference import rotation
from tests.crystals.supercells import ball, glass, kept, primitive, random_matrix, supercell, turned
from tests.crystals.test_average import DIAMOND_LIKE, TETRAGONAL, damaged

ELEMENTS = [bulk("Po"), bulk("Cu"), bulk("Fe"), bulk("Si"), bulk("Ti"), bulk("Bi"), *TETRAGONAL, DIAMOND_LIKE]
CUBIC = [
    np.eye(3)[list(order)] * np.array(signs)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
HEXAGONAL = [rotation(2, 60 * k) * np.array(signs) for k in range(6) for signs in itertools.product((1, -1), repeat=3)]


def worst_pixel(piece, reference):
    """Greatest difference of two fingerprints, in the orientation in which they agree best."""
    turned_pieces = [piece._replace(positions=piece.positions @ matrix.T) for matrix in CUBIC + HEXAGONAL]
    images = fingerprint_clusters([reference, *turned_pieces])
    return np.abs(images[1:] - images[0]).max(axis=(1, 2, 3)).min()


@settings(deadline=None, max_examples=examples(2))
@given(st.integers(0, len(ELEMENTS) - 1), st.integers(0, 10**6))
def test_a_pristine_structure_gives_the_cluster_of_its_standard_cell(which, seed):
    rng = np.random.default_rng(seed)
    cell = primitive(ELEMENTS[which])
    reference = cluster(standard_cell(cell).crystal)
    structure = turned(supercell(cell, random_matrix(rng, 60, 120)), rng)
    found = recover(structure)
    assert len(found.cluster.numbers) == len(reference.numbers)
    assert worst_pixel(found.cluster, reference) < 1e-4
    few = recover(kept(structure, rng.permutation(len(structure.numbers))[3:]))
    assert few.space_group == found.space_group
    assert worst_pixel(cluster(few.average.crystal), reference) < 1e-4


@pytest.mark.parametrize("atoms", [bulk("Cu"), bulk("Ti"), bulk("Bi")])
def test_the_atoms_are_the_structures_own(atoms):
    rng = np.random.default_rng(8)
    structure = damaged(turned(supercell(primitive(atoms), random_matrix(rng, 100, 160)), rng), rng, sigma=0.06)
    found = recover(structure)
    ideal = cluster(found.average.crystal)
    # Turned back, every atom of the cluster is an atom of the structure or one of its images.
    back = found.cluster.positions @ found.rotation
    fractions = (back[:, None] - structure.positions) @ np.linalg.inv(structure.cell)
    gaps = np.linalg.norm((fractions - np.round(fractions)) @ structure.cell, axis=-1)
    assert gaps.min(axis=1).max() < 1e-8
    assert len(found.cluster.numbers) == len(ideal.numbers)
    moved = found.cluster.positions - found.cluster.positions.mean(0) + ideal.positions.mean(0)
    np.testing.assert_allclose(KDTree(ideal.positions).query(moved)[0].std(), 0.06 * 0.67, rtol=0.4)


def test_vacancies_stay_vacant():
    rng = np.random.default_rng(9)
    structure = turned(supercell(primitive(bulk("Cu")), random_matrix(rng, 150, 250)), rng)
    found = recover(kept(structure, rng.permutation(len(structure.numbers))[len(structure.numbers) // 4 :]))
    whole = cluster(found.average.crystal)
    assert 0.6 < len(found.cluster.numbers) / len(whole.numbers) < 0.9
    tree = KDTree(whole.positions)
    moves = found.cluster.positions[0] - whole.positions
    assert min(tree.query(found.cluster.positions - move)[0].max() for move in moves) < 1e-6


def test_interstitials_come_along():
    rng = np.random.default_rng(3)
    structure = turned(supercell(primitive(bulk("Cu")), 5 * np.eye(3, dtype=int)), rng)
    direction = structure.cell.sum(axis=0) / np.linalg.norm(structure.cell.sum(axis=0))
    hole = structure.positions[0] + direction * 3.61 * np.sqrt(3) / 2
    extra = structure._replace(
        positions=np.vstack([structure.positions, hole]),
        numbers=np.append(structure.numbers, 79).astype(np.int32),
        occupancies=np.ones(126),
    )
    found = recover(extra)
    assert found.space_group == 225
    assert 0 < (found.cluster.numbers == 79).sum() <= 2


def test_no_lattice_no_cluster():
    assert recover(glass(np.random.default_rng(2), 90, 1.8)) is None


@pytest.mark.parametrize("atoms", [bulk("Cu"), bulk("Fe"), bulk("Si"), bulk("Ti")])
def test_a_ball_without_a_cell(atoms):
    rng = np.random.default_rng(5)
    piece = ball(primitive(atoms), 220, rng)
    piece = damaged(piece, rng, sigma=0.05, vacancies=0.1)
    found = recover(piece)
    assert found.space_group == standard_cell(primitive(atoms)).space_group
    # Of its 220 sites those of a ball of 160 around the centre, a tenth of them empty.
    assert 135 <= len(found.cluster.numbers) <= 153
    centred = piece.positions - piece.positions.mean(axis=0)
    inner = np.argsort(np.linalg.norm(centred, axis=1), kind="stable")[: len(found.cluster.numbers)]
    np.testing.assert_allclose(found.cluster.positions @ found.rotation, piece.positions[np.sort(inner)], atol=1e-9)
    # Turned to the standard frame, neighbours lie along lattice directions of the standard cell.
    vectors = found.lattice @ found.rotation.T @ np.linalg.inv(found.average.crystal.cell)
    np.testing.assert_allclose(12 * vectors, np.round(12 * vectors), atol=0.15)


def test_a_small_ball_is_kept_whole():
    piece = ball(primitive(bulk("Cu")), 140, np.random.default_rng(6))
    found = recover(piece)
    np.testing.assert_allclose(found.cluster.positions @ found.rotation, piece.positions, atol=1e-9)


@pytest.mark.parametrize(("atoms", "name"), [(bulk("Cu"), "fcc"), (bulk("Fe"), "bcc"), (bulk("Si"), "diamond")])
def test_a_large_ball_is_a_member(atoms, name):
    """Peaks of a ball of 400 atoms are sharper than any that the network has learnt from."""
    rng = np.random.default_rng(7)
    piece = damaged(ball(primitive(atoms), 400, rng), rng, sigma=0.05, vacancies=0.2)
    answer = classify([to_ase(piece)], maps=False).results[0]
    assert (answer.predicted, answer.verdict) == (name, "member")


@pytest.mark.parametrize("shape", ["hollow", "in two"])
def test_of_a_piece_with_an_empty_middle_the_ball_is_where_its_atoms_are(shape):
    crystal = primitive(bulk("Cu"))
    centred = ball(crystal, 1500, np.random.default_rng(8))
    places = centred.positions - centred.positions.mean(axis=0)
    lengths = np.linalg.norm(places, axis=1)
    kept = {"hollow": lengths > 0.65 * lengths.max(), "in two": np.abs(places[:, 0]) > 0.5 * lengths.max()}[shape]
    piece = centred._replace(
        positions=places[kept], numbers=centred.numbers[kept], occupancies=centred.occupancies[kept]
    )
    found = recover(piece)
    got = found.cluster.positions @ found.rotation
    gaps = np.linalg.norm(got[:, None] - piece.positions, axis=-1)
    assert len(got) >= 75
    assert len(np.unique(gaps.argmin(axis=1))) == len(got)
    np.testing.assert_allclose(gaps.min(axis=1), 0, atol=1e-9)
