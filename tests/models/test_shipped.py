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
from jaxclear.crystals.outside import reference_for
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


RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture(scope="module", params=[None, "pristine"])
def model(request):
    return models.load("crystal", variant=request.param)


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
    assert len(model.metadata["training"]["commit"]) == 40


def test_files_stay_small():
    for file in (pathlib.Path(models.__file__).parent / "data").iterdir():
        assert file.stat().st_size < 2_500_000, file


@pytest.mark.parametrize(("variant", "experiment"), [(None, "train_crystals_damaged"), ("pristine", "train_crystals")])
def test_the_results_are_those_of_these_weights(variant, experiment):
    results = json.loads((RESULTS / f"{experiment}.json").read_text())
    assert results["weights_sha256"] == models.load("crystal", variant=variant).metadata["sha256"]


def test_length_scale_and_reference_are_those_of_their_experiments():
    scale = models.load_weights(pathlib.Path(models.__file__).parent / "data" / "length_scale.safetensors")
    assert scale.metadata["sha256"] == json.loads((RESULTS / "train_length_scale.json").read_text())["weights_sha256"]
    calibration = json.loads((RESULTS / "calibrate_crystals.json").read_text())
    model = models.load("crystal")
    reference = reference_for(model.metadata["sha256"])
    assert calibration["network"] == model.metadata["sha256"]
    assert round(reference.threshold, 5) == calibration["threshold"]
    assert round(reference.temperature, 4) == calibration["temperature"]
    assert reference_for(models.load("crystal", variant="pristine").metadata["sha256"]) is None


def test_the_two_networks_differ_in_how_they_are_scaled():
    assert models.load("crystal").metadata["length_scale"] == "learned"
    assert "length_scale" not in models.load("crystal", variant="pristine").metadata


@pytest.mark.parametrize("variant", ["damaged", "pristine/../crystal"])
def test_unknown_variants(variant):
    with pytest.raises(ValueError, match="expected a network with shipped weights, got 'crystal-"):
        models.load("crystal", variant=variant)


def test_a_second_load_compiles_nothing_again(model):
    assert models.load("crystal").apply is model.apply
