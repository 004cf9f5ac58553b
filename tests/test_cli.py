"""The command line: what it prints, and one line and exit code 2 for every mistake."""

import json
import subprocess
import sys

import pytest
from ase.build import bulk

from jaxclear import cli


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def files(tmp_path):
    for name, atoms in {"Cu": bulk("Cu"), "Fe": bulk("Fe"), "Si": bulk("Si")}.items():
        atoms.write(tmp_path / f"{name}.cif")
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 3.0\n")
    return tmp_path


def test_classify_names_crystals_and_reports_the_bad_file(capsys, files):
    code, out, err = run(capsys, "classify", "--json", *(files / f"{n}.cif" for n in ("Cu", "broken", "Fe", "Si")))
    assert code == 1
    found = json.loads(out)
    assert [row["class"] for row in found["structures"]] == ["fcc", "bcc", "diamond"]
    assert [row["spglib"] for row in found["structures"]] == [225, 229, 227]
    assert len(err.strip().splitlines()) == 1
    assert "broken.cif" in err


def test_classify_draws_a_picture_for_each_structure(capsys, files, tmp_path):
    code, out, _ = run(capsys, "classify", files / "Cu.cif", "--out", tmp_path / "pictures")
    assert code == 0
    assert "fcc" in out
    (picture,) = (tmp_path / "pictures").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("make", ["missing.cif", "broken.cif", "folder"])
def test_nothing_usable_is_one_line_and_exit_code_2(capsys, files, make):
    (files / "folder").mkdir()
    code, out, err = run(capsys, "classify", files / make)
    assert code == 2
    assert not out
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("jaxclear: error:")


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from jaxclear import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'ase', 'pymatgen', 'matplotlib', 'tensorflow_datasets'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "classify" in out
    assert out.strip().endswith("set()")
