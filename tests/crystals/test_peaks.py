"""Peaks: at the radii that geometry says, never on an absence, and in families that pymatgen's operations make."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.symmetry.groups import SpaceGroup

from effort import examples
from jaxclear.crystals import cluster, read, standard_cell
from jaxclear.crystals.beam import wave_vectors
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.form_factors import form_factors
from jaxclear.crystals.peaks import PeakError, cell_of, index_peaks

KNOWN = {
    "fcc": (bulk("Cu"), {"{111}": np.sqrt(3 / 2), "{200}": np.sqrt(2), "{220}": 2.0}),
    "bcc": (bulk("Fe"), {"{110}": np.sqrt(3 / 2), "{200}": np.sqrt(3), "{211}": 1.5 * np.sqrt(2)}),
    "sc": (bulk("Po"), {"{100}": 1.0, "{110}": np.sqrt(2), "{111}": np.sqrt(3), "{200}": 2.0}),
    "diamond": (bulk("Si"), {"{111}": 0.75, "{220}": np.sqrt(3 / 2), "{311}": np.sqrt(33 / 16), "{400}": np.sqrt(3)}),
}


def standard(atoms):
    return standard_cell(read(atoms)[0]).crystal


def structure_factor(cell, hkl, length):
    """|F| of one cell, atom by atom."""
    total = 0j
    for position, number, occupancy in zip(cell.positions, cell.numbers, cell.occupancies, strict=True):
        phase = sum(h * x for h, x in zip(hkl, np.linalg.solve(cell.cell.T, position), strict=True))
        total += occupancy * form_factors(np.array([number]), np.array([length]))[0, 0] * np.exp(-2j * np.pi * phase)
    return abs(total)


@pytest.mark.parametrize("kind", KNOWN)
def test_families_lie_where_geometry_says(kind):
    atoms, radii = KNOWN[kind]
    families = index_peaks(standard(atoms)).families
    first = families[: len(radii)]
    assert [family.name for family in first] == list(radii)
    np.testing.assert_allclose([family.radius for family in first], list(radii.values()), atol=1e-6)


@pytest.mark.parametrize("kind", KNOWN)
def test_bright_pixels_are_under_peaks_at_their_own_radius(kind):
    cell = standard(KNOWN[kind][0])
    image = fingerprint_clusters([cluster(cell)])[0]
    index = index_peaks(cell)
    bright = np.argwhere(image > 0.25)
    assert len(bright) > 20
    for x, y, channel in bright:
        rotation = index.intensity[x, y, channel].argmax()
        assert index.offset[x, y, channel, rotation] < 1
        family = index.families[index.family[x, y, channel, rotation]]
        seen = np.linalg.norm(wave_vectors()[x, y, channel, rotation])
        assert abs(seen - family.radius) <= index.distance[x, y, channel, rotation] + 1e-9
        assert index.distance[x, y, channel, rotation] < 0.25


def test_intensities_are_those_of_the_fingerprint():
    cell = standard(bulk("Cu"))
    image = fingerprint_clusters([cluster(cell)])[0]
    expected = index_peaks(cell).intensity.sum(axis=-1)
    bright = image > 0.4
    ratio = image[bright] / expected[bright]
    assert ratio.std() / ratio.mean() < 0.1  # form factors between peaks, the solid angle


@pytest.mark.parametrize(
    "atoms",
    [bulk("Cu"), bulk("Fe"), bulk("Si"), bulk("Mg"), bulk("Bi"), bulk("In"), bulk("NaCl", "rocksalt", a=5.64)],
    ids=["fcc", "bcc", "diamond", "hcp", "166", "139", "rocksalt"],
)
def test_absences_are_under_no_pixel_and_all_others_can_be(atoms):
    cell = standard(atoms)
    index = index_peaks(cell)
    kept = index.family >= 0
    names = {family.name for family in index.families}
    inverse = np.linalg.inv(cell.cell).T
    scale = index.families[0].radius * index.families[0].d_spacing
    largest = structure_factor(cell, (0, 0, 0), 0)
    for hkl in np.unique(index.hkl[kept], axis=0):
        assert structure_factor(cell, hkl, np.linalg.norm(hkl @ inverse) * scale) > 1e-3 * largest / 20
    for hkl in itertools.product(range(-2, 3), repeat=3):
        length = np.linalg.norm(hkl @ inverse) * scale
        if any(hkl) and length < 2.4:
            found = structure_factor(cell, hkl, length)
            named = [family for family in index.families if family.hkl == hkl and family.name in names]
            if named:
                assert found == pytest.approx(named[0].structure_factor, rel=1e-6)
            if found < 1e-6 * largest:
                assert not named


@settings(max_examples=examples(5), deadline=None)
@given(
    kind=st.sampled_from(["fcc", "bcc", "sc", "diamond", "hcp"]),
    a=st.floats(2, 6),
    ratio=st.floats(1.2, 2.2),
    data=st.data(),
)
def test_families_are_closed_under_the_operations_and_friedel(kind, a, ratio, data):
    cell = standard(bulk("Sn", kind, a=a, c=ratio * a) if kind == "hcp" else bulk("Sn", kind, a=a))
    index = index_peaks(cell)
    inverse = np.linalg.inv(cell.cell)
    symbol = {"fcc": "Fm-3m", "bcc": "Im-3m", "sc": "Pm-3m", "diamond": "Fd-3m", "hcp": "P6_3/mmc"}[kind]
    operations = {tuple(operation.rotation_matrix.ravel()) for operation in SpaceGroup(symbol).symmetry_ops}
    family = data.draw(st.sampled_from(index.families))
    hkl = np.array(family.hkl)
    orbit = {tuple(sign * hkl @ np.reshape(operation, (3, 3))) for operation in operations for sign in (1, -1)}
    assert family.multiplicity == len(orbit)
    assert family.d_spacing == pytest.approx(1 / np.linalg.norm(hkl @ inverse.T), rel=1e-6)
    members = index.hkl[index.family == index.families.index(family)]
    assert {tuple(member) for member in members} <= orbit


def test_conventional_names():
    names = [family.name for family in index_peaks(standard(bulk("Bi"))).families]
    assert {"{003}", "{101}", "{012}", "{104}", "{110}"} <= set(names)  # obverse setting, -h + k + l = 3n
    assert "{100}" not in names
    assert {"{100}", "{002}", "{101}"} <= {family.name for family in index_peaks(standard(bulk("Mg"))).families}
    assert any(" " in family.name for family in index_peaks(standard(bulk("Bi"))).families)


def test_the_cell_of_a_cluster():
    for atoms in (bulk("Cu"), bulk("Mg"), bulk("Bi")):
        cell = standard(atoms)
        np.testing.assert_allclose(cell_of(cluster(cell)).cell, cell.cell, atol=1e-6)


def test_peaks_move_with_the_length_that_divides():
    cell = standard(bulk("Cu"))
    near, far = (index_peaks(cell, d_nn=d_nn).families[0].radius for d_nn in (2.0, 3.0))
    assert far / near == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: index_peaks(read(bulk("Cu", cubic=True))[0], cluster(standard(bulk("Fe")))), "whole cells"),
        (lambda: index_peaks(read(molecule("C60"))[0]), "three periods"),
        (lambda: cell_of(standard(bulk("Cu"))._replace(cell=np.zeros((3, 3)))), "pass its pristine cell"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(PeakError, match=words):
        call()
