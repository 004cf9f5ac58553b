"""The parts that pictures are made of: one typography, dark ground, atoms, images, bars and the colour key."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxclear.crystals import Crystal

BACKGROUND = "#111318"
"""Close to the black of a map's empty pixels, yet apart from it."""
FOREGROUND = "#f2f3f5"
MUTED = "#aab0bb"
FRAME = "#343a46"
VIEW = (25.0, 14.0)
"""From which side atoms are seen, degrees: turned about the vertical axis, then tilted towards the eye."""


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty dark figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor=BACKGROUND)


def heading(figure: "Figure", words: str, *, y: float, size: float) -> None:
    """Writes the title at the left."""
    figure.text(0.012, y, words, color=FOREGROUND, fontsize=size, fontweight="bold", va="center", ha="left")


def draw_image(axis: "Axes", image: Float[np.ndarray, "H W 3"], *, upper: bool = False) -> None:
    """Draws an image without ticks; `upper` puts its first row at the top."""
    axis.imshow(np.clip(image, 0, 1), origin="upper" if upper else "lower", interpolation="nearest")
    axis.set_anchor("N")
    _bare(axis)


def _bare(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_facecolor("black")
    for spine in axis.spines.values():
        spine.set_color(FRAME)
        spine.set_linewidth(0.8)


def draw_atoms(axis: "Axes", crystal: "Crystal", missing: Float[np.ndarray, "n 3"] | None = None) -> None:
    """Draws atoms as shaded balls with bonds between nearest neighbours, seen at an angle; removed atoms as rings.

    Args:
        axis: where to draw.
        crystal: a finite cluster; above 1,500 atoms only those nearest to the eye are drawn, without bonds.
        missing: positions of removed atoms, Å.
    """
    from matplotlib.collections import EllipseCollection, LineCollection

    gone = np.zeros((0, 3)) if missing is None else np.asarray(missing)
    everything = np.concatenate([crystal.positions, gone])
    centre = (everything.max(0) + everything.min(0)) / 2
    seen = _seen(crystal.positions - centre)
    order = np.argsort(seen[:, 2])[-1500:]
    pairs, spacing = _bonds(crystal.positions) if len(seen) <= 1500 else (np.zeros((0, 2), int), _spacing(seen))
    near = _nearness(seen[:, 2])
    _bare(axis)
    axis.set_facecolor(BACKGROUND)
    colours = _element_colours(crystal.numbers)
    dark = np.array([0.067, 0.075, 0.094])
    segments = seen[pairs][:, :, :2]
    bond_shade = 0.25 + 0.45 * near[pairs].mean(axis=1, keepdims=True)
    axis.add_collection(LineCollection(list(segments), colors=dark + (0.78 - dark) * bond_shade, linewidths=0.9))
    sizes = (0.34 + 0.14 * near[order]) * spacing
    fill = dark + (colours[order] - dark) * (0.35 + 0.65 * near[order, None])
    balls = {"units": "x", "offset_transform": axis.transData, "angles": np.zeros(len(order))}
    axis.add_collection(
        EllipseCollection(
            sizes, sizes, offsets=seen[order, :2], facecolors=fill, edgecolors=dark, linewidths=0.4, zorder=2, **balls
        )
    )
    shine = sizes * 0.3
    axis.add_collection(
        EllipseCollection(
            shine,
            shine,
            offsets=seen[order, :2] + 0.17 * sizes[:, None] * np.array([-1, 1]),
            facecolors=fill + (1 - fill) * 0.6 * near[order, None],
            edgecolors="none",
            zorder=3,
            **balls,
        )
    )
    if len(gone):
        rings = np.full(len(gone), 0.36 * spacing)
        axis.add_collection(
            EllipseCollection(
                rings,
                rings,
                np.zeros(len(gone)),
                units="x",
                offsets=_seen(gone - centre)[:, :2],
                offset_transform=axis.transData,
                facecolors="none",
                edgecolors="#ff8f70",
                linewidths=0.7,
                zorder=4,
            )
        )
    _frame(axis, _seen(everything - centre)[:, :2], spacing)


def _frame(axis: "Axes", points: Float[np.ndarray, "n 2"], spacing: float) -> None:
    """Sets square limits that hold all points."""
    low, high = points.min(0), points.max(0)
    half = (high - low).max() / 2 + 0.45 * spacing
    middle = (low + high) / 2
    axis.set_xlim(middle[0] - half, middle[0] + half)
    axis.set_ylim(middle[1] - half, middle[1] + half)
    axis.set_aspect("equal")


def _seen(positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Positions as right, up and towards the eye; z points up."""
    turn, tilt = np.radians(VIEW)
    x, y, z = positions.T
    right, away = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    return np.stack([right, z * np.cos(tilt) + away * np.sin(tilt), z * np.sin(tilt) - away * np.cos(tilt)], axis=1)


def _nearness(depth: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """0 for the farthest atom, 1 for the nearest."""
    span = np.ptp(depth)
    return (depth - depth.min()) / span if span > 0 else np.ones_like(depth)


def _spacing(positions: Float[np.ndarray, "n 3"]) -> float:
    from scipy.spatial import KDTree

    if len(positions) < 2:
        return 1.0
    return float(np.median(KDTree(positions).query(positions, k=2)[0][:, 1])) or 1.0


def _bonds(positions: Float[np.ndarray, "n 3"]) -> tuple[Int[np.ndarray, "m 2"], float]:
    """Pairs within 1.18 nearest-neighbour distances, and that distance."""
    from scipy.spatial import KDTree

    spacing = _spacing(positions)
    return KDTree(positions).query_pairs(1.18 * spacing, output_type="ndarray").reshape(-1, 2), spacing


def certainty(probability: float) -> str:
    """Returns a network's probability as text: it is never sure, though its numbers may round to 0 or 1.

    Example:
        >>> certainty(1.0), certainty(0.0)
        ('> 99.9 %', '< 0.1 %')
    """
    return percent(min(max(probability, 1e-9), 1 - 1e-9))


def percent(share: float) -> str:
    """Returns a share as text; only what is 0 or 1 says so.

    Example:
        >>> percent(0.999999), percent(0.912), percent(1e-6)
        ('> 99.9 %', '91.2 %', '< 0.1 %')
    """
    if share >= 0.9995:
        return "100 %" if share >= 1 else "> 99.9 %"
    if share < 0.0005:
        return "0 %" if share <= 0 else "< 0.1 %"
    return f"{100 * share:.1f} %"


def _element_colours(numbers: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Colours of elements as ASE has them, each light enough for a dark ground."""
    from ase.data.colors import jmol_colors

    colours = np.asarray(jmol_colors)[numbers]
    lightness = colours.max(axis=1, keepdims=True)
    return np.clip(colours / np.maximum(lightness, 1e-6) * np.maximum(lightness, 0.8), 0, 1)


def draw_probabilities(
    axis: "Axes",
    probabilities: Float[np.ndarray, " K"],
    names: Sequence[str],
    colours: Float[np.ndarray, "K 3"],
    *,
    compact: bool = False,
    text: Callable[[float], str] = certainty,
) -> None:
    """Draws class probabilities as bars in the classes' colours; with names the bars are the colour key.

    Args:
        axis: where to draw.
        probabilities: of each class.
        names: of each class.
        colours: of each class.
        compact: bars alone, without names and numbers.
        text: of a number; `percent` for shares, which may be all or nothing.
    """
    places = np.arange(len(names))
    axis.set_facecolor(BACKGROUND)
    axis.barh(places, np.ones(len(names)), color="#20242d", height=0.72)
    axis.barh(places, probabilities, color=colours, height=0.72)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if compact:
        axis.set_yticks([])
        axis.scatter(np.full(len(names), -0.06), places, c=colours, s=9, marker="s", clip_on=False)
        return
    axis.set_yticks(places, names, color=FOREGROUND, fontsize=9.5)
    axis.tick_params(axis="y", pad=17)
    axis.scatter(np.full(len(names), -0.07), places, c=colours, s=46, marker="s", clip_on=False)
    for place, probability in zip(places, probabilities, strict=True):
        axis.text(1.04, float(place), text(float(probability)), color=MUTED, fontsize=8.5, va="center")


def colour_key(
    figure: "Figure",
    names: Sequence[str],
    colours: Float[np.ndarray, "K 3"],
    *,
    y: float,
    size: float,
    words: str = "black: no class responds",
) -> None:
    """Writes the classes in a line, each after a square of its colour, and what has none."""
    from matplotlib.patches import Rectangle

    width, tall = figure.get_size_inches()
    figure.text(0.012, y, "Colour key:", color=MUTED, fontsize=size, va="center")
    x = 0.012 + 0.95 / width
    for name, colour in zip(names, colours, strict=True):
        square = Rectangle((x, y - 0.075 / tall), 0.15 / width, 0.15 / tall, facecolor=colour)
        square.set_transform(figure.transFigure)
        figure.add_artist(square)
        figure.text(x + 0.22 / width, y, name, color=FOREGROUND, fontsize=size, va="center")
        x += (0.55 + 0.078 * len(name)) / width
    figure.text(x, y, words, color=MUTED, fontsize=size, va="center")


def class_shares(dominant_class: Any, dominant_response: Any, num_classes: int) -> Float[np.ndarray, " K"]:
    """Returns each class's part of one image's dominant response; all zero where nothing responds.

    Args:
        dominant_class: (*spatial), -1 where no class responds.
        dominant_response: (*spatial).
        num_classes: K.
    """
    classes = np.asarray(dominant_class).ravel()
    responses = np.maximum(np.asarray(dominant_response, np.float64).ravel(), 0)
    sums = np.bincount(classes[classes >= 0], weights=responses[classes >= 0], minlength=num_classes)
    return sums / sums.sum() if sums.sum() > 0 else sums


def shares_text(shares: Float[np.ndarray, " K"], names: Sequence[str], *, most: int = 3) -> str:
    """Returns the strongest classes and their shares, "fcc 81 %, sc 12 %"."""
    chosen = [k for k in np.argsort(-shares, kind="stable")[:most] if shares[k] >= 0.005]
    return ", ".join(f"{names[k]} {100 * shares[k]:.0f} %" for k in chosen) or "no class responds"
