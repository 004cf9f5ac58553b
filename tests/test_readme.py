"""What the README shows, runs; what it reports is what the experiment found."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    exec(compile(BLOCKS[number], f"example{number}.py", "exec"), names)
    printed = capsys.readouterr().out
    if "clear" in names:
        assert names["rgb"].shape == (4, 28, 28, 3)
        assert re.findall(r"(replaced: \d+|gradient: \d+)", printed) == ["replaced: 2", "gradient: 0"]
        assert "replaced: 2" in README
    else:
        assert printed.strip() in README
        assert (tmp_path / "iron.png").exists()


def test_there_is_an_example_for_models_and_one_for_crystals():
    assert len(BLOCKS) == 2


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
