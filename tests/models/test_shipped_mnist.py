"""The digit network in the package: it is the one of the results file, and it reads printed digits it never saw."""

import json
import pathlib

import numpy as np
import pytest

from jaxclear import models
from jaxclear.training import predict

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture(scope="module")
def model():
    return models.load("mnist")


def printed(digit):
    """A digit in matplotlib's own font, white on black in the middle, 16 pixels tall."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=280, facecolor="black")
    figure.text(0.5, 0.5, str(digit), color="white", fontsize=53, ha="center", va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., 0].astype(np.float32) / 255
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    top = (rows[0] + rows[-1]) // 2 - 140
    left = (columns[0] + columns[-1]) // 2 - 140
    centred = np.roll(pixels, (-top, -left), (0, 1))
    return centred.reshape(28, 10, 28, 10).mean((1, 3))[..., None]


def test_it_reads_printed_digits(model):
    probabilities = predict(model.apply, model.variables, np.stack([printed(digit) for digit in range(10)]))
    assert (probabilities.argmax(1) == np.arange(10)).sum() >= 9


def test_it_says_what_it_is(model):
    results = json.loads((RESULTS / "train_mnist.json").read_text())
    assert model.metadata["sha256"] == results["weights_sha256"] == results["seeds"][0]["weights_sha256"]
    assert model.metadata["training"]["test_accuracy_percent"] == results["seeds"][0]["accuracy_percent"]
    assert not results["uncommitted_changes"]
    assert model.class_names == tuple("0123456789")


def test_tables_and_figures_are_those_of_these_weights(model):
    for name in ("table_5_3_mnist", "figures_5_3", "mnist_landmarks"):
        results = json.loads((RESULTS / f"{name}.json").read_text())
        assert results["weights_sha256"] == model.metadata["sha256"]
        assert results["training_seed"] == model.metadata["training"]["seed"] == 0
