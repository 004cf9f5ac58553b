"""Figures of peaks and regions: what stands in them, nothing overlaps or is cut off, colours are those of classes."""

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.collections import EllipseCollection

from jaxclear import crystal_plots, palettes
from jaxclear.crystals import explain, explain_peaks, map_regions
from jaxclear.crystals.regions import one_structure
from tests.test_plot import assert_legible, words_of


@pytest.fixture(scope="module")
def film():
    atoms = bulk("Cu", cubic=True) * (9, 5, 4)
    return one_structure(atoms)


@pytest.mark.parametrize(
    "atoms", [bulk("Cu"), bulk("Mg"), bulk("Si"), bulk("Bi")], ids=["fcc", "hcp", "diamond", "166"]
)
def test_peaks_are_named(atoms):
    found = explain(atoms)
    table = explain_peaks(found)
    figure = crystal_plots.peaks_figure(found, 0, table)
    assert_legible(figure)
    words = words_of(figure)
    assert table.families[0].name in words
    named = {part for label in words for part in label.split("+")}
    assert table.families[0].name.strip("{}").replace(" ", ",") in named
    assert "diffraction fingerprint" in words


def test_a_class_that_is_silent_has_a_figure():
    found = explain(bulk("Cu"))
    table = explain_peaks(found, wanted="sc", response=np.zeros((64, 64)))
    assert_legible(crystal_plots.peaks_figure(found, 0, table))


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_slice_has_the_colours_of_its_classes(film, axis):
    found = map_regions(film, stride=6.0)
    figure = crystal_plots.regions_figure(found, film, axis=axis)
    assert_legible(figure)
    assert {"share of the atoms", "fcc", "100 %"} <= set(words_of(figure))
    (discs,) = (made for panel in figure.axes for made in panel.collections if isinstance(made, EllipseCollection))
    colours = discs.get_facecolor()[:, :3]
    normal = film.positions[:, "xyz".index(axis)]
    middle = (normal.min() + normal.max()) / 2
    assert len(colours) == np.sum(np.abs(normal - middle) <= 0.6 * found.d_nn)
    np.testing.assert_allclose(colours, np.broadcast_to(palettes.legible(7)[4], colours.shape), atol=0.02)


def test_what_has_no_class_is_grey(film):
    found = map_regions(film, stride=6.0, orient=lambda region: None)
    figure = crystal_plots.regions_figure(found, film)
    assert_legible(figure)
    assert "grey: no class" in words_of(figure)


def test_bad_slices(film):
    found = map_regions(film, stride=6.0)
    with pytest.raises(ValueError, match='axis "x", "y" or "z"'):
        crystal_plots.regions_figure(found, film, axis="w")
    with pytest.raises(ValueError, match="a slice with atoms"):
        crystal_plots.regions_figure(found, film, at=1e3)
