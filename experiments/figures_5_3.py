"""Figures 5.3 and 5.5: for each digit a right and a wrong example, with heat map, CLEAR map and colour key.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), figs. 5.3
    and 5.5.
Command: python -m experiments.figures_5_3 [--weights FILE] [--data-dir DIR] [--manual-dir DIR] [--workdir DIR]
    [--record]
Run time: 1 minute on 2 busy CPU cores.
Published: pictures.
Own figure: experiments/figures/figures_5_3-guided.png and -deconvnet.png; which images these are stands in
    experiments/results/figures_5_3.json.

Chosen by a rule, from the whole test split: of each digit the example that the network names rightly with the highest
probability, and the one that it names wrongly with the highest probability; of equal ones the first. A digit that is
never named wrongly has an empty place.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

import jaxclear
from experiments.records import one_line, provenance, ship, weights_of
from experiments.train_mnist import add_arguments, load
from jaxclear import models, plot, training
from jaxclear.drawing import FOREGROUND, MUTED, certainty, colour_key, draw_image, heading, new_figure
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
        rules: how responses pass back; a picture each.
    """

    data_dir: str | None = None
    manual_dir: str | None = None
    rules: tuple[str, ...] = ("guided", "deconvnet")


def smoke_config() -> Config:
    """Returns settings for images that are handed to `run`."""
    return Config(rules=("guided",))


def chosen_examples(
    probabilities: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"]
) -> list[tuple[int | None, int | None]]:
    """Returns for each class the rows of its most confident right and its most confident wrong example.

    Example:
        >>> chosen_examples(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), np.array([0, 0, 0]))
        [(1, 2), (None, None)]
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

    def best(rows: np.ndarray) -> int | None:
        return int(rows[confidence[rows].argmax()]) if len(rows) else None

    return [
        (
            best(np.flatnonzero((labels == k) & (predicted == k))),
            best(np.flatnonzero((labels == k) & (predicted != k))),
        )
        for k in range(probabilities.shape[1])
    ]


def run(
    config: Config,
    workdir: pathlib.Path,
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
    *,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Chooses and explains the examples, and returns which they are, written to `workdir` with the picture.

    Args:
        config: settings.
        workdir: folder for figures_5_3.json and figures_5_3-RULE.png.
        apply: the network, `(variables, images) -> class maps or logits`.
        variables: its variables.
        images: float32 in [0, 1] or uint8.
        labels: their classes.
        metadata: what to keep in the results of the network, such as the weights' SHA-256.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    probabilities = training.predict(apply, variables, images)
    pairs = chosen_examples(probabilities, labels)
    rows = np.array([row for pair in pairs for row in pair if row is not None])
    places = {int(row): place for place, row in enumerate(rows)}
    titles = [
        [None if row is None else _title(probabilities[row], row, int(labels[row])) for row in pair] for pair in pairs
    ]
    for rule in config.rules:
        maps = _explained(apply, rule, variables, images[rows])
        panels = [[None if row is None else [part[places[row]] for part in maps] for row in pair] for pair in pairs]
        plot.save(examples_figure(titles, panels, rule=rule), workdir / f"figures_5_3-{rule}.png")
    results = {
        "experiment": "figures_5_3",
        "rules": config.rules,
        "chosen_by": "the highest probability among right and among wrong examples of each digit",
        "examples": [
            {
                "digit": k,
                **{
                    side: None
                    if row is None
                    else {
                        "test_image": row,
                        "predicted": int(probabilities[row].argmax()),
                        "probability": round(float(probabilities[row].max()), 6),
                    }
                    for side, row in zip(("right", "wrong"), pair, strict=True)
                },
            }
            for k, pair in enumerate(pairs)
        ],
        **(metadata or {}),
        **made_by,
    }
    (workdir / "figures_5_3.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def _explained(
    apply: Callable[..., Any], rule: str, variables: Any, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey images, heat maps for the predicted class and CLEAR maps, each (n, H, W, 3)."""
    floats = as_floats(images)
    heat = jaxclear.heat_map(apply, rule=rule, on_unmatched="error")(variables, floats)
    clear = jaxclear.clear_map(apply, rule=rule, on_unmatched="error")(variables, floats)
    palette = legible(clear.class_scores.shape[-1])
    grey = jnp.broadcast_to(floats.mean(axis=-1, keepdims=True), (*floats.shape[:-1], 3))
    return np.asarray(grey), np.asarray(jaxclear.heat_rgb(heat)), np.asarray(jaxclear.to_rgb(clear, palette=palette))


def _title(probabilities: Float[np.ndarray, " K"], row: int, label: int) -> str:
    predicted = int(probabilities.argmax())
    seen = f"seen as {predicted}" if predicted != label else f"is {predicted}"
    return f"{seen}\n{certainty(float(probabilities[predicted]))}\ntest image {row}"


def examples_figure(
    titles: Sequence[Sequence[str | None]],
    panels: Sequence[Sequence[Sequence[Float[np.ndarray, "H W 3"]] | None]],
    *,
    rule: str,
) -> "Figure":
    """Returns a figure with a row for each class, its right example on the left and its wrong one on the right.

    Args:
        titles: for each class, of its right and its wrong example.
        panels: for each class, image, heat map and CLEAR map of both; None where there is no such example.
        rule: how responses passed back.
    """
    side, gap, half = 1.2, 0.06, 5.55
    wide, tall = 0.55 + 2 * half, 1.42 + (side + gap) * len(titles) + 0.5
    figure = new_figure(wide, tall)
    heading(figure, "For each digit the surest right answer, and the surest wrong one", y=1 - 0.3 / tall, size=15)
    words = (
        f"Rule: {rule}. Heat map: hot where the class that the network names responds most, green where another does. "
        "CLEAR map: the class that responds most."
    )
    figure.text(0.012, 1 - 0.64 / tall, words, color=MUTED, fontsize=9, va="center")
    names = [str(k) for k in range(len(titles))]
    colour_key(figure, names, legible(len(titles)), y=0.26 / tall, size=10)
    for row, (words_of, parts_of) in enumerate(zip(titles, panels, strict=True)):
        bottom = tall - 1.42 - (side + gap) * (row + 1)
        figure.text(
            0.24 / wide, (bottom + side / 2) / tall, names[row], color=FOREGROUND, fontsize=17, ha="center", va="center"
        )
        for column, (words, parts) in enumerate(zip(words_of, parts_of, strict=True)):
            left = 0.55 + half * column
            if parts is None or words is None:
                figure.text(left / wide, (bottom + side / 2) / tall, "none", color=MUTED, fontsize=10, va="center")
                continue
            for number, part in enumerate(parts):
                box = ((left + number * (side + gap)) / wide, bottom / tall, side / wide, side / tall)
                draw_image(figure.add_axes(box), part, upper=True)
            x = (left + 3 * (side + gap) + 0.06) / wide
            figure.text(x, (bottom + side / 2) / tall, words, color=FOREGROUND, fontsize=9.5, va="center")
    for column in range(2):
        for number, words in enumerate(("image", "heat map", "CLEAR map", ("right", "wrong")[column])):
            x = (0.55 + half * column + number * (side + gap) + (side / 2 if number < 3 else 0.06)) / wide
            figure.text(
                x,
                1 - 1.22 / tall,
                words,
                color=FOREGROUND,
                fontsize=10.5,
                ha="center" if number < 3 else "left",
                va="center",
                fontweight="normal" if number < 3 else "bold",
            )
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=pathlib.Path, help="of the network, where other than the shipped ones")
    add_arguments(parser, "figures_5_3")
    options = parser.parse_args(arguments)
    with one_line("figures_5_3"):
        model = models.load("mnist", weights=options.weights)
        config = Config(data_dir=options.data_dir, manual_dir=options.manual_dir)
        test = load(config, "test")
        known = weights_of(model)
        run(config, options.workdir, model.apply, model.variables, test.images, test.labels, metadata=known)
    if options.record:
        ship(options.workdir, "figures_5_3.json", [f"figures_5_3-{rule}.png" for rule in config.rules])


if __name__ == "__main__":
    main()
