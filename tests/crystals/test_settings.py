"""One crystal has one standard cell and one fingerprint, however its cell was chosen, turned and shifted."""

import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal as from_group
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from jaxclear.crystals import average_cell, classify, cluster, standard_cell
from jaxclear.crystals.cells import symmetry_dataset
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.settings import EQUIVALENT
from tests.crystals.supercells import primitive, random_matrix, supercell, turned


def _hexagonal(name, sites, group, a, c, *, whole=False):
    cellpar = [a, a, c, 90, 90, 120]
    return from_group([name] * len(sites), sites, spacegroup=group, cellpar=cellpar, primitive_cell=not whole)


CRYSTALS = {
    "sc": bulk("Po"),
    "fcc": bulk("Cu"),
    "bcc": bulk("Fe"),
    "diamond": bulk("Si"),
    "hcp": bulk("Ti"),
    "rhombohedral, two sites": bulk("Bi"),
    "rhombohedral, one site": _hexagonal("Hg", [(0, 0, 0)], 166, 3.4, 6.7),
    "samarium": _hexagonal("Sm", [(0, 0, 0), (0, 0, 2 / 9)], 166, 3.6, 26.2),
    "graphite": _hexagonal("C", [(0, 0, 0.25), (1 / 3, 2 / 3, 0.25)], 194, 2.46, 6.7, whole=True),
    "double hcp": _hexagonal("La", [(0, 0, 0), (1 / 3, 2 / 3, 0.25)], 194, 3.7, 12.1, whole=True),
    "139": from_group("In", [(0, 0, 0)], spacegroup=139, cellpar=[3.2, 3.2, 5.6, 90, 90, 90], primitive_cell=True),
    "141": from_group("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.8, 5.8, 3.2, 90, 90, 90], primitive_cell=True),
    "rock salt": bulk("NaCl", "rocksalt", a=5.6),
    "caesium chloride": bulk("CsCl", "cesiumchloride", a=4.1),
    "zincblende": bulk("ZnS", "zincblende", a=5.4),
    "Cu3Au": from_group(["Au", "Cu"], [(0, 0, 0), (0, 0.5, 0.5)], spacegroup=221, cellpar=[3.7] * 3 + [90] * 3),
}


def _variants(name, count):
    cell = primitive(CRYSTALS[name])
    for seed in range(count):
        rng = np.random.default_rng(seed)
        structure = turned(supercell(cell, random_matrix(rng, 1, 6)), rng)
        yield structure._replace(positions=structure.positions + 3 * rng.normal(size=3))


@pytest.mark.parametrize("name", CRYSTALS)
def test_one_crystal_has_one_fingerprint(name):
    variants = list(_variants(name, examples(3)))
    clusters = [cluster(standard_cell(structure).crystal) for structure in variants]
    clusters += [cluster(average_cell(structure).crystal) for structure in variants[:2]]
    images = np.asarray(fingerprint_clusters(clusters))
    np.testing.assert_allclose(images, np.broadcast_to(images[0], images.shape), atol=1e-4)


@settings(deadline=None, max_examples=examples(8))
@given(
    name=st.sampled_from(sorted(CRYSTALS)),
    largest=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_description_of_a_crystal_gets_the_same_class_and_fingerprint(name, largest, seed):
    rng = np.random.default_rng(seed)
    cell = primitive(CRYSTALS[name])
    report = classify([cell, turned(supercell(cell, random_matrix(rng, 1, largest)), rng)])
    plain, other = report.results
    assert (plain.predicted, plain.verdict) == (other.predicted, other.verdict)
    assert plain.probability == pytest.approx(other.probability, abs=1e-3)
    images = report.explanation.fingerprint
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_transformation_leads_to_the_sites(name):
    for structure in _variants(name, 4):
        dataset = symmetry_dataset(structure)
        fractions = structure.positions @ np.linalg.inv(structure.cell)
        moved = fractions @ np.array(dataset.transformation_matrix).T + dataset.origin_shift
        gaps = moved[:, None] - np.array(dataset.std_positions)
        nearest = np.linalg.norm((gaps - np.round(gaps)) @ np.array(dataset.std_lattice), axis=-1)
        assert nearest.min(axis=1).max() < 1e-3
        same = np.array(dataset.std_types)[nearest.argmin(axis=1)]
        np.testing.assert_array_equal(same, np.unique(structure.numbers, return_inverse=True)[1] + 1)
        assert np.all((np.array(dataset.std_positions) > -1e-4) & (np.array(dataset.std_positions) < 1 - 1e-6))


@pytest.mark.parametrize("group", EQUIVALENT)
def test_equivalent_descriptions_form_a_group(group):
    members = {(tuple(map(tuple, r.tolist())), tuple((t % 1).tolist())) for r, t in EQUIVALENT[group]}
    assert len(members) == len(EQUIVALENT[group])
    if group != 216:  # there a quarter turn twice is an operation of the crystal itself
        for _, one in EQUIVALENT[group]:
            for _, other in EQUIVALENT[group]:
                assert any(np.allclose((one + other - t) % 1, 0) for _, t in EQUIVALENT[group])
