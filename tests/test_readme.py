"""What the README shows, runs; what it reports is what the experiment found."""

import json
import re
from pathlib import Path

import pytest
from ase.build import bulk

from jaxclear import crystals

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def ran(number, capsys):
    names = {"__name__": "example"}
    exec(compile(BLOCKS[number], f"example{number}.py", "exec"), names)
    return names, capsys.readouterr().out


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_model_of_your_own(capsys):
    names, printed = ran(0, capsys)
    assert names["rgb"].shape == (4, 28, 28, 3)
    assert re.findall(r"(replaced: \d+|gradient: \d+)", printed) == ["replaced: 2", "gradient: 0"]
    assert "replaced: 2" in README


def test_crystals_are_explained(capsys, tmp_path):
    _, printed = ran(1, capsys)
    assert printed.strip() in README
    assert (tmp_path / "iron.png").exists()


def test_a_folder_of_cif_files_becomes_a_table_and_pictures(capsys, tmp_path):
    folder = tmp_path / "structures"
    folder.mkdir()
    bulk("Fe").write(folder / "a-iron.cif")
    damaged = crystals.displacements(crystals.vacancies(bulk("Cu", cubic=True) * (3, 3, 3), 0.2, seed=0), 0.06, seed=1)
    damaged.rotate(40, (1, 2, 3), rotate_cell=True)
    damaged.write(folder / "b-copper.cif")
    crystals.to_ase(crystals.amorphous("Zr")).write(folder / "c-glass.cif")
    _, printed = ran(2, capsys)
    lines = printed.splitlines()
    assert re.search(r"a-iron.cif\s+bcc", lines[0])
    assert "space group 229, 100% of the sites" in lines[1]
    assert re.search(r"b-copper.cif\s+fcc", lines[2])
    assert "space group 225, 80% of the sites" in lines[3]
    assert re.search(r"c-glass.cif\s+no lattice", lines[4])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["0.png", "1.png", "2.png"]


def test_every_example_is_tested():
    assert len(BLOCKS) == 3


def test_figures_are_those_of_the_experiment():
    figures = json.loads((ROOT / "experiments" / "results" / "train_crystals.json").read_text())["figures"]
    rows = {
        "pristine": "pristine",
        "Gaussian displacements of 0.06 Å": "sigma 0.06 A",
        "25 % of the atoms missing": "vacancies 25 %",
    }
    for words, key in rows.items():
        found = figures[key]["network"]
        assert f"| {words} | {found['all']:.2f} % | {found['outside_band']:.2f} % |" in README


def test_files_and_folders_it_names_are_there():
    for name in re.findall(r"^    ((?:jaxclear|experiments|benchmarks|tests)/[\w/]*)", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).is_file(), name
