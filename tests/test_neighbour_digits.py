"""Shares of a response on known digits: maps whose answer is known, and every line of the experiment."""

import json

import jax
import numpy as np
import pytest

import jaxclear
from experiments import ccexam_network, neighbour_digits
from experiments.neighbour_digits import REGIONS, ROLES, SEEDS, Config
from foreign_digits import sibling_state, write_state

PHOTOGRAPHS = (np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8),)
CONFIG = Config(images=8, resamples=100, rules=("guided", "linear"), batch_size=4)


@pytest.fixture(scope="module")
def found():
    return neighbour_digits.scenes(CONFIG, photographs=PHOTOGRAPHS)


@pytest.fixture
def sibling(tmp_path, monkeypatch):
    return ccexam_network.load(write_state(tmp_path / "sibling.pth", sibling_state(), monkeypatch))


def test_scenes_are_partitions_with_three_classes(found):
    assert (found.masks.sum(axis=1) == 1).all()
    assert found.masks[:, 1].sum(axis=(1, 2)).min() >= CONFIG.smallest
    assert all(len(set(row)) == 3 for row in found.classes.tolist())


def test_maps_that_mark_their_own_digits(found):
    maps = np.full((8, 10, 32, 32), -1.0)
    rows = np.arange(8)
    for place in (0, 1):
        maps[rows, found.classes[:, place]] = np.where(found.masks[:, place], 2.0, -1.0)
    result = neighbour_digits.measured(CONFIG, maps, found)
    for role, other in (("middle", "beside"), ("beside", "middle")):
        assert {region: value["mean"] for region, value in result["share"][role].items()} == {
            region: float(region == role) for region in REGIONS
        }
        assert result["gained"][f"{role}: own class - {other} class"]["mean"] == 1
        clear = result["clear"][role]
        assert (clear["inside"]["mean"], clear["outside"]["mean"]) == (1, 0)
    assert result["share"]["absent"]["middle"] == {"mean": None, "interval_95": None, "images": 0}


def test_maps_that_know_nothing(found):
    result = neighbour_digits.measured(CONFIG, np.ones((8, 10, 32, 32)), found)
    for place, region in enumerate(REGIONS):
        area = found.masks[:, place].mean()
        for role in ROLES:
            assert result["share"][role][region]["mean"] == pytest.approx(area, abs=1e-5)
            low, high = result["share"][role][region]["interval_95"]
            assert low <= area <= high
    for digit in ("middle", "beside"):
        assert result["gained"][f"{digit}: own class - absent class"]["mean"] == 0


def test_seeds(sibling, found):
    images = found.images[:3].astype(np.float32) / 255
    logits = np.asarray(sibling.apply(sibling.variables, images))
    maps = {
        seeds: neighbour_digits.responses(sibling, found.images[:3], rule="guided", seeds=seeds, batch_size=3)
        for seeds in SEEDS
    }
    # The method's own maps are those that CLEAR compares, and a response grows with its seed.
    clear = jaxclear.clear_map(sibling.apply, rule="guided")(sibling.variables, images)
    np.testing.assert_allclose(maps["own"].max(axis=1), clear.dominant_response, rtol=1e-4, atol=1e-6)
    positive, one = logits > 0, maps["one"] / neighbour_digits._LIFT
    assert positive.any()
    assert not positive.all()
    expected = np.where(positive, logits, 0)[..., None, None] * one
    np.testing.assert_allclose(maps["own"], expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    probabilities = jax.nn.softmax(neighbour_digits.lifted(sibling.apply)(sibling.variables, images))
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), atol=0.01)


@pytest.mark.thorough
def test_smoke(sibling, tmp_path):
    config = neighbour_digits.smoke_config()
    networks = {"sibling": sibling}
    results = neighbour_digits.run(config, tmp_path, networks, photographs=PHOTOGRAPHS, progress=False)
    assert json.loads((tmp_path / "neighbour_digits.json").read_text()) == json.loads(json.dumps(results))
    assert "stand-in" in results["data"]
    assert sum(value["mean"] for value in results["area_share"].values()) == pytest.approx(1, abs=1e-4)
    for seeds in ("own", "one"):
        for rule in config.rules:
            for share in results["figures"]["sibling"][seeds][rule]["share"].values():
                if share["middle"]["images"]:
                    assert sum(value["mean"] for value in share.values()) == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "neighbour_digits-sibling.png").stat().st_size > 10_000
    assert {"commit", "device", "versions", "seconds"} <= set(results)


def test_weights_that_are_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ccexam_network, "load", lambda: None)
    with pytest.raises(SystemExit) as ended:
        neighbour_digits.main(["--weights", str(tmp_path / "none.safetensors"), "--workdir", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("neighbour_digits: error: expected a weights file")
    with pytest.raises(SystemExit):
        neighbour_digits.main(["--images", "0"])
    assert capsys.readouterr().err == "neighbour_digits: error: expected images >= 1, got 0\n"
