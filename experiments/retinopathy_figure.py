"""The figure of CLEAR-DR: photographs with the most attentive region boxed in red, beside their CLEAR maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

import jaxclear
from jaxclear.attention import AttentiveRegion, Box
from jaxclear.drawing import (
    FOREGROUND,
    MUTED,
    certainty,
    colour_key,
    draw_image,
    draw_probabilities,
    heading,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RED = "#ff2d2d"
COLOURS = np.array([(0.4, 0.62, 1.0), (0.2, 0.9, 0.5), (1.0, 0.92, 0.25), (1.0, 0.58, 0.16), (0.95, 0.38, 1.0)])
"""Of the grades, in their order; none is the red of the box."""
_NOTE = (
    "Red box: the strongest connected region of the predicted grade's response.   CLEAR map, over the photograph in "
    "grey: the colour is the grade that responds most at this point, the brightness how strongly (square root)."
)


class Reading(NamedTuple):
    """One photograph and what the network says of it.

    Attributes:
        photograph: as the network gets it, before normalisation.
        clear: its CLEAR map, a batch of one.
        region: the most attentive one, of the predicted grade's response; None where that responds nowhere.
        grade: the true one.
        probabilities: of each grade.
        name: in the data set.
    """

    photograph: UInt8[np.ndarray, "S S 3"]
    clear: jaxclear.ClearMap
    region: AttentiveRegion | None
    grade: int
    probabilities: Float[np.ndarray, " K"]
    name: str


def gallery(
    readings: Sequence[tuple[Reading | None, Reading | None]], *, title: str, class_names: Sequence[str]
) -> "Figure":
    """Returns a figure with a row for each grade: a photograph graded rightly at the left, wrongly at the right.

    Args:
        readings: for each grade the two, None where there is none.
        title: of the figure.
        class_names: names of the grades.
    """
    side, gap, half = 2.2, 0.08, 7.15
    wide, tall = 0.95 + 2 * half, 1.75 + len(readings) * (side + 0.42)
    figure = new_figure(wide, tall)
    heading(figure, f"{title}: which grade each region speaks for", y=1 - 0.3 / tall, size=15)
    colour_key(figure, tuple(class_names), COLOURS, y=1 - 0.68 / tall, size=10.5, words="black: no grade responds")
    figure.text(0.012, 0.24 / tall, _NOTE, color=MUTED, fontsize=9, va="center")
    for column, words in enumerate(("graded rightly", "graded wrongly")):
        left = (0.9 + column * half) / wide
        figure.text(left, 1 - 1.05 / tall, words, color=FOREGROUND, fontsize=12, fontweight="bold", va="center")
    for row, pair in enumerate(readings):
        bottom = tall - 1.5 - (row + 1) * side - row * 0.42
        middle = (bottom + side / 2) / tall
        figure.text(
            0.42 / wide, middle, class_names[row], color=FOREGROUND, fontsize=12, rotation=90, ha="center", va="center"
        )
        for column, reading in enumerate(pair):
            left = 0.9 + column * half
            if reading is None:
                words = "none in the test set"
                figure.text(left / wide, middle, words, color=MUTED, fontsize=10, va="center")
                continue
            places = [(left + k * (side + gap)) / wide for k in range(3)]
            size = side / wide, side / tall
            axes = [figure.add_axes((place, bottom / tall, *size)) for place in places[:2]]
            _draw_pair(axes, reading)
            predicted = int(reading.probabilities.argmax())
            share = certainty(float(reading.probabilities[predicted]))
            words = f"network: {class_names[predicted]} ({share})   ·   graded: {class_names[reading.grade]}"
            figure.text(left / wide, (bottom + side + 0.14) / tall, words, color=FOREGROUND, fontsize=10, va="center")
            bars = figure.add_axes((places[2] + 1.12 / wide, (bottom + 0.2) / tall, 0.62 / wide, (side - 0.4) / tall))
            draw_probabilities(bars, reading.probabilities, tuple(class_names), COLOURS)
    return figure


def _draw_pair(axes: "Sequence[Axes]", reading: Reading) -> None:
    photograph = reading.photograph / 255
    root = reading.clear._replace(dominant_response=np.sqrt(np.maximum(reading.clear.dominant_response, 0)))
    coloured = np.asarray(jaxclear.to_rgb(root, palette=COLOURS))[0]
    # The photograph stands back, so that its own light is not taken for a response.
    grey = 0.4 * photograph.mean(axis=-1, keepdims=True)
    laid = grey * (1 - coloured.max(axis=-1, keepdims=True)) + coloured
    for axis, picture in zip(axes, (photograph, laid), strict=True):
        draw_image(axis, picture, upper=True)
        if reading.region is not None:
            _draw_box(axis, reading.region.box, len(picture))


def _draw_box(axis: "Axes", box: Box, size: int) -> None:
    from matplotlib.patches import Rectangle

    margin = 0.015 * size
    corner = (box.left - 0.5 - margin, box.top - 0.5 - margin)
    width, height = box.right - box.left + 2 * margin, box.bottom - box.top + 2 * margin
    axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=_RED, linewidth=1.8))
