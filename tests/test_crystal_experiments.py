"""The experiments on damaged crystals run on a handful of structures, and what they count with is right."""

import json

import numpy as np
import pytest

from experiments import calibrate_crystals, crystal_study, table_3_2, train_crystals_damaged, train_length_scale
from jaxclear import crystals, models
from jaxclear.crystals import outside
from jaxclear.crystals.cells import cluster, nearest_neighbour_distance
from jaxclear.crystals.scale import ScaleNetwork
from jaxclear.crystals.structures import MIN_DISTANCE
from jaxclear.crystals.symmetry import CLASS_NAMES
from solids import write_solids


@pytest.fixture(scope="module")
def solids(tmp_path_factory):
    return write_solids(tmp_path_factory.mktemp("crystals") / "solids", ("Cu", "Sn", "Be"))


@pytest.fixture(scope="module")
def study(solids):
    return crystal_study.labelled(str(solids))


def written(workdir, module):
    return json.loads((workdir / module.RESULTS.name).read_text())


def test_roles_share_no_element_and_training_no_degenerate_structure(study):
    roles = crystal_study.roles(study.dataset)
    elements = [{study.dataset.elements[i] for i in part} for part in roles]
    assert elements == [{"Cu"}, {"Sn"}, {"Be"}]
    assert not study.dataset.near_degenerate[roles.training].any()


def test_every_distinct_structure_is_drawn_as_often_as_any_other(study):
    dataset = study.dataset
    rows = np.arange(len(dataset.labels))
    first = np.flatnonzero(dataset.labels == CLASS_NAMES.index("fcc"))
    # Two of the three fcc structures are said to be copies: together they count as one.
    same = dataset.duplicate_of.copy()
    same[first[1]] = first[0]
    altered = study._replace(dataset=dataset._replace(duplicate_of=same))
    drawn = crystal_study.evenly(altered, rows, dict.fromkeys(CLASS_NAMES, 3000), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=len(rows))
    assert counts[first].sum() == 3000
    np.testing.assert_allclose(counts[first] / 3000, [0.25, 0.25, 0.5], atol=0.05)


def test_a_ball_is_the_nearest_atoms_of_the_crystal(study):
    cell = study.cells[0]
    ball = crystal_study.ball(cell, 150, np.random.default_rng(3))
    assert ball.positions.shape == (150, 3)
    fractions = ball.positions @ np.linalg.inv(cell.cell)
    gaps = fractions[:, None] - cell.positions @ np.linalg.inv(cell.cell)
    assert np.abs(gaps - np.round(gaps)).sum(axis=-1).min(axis=1).max() < 1e-9, "every atom is one of the crystal"
    spread = np.linalg.norm(ball.positions - ball.positions.mean(axis=0), axis=1)
    volume = abs(np.linalg.det(cell.cell)) / len(cell.numbers) * 150
    assert spread.max() == pytest.approx((3 * volume / (4 * np.pi)) ** (1 / 3), rel=0.12)
    distances = np.linalg.norm(ball.positions[:, None] - ball.positions, axis=-1)
    assert distances[np.triu_indices(150, 1)].min() > MIN_DISTANCE


@pytest.mark.parametrize(
    ("correct", "count", "interval"),
    # R. G. Newcombe, Stat. Med. 17, 857 (1998), table I, method 3.
    [(81, 263, (25.53, 36.62)), (15, 148, (6.24, 16.05)), (0, 20, (0.0, 16.11)), (1, 29, (0.61, 17.18))],
)
def test_wilson_intervals(correct, count, interval):
    assert table_3_2.share(correct, count)["interval"] == pytest.approx(interval, abs=0.006)
    assert table_3_2.share(0, 0)["percent"] is None


def test_the_chance_that_a_stranger_scores_higher():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 8, 40), rng.integers(2, 10, 50)
    pairs = [(o > m) + 0.5 * (o == m) for m in members for o in others]
    assert calibrate_crystals.auroc(members, others) == pytest.approx(np.mean(pairs))


def test_temperature_makes_confidence_true():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 7))
    chances = outside.calibrated(logits, 1.0)
    labels = (chances.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert calibrate_crystals.calibration_error(chances, labels) < 0.01
    assert calibrate_crystals.calibration_error(outside.calibrated(3 * logits, 1.0), labels) > 0.1
    assert calibrate_crystals.fitted_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


@pytest.mark.thorough
def test_the_length_scale_trains_and_is_written(solids, tmp_path):
    results = train_length_scale.run(train_length_scale.smoke_config(str(solids)), tmp_path)
    assert written(tmp_path, train_length_scale) == json.loads(json.dumps(results))
    assert set(results["relative_error_percent"]) == set(train_length_scale.COLUMNS)
    pristine = results["relative_error_percent"]["pristine"]["mean of nearest neighbours"]
    assert pristine["median_size"] < 0.01
    found = models.load_weights(tmp_path / "length_scale.safetensors")
    assert np.isfinite(ScaleNetwork().apply(found.variables, np.zeros(61, np.float32)))


@pytest.mark.thorough
def test_the_damaged_recipe_trains_and_is_written(solids, tmp_path):
    config = train_crystals_damaged.smoke_config(str(solids))
    results = train_crystals_damaged.run(config, tmp_path, progress=False)
    assert written(tmp_path, train_crystals_damaged) == json.loads(json.dumps(results))
    assert results["examples"] == {n: round(0.0005 * c) for n, c in train_crystals_damaged.EXAMPLES.items()}
    model = models.load("crystal", weights=tmp_path / "crystal.safetensors")
    assert results["training_commit"] == results["commit"]
    assert model.metadata["length_scale"] == "learned"
    assert model.metadata["sha256"] == results["weights_sha256"]


@pytest.mark.thorough
def test_the_calibration_runs_and_its_reference_belongs_to_the_network(tmp_path):
    solids = write_solids(tmp_path / "solids", ("Cu", "Ag", "Sn", "Be"))
    results = calibrate_crystals.run(calibrate_crystals.smoke_config(str(solids)), tmp_path)
    assert written(tmp_path, calibrate_crystals) == json.loads(json.dumps(results))
    assert results["strangers"]["count"] == 4
    kept = models.load_weights(tmp_path / calibrate_crystals.PACKAGE_REFERENCE.name)
    assert kept.metadata["network"] == models.load("crystal").metadata["sha256"]
    assert kept.variables["features"].shape == (19, 128)


@pytest.mark.parametrize(
    ("name", "group", "arrangement"),
    [("rocksalt", 225, 221), ("CsCl", 221, 229), ("zincblende", 216, 227), ("L1_2", 221, 225), ("D0_3", 225, 229)],
)
def test_ordered_compounds_sit_on_the_lattices_of_classes(name, group, arrangement):
    from ase.data import covalent_radii

    found = crystal_study.ordered_compounds(np.array([11, 17, 29]), 10, seed=0)
    for crystal in (one for one in found if one.name == name):
        average = crystals.average_cell(crystal)
        assert (average.space_group, average.arrangement_group) == (group, arrangement)
        pair = np.unique(crystal.numbers)
        assert len(pair) == 2
        distance = nearest_neighbour_distance(cluster(crystal).positions)
        assert distance == pytest.approx(covalent_radii[pair].sum(), rel=1e-6)
    with pytest.raises(ValueError, match=r"expected two elements or more, got \[29\]"):
        crystal_study.ordered_compounds(np.array([29]), 1, seed=0)


@pytest.mark.thorough
def test_the_table_runs_and_keeps_its_columns(solids, tmp_path):
    config = table_3_2.smoke_config(str(solids))
    results = table_3_2.run(config, tmp_path)
    assert written(tmp_path, table_3_2) == json.loads(json.dumps(results))
    column = results["columns"]["sigma 0.02 A"]["contenders"]
    assert results["columns"]["sigma 0.02 A"]["published"]
    assert {"network", "published network", "look-up", "averaged cell", "spglib at 0.001 A"} <= set(column)
    assert column["spglib at 0.001 A"]["all"]["percent"] == 0
    assert column["averaged cell"]["all"]["count"] == 7
    assert "spglib at 0.001 A" not in results["columns"]["ball"]["contenders"]
    assert table_3_2.run(config, tmp_path)["columns"] == results["columns"]


@pytest.mark.parametrize("module", [train_length_scale, train_crystals_damaged, calibrate_crystals, table_3_2])
def test_a_source_that_is_not_there(module, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main([str(tmp_path / "none"), "--workdir", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert "error: expected a folder" in capsys.readouterr().err
