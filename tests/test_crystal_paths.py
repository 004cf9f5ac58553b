"""The paths between crystal classes on a few structures: every line runs, and the paths are what they say they are."""

import importlib
import json
import pathlib

import numpy as np
import pytest

from experiments.networks import networks_of
from jaxclear.crystals.symmetry import CLASS_NAMES, near_degenerate, space_group
from tests.test_plot import assert_legible, words_of


@pytest.fixture
def paths(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1]))
    return importlib.import_module("experiments.crystal_paths")


@pytest.mark.thorough
def test_paths_smoke(paths, tmp_path):
    results = paths.run(paths.SMOKE, networks_of([]), tmp_path, progress=False)
    assert json.loads((tmp_path / "crystal_paths.json").read_text()) == json.loads(json.dumps(results))
    for name, found in results["networks"].items():
        assert (tmp_path / f"crystal_paths-{name}.png").stat().st_size > 10_000
        removal = found["paths"]["bcc to sc"]
        assert removal["fraction"] == [0, 0.5, 1]
        for scale in ("measured", "pristine"):
            assert np.shape(removal[scale]["mean"]) == (3, 7)
            np.testing.assert_allclose(np.sum(removal[scale]["named"], axis=1), 1)
        for path in ("rhombohedral", "bain"):
            answer = found["paths"][path]["standard 0.01 Å"]
            for special, window in answer["windows"].items():
                assert window["named_exactly_there"] == special
            runs = answer["runs"]
            assert (runs[0]["from"], runs[-1]["to"]) == pytest.approx(
                (found["paths"][path]["c/a"][0], found["paths"][path]["c/a"][-1])
            )
    assert {"commit", "device", "versions", "seconds", "config"} <= set(results)


def test_paths_have_their_group_and_their_special_points(paths):
    groups = {"bcc": 229, "sc": 221, "fcc": 225}
    for path, group in zip(paths.PATHS, (166, 139), strict=True):
        assert space_group(path.cell(1.7 if group == 139 else 2.0, 29)) == group
        for special, ratio in path.special.items():
            cell = path.cell(ratio, 29)
            assert space_group(cell, symprec=1e-5) == groups[special]
            assert abs(np.linalg.det(cell.cell)) == pytest.approx(paths.VOLUME * len(cell.numbers))
            assert near_degenerate(path.cell(ratio * 1.01, 29))


def test_windows_and_crossings_are_read_off_the_curve(paths):
    ratios = np.array([0.5, 0.9, 1.0, 1.2, 2.0])
    mean = np.eye(7)[[2, 6, 6, 6, 4]]
    window = paths._window(ratios, mean, "bcc", 1.0)
    assert window["relative_width"] == {"below": 0.1, "above": 0.2}
    runs = paths._runs(ratios, mean.argmax(axis=1))
    assert [(run["class"], run["from"], run["to"]) for run in runs] == [
        ("hex/rh", 0.5, 0.5), ("bcc", 0.9, 1.2), ("fcc", 2.0, 2.0),
    ]  # fmt: skip
    probabilities = np.zeros((3, 2, 7))
    probabilities[:, :, CLASS_NAMES.index("bcc")] = [[1.0], [0.75], [0.0]]
    probabilities[:, :, CLASS_NAMES.index("sc")] = [[0.0], [0.25], [1.0]]
    found = paths._crossings(np.array([0.0, 0.5, 1.0]), probabilities)
    assert found == {"bcc_above_half_until": pytest.approx(0.667), "sc_above_half_from": pytest.approx(0.667)}


def test_weights_that_are_not_there(paths, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        paths.main(["--weights", str(tmp_path / "none"), "--workdir", str(tmp_path)])
    assert ended.value.code == 2
    assert "crystal_paths: error: expected a weights file" in capsys.readouterr().err


def test_a_network_that_is_there_twice_is_taken_once(paths):
    file = pathlib.Path(paths.models.__file__).parent / "data" / "crystal-pristine.safetensors"
    assert list(networks_of([file])) == list(networks_of([]))


def test_pictures_are_legible(paths):
    (name, model), *_ = networks_of([]).items()
    config = paths.SMOKE
    found = {"bcc to sc": paths._removal_path(config, model)}
    found |= {path.name: paths._axial_path(config, path, model) for path in paths.PATHS}
    figure = paths.paths_figure(name, found)
    assert_legible(figure)
    assert {"bcc", "fcc", "c/a of the hexagonal cell"} <= set(words_of(figure))
