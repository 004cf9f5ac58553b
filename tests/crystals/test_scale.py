"""The length scale: its features against plain loops, its invariances, and what it is for."""

import jax
import numpy as np
import pytest
from ase.build import bulk

from jaxclear.crystals import cluster, defects, nearest_neighbour_distance, read
from jaxclear.crystals.scale import BIN, CENTRES, NUM_FEATURES, length_scales, pair_features

COPPER = cluster(read(bulk("Cu", cubic=True))[0])


def features_by_loops(positions, occupancies):
    count, nearest, histogram = occupancies.sum(), [], np.zeros(len(CENTRES))
    for i in range(len(positions)):
        nearest.append(min(np.linalg.norm(positions[i] - positions[j]) for j in range(len(positions)) if j != i))
    mean = float(np.average(nearest, weights=occupancies))
    for i in range(len(positions)):
        for j in range(len(positions)):
            if i != j:
                distance = np.linalg.norm(positions[i] - positions[j]) / mean
                for k, centre in enumerate(CENTRES):
                    histogram[k] += occupancies[i] * occupancies[j] * max(0.0, 1 - abs(distance - centre) / BIN)
    histogram /= count * CENTRES**2 * BIN
    spread = np.sqrt(np.average((np.array(nearest) / mean - 1) ** 2, weights=occupancies))
    average = histogram.mean() + 1e-6
    return np.concatenate([histogram / average, [np.log(average), spread, np.log(count)]]), mean


def test_features_equal_those_of_plain_loops_and_ignore_padding():
    rng = np.random.default_rng(0)
    positions, occupancies = rng.uniform(0, 3, (20, 3)), rng.uniform(0.3, 1, 20)
    expected, mean = features_by_loops(positions, occupancies)
    found, measured = pair_features(
        np.pad(positions, ((0, 12), (0, 0))).astype(np.float32), np.pad(occupancies, (0, 12)).astype(np.float32)
    )
    assert found.shape == (NUM_FEATURES,)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert float(measured) == pytest.approx(mean, rel=1e-5)


def test_species_that_share_sites_count_as_the_atoms_they_make_up():
    alone, mean = pair_features(COPPER.positions.astype(np.float32) / 2.55, np.ones(len(COPPER.positions), np.float32))
    twice = np.repeat(COPPER.positions, 2, axis=0).astype(np.float32) / 2.55
    shares = np.tile(np.float32([0.25, 0.75]), len(COPPER.positions))
    found, shared = pair_features(twice, shares)
    np.testing.assert_allclose(found, alone, rtol=1e-3, atol=1e-3)
    assert float(shared) == pytest.approx(float(mean), rel=1e-5)


def test_rotation_translation_order_and_unit_do_not_matter():
    damaged = defects.displacements(COPPER, 0.1, seed=0, unit="d_nn")
    rotation = np.asarray(jax.random.orthogonal(jax.random.key(0), 3), np.float64)
    order = np.random.default_rng(0).permutation(len(damaged.positions))
    turned = damaged._replace(positions=(7 * damaged.positions @ rotation + [3, -2, 9])[order])
    first, second = length_scales([damaged, turned])
    assert second == pytest.approx(7 * first, rel=2e-3)


@pytest.mark.parametrize("name", ["Cu", "Fe", "Si", "Po"])
@pytest.mark.parametrize(("sigma", "missing", "tolerance"), [(0, 0, 0.01), (0.1, 0.25, 0.05), (0, 0.6, 0.05)])
def test_the_undamaged_distance_is_found_again(name, sigma, missing, tolerance):
    pristine = cluster(read(bulk(name, cubic=name != "Po"))[0])
    truth = nearest_neighbour_distance(pristine.positions)
    damaged = [
        defects.displacements(defects.vacancies(pristine, missing, seed=seed), sigma * truth, seed=seed)
        for seed in range(4)
    ]
    assert np.abs(length_scales(damaged) / truth - 1).mean() < tolerance


def test_no_clusters_have_no_lengths():
    assert length_scales([]).shape == (0,)
