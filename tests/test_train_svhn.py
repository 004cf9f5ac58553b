"""The experiment on SVHN, on arrays of its form: every line runs, a second run resumes, results say of what."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import train_svhn
from jaxclear import models

RNG = np.random.default_rng(0)


def houses(count):
    """Images whose colour tells their class."""
    labels = RNG.integers(0, 10, count)
    shade = np.stack([28 * labels, 255 - 28 * labels, np.full(count, 90)], axis=-1)[:, None, None]
    return np.clip(shade + RNG.integers(0, 20, (count, 32, 32, 3)), 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def digits():
    return train_svhn.Digits(*houses(40), *houses(12))


@pytest.mark.thorough
def test_smoke(digits, tmp_path):
    config = train_svhn.smoke_config()
    results = train_svhn.run(config, tmp_path, digits=digits, progress=False)
    assert json.loads((tmp_path / "train_svhn.json").read_text()) == json.loads(json.dumps(results))
    assert results["data"] == "SVHN"
    assert results["images"] == {"training": 40, "test": 12}
    assert np.sum(results["test"]["confusion"]) == 12
    assert {"commit", "device", "versions", "seconds", "history"} <= set(results)
    trained = models.load("svhn", weights=tmp_path / "svhn.safetensors")
    assert trained.metadata["sha256"] == results["weights_sha256"]
    predicted = trained.apply(trained.variables, digits.test_images.astype(np.float32) / 255).mean((1, 2)).argmax(-1)
    assert 100 * np.mean(predicted == digits.test_labels) == pytest.approx(
        results["test"]["accuracy_percent"], abs=1e-3
    )

    table = json.loads((tmp_path / "table_5_3_svhn.json").read_text())
    assert (table["config"]["name"], table["config"]["fill"]) == ("svhn", 0.5)
    assert table["published"] == {"full": 92.60, "only": 69.12, "without": 54.46}
    assert table["weights_sha256"] == results["weights_sha256"]
    assert (table["training_seed"], table["images"]) == (0, {"used": 8, "of": 12})
    assert (tmp_path / "table_5_3_svhn.png").stat().st_size > 10_000

    # The same images under the other name: the finished training is taken up again, and what it is of is said.
    config = dataclasses.replace(config, source="stand-in")
    standin = train_svhn.run(config, tmp_path, digits=digits, progress=False)
    assert standin["experiment"] == "train_svhn-standin"
    assert "stand-in" in standin["data"]
    assert standin["test"] == results["test"]
    again = models.load("svhn", weights=tmp_path / "svhn.safetensors")
    assert "stand-in" in again.metadata["training"]["training"]
    jax.tree.map(np.testing.assert_array_equal, again.variables, trained.variables)
    assert {file.stem for file in tmp_path.glob("*.json")} == {
        "train_svhn",
        "train_svhn-standin",
        "table_5_3_svhn",
        "table_5_3_svhn-standin",
    }
    table = json.loads((tmp_path / "table_5_3_svhn-standin.json").read_text())
    assert table["published"] is None
    assert "stand-in" in table["data"]


def test_data_that_are_not_there(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    folders = ["--data-dir", str(tmp_path / "tfds"), "--manual-dir", str(tmp_path / "empty")]
    with pytest.raises(SystemExit) as ended:
        train_svhn.main([*folders, "--workdir", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("train_svhn: error: expected")
    with pytest.raises(ValueError, match="expected source 'svhn' or 'stand-in', got 'mnist'"):
        train_svhn.Config(source="mnist")
