"""Pictures of the lung study: ROC curves over folds (figures 4.5 to 4.7), critical response maps (4.3 and 4.4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxclear
from experiments.lung_maps import Example
from jaxclear.data.lidc import CLASSES
from jaxclear.drawing import BACKGROUND, FOREGROUND, FRAME, MUTED, certainty, draw_image, heading, new_figure
from jaxclear.metrics import RocCurve, area_under

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["critical_figure", "mean_curve", "roc_figure"]

_COLOURS = np.array([[0.25, 0.75, 1.0], [1.0, 0.45, 0.2]])
"""Of the maps for benign and for malignant."""
_CONTOUR = "#7dff8a"


def mean_curve(curves: Sequence[RocCurve], points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """Returns false positive rates and the mean of the curves' true positive rates there, from (0, 0)."""
    grid = np.linspace(0, 1, points)
    rates = np.mean([np.interp(grid, curve.false_positive_rate, curve.true_positive_rate) for curve in curves], axis=0)
    return np.concatenate([[0.0], grid]), np.concatenate([[0.0], rates])


def roc_figure(curves: Sequence[RocCurve], *, title: str, note: str) -> "Figure":
    """Returns the ROC curve of every fold, thin, and their mean, thick.

    Args:
        curves: one a fold.
        title: what was measured, and on what.
        note: a line in small print.
    """
    figure = new_figure(6.4, 6.6)
    heading(figure, title, y=0.962, size=12.5)
    axis = figure.add_axes((0.115, 0.13, 0.85, 0.79))
    axis.set_facecolor(BACKGROUND)
    areas = [100 * area_under(curve) for curve in curves]
    axis.plot([0, 1], [0, 1], color=FRAME, linewidth=1, linestyle="--", label="chance")
    for number, (curve, area) in enumerate(zip(curves, areas, strict=True), start=1):
        shade = 0.45 + 0.5 * number / len(curves)
        axis.plot(*curve[:2], color=_COLOURS[0] * shade, linewidth=0.9, label=f"fold {number}: AUC {area:.1f} %")
    spread = f" ± {np.std(areas, ddof=1):.1f}" if len(areas) > 1 else ""
    words = f"mean: AUC {np.mean(areas):.1f}{spread} %"
    axis.plot(*mean_curve(curves), color=_COLOURS[1], linewidth=3, label=words)
    axis.set_xlim(-0.01, 1)
    axis.set_ylim(0, 1.01)
    axis.set_aspect("equal")
    axis.set_xlabel("false positive rate (1 − specificity)", color=FOREGROUND)
    axis.set_ylabel("true positive rate (sensitivity)", color=FOREGROUND)
    axis.tick_params(colors=MUTED)
    for spine in axis.spines.values():
        spine.set_color(FRAME)
    legend = axis.legend(loc="lower right", fontsize=9, facecolor=BACKGROUND, edgecolor=FRAME)
    for text in legend.get_texts():
        text.set_color(FOREGROUND)
    figure.text(0.012, 0.022, note, color=MUTED, fontsize=8.5, va="center")
    return figure


def critical_figure(shown: Sequence[Example], *, title: str, note: str) -> "Figure":
    """Returns slices with the nodule's contour above the maps of both possible predictions, one slice a column.

    Both maps of a slice share one scale, its largest response.

    Args:
        shown: the slices.
        title: what they are.
        note: a line in small print.
    """
    side, left, gap = 1.75, 1.25, 0.08
    wide, tall = max(left + len(shown) * (side + gap) + 0.1, 7.5), 3 * (side + gap) + 1.75
    figure = new_figure(wide, tall)
    heading(figure, title, y=1 - 0.28 / tall, size=12.5)
    bottoms = [(tall - 1.05 - (row + 1) * (side + gap)) / tall for row in range(3)]
    colours = (FOREGROUND, _COLOURS[0], _COLOURS[1])
    for bottom, words, colour in zip(
        bottoms, ("slice,\ncontour", *(f"for\n{c}" for c in CLASSES)), colours, strict=True
    ):
        figure.text(0.15 / wide, bottom + side / 2 / tall, words, color=colour, fontsize=11, va="center")
    for column, example in enumerate(shown):
        x = left + column * (side + gap)
        grey = np.repeat(example.image.astype(np.float64) / 255, 3, axis=-1)
        for row, picture in enumerate((grey, *_overlays(example))):
            axis = figure.add_axes((x / wide, bottoms[row], side / wide, side / tall))
            draw_image(axis, picture, upper=True)
            axis.contour(example.mask, [0.5], colors=_CONTOUR, linewidths=0.9)
        right = example.predicted == example.label
        words = f"{CLASSES[example.predicted]}\n{certainty(example.probability)}{'' if right else '  ✗ wrong'}"
        figure.text(
            (x + side / 2) / wide, 1 - 0.78 / tall, words, color=FOREGROUND, fontsize=9.5, ha="center", va="center"
        )
    figure.text(0.15 / wide, 0.32 / tall, note, color=MUTED, fontsize=8.5, va="center", linespacing=1.5)
    return figure


def _overlays(example: Example) -> Float[np.ndarray, "2 S S 3"]:
    """Both maps in their colours on the slice in grey."""
    positive = np.maximum(example.maps, 0)
    strongest = positive.max()
    value = positive / (strongest if strongest > 0 else 1)
    colour = value[..., None] ** 0.6 * _COLOURS[:, None, None]
    image = np.repeat(example.image[None].astype(np.float32) / 255, 2, axis=0)
    return np.asarray(jaxclear.overlay(jnp.asarray(colour), jnp.asarray(image), opacity=0.9))
