"""The command line: what it prints, and one line and an exit code for every mistake."""

import argparse
import json
import os
import subprocess
import sys
import textwrap

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from PIL import Image

from jaxclear import cli, crystals, models
from jaxclear.commands import classify, demo, terminal
from networks import noise

NETWORK = """
    import jax.numpy as jnp
    from jax import lax

    def apply(variables, images):
        maps = lax.conv(images.transpose(0, 3, 1, 2), variables["params"]["kernel"], (1, 1), "SAME")
        return jnp.maximum(maps, 0).transpose(0, 2, 3, 1)

    def bare(variables, images):
        return jnp.tanh(images).mean((1, 2))

    def failing(variables, images):
        return variables["nothing"]

    def pair(variables, images):
        return images.mean((1, 2)), images

    def undefined(variables, images):
        return images.mean((1, 2)) * jnp.nan

    def many(variables, images):
        return images.mean((1, 2)) @ jnp.ones((3, 30))

    number = 3
"""


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def fails(capsys, *arguments):
    """Runs what must be refused; returns the one line that says why."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert not out
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("jaxclear: error: ")
    return lines[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files(here):
    for name, atoms in {"Cu": bulk("Cu"), "Fe": bulk("Fe"), "Si": bulk("Si")}.items():
        atoms.write(here / f"{name}.cif")
    ase.io.write(here / "frames.xyz", [bulk("Al", cubic=True), bulk("W", cubic=True)])
    molecule("H2O").write(here / "water.xyz")
    (here / "broken.cif").write_text("data_x\n_cell_length_a 3.0\n")
    (here / "latin.cif").write_bytes(b"data_\xff\xfe\n")
    (here / "folder").mkdir()
    return here


@pytest.fixture
def images(here, monkeypatch):
    y, x = np.mgrid[:24, :32]
    spot = np.exp(-((x - 10) ** 2 + (y - 12) ** 2) / 30)
    rgb = np.stack([spot, spot[:, ::-1], 0.2 + 0 * spot], axis=-1)
    Image.fromarray((255 * rgb).astype(np.uint8)).save(here / "spots.png")
    Image.fromarray((65535 * spot).astype(np.uint16)).save(here / "deep.png")
    undefined = spot.astype(np.float32)
    Image.fromarray(undefined + 1).save(here / "outside.tif")
    undefined[2, 3] = np.nan
    Image.fromarray(undefined).save(here / "nan.tif")
    (here / "cut.png").write_bytes((here / "spots.png").read_bytes()[:90])
    (here / "text.png").write_text("no image")
    (here / "net_of_hers.py").write_text(textwrap.dedent(NETWORK))
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "net_of_hers", raising=False)
    kernel = noise(4, 3, 3, 3)
    models.save_weights(here / "hers.safetensors", {"params": {"kernel": kernel}})
    return here


def test_classify_prints_a_table_and_draws(capsys, files):
    code, out, err = run(capsys, "classify", "Cu.cif", "frames.xyz")
    assert (code, err) == (0, "")
    rows = out.splitlines()
    assert [row.split()[1] for row in rows[1:4]] == ["fcc", "fcc", "bcc"]
    assert "Fm-3m (225) = fcc" in rows[1]
    assert "pictures: jaxclear-classify" in out
    pictures = sorted((files / "jaxclear-classify").iterdir())
    assert [picture.name for picture in pictures] == [
        "0001-Cu.cif.png",
        "0002-frames.xyz@0.png",
        "0003-frames.xyz@1.png",
    ]
    for picture in pictures:
        with Image.open(picture) as drawn:
            assert drawn.size[0] > 800


def test_classify_as_json_is_one_document_and_reports_bad_files(capsys, files):
    names = ["Cu.cif", "broken.cif", "Fe.cif", "latin.cif", "folder", "missing.cif", "water.xyz", "Si.cif"]
    code, out, err = run(capsys, "classify", "--json", *names)
    assert code == 1
    found = json.loads(out)
    assert [row["class"] for row in found["structures"]] == ["fcc", "bcc", "diamond"]
    assert [row["spglib"]["number"] for row in found["structures"]] == [225, 229, 227]
    assert [row["file"] for row in found["failed"]] == ["broken.cif", "latin.cif", "folder", "missing.cif", "water.xyz"]
    assert found["jaxclear"] == cli.__version__
    assert len(found["weights"]["sha256"]) == 64
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in found["structures"])
    assert len(err.splitlines()) == 5
    assert all(line.startswith("jaxclear: error: ") for line in err.splitlines())
    assert not (files / "jaxclear-classify").exists()


def test_classify_with_processes_gives_the_same_and_skips_what_cannot_be_used(capsys, files, monkeypatch):
    monkeypatch.setattr(classify, "_CHUNK", 2)
    names = ["Cu.cif", "frames.xyz", "nowhere.cif"]
    documents = []
    for options in ((), ("--workers", "2")):
        code, out, _ = run(capsys, "classify", "--json", *names, *options)
        assert code == 1
        documents.append(json.loads(out))
        documents[-1].pop("seconds")
    assert documents[0] == documents[1]
    assert len(documents[0]["structures"]) > 2


def test_classify_finds_the_lattice_or_says_that_there_is_none(capsys, files):
    damaged = crystals.displacements(crystals.vacancies(bulk("Cu", cubic=True) * (3, 3, 3), 0.2, seed=0), 0.06, seed=1)
    damaged.rotate(33, (3, 1, 2), rotate_cell=True)
    damaged.write(files / "damaged.vasp")
    crystals.to_ase(crystals.amorphous("Zr")).write(files / "glass.vasp")
    bulk("NaCl", "rocksalt", a=5.64).write(files / "salt.vasp")
    code, out, _ = run(capsys, "classify", "damaged.vasp", "glass.vasp", "salt.vasp", "--no-pictures")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert (rows[0][1], rows[0][-1]) == ("fcc", "recovered")
    assert rows[1][1:3] == ["no", "lattice"]
    assert "[1] no lattice was found" in out
    assert "[2] a compound" in out
    assert not (files / "jaxclear-classify").exists()
    code, out, _ = run(capsys, "classify", "damaged.vasp", "--json", "--xyz", "answers.xyz")
    atoms = ase.io.read(files / "answers.xyz")
    assert (atoms.info["crystal_class"], atoms.info["space_group"]) == ("fcc", 225)
    assert np.linalg.norm(atoms.arrays["displacement"], axis=1).mean() == pytest.approx(0.06 * 1.6, rel=0.2)
    average = json.loads(out)["structures"][0]["average_cell"]
    assert (average["space_group"], average["copies"]) == (225, 108)
    rotation = np.array(average["rotation"])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert set(json.loads(out)["seconds"]) == {"orientation", "network", "spglib", "total"}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("missing.cif", "no such file"),
        ("broken.cif", "broken.cif"),
        ("folder", "got a folder"),
        ("water.xyz", "give the lattice vectors"),
        ("latin.cif", "latin.cif"),
    ],
)
def test_no_usable_structure(capsys, files, file, words):
    assert words in fails(capsys, "classify", file)


def test_the_annotated_file_needs_a_folder(capsys, files):
    assert "make the folder first" in fails(capsys, "classify", "Cu.cif", "--xyz", "nowhere/answers.xyz")


def test_results_need_a_folder(capsys, files):
    message = fails(capsys, "classify", "Cu.cif", "--out", "Fe.cif")
    assert "expected a folder for the results, got 'Fe.cif'" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("nothing",), "nothing"),
        (("classify",), "FILE"),
        (("classify", "Cu.cif", "--rule", "none"), "guided"),
        (("explain", "spots.png"), "--model"),
        (("explain", "--model", "crystal"), "IMAGE"),
        (("demo", "--unknown"), "--unknown"),
    ],
)
def test_mistakes_in_the_call(capsys, arguments, words):
    assert words in fails(capsys, *arguments)


def test_explain_for_a_function_of_her_own(capsys, images):
    call = ("--model", "net_of_hers:apply", "--weights", "hers.safetensors", "--classes", "a,b,c,d")
    code, out, err = run(capsys, "explain", *call, "spots.png", "deep.png")
    assert (code, err) == (0, "")
    assert "replaced: 1" in out
    assert "net_of_hers.py" in out
    assert out.count("rule 'deconvnet'") == 1
    assert "spots.png: " in out
    assert sorted(os.listdir("jaxclear-explain")) == ["0001-spots.png", "0002-deep.png"]


def test_explain_for_the_shipped_network_finishes_the_good_images(capsys, images):
    code, out, err = run(capsys, "explain", "--model", "crystal", "cut.png", "spots.png", "nan.tif")
    assert code == 1
    assert "crystal: images are turned to RGB and resized to 64 x 64 pixels" in out
    assert "rule 'guided'" in out
    assert "cut.png" in err.splitlines()[0]
    assert "NaN" in err.splitlines()[1]


def test_explain_compares_the_strongest_of_many_classes(capsys, images):
    code, out, _ = run(capsys, "explain", "--model", "net_of_hers:many", "spots.png")
    assert code == 0
    assert "spots.png: 0 0.0333" in out


def test_coverage_lists_what_keeps_its_gradient(capsys, images):
    code, out, err = run(capsys, "explain", "--model", "net_of_hers:bare", "spots.png")
    assert (code, err) == (0, "")
    assert "tanh" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "unknown", "spots.png"), "one of mnist, svhn, crystal"),
        (("--model", "svhn", "spots.png"), "with shipped weights"),
        (("--model", "no_such_module:apply", "spots.png"), "No module named 'no_such_module'"),
        (("--model", "net_of_hers:other", "spots.png"), "it has no 'other'"),
        (("--model", "net_of_hers:number", "spots.png"), "expected a function"),
        (("--model", "net_of_hers:failing", "spots.png"), "KeyError"),
        (("--model", "net_of_hers:pair", "spots.png"), "class maps"),
        (("--model", "mnist", "--weights", "hers.safetensors", "spots.png"), "weights of the given network"),
        (("--model", "mnist", "--weights", "none.safetensors", "spots.png"), "expected a weights file"),
        (("--model", "net_of_hers:apply", "--weights", "text.png", "spots.png"), "safetensors"),
    ],
)
def test_models_that_cannot_be_explained(capsys, images, arguments, words):
    assert words in fails(capsys, "explain", *arguments)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("text.png", "expected an image"),
        ("cut.png", "expected an image"),
        ("missing.png", "no such file"),
        (".", "got a folder"),
    ],
)
def test_files_that_are_no_images(capsys, images, file, words):
    code, _, err = run(capsys, "explain", "--model", "net_of_hers:bare", file)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "net_of_hers:undefined", "spots.png"), "finite class scores"),
        (("--model", "net_of_hers:bare", "--classes", "a,b", "spots.png"), "expected 3 names"),
        (("--model", "net_of_hers:bare", "outside.tif"), "[0, 1]"),
        (("--model", "net_of_hers:bare", "nan.tif"), "NaN"),
    ],
)
def test_values_that_cannot_be_explained(capsys, images, arguments, words):
    code, _, err = run(capsys, "explain", *arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err


def test_demo_on_few_crystals(capsys, here, monkeypatch):
    everything = demo.elements()
    assert len(everything) == 62
    few = [sample for sample in everything if sample.name in ("Cu", "Fe", "Hg")]
    monkeypatch.setattr(demo, "elements", lambda: few)
    monkeypatch.setattr(demo, "DAMAGE", {k: v for k, v in demo.DAMAGE.items() if k.startswith("25 %")})
    monkeypatch.setattr(demo, "SHOWN", ("Cu",))
    code, out, _ = run(capsys, "demo", "--out", "shown")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("25 %"))
    assert row.split()[-8:] == ["66.7", "%", "0.0", "%", "0.0", "%", "0.0", "%"]
    assert "Hg (bct139) as bcc" in out
    assert sorted(os.listdir("shown")) == ["Cu-damaged.png", "Cu-pristine.png", "gallery.png"]


def test_every_class_is_in_the_picture_of_the_demo():
    labels = {sample.name: sample.label for sample in demo.elements()}
    assert [labels[name] for name in demo.SHOWN] == list(range(7))


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from jaxclear import cli\n"
        "for words in (['--help'], ['classify', '--help'], ['--version']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit as stopped: assert stopped.code == 0\n"
        "print({'ase', 'pymatgen', 'matplotlib', 'tensorflow_datasets', 'flax', 'spglib', 'PIL'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "classify" in out
    assert f"jaxclear {cli.__version__}" in out
    assert out.strip().endswith("set()")


def test_an_interrupt_ends_quietly(capsys, monkeypatch):
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(classify, "run", interrupted)
    code, out, err = run(capsys, "classify", "Cu.cif")
    assert (code, out, err.strip()) == (130, "", "")


def test_progress_is_for_terminals_only(capsys, monkeypatch):
    terminal.Progress().show("nobody sees this", force=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = terminal.Progress()
    progress.show("1/2", force=True)
    progress.clear()
    assert "1/2" in capsys.readouterr().err
