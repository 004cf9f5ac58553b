"""The train loop: it learns, it is deterministic, and it resumes to the same result."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effort import few_of
from jaxclear import training
from jaxclear.checkpoints import kept
from jaxclear.class_backprop import scores_of
from jaxclear.models import WeightsError
from jaxclear.models.layers import BatchNorm, Conv, ConvNet, Dense, MaxPool
from jaxclear.training import TrainConfig, TrainingError, evaluate, fit, predict
from networks import initial

DENSE = ConvNet(layers=(Conv(3, 4), MaxPool(2, 2), Dense(16, dropout=0.25), BatchNorm(momentum=0.9), Dense(3)))
MAPS = ConvNet(layers=(Conv(3, 8), MaxPool(2, 2), Conv(1, 3)))
CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=1e-2, seed=7)


@pytest.fixture(scope="module")
def stripes():
    """Three classes of 8x8 images: horizontal stripes, vertical ones, chequers, each with noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 75)
    y, x = np.mgrid[:8, :8]
    patterns = np.stack([y % 2, x % 2, (x + y) % 2]).astype(np.float32)
    images = 0.8 * patterns[labels] + 0.2 * rng.random((75, 8, 8), np.float32)
    return images[..., None].astype(np.float32), labels


def _same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("module", [DENSE, MAPS], ids=["dense", "maps"])
@pytest.mark.parametrize("decay", few_of(["constant", "cosine"], "cosine"))
def test_it_learns(module, decay, stripes):
    config = dataclasses.replace(CONFIG, epochs=12, decay=decay, label_smoothing=0.05)
    variables, history = fit(module, *stripes, config, validation=stripes, progress=False)
    assert history[-1].loss < 0.7 * history[0].loss
    assert history[-1].validation_accuracy > 0.95
    assert [record.epoch for record in history] == list(range(1, 13))
    assert evaluate(module.apply, variables, *stripes).accuracy == history[-1].validation_accuracy


def test_same_seed_same_weights(stripes):
    runs = [fit(DENSE, *stripes, dataclasses.replace(CONFIG, seed=s), progress=False) for s in (7, 7, 8)]
    _same(runs[0].variables, runs[1].variables)
    with pytest.raises(AssertionError):
        _same(runs[0].variables, runs[2].variables)


@pytest.mark.parametrize(
    ("settings", "steps"),
    few_of(
        [
            ({}, None),
            ({"decay": "cosine"}, 2),
            ({"decay": "cosine", "warmup": 0.1, "muon_learning_rate": 1e-2}, (1, 7, 8)),
        ],
        ({}, None),
        ({"decay": "cosine", "warmup": 0.1, "muon_learning_rate": 1e-2}, (1, 7, 8)),
    ),
)
def test_resumed_run_is_the_uninterrupted_one(settings, steps, stripes, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, **settings)
    whole = fit(DENSE, *stripes, config, progress=False)
    save, saves = training._Keeper.save, []

    def stop_after_two(*arguments):
        save(*arguments)
        saves.append(arguments)
        if len(saves) == 2:
            raise KeyboardInterrupt

    again = functools.partial(fit, DENSE, *stripes, config, checkpoint=tmp_path / "c", checkpoint_steps=steps)
    monkeypatch.setattr(training._Keeper, "save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        again(progress=False)
    monkeypatch.undo()
    resumed = again(progress=False)
    _same(resumed.variables, whole.variables)
    assert [record[:5] for record in resumed.history] == [record[:5] for record in whole.history]
    _same(again(progress=False).variables, whole.variables)


def test_longer_training_goes_on_from_a_checkpoint(stripes, tmp_path):
    fit(DENSE, *stripes, dataclasses.replace(CONFIG, epochs=1), checkpoint=tmp_path / "c", progress=False)
    longer = fit(DENSE, *stripes, CONFIG, checkpoint=tmp_path / "c", progress=False)
    _same(longer.variables, fit(DENSE, *stripes, CONFIG, progress=False).variables)


def test_checkpoints_of_other_runs_are_refused(stripes, tmp_path):
    fit(DENSE, *stripes, CONFIG, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(TrainingError, match="expected a checkpoint of this run"):
        fit(DENSE, *stripes, dataclasses.replace(CONFIG, learning_rate=1e-3), checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(WeightsError, match="of the given network"):
        fit(MAPS, *stripes, CONFIG, checkpoint=tmp_path / "c", progress=False)
    other = ConvNet(layers=(*DENSE.layers[:3], BatchNorm(momentum=0.5), DENSE.layers[4]))
    with pytest.raises(TrainingError, match=r"this network ConvNet.*momentum=0\.5.*momentum=0\.9") as refused:
        fit(other, *stripes, CONFIG, checkpoint=tmp_path / "c", progress=False)
    assert "\n" not in str(refused.value)


def test_epochs_keep_who_made_them(stripes, tmp_path):
    train = functools.partial(fit, DENSE, *stripes, checkpoint=tmp_path / "c", progress=False)
    first = train(dataclasses.replace(CONFIG, epochs=1), made_by="one")
    longer = train(dataclasses.replace(CONFIG, epochs=2), made_by="another")
    assert [record.made_by for record in first.history] == ["one"]
    assert [record.made_by for record in longer.history] == ["one", "another"]
    evaluated = train(dataclasses.replace(CONFIG, epochs=2), made_by="a third")
    assert evaluated.history == longer.history


def test_uint8_is_float_times_255(stripes):
    coarse = np.round(255 * stripes[0]).astype(np.uint8)
    floats = coarse.astype(np.float32) / 255
    variables = initial(DENSE, jnp.asarray(floats))
    np.testing.assert_allclose(
        predict(DENSE.apply, variables, coarse), predict(DENSE.apply, variables, floats), atol=1e-6
    )
    config = dataclasses.replace(CONFIG, epochs=1)
    losses = [fit(MAPS, images, stripes[1], config, progress=False).history[0].loss for images in (coarse, floats)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_images_of_weight_zero_teach_nothing(stripes):
    images, labels = stripes
    wrong = np.where(np.arange(len(labels)) < 30, (labels + 1) % 3, labels)
    weight = (np.arange(len(labels)) >= 30).astype(float)
    config = dataclasses.replace(CONFIG, batch_size=len(labels), epochs=30)
    taught = fit(MAPS, images, wrong, config, sample_weights=weight, progress=False)
    untouched = fit(MAPS, images, labels, config, sample_weights=weight, progress=False)
    _same(taught.variables, untouched.variables)


def test_augmentation_is_applied_inside_the_step(stripes, tmp_path):
    def black(key, images):
        return jnp.zeros_like(images)

    config = dataclasses.replace(CONFIG, augment=black)
    result = fit(MAPS, *stripes, config, checkpoint=tmp_path / "c", keep_checkpoints=True, progress=False)
    start = next(iter(kept(tmp_path / "c")))
    assert start.step == 0
    found, expected = (variables["params"]["Conv_0"]["kernel"] for variables in (result.variables, start.variables))
    np.testing.assert_array_equal(found, expected)


def test_one_program_whatever_the_remainder(stripes):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            traces.append(images.shape)
            return nn.Dense(3)(images.reshape(len(images), -1))

    fit(Counted(), *stripes, CONFIG, progress=False)
    assert traces.count((16, 8, 8, 1)) == 1


def test_trainings_that_are_alike_are_compiled_once(stripes):
    traces = []

    class Counted(nn.Module):
        scale: np.ndarray | float = 1.0

        @nn.compact
        def __call__(self, images, *, train=False):
            traces.append(images.shape)
            return nn.Dense(3)(images.reshape(len(images), -1)) * (2.0 if self.scale is True else self.scale)

    first, again = (fit(Counted(), *stripes, CONFIG, progress=False) for _ in range(2))
    assert traces.count((16, 8, 8, 1)) == 1
    _same(first.variables, again.variables)
    fit(Counted(), *stripes, dataclasses.replace(CONFIG, seed=CONFIG.seed + 1), progress=False)
    assert traces.count((16, 8, 8, 1)) == 2
    # Equal is not alike, an array cannot be hashed, and what a function does may change.
    other = fit(Counted(True), *stripes, CONFIG, progress=False)
    assert other.history[0].loss != first.history[0].loss
    _same(fit(Counted(np.ones(3)), *stripes, CONFIG, progress=False).variables, first.variables)
    shade = [0.0]
    shaded = dataclasses.replace(CONFIG, augment=lambda key, images: images * shade[0])
    black = fit(MAPS, *stripes, shaded, progress=False)
    shade[0] = 1.0
    assert fit(MAPS, *stripes, shaded, progress=False).history[0].loss != black.history[0].loss


def test_predictions_do_not_depend_on_the_batch(stripes):
    variables = initial(DENSE, jnp.asarray(stripes[0][:1]))
    whole = predict(DENSE.apply, variables, stripes[0], batch_size=100)
    np.testing.assert_allclose(predict(DENSE.apply, variables, stripes[0], batch_size=16), whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)


def test_evaluation_counts(stripes):
    def apply(variables, images):
        return jnp.tile(variables, (len(images), 1))

    images, labels = stripes
    result = evaluate(apply, jnp.array([0.0, 9.0, 0.0]), images, labels)
    assert result.accuracy == (labels == 1).mean()
    np.testing.assert_array_equal(result.confusion[:, 1], np.bincount(labels))
    assert result.confusion.sum() == len(labels)


def test_logits_are_the_spatial_mean_of_class_maps():
    maps = jnp.arange(24.0).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(scores_of(maps), maps.mean((1, 2)))
    np.testing.assert_array_equal(scores_of(maps[:, 0, 0]), maps[:, 0, 0])


def test_progress_goes_to_standard_error(stripes, capsys):
    fit(MAPS, *stripes, CONFIG, validation=stripes, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert "validation" in lines[-1]
    assert re.search(r"accuracy \d+\.\d+%.*  \d+\.\d steps/s  0:00 left$", lines[-1])
    fit(MAPS, *stripes, CONFIG, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_has_rate_and_time_left(stripes, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(MAPS, *stripes, CONFIG, progress=True)
    shown = capsys.readouterr().err
    assert "steps/s" in shown
    assert "left" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, y: (i.astype(np.float64), y), "dtype float32 or uint8, got float64"),
        (lambda i, y: (i[0, 0], y), r"expected images \(N, \*spatial, C\)"),
        (lambda i, y: (i[:0], y[:0]), "N >= 1"),
        (lambda i, y: (i, y[:-1]), "expected 75 whole class numbers"),
        (lambda i, y: (i, y.astype(float)), "whole class numbers"),
        (lambda i, y: (i, y - 1), "labels >= 0"),
        (lambda i, y: (i, y + 1), "labels below the network's 3 classes, got 3"),
        (lambda i, y: (np.full_like(i, np.nan), y), "expected a finite loss, got nan"),
    ],
)
def test_data_that_does_not_fit(change, message, stripes):
    with pytest.raises(TrainingError, match=message):
        fit(DENSE, *change(*stripes), CONFIG, progress=False)


@pytest.mark.parametrize("weight", [np.ones(3), np.zeros(75), -np.ones(75), np.full(75, np.nan)])
def test_weights_that_do_not_fit(weight, stripes):
    with pytest.raises(TrainingError, match="sample_weights"):
        fit(DENSE, *stripes, CONFIG, sample_weights=weight, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs and batch_size >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"muon_learning_rate": 0.0}, "muon_learning_rate > 0"),
        ({"warmup": 1.0}, "warmup in"),
        ({"decay": "linear"}, "'constant' or 'cosine', got 'linear'"),
        ({"label_smoothing": 1.0}, "label_smoothing in"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(TrainingError, match=message):
        TrainConfig(**{"epochs": 1, **settings})
