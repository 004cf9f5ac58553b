"""When a network learns its landmarks: CLEAR maps over the states of one training, and how near they are to the last.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), sections
    1.3 and 3.2, which ask at which stage maps settle.
Command: python -m experiments.mnist_landmarks [--states FOLDER] [--data-dir DIR] [--manual-dir DIR] [--workdir DIR]
    [--record]
    FOLDER holds the states of one training, by default those that experiments.train_mnist kept of its first seed.
Run time: 3 minutes on 2 busy CPU cores.
Published: no number.
Own figure: experiments/results/mnist_landmarks.json and experiments/figures/mnist_landmarks.png.

For each kept state, over test images evenly spaced in the split: the share of the pixels with a dominant class in the
last state's map that have the same one in this state's map; and the correlation of the responses of all classes at all
pixels with the last state's, image by image, averaged. Beside them the agreement of the last state's maps with each
other's, an image against the next one: what the same pixels share without the same digit.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

import jaxclear
from experiments import mapping
from experiments.records import one_line, provenance, ship, weights_of
from experiments.table_5_3_figure import dress
from experiments.train_mnist import RECIPE, add_arguments, checkpoint_of, load
from jaxclear import checkpoints, models, plot, training
from jaxclear.drawing import FOREGROUND, MUTED, colour_key, draw_image, heading, new_figure
from jaxclear.inputs import as_floats
from jaxclear.palettes import legible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        data_dir: TFDS's folder; its own by default.
        manual_dir: folder with the four published archives.
        rules: how responses pass back; the picture is of the first.
        images: how many test images, evenly spaced.
        batch_size: images a call.
        shown: digits in the picture, the first test image of each.
    """

    data_dir: str | None = None
    manual_dir: str | None = None
    rules: tuple[str, ...] = ("guided", "deconvnet", "backprop", "linear")
    images: int = 300
    batch_size: int = 20
    shown: tuple[int, ...] = tuple(range(10))


def smoke_config() -> Config:
    """Returns settings that run in seconds on images that are handed to `run`."""
    return Config(rules=("guided",), images=10, batch_size=10, shown=(0, 1))


class Maps(NamedTuple):
    """The responses of all classes, and the map of the dominant ones (-1: none)."""

    responses: Float[np.ndarray, "N H W K"]
    dominant_class: Int[np.ndarray, "N H W"]
    scores: Float[np.ndarray, "N K"]


def agreement(dominant_class: Int[np.ndarray, "N H W"], final: Int[np.ndarray, "N H W"]) -> float:
    """Returns the share of the pixels with a class in `final` that have the same class in the other map.

    Example:
        >>> agreement(np.array([[[1, 2, -1, 3]]]), np.array([[[1, 3, 2, -1]]]))
        0.3333333333333333
    """
    named = final >= 0
    return float((dominant_class == final)[named].mean()) if named.any() else float("nan")


def correlation(responses: Float[np.ndarray, "N *rest"], final: Float[np.ndarray, "N *rest"]) -> float:
    """Returns Pearson's correlation of an image's responses with the final ones, averaged over the images.

    Images whose responses do not vary have none and are left out; NaN where that leaves no image.
    """
    left, right = (part.reshape(len(part), -1).astype(np.float64) for part in (responses, final))
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    norms = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    varies = norms > 0
    return float(((left * right).sum(axis=1)[varies] / norms[varies]).mean()) if varies.any() else float("nan")


def run(
    config: Config,
    workdir: pathlib.Path,
    apply: Callable[..., Any],
    states: Sequence[checkpoints.Kept],
    images: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
    *,
    epoch_steps: int,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Explains images with every state, and returns the numbers, written to `workdir` with a picture.

    Args:
        config: settings.
        workdir: folder for mnist_landmarks.json and mnist_landmarks.png.
        apply: the network, `(variables, images) -> class maps or logits`.
        states: of one training, in order.
        images: float32 in [0, 1] or uint8.
        labels: their classes.
        epoch_steps: steps of an epoch.
        metadata: what to keep in the results of the network that the states lead to, such as its weights' SHA-256.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    rows = np.linspace(0, len(labels) - 1, min(config.images, len(labels))).round().astype(int)
    curves: dict[str, Any] = {}
    accuracy: list[float] = []
    for rule in config.rules:
        by_image = mapping.class_maps_of(apply, rule=rule, on_unmatched="error")
        found = [_maps(by_image, apply, state.variables, images[rows], config.batch_size) for state in states]
        curves[rule] = _nearness(found)
        accuracy = [round(100 * float((maps.scores.argmax(axis=1) == labels[rows]).mean()), 2) for maps in found]
    steps = [state.step for state in states]
    results = {
        "experiment": "mnist_landmarks",
        "config": dataclasses.asdict(config) | {"data_dir": None, "manual_dir": None},
        "steps": steps,
        "epochs": [round(step / epoch_steps, 4) for step in steps],
        "images": len(rows),
        "accuracy_percent": accuracy,
        "rules": curves,
        **(metadata or {}),
        **made_by,
    }
    (workdir / "mnist_landmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    first = as_floats(images[[int(np.flatnonzero(labels == digit)[0]) for digit in config.shown]])
    clear = jax.jit(jaxclear.clear_map(apply, rule=config.rules[0], on_unmatched="error"))
    maps = [clear(state.variables, first) for state in states]
    shown = [np.asarray(jaxclear.to_rgb(found, palette=legible(found.class_scores.shape[1]))) for found in maps]
    plot.save(landmarks_figure(results, first, shown), workdir / "mnist_landmarks.png")
    return results


def _nearness(found: Sequence[Maps]) -> dict[str, Any]:
    """How near each state's maps are to the last state's."""
    last = found[-1]
    other = np.roll(last.dominant_class, 1, axis=0)
    return {
        "agreement_percent": [round(100 * agreement(maps.dominant_class, last.dominant_class), 2) for maps in found],
        "correlation": [round(correlation(maps.responses, last.responses), 4) for maps in found],
        "agreement_with_another_image_percent": round(100 * agreement(other, last.dominant_class), 2),
    }


def _maps(
    by_image: Callable[..., Any], apply: Callable[..., Any], variables: Any, images: np.ndarray, batch: int
) -> Maps:
    responses = np.moveaxis(mapping.mapped(by_image, variables, images, batch_size=batch), 1, -1)
    dominant = np.where(responses.max(axis=-1) > 0, responses.argmax(axis=-1), -1)
    return Maps(responses, dominant, training.predict(apply, variables, images))


def landmarks_figure(
    results: dict[str, Any], images: Float[Any, "n H W C"], maps: Sequence[Float[np.ndarray, "n H W 3"]]
) -> "Figure":
    """Returns a figure of the curves over the training, above the maps of a few images at every state.

    Args:
        results: of `run`.
        images: those that are shown.
        maps: for each state, their CLEAR maps in colour.
    """
    side, gap, left = 0.86, 0.05, 0.75
    count = len(images)
    wide, tall = left + (side + gap) * (1 + len(maps)) + 0.15, 4.35 + (side + gap) * count + 0.5
    figure = new_figure(wide, tall)
    heading(figure, "When the network learns its landmarks", y=1 - 0.3 / tall, size=15)
    axes = [
        figure.add_axes((x / wide, 1 - 3.55 / tall, (wide / 2 - 1.1) / wide, 2.75 / tall))
        for x in (left, wide / 2 + 0.6)
    ]
    steps = np.maximum(results["steps"], 1)
    for rule, curves in results["rules"].items():
        axes[0].plot(steps, curves["agreement_percent"], marker=".", label=rule)
        axes[1].plot(steps, curves["correlation"], marker=".", label=rule)
    first = next(iter(results["rules"].values()))
    axes[0].axhline(first["agreement_with_another_image_percent"], color=MUTED, linewidth=0.8, linestyle=":")
    axes[0].plot(steps, results["accuracy_percent"], marker=".", color=MUTED, linestyle="--", label="accuracy")
    labels = ("pixels with the last map's class, %", "correlation with the last responses")
    for axis, words in zip(axes, labels, strict=True):
        dress(axis)
        axis.set_xscale("log")
        axis.set_xlabel("steps of training (the initial network at 1)", color=FOREGROUND, fontsize=9)
        axis.set_title(words, color=FOREGROUND, fontsize=10.5)
    axes[0].legend(fontsize=8.5, frameon=False, labelcolor=FOREGROUND)
    top = tall - 4.35
    for column, panels in enumerate((np.broadcast_to(images, (*images.shape[:-1], 3)), *maps)):
        x = left + (side + gap) * column
        words = "image" if column == 0 else f"{results['steps'][column - 1]:,}"
        figure.text((x + side / 2) / wide, (top + 0.14) / tall, words, color=FOREGROUND, fontsize=9, ha="center")
        for row in range(count):
            box = (x / wide, (top - (side + gap) * (row + 1)) / tall, side / wide, side / tall)
            draw_image(figure.add_axes(box), np.asarray(panels[row]), upper=True)
    figure.text(0.1 / wide, (top + 0.14) / tall, "step", color=MUTED, fontsize=9)
    shown = results["config"]["shown"]
    for row, digit in enumerate(shown):
        y = (top - (side + gap) * row - side / 2) / tall
        figure.text(0.35 / wide, y, str(digit), color=FOREGROUND, fontsize=14, ha="center", va="center")
    names = [str(k) for k in range(10)]
    words = (
        f"black: no class responds.   Maps: {next(iter(results['rules']))}, each as bright as its own largest response"
    )
    colour_key(figure, names, legible(10), y=0.24 / tall, size=9, words=words)
    return figure


def states_of(folder: pathlib.Path) -> list[checkpoints.Kept]:
    """Returns the states in a folder, in order.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    states = list(checkpoints.kept(folder))
    if not states:
        raise ValueError(f"expected the states of a training, got none in {folder}; experiments.train_mnist keeps them")
    return states


def weights_of_states(folder: pathlib.Path, states: Sequence[checkpoints.Kept]) -> dict[str, Any]:
    """Returns which weights the last state is, by its arrays: a seed's beside the folder, or the shipped ones."""
    for file in (*sorted(folder.parent.glob("mnist-seed-*.safetensors")), None):
        model = models.load("mnist", weights=file)
        pairs = zip(jax.tree.leaves(model.variables), jax.tree.leaves(states[-1].variables), strict=True)
        if all(np.array_equal(own, other) for own, other in pairs):
            return weights_of(model)
    return {"weights_sha256": None, "training_seed": None}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=pathlib.Path, default=checkpoint_of(pathlib.Path("workdir/train_mnist"), 0))
    add_arguments(parser, "mnist_landmarks")
    options = parser.parse_args(arguments)
    with one_line("mnist_landmarks"):
        states = states_of(options.states)
        known = weights_of_states(options.states, states)
        config = Config(data_dir=options.data_dir, manual_dir=options.manual_dir)
        test = load(config, "test")
        module, _ = models.build("mnist")
        epoch_steps = -(-60_000 // RECIPE.batch_size)  # of MNIST's training images
        run(
            config,
            options.workdir,
            module.apply,
            states,
            test.images,
            test.labels,
            epoch_steps=epoch_steps,
            metadata=known,
        )
    if options.record:
        ship(options.workdir, "mnist_landmarks.json", ("mnist_landmarks.png",))


if __name__ == "__main__":
    main()
