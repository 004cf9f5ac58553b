"""The experiments on digits, on drawn ones where MNIST is not at hand: every line runs, and a second run resumes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from digits import segment_digits
from experiments import fetch_mnist, figures_5_3, mnist_landmarks, table_5_3, train_mnist
from jaxclear import checkpoints, models, training
from jaxclear.strong_features import Ablation


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder, digits and results of the smoke run."""
    folder = tmp_path_factory.mktemp("mnist")
    digits = segment_digits(60), segment_digits(20, seed=1)
    results = train_mnist.run(train_mnist.smoke_config(), folder, digits=digits, progress=False)
    return folder, digits, results


def test_training(trained):
    folder, _, results = trained
    assert json.loads((folder / "train_mnist.json").read_text()) == json.loads(json.dumps(results))
    assert [one["seed"] for one in results["seeds"]] == [0, 1]
    accuracies = [one["accuracy_percent"] for one in results["seeds"]]
    assert results["accuracy_percent"]["mean"] == pytest.approx(np.mean(accuracies))
    assert np.sum(results["seeds"][0]["confusion"]) == 20
    model = models.load("mnist", weights=folder / "mnist.safetensors")
    assert model.metadata["sha256"] == results["weights_sha256"] == results["seeds"][0]["weights_sha256"]
    assert model.metadata["training"]["seed"] == 0
    states = list(checkpoints.kept(train_mnist.checkpoint_of(folder, 0)))
    assert [state.step for state in states] == [0, 4]
    jax.tree.map(np.testing.assert_array_equal, states[-1].variables, model.variables)


def test_a_second_run_goes_on(trained):
    folder, digits, results = trained
    (folder / "seed-1.json").unlink()
    again = train_mnist.run(train_mnist.smoke_config(), folder, digits=digits, progress=False)
    for old, new in zip(results["seeds"], again["seeds"], strict=True):
        assert old["weights_sha256"] == new["weights_sha256"]
        assert old["confusion"] == new["confusion"]


@pytest.mark.thorough
def test_results_of_other_settings_are_not_taken_for_its_own(tmp_path):
    few, seen = segment_digits(4), segment_digits(4, seed=1)
    config = dataclasses.replace(train_mnist.smoke_config(), seeds=(0,))
    first = train_mnist.run(config, tmp_path, digits=(few, seen), progress=False)
    assert first["seeds"][0]["training_commit"] == first["commit"]
    assert first["seeds"][0]["training_seconds"] > 0
    again = train_mnist.run(config, tmp_path, digits=(few, segment_digits(3)), progress=False)
    assert np.sum(again["seeds"][0]["confusion"]) == 3
    (tmp_path / "seed-0.json").write_text((tmp_path / "seed-0.json").read_text()[:99])
    mended = train_mnist.run(config, tmp_path, digits=(few, seen), progress=False)
    assert mended["seeds"][0]["confusion"] == first["seeds"][0]["confusion"]
    assert mended["seeds"][0]["history"] == first["seeds"][0]["history"]
    longer = dataclasses.replace(config, optimisation=dataclasses.replace(config.optimisation, epochs=2))
    with pytest.raises(training.TrainingError, match="expected a checkpoint of this run"):
        train_mnist.run(longer, tmp_path, digits=(few, seen), progress=False)


def test_table_5_3(trained, tmp_path):
    folder, (_, test), _ = trained
    model = models.load("mnist", weights=folder / "mnist.safetensors")
    config = dataclasses.replace(table_5_3.smoke_config(), rules=("guided",), images=15)
    results = table_5_3.run(
        config,
        tmp_path,
        model.apply,
        model.variables,
        test.images,
        test.labels,
        metadata={"of": "drawn"},
        progress=False,
    )
    assert json.loads((tmp_path / "table_5_3_mnist.json").read_text()) == json.loads(json.dumps(results))
    assert results["images"] == {"used": 15, "of": 20}
    curves = results["rules"]["guided"]
    assert all(len(curves[part]) == 2 for part in table_5_3.PARTS)
    assert curves["area_percent"][0] >= curves["area_percent"][1] > 0
    assert (tmp_path / "table_5_3_mnist.png").stat().st_size > 10_000


def test_curves_of_known_answers():
    labels = np.array([0, 1, 2, 3])
    right, wrong, half = labels, labels + 1, np.array([0, 1, 0, 0])
    share = np.full((2, 4), 0.25)
    found = Ablation(
        full=labels,
        only=np.stack([right, wrong]),
        without=np.stack([wrong, half]),
        only_control=np.stack([half, half]),
        without_control=np.stack([right, right]),
        area=share,
        overlap=share,
        signal=share,
        signal_control=share,
    )
    curves = table_5_3.curves_of(found, labels, (0.0, 0.4), {"only": 75.0, "without": 50.0})
    assert (curves["full"], curves["only"], curves["without"]) == (100.0, [100.0, 0.0], [0.0, 50.0])
    assert curves["published_met_at"] == {"only": [0.1], "without": [0.4]}
    assert curves["nearest_to_both"] == {"threshold": 0.2, "only": 50.0, "without": 25.0}
    assert curves["area_percent"] == [25.0, 25.0]


def test_figures_5_3(trained, tmp_path):
    folder, (_, test), _ = trained
    model = models.load("mnist", weights=folder / "mnist.safetensors")
    results = figures_5_3.run(
        figures_5_3.smoke_config(), tmp_path, model.apply, model.variables, test.images, test.labels
    )
    assert len(results["examples"]) == 10
    for example in results["examples"]:
        for side in ("right", "wrong"):
            if example[side] is not None:
                assert test.labels[example[side]["test_image"]] == example["digit"]
                assert (example[side]["predicted"] == example["digit"]) == (side == "right")
    assert (tmp_path / "figures_5_3-guided.png").stat().st_size > 10_000


def test_landmarks(trained, tmp_path):
    folder, (_, test), _ = trained
    states = list(checkpoints.kept(train_mnist.checkpoint_of(folder, 0)))
    module, _ = models.build("mnist")
    results = mnist_landmarks.run(
        mnist_landmarks.smoke_config(),
        tmp_path,
        module.apply,
        states,
        test.images,
        test.labels,
        epoch_steps=4,
        metadata=mnist_landmarks.weights_of_states(train_mnist.checkpoint_of(folder, 0), states),
    )
    assert (results["weights_sha256"], results["training_seed"]) == (trained[2]["weights_sha256"], 0)
    others = mnist_landmarks.weights_of_states(train_mnist.checkpoint_of(folder, 0), states[:1])
    assert others == {"weights_sha256": None, "training_seed": None}
    assert (results["steps"], results["epochs"]) == ([0, 4], [0.0, 1.0])
    curves = results["rules"]["guided"]
    assert curves["agreement_percent"][-1] == 100.0
    assert curves["correlation"][-1] == 1.0
    assert curves["agreement_percent"][0] < 100.0
    assert (tmp_path / "mnist_landmarks.png").stat().st_size > 10_000


def test_correlation_is_pearsons():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 3, 4, 5))
    right[2] = 1.0  # does not vary
    expected = np.mean([np.corrcoef(left[k].ravel(), right[k].ravel())[0, 1] for k in range(2)])
    assert mnist_landmarks.correlation(left, right) == pytest.approx(expected)


def test_wrong_numbers_and_places_are_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch_mnist.shutil, "which", lambda _: None)
    for module, arguments, reason in (
        (table_5_3, ["mnist", "--images", "0"], "expected at least one image, in all and a call, got 0"),
        (table_5_3, ["mnist", "--images", "-5"], "got -5"),
        (mnist_landmarks, ["--states", "empty"], "expected the states of a training, got none in empty"),
        (fetch_mnist, ["file"], "File exists"),
        (fetch_mnist, ["new"], "expected the program npm, got none"),
    ):
        with pytest.raises(SystemExit) as ended:
            module.main(arguments)
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert f"{module.__name__.split('.')[-1]}: error: " in printed
        assert reason in printed
        assert printed.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        fetch_mnist.main(["--help"])
    assert ended.value.code == 0
    assert not (tmp_path / "--help").exists()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (train_mnist, []),
        (table_5_3, ["mnist"]),
        (figures_5_3, []),
        (mnist_landmarks, []),
    ],
)
def test_what_is_not_there_ends_with_one_line(module, arguments, tmp_path, capsys):
    weights = [] if module in (train_mnist, mnist_landmarks) else ["--weights", str(tmp_path / "none.safetensors")]
    states = ["--states", str(tmp_path / "none")] if module is mnist_landmarks else []
    folders = ["--data-dir", str(tmp_path), "--manual-dir", str(tmp_path / "none"), "--workdir", str(tmp_path / "w")]
    with pytest.raises(SystemExit) as ended:
        module.main([*arguments, *weights, *states, *folders])
    assert ended.value.code == 2
    assert ": error: expected" in capsys.readouterr().err
