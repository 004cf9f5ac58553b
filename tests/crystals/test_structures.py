import json
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

from jaxclear.crystals import Crystal, StructureError, from_ase, from_pymatgen, prepare, read, to_ase

ALLOY_CIF = """data_alloy
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.75
Au1 Au 0 0 0 0.25
"""


def crystal(**changes):
    plain = Crystal(np.eye(3) * 3, np.zeros((1, 3)), np.array([29], np.int32), np.ones(1), np.ones(3, bool), "made.xyz")
    return plain._replace(**changes)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.cif", "cif"), ("0.POSCAR", "vasp"), ("a.xyz", "extxyz"), ("a.traj", "traj"), ("a.xsf", "xsf")],
)
def test_formats(tmp_path, name, format):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    ase.io.write(tmp_path / name, atoms, format=format)
    (got,) = read(tmp_path / name)
    assert sorted(got.numbers) == sorted(atoms.numbers)
    np.testing.assert_allclose(got.cell, atoms.cell.array, atol=1e-5)
    assert got.pbc.all()
    assert got.name == str(tmp_path / name)


def test_what_only_pymatgen_reads(tmp_path):
    structure = Structure(Lattice.cubic(3.0), ["Fe"], [[0, 0, 0]])
    (tmp_path / "a.json").write_text(json.dumps(structure.as_dict()))
    assert read(str(tmp_path / "a.json"))[0].numbers.tolist() == [26]
    for index in (0, -1, np.int64(0), "0", ":"):
        assert read(tmp_path / "a.json", index=index)[0].numbers.tolist() == [26]
    for index in (1, -2, "1:", "id=3"):
        with pytest.raises(StructureError, match="got none; check the file and the index"):
            read(tmp_path / "a.json", index=index)


@pytest.mark.parametrize("name", ["a.cif", "POSCAR"])
def test_a_frame_that_is_not_there_is_not_another_one(tmp_path, name):
    ase.io.write(tmp_path / name, bulk("Cu"))
    with pytest.raises(StructureError, match="got none; check the file and the index 7"):
        read(tmp_path / name, index=7)


def test_many_frames(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [bulk("Cu"), bulk("Fe"), bulk("Al")])
    assert [c.numbers[0] for c in read(path)] == [29, 26, 13]
    assert read(path)[2].name.endswith("@2")
    assert read(path, index="1:")[0].numbers[0] == 26
    assert read(path, index=-1)[0].numbers[0] == 13
    with pytest.raises(StructureError, match="at least one structure, got none; check the file and the index 7"):
        read(path, index=7)


def test_sequences_of_anything(tmp_path):
    ase.io.write(tmp_path / "POSCAR", bulk("Fe"))
    structure = Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])
    numbers = [c.numbers[0] for c in read([bulk("Cu"), tmp_path / "POSCAR", structure, read(bulk("Al"))])]
    assert numbers == [29, 26, 84, 13]


def test_partial_occupancy_becomes_weights(tmp_path):
    (tmp_path / "alloy.cif").write_text(ALLOY_CIF)
    (from_file,) = read(tmp_path / "alloy.cif")
    structure = Structure(Lattice.cubic(3.6), [{"Cu": 0.75, "Au": 0.25}], [[0, 0, 0]])
    for got, sites in ((from_file, 4), (from_pymatgen(structure), 1)):
        assert len(got.numbers) == 2 * sites
        np.testing.assert_allclose(got.occupancies[got.numbers == 29], 0.75)
        np.testing.assert_allclose(got.occupancies[got.numbers == 79], 0.25)
    assert to_ase(from_file).arrays["occupancies"].sum() == pytest.approx(4)


def test_a_cif_file_is_what_ase_makes_of_it(tmp_path):
    """Without symmetry and with; atoms outside the cell; several blocks, one without atoms."""
    rattled = bulk("Cu", cubic=True).repeat(2)
    rattled.rattle(0.3, seed=1)
    rattled.positions += [5.0, -7.0, 0.0]
    ase.io.write(tmp_path / "listed.cif", rattled, wrap=False)
    (tmp_path / "alloy.cif").write_text(ALLOY_CIF)
    text = (tmp_path / "listed.cif").read_text()
    (tmp_path / "both.cif").write_text(ALLOY_CIF + "\ndata_empty\n_cell_length_a 3.0\n" + text)
    for name, count in (("listed", 1), ("alloy", 1), ("both", 2)):
        got, expected = read(tmp_path / f"{name}.cif"), ase.io.read(tmp_path / f"{name}.cif", index=":")
        assert len(got) == len(expected) == count
        for one, other in zip(got, expected, strict=True):
            again = from_ase(other)
            np.testing.assert_allclose(one.cell, again.cell, atol=1e-12)
            np.testing.assert_allclose(one.positions, again.positions, atol=1e-9)
            np.testing.assert_array_equal(one.numbers, again.numbers)
            np.testing.assert_array_equal(one.occupancies, again.occupancies)
            assert one.pbc.all()


@pytest.mark.parametrize("shift", [0.0, 1.0, 1.0 - 1e-9])
def test_a_cif_file_that_lists_an_atom_and_its_image(tmp_path, shift):
    """As programs write it that draw the atoms on all faces of a cell."""
    cube = bulk("Cu", cubic=True)
    more = ase.Atoms("Cu", cell=cube.cell, scaled_positions=[[shift, 0, 0]])
    ase.io.write(tmp_path / "twice.cif", cube + more, wrap=False)
    (crystal,) = read(tmp_path / "twice.cif")
    np.testing.assert_allclose(crystal.positions, cube.positions, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(*[st.floats(-2, 2)] * 3), min_size=1, max_size=4),
    st.integers(1, 98),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_ase_round_trip(fractions, number, pbc):
    cell = np.array([[4.0, 0, 0], [1.0, 5.0, 0], [0.5, -1.0, 6.0]])
    atoms = ase.Atoms([number] * len(fractions), scaled_positions=fractions, cell=cell, pbc=pbc)
    try:
        got = from_ase(atoms)
    except StructureError as error:
        assert "atoms apart" in str(error)  # noqa: PT017 — two points may fall together
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
        assert distances.min() < 0.1
        return
    again = from_ase(to_ase(got))
    for a, b in zip(got[:5], again[:5], strict=True):
        np.testing.assert_array_equal(a, b)


def test_pymatgen_and_ase_agree():
    structure = Structure(Lattice.hexagonal(2.95, 4.68), ["Ti", "Ti"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    a, b = from_pymatgen(structure), from_ase(structure.to_ase_atoms())
    for left, right in zip(a[:5], b[:5], strict=True):
        np.testing.assert_allclose(left, right)


def rattled(count):
    return crystal(
        positions=np.random.default_rng(0).uniform(0, 60, (count, 3)),
        numbers=np.full(count, 29),
        occupancies=np.ones(count),
    )


BAD = {
    "nan": (crystal(positions=np.full((1, 3), np.nan)), "finite positions"),
    "inf": (crystal(positions=np.array([[0, np.inf, 0]])), "finite positions"),
    "cell": (crystal(cell=np.diag([1, 1, np.nan])), "finite cell"),
    "cell and positions": (crystal(cell=np.diag([1, 1, np.nan]), positions=np.full((1, 3), np.nan)), "finite cell"),
    "flat": (crystal(cell=np.diag([3.0, 3.0, 0.0])), "independent lattice vectors"),
    "empty": (ase.Atoms(cell=[3, 3, 3], pbc=True), "at least one atom, got none"),
    "one atom": (ase.Atoms("Cu"), "periodic cell, or a piece of a crystal .* got 1 atom without"),
    "molecule": (molecule("C6H6"), "got 12 atoms without a cell"),
    "pymatgen molecule": (Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]), "got 2 atoms without a cell"),
    "two at one place": (
        ase.Atoms("Cu2", [(0, 0, 0), (0, 0, 3.05)], cell=[3, 3, 3], pbc=True),
        "atoms 0 and 1 within 0.05",
    ),
    "dummy": (ase.Atoms("X", cell=[3, 3, 3], pbc=True), "atomic number 0"),
    "too heavy": (ase.Atoms("Es", cell=[3, 3, 3], pbc=True), "atomic number 99"),
    "pymatgen dummy": (Structure(Lattice.cubic(3), [DummySpecies("X")], [[0, 0, 0]]), "atomic number 0"),
    "too many": (rattled(20_000), "at most 4096 atoms, got 20000; cut out a region"),
    "occupancy": (crystal(occupancies=np.array([1.5])), "occupancies above 0 and up to 1"),
    "number": (42, "got int"),
    "array": (np.zeros((3, 3)), "got ndarray"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structures(case):
    source, message = BAD[case]
    with pytest.raises(StructureError, match=message):
        prepare(source)


def test_partial_species_on_one_site_are_no_overlap():
    site = np.zeros((2, 3))
    read(crystal(positions=site, numbers=np.array([29, 79]), occupancies=np.array([0.5, 0.5])))
    with pytest.raises(StructureError, match="atoms apart"):
        read(crystal(positions=site, numbers=np.array([29, 79]), occupancies=np.array([0.8, 0.8])))


def test_a_slab_grows_in_its_plane():
    slab = fcc111("Al", (1, 1, 4), vacuum=8.0)
    atoms = prepare(slab)
    count = np.count_nonzero(atoms.occupancies)
    thickness = np.ptp(atoms.positions[0, :count, 2])
    assert count >= 128
    assert thickness == pytest.approx(3 * np.sqrt(2 / 3), rel=1e-4)


POSCAR = "Cu\n1.0\n3.6 0 0\n0 3.6 0\n0 0 3.6\nCu\n4\ndirect\n0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n"

FILES = {
    "empty.cif": (b"", "got an empty one"),
    "cut.POSCAR": (POSCAR[:-16].encode(), "complete file"),
    "latin.POSCAR": ("Kupfer für Jörg".encode("latin-1") + POSCAR.encode()[2:], "text in UTF-8, got byte 0xfc at 8"),
    "cut.xyz": (b"3\n\nCu 0 0 0\nCu 1 1 1\n", "complete file"),
    "noise.dat": (bytes(range(256)), "text in UTF-8"),
    "prose.cif": (b"This is not a structure.\n", "the text is not that of a CIF file"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FILES)
def test_bad_files(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StructureError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_and_missing_file(tmp_path):
    with pytest.raises(StructureError, match=r"got a folder; name the files in it"):
        read(tmp_path)
    with pytest.raises(StructureError, match=r"nowhere.cif.* got no such file"):
        read(tmp_path / "nowhere.cif")


def test_heavy_packages_stay_out():
    heavy = "ase", "pymatgen", "spglib", "matplotlib", "gemmi"
    code = f"import sys, jaxclear.crystals; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_any_number_of_atoms_where_it_is_asked_for(tmp_path):
    atoms = bulk("Cu", cubic=True) * (11, 10, 10)
    ase.io.write(tmp_path / "large.xyz", atoms)
    for source in (atoms, tmp_path / "large.xyz"):
        assert len(read(source, max_atoms=None)[0].numbers) == 4400
        with pytest.raises(StructureError, match="at most 4096 atoms, got 4400"):
            read(source)
