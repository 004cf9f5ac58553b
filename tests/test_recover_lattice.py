"""The experiment on finding lattices again, on a handful of structures: every line runs."""

import importlib
import json
import pathlib

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from experiments.records import wilson
from jaxclear.crystals import Crystal


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1]))
    return importlib.import_module("experiments.recover_lattice")


@pytest.mark.thorough
def test_smoke(experiment, tmp_path):
    for kind in ("fcc", "bcc"):
        ase.io.write(tmp_path / f"Cu-{kind}.vasp", bulk("Cu", kind, a=3.6))
    results = experiment.run(experiment.smoke_config(str(tmp_path)), tmp_path / "work", progress=False)
    written = (tmp_path / "work" / "recover_lattice.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(results))
    assert set(results["figures"]["supercells"]) == set(experiment.CELLS)
    assert set(results["figures"]["clusters"]) == set(experiment.BALLS)
    assert results["figures"]["supercells"]["pristine"]["percent"] == 100
    assert {"commit", "device", "versions", "seconds"} <= set(results)


def test_a_source_that_is_not_there(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        experiment.main([str(tmp_path / "none"), "--workdir", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert "recover_lattice: error: expected a folder" in capsys.readouterr().err


def test_wilson():
    # R. G. Newcombe, Stat. Med. 17, 857 (1998), table I, method 3.
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=1e-4)
    np.testing.assert_allclose(wilson(0, 20), (0.0, 0.1611), atol=1e-4)


def test_supercell(experiment):
    from jaxclear.crystals import read, space_group

    cell = experiment.primitive(read(bulk("Si", cubic=True))[0])
    assert len(cell.numbers) == 2
    made = experiment.supercell(cell, np.array([[2, 1, 0], [-1, 3, 1], [0, 1, 4]]))
    assert len(made.numbers) == 2 * 26
    assert space_group(made) == 227
    with pytest.raises(ValueError, match="expected a matrix"):
        experiment.supercell(cell, np.zeros((3, 3), int))


@pytest.mark.parametrize("count", [1, 30, 45, 55, 59, 128, 190, 300])
def test_supercells_of_cells_of_any_size(experiment, count):
    crystal = Crystal(
        np.diag([7.0, 8.0, 9.0]),
        np.zeros((count, 3)),
        np.full(count, 29, np.int32),
        np.ones(count),
        np.ones(3, bool),
        "cell",
    )
    for seed in range(10):
        made = len(experiment.random_supercell(crystal, (60, 400), np.random.default_rng(seed)).numbers)
        assert made == count if count > 200 else 60 <= made <= 400
