"""The crystal classifier's experiment on a handful of structures: every line runs, and the second run resumes."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxclear import models
from solids import write_solids


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1]))
    return importlib.import_module("experiments.train_crystals")


@pytest.fixture
def solids(tmp_path):
    return write_solids(tmp_path / "solids", ("Cu", "Al", "Sn"))


def test_smoke(experiment, solids, tmp_path):
    config = experiment.smoke_config(str(solids))
    results = experiment.run(config, tmp_path / "work", progress=False)
    written = (tmp_path / "work" / "train_crystals.json").read_text()
    assert json.loads(written) == json.loads(json.dumps(results))
    assert (results["structures"]["training"], results["structures"]["validation"]) == (14, 7)
    assert set(results["figures"]) == {"pristine", *experiment.DAMAGE}
    for figures in results["figures"].values():
        assert np.array(figures["confusion"]).sum(1).tolist() == [1] * 7
    assert results["figures"]["pristine"]["nearest_neighbour"]["all"] > 80
    assert {"commit", "device", "versions", "seconds", "history"} <= set(results)
    assert results["training_commit"] == results["commit"]
    trained = models.load("crystal", weights=tmp_path / "work" / "crystal.safetensors")
    assert trained.metadata["sha256"] == results["weights_sha256"]
    assert trained.metadata["training"]["accuracy"] == results["figures"]["pristine"]["network"]

    again = experiment.run(config, tmp_path / "work", progress=False)
    assert again["figures"] == results["figures"]
    variables = models.load("crystal", weights=tmp_path / "work" / "crystal.safetensors").variables
    jax.tree.map(np.testing.assert_array_equal, variables, trained.variables)


def test_a_source_that_is_not_there(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        experiment.main([str(tmp_path / "none"), "--workdir", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert "train_crystals: error: expected a folder" in capsys.readouterr().err
