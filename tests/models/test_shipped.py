"""The weights in the package: what they are, and that they classify crystals that everybody knows."""

import json
import pathlib

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal

from jaxclear import models
from jaxclear.crystals import fingerprint
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.training import predict

KNOWN = {
    "Al": (bulk("Al", "fcc", a=4.05), "fcc"),
    "Fe": (bulk("Fe", "bcc", a=2.87), "bcc"),
    "Si": (bulk("Si", "diamond", a=5.43), "diamond"),
    "Mg": (bulk("Mg", "hcp", a=3.21, c=5.21), "hex/rh"),
    "Po": (bulk("Po", "sc", a=3.35), "sc"),
    "Sn": (crystal("Sn", [(0, 0, 0)], spacegroup=141, cellpar=[5.83, 5.83, 3.18, 90, 90, 90]), "bct141"),
    "In": (crystal("In", [(0, 0, 0)], spacegroup=139, cellpar=[3.25, 3.25, 4.95, 90, 90, 90]), "bct139"),
}


@pytest.fixture(scope="module")
def model():
    return models.load("crystal")


def test_it_classifies_textbook_crystals(model):
    images = fingerprint([atoms for atoms, _ in KNOWN.values()])
    probabilities = predict(model.apply, model.variables, images)
    found = {symbol: model.class_names[k] for symbol, k in zip(KNOWN, probabilities.argmax(1), strict=True)}
    assert found == {symbol: label for symbol, (_, label) in KNOWN.items()}


def test_it_says_what_it_is(model):
    assert model.class_names == CLASS_NAMES
    assert model.input_shape == (64, 64, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {np.dtype(np.float32)}
    assert len(model.metadata["sha256"]) == 64
    assert model.metadata["training"]["accuracy"]["outside_band"] >= 99.5
    assert len(model.metadata["training"]["commit"]) == 40
    file = pathlib.Path(models.__file__).parent / "data" / "crystal.safetensors"
    assert file.stat().st_size < 2_000_000


def test_the_results_are_those_of_these_weights(model):
    path = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "train_crystals.json"
    results = json.loads(path.read_text())
    assert results["weights_sha256"] == model.metadata["sha256"]
    assert results["figures"]["pristine"]["network"] == model.metadata["training"]["accuracy"]


def test_a_second_load_compiles_nothing_again(model):
    assert models.load("crystal").apply is model.apply
