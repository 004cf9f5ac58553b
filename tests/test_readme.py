"""What the README shows, runs; what it reports is what the experiment found."""

import json
import re
from pathlib import Path

import pytest
from ase.build import bulk

from jaxclear import crystals

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "results"
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


COLUMNS = (
    "network",
    "published network",
    "look-up, learned scale",
    "averaged cell",
    "spglib, best in hindsight",
    "MatID",
)
ROWS = {
    "undamaged": "pristine",
    "displaced, σ = 0.06 Å": "sigma 0.06 A",
    "σ = 0.1 of the neighbour distance": "sigma 0.1 d_nn",
    "σ = 0.15 of it": "sigma 0.15 d_nn",
    "25 % of the atoms missing": "vacancies 25 %",
    "80 % missing": "vacancies 80 %",
    "half of the atoms of other elements": "substitutions 50 %",
    "strained by 4 %": "strain 4 %",
    "a ball of 150 atoms, no cell": "ball",
    "the ball, σ = 0.1, 25 % missing": "ball, sigma 0.1 d_nn, vacancies 25 %",
}


@pytest.mark.parametrize("words", ROWS)
def test_figures_of_the_table_are_those_of_the_experiment(words):
    table = json.loads((RESULTS / "table_3_2.json").read_text())["columns"]
    found = table[ROWS[words]]["contenders"]
    shares = [f"{found[who]['outside_band']['percent']:.1f}" if who in found else "–" for who in COLUMNS]
    assert f"| {words} | {' | '.join(shares)} |" in README


TURNED = {
    "undamaged": "pristine",
    "σ = 0.06 Å, 40 % missing": "sigma 0.06 A, vacancies 40 %",
    "σ = 0.1 of the neighbour distance, 25 % missing": "sigma 0.1 d_nn, vacancies 25 %",
    "σ = 0.13 of it": "sigma 0.13 d_nn",
    "strained by 1 %": "strain 1 %, sigma 0.02 A",
    "5 % more atoms, between the sites": "interstitials 5 %, sigma 0.02 A",
}
BALLS = {
    "a ball, no cell": "pristine",
    "a ball, σ = 0.05 of the neighbour distance": "sigma 0.05 d_nn",
    "a ball, 20 % missing": "vacancies 20 %",
}


@pytest.mark.parametrize(
    ("kind", "words", "column"),
    [("supercells", *pair) for pair in TURNED.items()] + [("clusters", *pair) for pair in BALLS.items()],
)
def test_figures_of_turned_cells_are_those_of_the_experiment(kind, words, column):
    figures = json.loads((RESULTS / "recover_lattice.json").read_text())["figures"]
    found = figures[kind][column]["classify"]
    accepted = f"{figures['strangers'][column]['accepted_percent']:.1f}" if kind == "supercells" else "–"
    row = f"| {words} | {found['class_percent']:.1f} | {found['class_and_member_percent']:.1f} | {accepted} |"
    assert row in README


def test_figures_of_the_verdict_are_those_of_the_experiment():
    moderate = json.loads((RESULTS / "calibrate_crystals.json").read_text())["figures"]["moderate"]
    for figure in (
        f"{moderate['members_kept_percent']:.0f} % of the members",
        f"{moderate['strangers_accepted_percent']:.1f} % of the strangers",
        f"AUROC {moderate['auroc']['distance to neighbours']:.3f}",
    ):
        assert figure in README


MEASURED = json.loads((ROOT / "benchmarks/results/summary.json").read_text())["questions"]
SPEEDS = {
    "`mnist`, batch 8": ("mnist", 8),
    "`mnist`, batch 64": ("mnist", 64),
    "`mnist`, batch 512": ("mnist", 512),
    "`svhn`, batch 64": ("svhn", 64),
    "`crystal`, batch 8": ("crystal", 8),
    "`crystal`, batch 64": ("crystal", 64),
    "VGG-16 at 224², 16 classes, batch 1": ("vgg", 1),
    "ResNet-18 at 224², 16 classes, batch 1": ("resnet", 1),
}
CONTENDERS = ("jaxclear", "jaxclear, all devices", "obvious", "captum", "torch, one forward")


@pytest.mark.parametrize("words", SPEEDS)
def test_speeds_of_maps_are_those_of_the_benchmark(words):
    name, batch = SPEEDS[words]
    rows = {r["contender"]: r for r in MEASURED["clear"]["rows"] if (r["network"], r["batch"]) == (name, batch)}
    rates = [rows[contender]["images_s"] for contender in CONTENDERS]
    shown = [f"{rate:.0f}" if rate >= 10 else f"{rate:.2f}" for rate in rates]
    assert f"| {words} | {' | '.join(shown)} |" in README


def test_other_speeds_are_those_of_the_benchmarks():
    text = " ".join(README.split())
    alone, workers = (row["structures_s"] for row in MEASURED["classify"]["rows"])
    assert f"named at {workers:.0f} a second with two worker processes, {alone:.0f} with none" in text
    ours, captum, _ = (row["ms"] / 1e3 for row in MEASURED["all_classes_resnet"]["rows"])
    assert f"classes of ResNet-18 take {ours:.1f} s an image, Captum {captum:.1f} s" in text
    steps = {(row["network"], row["contender"]): row["steps_s"] for row in MEASURED["training"]["rows"]}
    for name in ("mnist", "crystal"):
        ours, torch = steps[name, "fit"], steps[name, "torch"]
        assert re.search(rf"\b{ours:.1f} (steps a second )?against {torch:.1f} (of PyTorch's )?\(`{name}`\)", text)
    prints = [row for row in MEASURED["fingerprint"]["rows"] if row["contender"] == "jaxclear" and row["atoms"] == 128]
    medium, long = prints[-2:]
    assert f"fingerprint of 128 atoms takes {long['ms']:.2f} ms in batches of 10,240" in text
    slower = long["times_numpy"], medium["times_obvious"]
    assert "a {:.0f}th of NumPy and, in batches of 1,024, a {:.0f}nd of the obvious JAX".format(*slower) in text
    [files] = [row for row in MEASURED["fingerprint"]["rows"] if row["contender"] == "from files"]
    assert f"from CIF files it is {files['structures_s']:.0f} structures a second" in text
    seconds = {row["what"]: row["seconds"] for row in MEASURED["first_answer"]["rows"]}
    cold, warm = seconds["jaxclear classify, cold"], seconds["jaxclear classify, warm"]
    assert f"takes {cold:.1f} s the first time and {warm:.1f} s later" in text
    assert f"`import jaxclear` adds {seconds['import jaxclear']:.2f} s" in text


def test_files_and_folders_it_names_are_there():
    for name in re.findall(r"^    ((?:jaxclear|experiments|benchmarks|tests)/[\w/]*)", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / name).is_file(), name
