"""The picture of experiments/neighbour_digits.py: images of the stand-in, their digits' outlines and their maps."""

import pathlib
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from experiments.neighbour_digits import SEEDS, Scenes, responses
from jaxclear import models, plot
from jaxclear.clear import ClearMap, brightness, to_rgb
from jaxclear.drawing import FOREGROUND, MUTED, colour_key, draw_image, heading, new_figure
from jaxclear.palettes import legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RULE = "guided"
_SHOWN = 6
_SIDE, _GAP, _TOP, _BOTTOM = 1.5, 0.12, 1.35, 0.75  # inches


def draw(name: str, model: models.LoadedModel, found: Scenes, file: pathlib.Path) -> None:
    """Draws the first images of a set: the image, its CLEAR map, and the responses of the classes of its two digits.

    Args:
        name: of the network, for the title.
        model: the network.
        found: the images; the first six are drawn.
        file: to write, a PNG.
    """
    count = min(_SHOWN, len(found.images))
    shown = Scenes(*(part[:count] for part in found))
    maps = {seeds: responses(model, shown.images, rule=RULE, seeds=seeds, batch_size=count) for seeds in SEEDS}
    colours = legible(10)
    rows = np.arange(count)
    columns = [
        ("image", shown.images / 255),
        ("CLEAR\nseeds “own”", _clear_colours(maps["own"])),
        ("CLEAR\nseeds “one”", _clear_colours(maps["one"])),
        *(
            (
                f"class {words}\nseed “one”",
                _class_colours(maps["one"][rows, shown.classes[:, role]], shown.classes[:, role]),
            )
            for role, words in enumerate(("in the middle", "beside it"))
        ),
    ]
    wide, tall = len(columns) * (_SIDE + _GAP) + _GAP + 0.75, count * (_SIDE + _GAP) + _TOP + _BOTTOM
    figure = new_figure(wide, tall)
    title = f"Whose pixels does a class mark?   {name} ({model.network.source}), rule {RULE}"
    heading(figure, title, y=1 - 0.3 / tall, size=12)
    words = "A stand-in for SVHN, not SVHN. Outlines: solid the digit in the middle, dashed the one beside it."
    figure.text(0.012, 1 - 0.62 / tall, words, color=MUTED, fontsize=9, va="center")
    for column, (words, pictures) in enumerate(columns):
        for row in range(count):
            left, bottom = 0.75 + column * (_SIDE + _GAP), tall - _TOP - _SIDE - row * (_SIDE + _GAP)
            axis = figure.add_axes((left / wide, bottom / tall, _SIDE / wide, _SIDE / tall))
            draw_image(axis, pictures[row], upper=True)
            _outline(axis, shown.masks[row, 0], "solid")
            _outline(axis, shown.masks[row, 1], "dashed")
            if row == 0:
                axis.set_title(words, color=FOREGROUND, fontsize=8.5, pad=5)
            if column == 0:
                axis.set_ylabel(
                    _classes_text(shown, row), color=FOREGROUND, fontsize=8.5, rotation=0, ha="right", va="center"
                )
    colour_key(figure, tuple("0123456789"), colours, y=0.32 / tall, size=9)
    plot.save(figure, file)


def _classes_text(shown: Scenes, row: int) -> str:
    middle, beside, _ = shown.classes[row]
    return f"{middle}\nbeside\nit {beside}"


def _clear_colours(maps: Float[np.ndarray, "N 10 H W"]) -> Float[np.ndarray, "N H W 3"]:
    """The CLEAR maps of the responses of all classes, in colour."""
    largest = jnp.asarray(maps.max(axis=1))
    owner = jnp.where(largest > 0, jnp.asarray(maps.argmax(axis=1)), -1)
    return np.asarray(to_rgb(ClearMap(owner, largest, jnp.zeros(maps.shape[:2])), palette=legible(10)))


def _class_colours(maps: Float[np.ndarray, "N H W"], classes: np.ndarray) -> Float[np.ndarray, "N H W 3"]:
    """The positive response of one class of each image, in the colour of that class."""
    return legible(10)[classes][:, None, None] * np.asarray(brightness(jnp.asarray(maps)))[..., None]


def _outline(axis: "Axes", mask: Bool[np.ndarray, "H W"], style: str) -> None:
    """Draws the border of a mask."""
    axis.contour(mask.astype(float), [0.5], colors="white", linewidths=0.9, linestyles=style)
