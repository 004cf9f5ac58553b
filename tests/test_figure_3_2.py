"""Figure 3.2 again: the prototypes are those of the eight groups, and the differences are those of the fingerprints."""

import json

import numpy as np

from experiments import figure_3_2
from jaxclear.crystals import space_group
from jaxclear.crystals.defects import vacancies
from jaxclear.crystals.fingerprint import fingerprint_clusters


def test_the_figure_and_its_numbers(tmp_path):
    results = figure_3_2.run(tmp_path)
    assert (tmp_path / "figure_3_2.png").stat().st_size > 50_000
    assert json.loads((tmp_path / "figure_3_2.json").read_text()) == results
    samples = figure_3_2.prototypes()
    groups = [space_group(sample.cluster) for sample in samples]
    assert groups == [139, 141, 166, 194, 221, 225, 227, 229]
    cubic = samples[4].cluster
    whole, thinned = np.asarray(fingerprint_clusters([cubic, vacancies(cubic, 0.25, seed=0)]))
    told = results["differences_from_pristine"]["25 % missing"]
    np.testing.assert_allclose(told["greatest"], np.abs(thinned - whole).max(), atol=1e-4)
    np.testing.assert_allclose(told["mean"], np.abs(thinned - whole).mean(), atol=1e-6)


def test_differences_are_red_above_and_blue_below():
    difference = np.zeros((64, 64, 3))
    difference[1, 2] = (0.1, -0.4, 0.2)
    difference[3, 4, 2] = 0.1
    picture = figure_3_2.signed(difference)
    assert picture[1, 2].argmax() == 2
    assert picture[1, 2, 2] == 1.0
    assert picture[3, 4].argmax() == 0
    np.testing.assert_allclose(picture[3, 4, 0], 0.5)
    assert picture.sum(axis=-1).astype(bool).sum() == 2
