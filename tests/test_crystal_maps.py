"""Unit responses, class templates and named peaks on two crystals: every line runs, and the pictures are legible."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from experiments.networks import networks_of
from jaxclear.commands.demo import elements
from jaxclear.crystals import explain_clusters, explain_peaks
from tests.test_plot import assert_legible, words_of


@pytest.fixture
def maps(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1]))
    return importlib.import_module("experiments.crystal_maps")


@pytest.mark.thorough
def test_maps_smoke(maps, tmp_path):
    networks = dict(list(networks_of([]).items())[:1])
    results = maps.run(maps.SMOKE, networks, tmp_path, progress=False)
    assert json.loads((tmp_path / "crystal_maps.json").read_text()) == json.loads(json.dumps(results))
    (found,) = results["networks"].values()
    assert set(found["crystals"]) == {"Cu", "Fe"}
    assert found["crystals"]["Fe"]["families"][0]["hkl"] == "{110}"
    for entry in found["crystals"].values():
        assert entry["named"] == entry["class"]
        for layer in entry["units"].values():
            assert np.all(np.diff(layer["activations"]) <= 0)
            np.testing.assert_allclose(np.sum(layer["share_of_response_by_channel"], axis=1), 1, atol=0.01)
    pictures = {file.name for file in tmp_path.glob("*.png")}
    assert {name.rpartition("-")[2] for name in pictures} >= {"fcc.png", "bcc.png", "templates.png", "peaks.png"}


def test_pictures_are_legible(maps):
    samples = [sample for sample in elements() if sample.name in ("Cu", "Mg")]
    found = explain_clusters([sample.cluster for sample in samples])
    model = networks_of([])["pristine"]
    layers = [maps._layer_responses(maps.SMOKE, model, found.fingerprint, layer) for layer in maps.SMOKE.layers]
    units = maps.units_figure(samples[0], found.fingerprint[0], layers, 0, network="pristine")
    assert_legible(units)
    assert {"convolution 1", "convolution 6"} <= set(words_of(units))
    assert_legible(maps.templates_figure(samples, found.fingerprint, found.fingerprint, "pristine"))
    tables = [explain_peaks(found, row) for row in range(2)]
    gallery = maps.peaks_gallery(samples, found, tables, "pristine")
    assert_legible(gallery)
    assert "111" in words_of(gallery)


def test_weights_that_are_not_there(maps, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        maps.main(["--weights", str(tmp_path / "none"), "--workdir", str(tmp_path)])
    assert ended.value.code == 2
    assert "crystal_maps: error: expected a weights file" in capsys.readouterr().err
