"""`jaxclear map`: what it prints and writes, and one line and an exit code for every mistake."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from PIL import Image

from jaxclear import cli


@pytest.fixture
def frames(tmp_path):
    atoms = bulk("Cu", cubic=True) * (5, 5, 4)
    atoms.rattle(0.03, seed=1)
    iron = bulk("Fe", cubic=True) * (6, 6, 5)
    iron.set_array("grain", np.arange(len(iron)) % 7)
    iron.info["temperature"] = 300.5
    ase.io.write(tmp_path / "frames.xyz", [atoms, iron])
    return tmp_path / "frames.xyz"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["map", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_a_frame_is_mapped(frames, capsys, tmp_path):
    code, out, err = run(capsys, frames, "--frame", -1, "--stride", 4, "--out", tmp_path / "out", "--slice", "y")
    assert (code, err) == (0, "")
    assert "360 atoms" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("bcc")]
    assert row[2:5] == ["360", "100.0", "%"]
    mapped = ase.io.read(tmp_path / "out" / "frames-classes.xyz")
    assert np.all(mapped.arrays["crystal_class"] == 6)
    np.testing.assert_array_equal(mapped.arrays["grain"], np.arange(360) % 7)
    assert mapped.info["temperature"] == 300.5
    with Image.open(tmp_path / "out" / "frames-slice.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected one structure, got 2; choose one frame"),
        (("--frame", 7), "expected a frame that is there, got 7"),
        (("--frame", 0, "--stride", -1), "expected stride above 0"),
        (("--frame", 0, "--size", 3, "--unit", "A"), "at least 64 atoms"),
        (("--frame", 0, "--shape", "ball"), "invalid choice"),
    ],
)
def test_mistakes_are_one_line(frames, capsys, tmp_path, arguments, words):
    code, out, err = run(capsys, frames, *arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("jaxclear: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()
