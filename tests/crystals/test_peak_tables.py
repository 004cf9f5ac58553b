"""What a class is decided by: the peaks under its response, with shares that add up to the whole."""

import functools

import numpy as np
import pytest
from ase.build import bulk

import jaxclear
from jaxclear.crystals import cluster, defects, explain, explain_clusters, read, standard_cell
from jaxclear.crystals.explain import shipped_model
from jaxclear.crystals.peak_tables import explain_peaks
from jaxclear.crystals.peaks import PeakError


@functools.cache
def copper():
    return explain(bulk("Cu"))


def test_what_decides_copper():
    found = explain([bulk("Cu"), bulk("Fe")])
    first, iron = explain_peaks(found), explain_peaks(found, 1)
    assert (first.class_name, iron.class_name) == ("fcc", "bcc")
    assert {family.name for family in first.families[:2]} == {"{111}", "{200}"}
    assert iron.families[0].name == "{110}"
    for table in (first, iron):
        assert sum(table.shares) + table.beside == pytest.approx(1)
        assert table.beside < 0.5
        shares = [region.share for region in table.regions]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-9
        assert table.regions[0].families
        for region in [region for region in table.regions[:10] if region.families]:
            radius = {family.name: family.radius for family in table.families}[region.families[0]]
            assert region.radius == pytest.approx(radius, abs=0.25)
            assert region.d_spacing * radius == pytest.approx(table.families[0].d_spacing * table.families[0].radius)
    text = str(first)
    assert text.startswith("Cu: fcc (")
    assert "{111}" in text


def test_a_response_of_ones_own_and_a_class_that_is_silent():
    found = copper()
    channel = np.zeros((64, 64, 3))
    channel[14, 31, 0] = 1.0  # [100] stays along x in the rotation about x
    table = explain_peaks(found, wanted="sc", response=channel)
    assert [region.centre for region in table.regions] == [(14, 31)]
    assert [family.name for family in table.families] == ["{200}"]
    silent = explain_peaks(found, wanted=1, response=np.zeros((64, 64)))
    assert (silent.regions, silent.families, silent.beside) == ((), (), 0.0)
    assert "responds nowhere" in str(silent)


def test_responses_of_a_class_by_channel():
    found = copper()
    model = shipped_model()
    responses = jaxclear.class_responses(model.apply, rule="guided")(model.variables, found.fingerprint)
    table = explain_peaks(found, wanted="fcc", response=np.asarray(responses[4, 0]))
    assert {family.name for family in table.families[:3]} >= {"{111}", "{200}"}


def test_a_damaged_cluster_needs_its_cell():
    cell = standard_cell(read(bulk("Cu"))[0]).crystal
    damaged = defects.vacancies(cluster(cell), 0.2, seed=1)
    found = explain_clusters([damaged])
    with pytest.raises(PeakError, match="pass its pristine cell"):
        explain_peaks(found)
    assert explain_peaks(found, cell=cell).families[0].name in ("{111}", "{200}")


def test_a_damaged_structure_that_was_turned_is_indexed_by_its_own_cell():
    damaged = bulk("Cu") * (6, 6, 6)
    damaged.rattle(0.05, seed=1)
    del damaged[[3, 50, 100]]
    damaged.rotate(40, (1, 2, 3), rotate_cell=True)
    found = explain(damaged)
    assert found.orientations == ("recovered",)
    assert found.cells[0].cell == pytest.approx(3.61 * np.eye(3), abs=0.05)
    assert {family.name for family in explain_peaks(found).families[:2]} == {"{111}", "{200}"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: explain_peaks(copper(), wanted="other"), "expected a class out of"),
        (lambda: explain_peaks(copper(), wanted=9), "expected a class out of"),
        (lambda: explain_peaks(copper(), threshold=1.0), "expected a threshold"),
        (lambda: explain_peaks(copper(), response=np.zeros((3, 3))), "expected a response of shape"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(PeakError, match=words):
        call()
