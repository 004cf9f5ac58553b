"""The figures of the study on radiographs: attentive maps, focus areas of single units, the landmark ablation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

import jaxclear
from jaxclear.attention import focus_area
from jaxclear.drawing import BACKGROUND, FOREGROUND, FRAME, MUTED, certainty, draw_image, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LANDMARKS = "#35d7ff"
_LINES = {
    "kept": ("only the focus area", "#ffd24a", "-"),
    "kept_elsewhere": ("only as much elsewhere", "#ffd24a", ":"),
    "removed": ("without the focus area", "#ff6b6b", "-"),
    "removed_elsewhere": ("without as much elsewhere", "#ff6b6b", ":"),
}


class Example(NamedTuple):
    """One image and what the n networks make of it.

    Attributes:
        image: in [0, 1].
        label: its class.
        attention: the attentive response map of each network.
        probabilities: of each network.
        units: responses of the most activated units of each network.
        cut: the image with nothing but the last network's focus area, and without it.
        cut_probabilities: what the last network says of these two.
        landmarks: where they are, if that is known.
        sigma: smoothing of the focus areas, pixels.
        area: part of the image in a focus area.
    """

    image: Float[np.ndarray, "S S"]
    label: int
    attention: Float[np.ndarray, "n S S"]
    probabilities: Float[np.ndarray, "n K"]
    units: Float[np.ndarray, "n m S S"]
    cut: Float[np.ndarray, "2 S S"]
    cut_probabilities: Float[np.ndarray, "2 K"]
    landmarks: Bool[np.ndarray, "S S"] | None
    sigma: float
    area: float


def maps_figure(
    examples: Sequence[Example], *, title: str, networks: Sequence[str], classes: Sequence[str]
) -> "Figure":
    """Returns a figure with a row for each image: itself, the networks' maps over it, and what is left for ablation."""
    columns = ["image", *networks, "only the focus area", "without it"]
    side, gap = 1.9, 0.12
    wide, tall = 0.5 + len(columns) * (side + gap), 1.55 + len(examples) * (side + 0.4)
    figure = new_figure(wide, tall)
    heading(figure, f"{title}: attentive response maps of three networks", y=1 - 0.3 / tall, size=15)
    words = "Maps: maximum over the most activated units of the last convolution (hot), over the image in grey."
    if examples[0].landmarks is not None:
        words += "   Blue lines: the bones that tell the regions apart."
    words += f"   Focus area: the strongest {100 * examples[0].area:.0f} % of the last map."
    figure.text(0.012, 0.22 / tall, words, color=MUTED, fontsize=9, va="center")
    for row, example in enumerate(examples):
        bottom = tall - 1.02 - (row + 1) * side - row * 0.4
        name = classes[example.label]
        centre = (bottom + side / 2) / tall
        figure.text(0.24 / wide, centre, name, color=FOREGROUND, fontsize=12, rotation=90, ha="center", va="center")
        pictures = [_grey(example.image), *(_overlaid(example.image, one) for one in example.attention)]
        pictures += [_grey(one) for one in example.cut]
        answers = [None, *example.probabilities, *example.cut_probabilities]
        for column, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
            left = (0.45 + column * (side + gap)) / wide
            axis = figure.add_axes((left, bottom / tall, side / wide, side / tall))
            draw_image(axis, picture, upper=True)
            if column == 0 and example.landmarks is not None:
                axis.contour(example.landmarks, levels=[0.5], colors=[_LANDMARKS], linewidths=0.6)
            if answer is not None:
                _caption(axis, answer, example.label, classes)
            if row == 0:
                axis.set_title(columns[column], color=FOREGROUND, fontsize=11, pad=7)
    return figure


def focus_figure(
    examples: Sequence[Example], *, title: str, networks: Sequence[str], classes: Sequence[str]
) -> "Figure":
    """Returns a figure of one image: for each network the focus areas of its most activated units, one by one."""
    (example,) = examples
    count = example.units.shape[1]
    side, gap = 1.9, 0.12
    wide, tall = 1.0 + max(count, 4) * (side + gap), 1.4 + len(networks) * (side + gap)
    figure = new_figure(wide, tall)
    words = f"{title}: focus areas of the {count} most activated units, {classes[example.label]}"
    heading(figure, words, y=1 - 0.3 / tall, size=13)
    words = f"Last convolution, most activated unit first. Shown: the strongest {50 * example.area:.0f} % of its map."
    figure.text(0.012, 0.22 / tall, words, color=MUTED, fontsize=9, va="center")
    for row, name in enumerate(networks):
        bottom = tall - 0.75 - (row + 1) * side - row * gap
        centre = (bottom + side / 2) / tall
        figure.text(0.45 / wide, centre, name, color=FOREGROUND, fontsize=11, rotation=90, ha="center", va="center")
        for column in range(count):
            focus = focus_area(example.units[row, column], example.area / 2, sigma=example.sigma)
            left = (0.85 + column * (side + gap)) / wide
            axis = figure.add_axes((left, bottom / tall, side / wide, side / tall))
            # What is outside stays visible, faintly, so that one sees where the area lies.
            draw_image(axis, _grey(np.where(focus, example.image, 0.25 * example.image)), upper=True)
            if focus.any():
                axis.contour(focus, levels=[0.5], colors=["#ffd24a"], linewidths=0.8)
    return figure


def ablation_figure(figures: dict[str, dict[str, Any]], *, title: str) -> "Figure":
    """Returns a figure of the accuracy over the area kept or removed, for each network.

    Args:
        figures: of each network, as the results file holds them.
        title: of the figure.
    """
    wide, tall = 12.2, 4.6
    figure = new_figure(wide, tall)
    heading(figure, f"{title}: accuracy on what the maps mark, and without it", y=1 - 0.28 / tall, size=14)
    for number, (name, found) in enumerate(figures.items()):
        axis = figure.add_axes((0.055 + 0.317 * number, 0.29, 0.282, 0.51))
        _draw_curves(axis, found["ablation"])
        axis.set_title(name, color=FOREGROUND, fontsize=11, loc="left", pad=7)
        axis.set_xlabel("focus area, % of the image", color=MUTED, fontsize=9.5)
        if number == 0:
            axis.set_ylabel("accuracy, %", color=MUTED, fontsize=9.5)
            handles, labels = axis.get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="lower left", bbox_to_anchor=(0.04, 0.0), ncols=4, fontsize=9,
                frameon=False, labelcolor=FOREGROUND, handlelength=1.8, columnspacing=2.4,
            )  # fmt: skip
    return figure


def _draw_curves(axis: "Axes", ablation: dict[str, Any]) -> None:
    axis.set_facecolor(BACKGROUND)
    areas = [column["area_percent"] for column in ablation["focus_areas"]]
    for key, (words, colour, style) in _LINES.items():
        values = [column[key] for column in ablation["focus_areas"]]
        axis.plot(areas, values, color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=3.5, label=words)
    axis.axhline(ablation["full_image"], color=FOREGROUND, linewidth=1.0, linestyle="--", label="full image")
    if "true_landmarks" in ablation:
        known = ablation["true_landmarks"]
        axis.scatter([known["area_percent"]], [known["kept"]], color=_LANDMARKS, marker="D", s=30, zorder=3,
                     label="only the true landmarks")  # fmt: skip
        axis.scatter([known["area_percent"]], [known["removed"]], color=_LANDMARKS, marker="x", s=36, zorder=3,
                     label="without them")  # fmt: skip
    axis.set_ylim(-3, 103)
    axis.set_xlim(0, None)
    axis.tick_params(colors=MUTED, labelsize=9)
    for spine in axis.spines.values():
        spine.set_color(FRAME)


def _caption(axis: "Axes", probabilities: Float[np.ndarray, " K"], label: int, classes: Sequence[str]) -> None:
    predicted = int(probabilities.argmax())
    words = f"{classes[predicted]} {certainty(float(probabilities[predicted]))}"
    colour = FOREGROUND if predicted == label else "#ff8f70"
    mark = "" if predicted == label else "  ✗"
    axis.text(0.5, -0.035, words + mark, transform=axis.transAxes, color=colour, fontsize=9.5, ha="center", va="top")


def _grey(image: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S 3"]:
    return np.repeat(np.asarray(image)[..., None], 3, axis=-1)


def _overlaid(image: Float[np.ndarray, "S S"], response: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S 3"]:
    """A map, hot, over its image: the square root of the response, since a few pixels outshine all others."""
    positive = jnp.sqrt(jnp.maximum(jnp.asarray(response), 0))[None]
    nothing = jnp.zeros_like(positive)
    hot = jaxclear.heat_rgb(jaxclear.HeatMap(positive, nothing, jnp.zeros(1, jnp.int32), jnp.zeros((1, 1))))
    return np.asarray(jaxclear.overlay(hot, jnp.asarray(image)[None, ..., None], opacity=0.85))[0]
