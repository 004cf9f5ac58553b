"""What the studies on photographs and radiographs share, and the retinopathy study end to end in small."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import trees
from experiments import anatomy, lung, mapping, medical, records, retinopathy, train_mnist, train_svhn
from jaxclear.dataset.sources import Failure
from networks import initial


def test_maps_in_batches_are_those_of_each_image():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 2)).astype(np.uint8)
    labels = np.arange(7, dtype=np.int32)
    function = lambda scale, batch, rows: {"sum": scale * batch.sum((1, 2)), "label": rows * 2}
    found = mapping.mapped(function, 3.0, images, labels, batch_size=3)
    np.testing.assert_allclose(found["sum"], 3 * (images / 255).sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found["label"], labels * 2)


def test_controls_have_the_masks_area():
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(9, 9)) < 0.3
    for control in (medical.moved, medical.turned):
        others = [control(mask, rng) for _ in range(12)]
        assert {other.sum() for other in others} == {mask.sum()}
        assert not any(np.array_equal(other, mask) for other in others)
        assert len({other.tobytes() for other in others}) > 3


def test_a_map_that_knows_nothing_scores_as_its_control():
    masks = np.zeros((5, 12, 12), bool)
    masks[:4, 2:5, 3:7] = True  # and one without truth, which does not count
    scores = medical.truth_scores(np.ones((5, 12, 12)), masks, medical.moved)
    share = round(100 * 12 / 144, 2)
    assert (scores["images"], scores["share_percent"], scores["area_percent"]) == (4, share, share)
    assert scores["control_share_percent"] == share
    knowing = medical.truth_scores(np.where(masks, 1.0, 0.0) + 1e-9, masks, medical.moved)
    assert knowing["share_percent"] == knowing["hit_percent"] == 100
    assert knowing["control_share_percent"] < 50
    assert medical.truth_scores(np.ones((1, 3, 3)), np.zeros((1, 3, 3), bool), medical.moved) == {"images": 0}


def test_mirrored_images_are_flips_of_each_for_itself():
    images = np.random.default_rng(1).uniform(size=(24, 3, 4, 1)).astype(np.float32)
    found = np.asarray(jax.jit(medical.mirrored)(jax.random.key(0), images))
    kinds = set()
    for image, other in zip(images, found, strict=True):
        flips = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
        (kind,) = [k for k, flip in enumerate(flips) if np.array_equal(flip, other)]
        kinds.add(kind)
    assert kinds == {0, 1, 2, 3}
    sideways = np.asarray(medical.mirrored(jax.random.key(0), jnp.asarray(images), axes=(2,)))
    assert all(np.array_equal(a, b) or np.array_equal(a[:, ::-1], b) for a, b in zip(images, sideways, strict=True))


def test_the_predicted_grades_part_of_a_clear_map_against_loops():
    rng = np.random.default_rng(2)
    responses, labels = rng.normal(size=(3, 4, 5, 6)), np.array([0, 3, 1])
    shares = []
    for image, label in zip(responses, labels, strict=True):
        own = total = 0.0
        for row, column in np.ndindex(5, 6):
            strongest = max(range(4), key=lambda k, at=(row, column): image[k][at])
            response = max(image[strongest, row, column], 0.0)
            total += response
            own += response * (strongest == label)
        shares.append(own / total)
    assert retinopathy.own_share(responses, labels) == pytest.approx(100 * np.mean(shares), abs=0.006)


def test_quadratic_kappa_against_loops():
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = rng.integers(0, 20, (5, 5))
        observed = expected = 0.0
        for i in range(5):
            for j in range(5):
                observed += (i - j) ** 2 * counts[i, j]
                expected += (i - j) ** 2 * counts[i].sum() * counts[:, j].sum() / counts.sum()
        assert retinopathy.quadratic_kappa(counts) == pytest.approx(1 - observed / expected)
    assert retinopathy.quadratic_kappa(np.diag([3, 2, 1])) == 1
    assert np.isnan(retinopathy.quadratic_kappa(np.diag([3, 0, 0])))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("phantoms")
    return workdir, retinopathy.run(retinopathy.smoke_config(None), workdir, progress=False)


def test_a_later_evaluation_keeps_who_trained_and_how_long(phantoms):
    first, later = ({"made_by": commit, "epoch": 1, "seconds": 2.25} for commit in ("a", "b"))
    assert records.trained([first, first]) == {
        "training_commit": "a",
        "training_seconds": 4.5,
        "history": [{"epoch": 1, "seconds": 2.25}] * 2,
    }
    assert records.trained([first, later, first])["training_commit"] == ["a", "b"]
    assert records.trained([first, {"epoch": 2, "seconds": 1.0}])["training_commit"] is None
    _, results = phantoms
    assert results["training_commit"] == results["commit"]
    assert results["training_seconds"] == pytest.approx(sum(one["seconds"] for one in results["history"]), abs=0.06)


def test_retinopathy_on_phantoms(phantoms):
    workdir, results = phantoms
    assert json.loads((workdir / "retinopathy-phantoms.json").read_text()) == json.loads(json.dumps(results))
    assert results["measured_on"].startswith("phantoms")
    assert np.sum(results["figures"]["confusion"]) == results["photographs"]["test"] == 6
    assert results["figures"]["published_percent"] is None
    assert {"commit", "device", "versions", "seconds"} <= set(results)
    assert (workdir / "retinopathy-phantoms.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_maps_of_rightly_graded_phantoms_are_scored(phantoms):
    config = retinopathy.smoke_config(None)
    _, test, fundus, _ = retinopathy._data(config)
    module = retinopathy.Normalised(retinopathy.models.build("retinopathy")[0])
    variables = initial(module, jnp.zeros((1, 32, 32, 3)))
    config = retinopathy.dataclasses.replace(config, rules=("deconvnet",))
    scores = retinopathy._map_scores(config, module, variables, test, test.grades, fundus)
    assert scores["images"] == (test.grades > 0).sum()
    for kind, rule in (
        ("rules", "deconvnet"),
        ("untrained_network", "deconvnet"),
        ("through_the_normalisation", "guided"),
    ):
        assert 0 <= scores[kind][rule]["share_percent"] <= 100
    assert set(scores["clear_maps"]["deconvnet"]) == {"predicted_grade_percent"}


def test_what_is_left_out_is_counted_and_named():
    said = []
    unreadable = [Failure(f"{number}_left", "no image") for number in range(9)]
    found = medical.left_out([Failure("3_right", "expected a row")], unreadable, said.append)
    assert found == {"missing": 1, "unreadable": 9, "first": ["3_right", "0_left", "1_left", "2_left", "3_left"]}
    assert said[0] == "10 parts of the data set are left out; the first:"
    assert said[1:3] == ["    3_right: expected a row", "    0_left: no image"]
    said.clear()
    assert medical.left_out((), (), said.append) == {"missing": 0, "unreadable": 0, "first": []}
    assert not said


@pytest.mark.thorough
def test_retinopathy_on_the_challenges_folder(tmp_path, capsys):
    config = retinopathy.smoke_config(str(trees.kaggle(tmp_path / "dr")))
    (tmp_path / "dr" / "train" / "13_right.jpeg").write_bytes(b"no image")
    with (tmp_path / "dr" / "trainLabels.csv").open("a") as table:
        table.write("17_right,9\n18_right,1\n")
    results = retinopathy.run(config, tmp_path / "work")
    assert results["measured_on"] == "the data set"
    assert results["figures"]["published_percent"] == retinopathy.PUBLISHED
    assert results["photographs"] == {"train": 2, "test": 1, "unreadable": 1}
    assert results["left_out"] == {"missing": 2, "unreadable": 1, "first": ["17_right", "18_right", "13_right"]}
    assert "18_right: expected the photograph train/18_right.jpeg, got none\n" in capsys.readouterr().err
    assert str(tmp_path) not in (tmp_path / "work" / "retinopathy.json").read_text()
    assert results["config"]["source"] == "dr"
    assert "maps" not in results
    assert (tmp_path / "work" / "retinopathy.checkpoint").exists()


def test_a_file_in_the_place_of_the_workdir_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for module in (retinopathy, anatomy, lung, train_svhn, train_mnist):
        source = [] if module in (train_svhn, train_mnist) else ["--phantoms"]
        with pytest.raises(SystemExit) as stopped:
            module.main([*source, "--workdir", str(tmp_path / "file")])
        assert stopped.value.code == 2
        printed = capsys.readouterr().err
        assert "error: [Errno 17] File exists" in printed
        assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "expected the folder of the Kaggle diabetic retinopathy data, got nowhere"),
        ([], "expected either a folder .* or --phantoms, got neither"),
        (["nowhere", "--phantoms"], "got both"),
    ],
)
def test_errors_are_one_line(arguments, reason, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        retinopathy.main([*arguments, "--workdir", str(tmp_path)])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("retinopathy: error: ")
    assert printed.count("\n") == 1
    assert re.search(reason, printed)
