"""Pictures of explanations, as matplotlib figures.

matplotlib is imported when a figure is made and without its global state: figures are plain objects, and close when
nothing holds them. `save` writes one as PNG; in a notebook the figure shows itself.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from jaxclear.drawing import (
    FOREGROUND,
    MUTED,
    certainty,
    class_shares,
    colour_key,
    draw_atoms,
    draw_image,
    draw_probabilities,
    heading,
    new_figure,
    shares_text,
)
from jaxclear.palettes import legible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxclear.crystals import CrystalExplanation

READING = (
    "CLEAR map: the colour is the class that responds most at this point, the brightness how strongly "
    "(its square root); black: none."
)


def save(figure: "Figure", path: str | os.PathLike[str], *, dpi: int = 110) -> None:
    """Writes a figure as PNG.

    Args:
        figure: any figure of this module.
        path: the file; replaced if it is there.
        dpi: dots an inch.
    """
    figure.savefig(path, dpi=dpi, format="png", facecolor=figure.get_facecolor())


def crystal_figure(
    found: "CrystalExplanation",
    index: int = 0,
    *,
    title: str | None = None,
    note: str = "",
    missing: Float[np.ndarray, "n 3"] | None = None,
) -> "Figure":
    """Returns a figure of one structure: its atoms, its fingerprint, its CLEAR map, and the class probabilities.

    Args:
        found: explanations, as `jaxclear.crystals.explain` returns them.
        index: which of them.
        title: by default the structure's name and its class.
        note: a line in small print at the bottom, instead of how to read the map.
        missing: positions of removed atoms (Å), drawn as rings.
    """
    predicted = int(found.predicted_class[index])
    probability = float(found.probabilities[index, predicted])
    answer = f"{found.class_names[predicted]} ({certainty(probability)})"
    figure = new_figure(12.4, 4.3)
    heading(figure, title or f"{short(found.names[index])}: {answer}", y=0.955, size=14)
    figure.text(0.012, 0.035, note or READING, color=MUTED, fontsize=8.5, va="center")
    _crystal_panels(figure, found, index, missing)
    return figure


def _crystal_panels(
    figure: "Figure", found: "CrystalExplanation", index: int, missing: Float[np.ndarray, "n 3"] | None
) -> None:
    colours = found.colours
    bottom, height, width = 0.17, 0.62, 0.215
    panels = [figure.add_axes((left, bottom, width, height)) for left in (0.012, 0.245, 0.478)]
    for axis, words in zip(panels, ("structure", "diffraction fingerprint", "CLEAR map"), strict=True):
        axis.set_title(words, color=FOREGROUND, fontsize=11, pad=7)
    draw_atoms(panels[0], found.clusters[index], missing)
    draw_image(panels[1], stretched(found.fingerprint[index]))
    draw_image(panels[2], brightened(turned(found.rgb[index])))
    shares = class_shares(found.clear.dominant_class[index], found.clear.dominant_response[index], len(colours))
    count = len(found.clusters[index].numbers)
    captions = (
        f"{count} atoms in the beam",
        "turned about x (red), y (green), z (blue)",
        f"response: {shares_text(shares, found.class_names)}",
    )
    for axis, words in zip(panels, captions, strict=True):
        axis.text(0.5, -0.045, words, transform=axis.transAxes, color=MUTED, fontsize=8.5, ha="center", va="top")
    bars = figure.add_axes((0.79, bottom, 0.155, height))
    bars.set_title("probability  ·  colour key", color=FOREGROUND, fontsize=11, pad=7)
    draw_probabilities(bars, found.probabilities[index], found.class_names, colours)


def crystal_gallery(
    pristine: "CrystalExplanation",
    damaged: "CrystalExplanation",
    *,
    titles: Sequence[str],
    true_classes: Int[Any, " n"],
    damage: str,
    missing: Sequence[Float[np.ndarray, "n 3"]] | None = None,
) -> "Figure":
    """Returns a figure with a row for each structure: pristine on the left, damaged on the right.

    Args:
        pristine: explanations of the undamaged structures.
        damaged: of the same structures, damaged.
        titles: what each structure is, "Cu".
        true_classes: the class of each structure.
        damage: what was done, "25 % of the atoms removed".
        missing: for each structure the positions of removed atoms (Å), drawn as rings.
    """
    names = pristine.class_names
    count = len(titles)
    tall = 1.32 * count + 1.6
    figure = new_figure(12.6, tall)
    heading(figure, "What a network sees in a crystal, and in the same crystal damaged", y=1 - 0.32 / tall, size=15)
    subtitle = f"Left: pristine. Right: {damage}. CLEAR map: peaks in the colour of the class they speak for "
    subtitle += "(√ of the response)."
    figure.text(0.012, 1 - 0.66 / tall, subtitle, color=MUTED, fontsize=10, va="center")
    colour_key(figure, names, pristine.colours, y=0.3 / tall, size=9.5)
    side = 1.22 / 12.6
    for row, title in enumerate(titles):
        bottom = (tall - 1.07 - 1.32 * (row + 1)) / tall
        figure.text(0.012, bottom + 0.76 / tall, title, color=FOREGROUND, fontsize=13, fontweight="bold", va="center")
        label = names[int(true_classes[row])]
        figure.text(0.012, bottom + 0.48 / tall, label, color=MUTED, fontsize=10.5, va="center")
        for half, found in enumerate((pristine, damaged)):
            left = 0.075 + half * 0.468
            lost = missing[row] if half and missing is not None else None
            boxes = [(left + k * (side + 0.008), bottom, side, 1.22 / tall) for k in range(3)]
            _gallery_cell(figure, found, row, boxes, lost, int(true_classes[row]))
            if row == 0:
                top = bottom + 1.31 / tall
                for box, words in zip(boxes, ("structure", "fingerprint", "CLEAR map"), strict=True):
                    centre = box[0] + side / 2
                    figure.text(centre, top, words, color=FOREGROUND, fontsize=10, ha="center", va="center")
                centre = boxes[-1][0] + side + 0.062
                figure.text(centre, top, "class probabilities", color=FOREGROUND, fontsize=10, ha="center", va="center")
    return figure


def _gallery_cell(
    figure: "Figure",
    found: "CrystalExplanation",
    row: int,
    boxes: Sequence[tuple[float, float, float, float]],
    missing: Float[np.ndarray, "n 3"] | None,
    true_class: int,
) -> None:
    """One structure of a gallery: three pictures and its probabilities."""
    atoms, image, clear = (figure.add_axes(box) for box in boxes)
    draw_atoms(atoms, found.clusters[row], missing)
    draw_image(image, stretched(found.fingerprint[row]))
    draw_image(clear, brightened(turned(found.rgb[row])))
    left, bottom, width, height = boxes[-1]
    predicted = int(found.predicted_class[row])
    bars = figure.add_axes((left + width + 0.012, bottom + 0.3 * height, 0.1, 0.66 * height))
    colours = found.colours
    draw_probabilities(bars, found.probabilities[row], found.class_names, colours, compact=True)
    mark = "" if predicted == true_class else "  ✗ wrong"
    words = f"{found.class_names[predicted]} {certainty(float(found.probabilities[row, predicted]))}{mark}"
    figure.text(
        left + width + 0.012, bottom + 0.14 * height, words, color=FOREGROUND, fontsize=10, va="center", ha="left"
    )


def image_figure(
    image: Float[np.ndarray, "H W C"],
    panels: Sequence[tuple[str, Float[np.ndarray, "H W 3"]]],
    *,
    title: str,
    class_names: tuple[str, ...],
    probabilities: Float[np.ndarray, " K"],
    shares: Float[np.ndarray, " K"],
    colours: Float[np.ndarray, "K 3"] | None = None,
    note: str = "",
    most: int = 12,
) -> "Figure":
    """Returns a figure of one image beside its maps, with class probabilities and the colour key.

    Args:
        image: the image; one channel is drawn in grey.
        panels: name and colours of each map.
        title: what it is.
        class_names: one name a class.
        probabilities: of each class.
        shares: each class's part of the dominant response, as `class_shares` returns it.
        colours: of each class in the maps; `jaxclear.palettes.legible` by default.
        note: a line in small print at the bottom.
        most: at most so many classes are listed, the strongest ones.
    """
    shown = np.sort(np.argsort(-(probabilities + shares), kind="stable")[:most])
    colours = legible(len(class_names)) if colours is None else colours
    count = 1 + len(panels)
    wide, tall = 2.35 * count + 3.1, 3.75
    figure = new_figure(wide, tall)
    heading(figure, title, y=1 - 0.3 / tall, size=13)
    low, high = float(image.min()), float(image.max())
    grey = (image - low) / (high - low if high > low else 1)
    picture = np.repeat(grey, 3, axis=-1) if grey.shape[-1] == 1 else grey[..., :3]
    for column, (words, colour) in enumerate((("image", picture), *panels)):
        axis = figure.add_axes(((0.12 + 2.35 * column) / wide, 0.52 / tall, 2.2 / wide, 2.2 / tall))
        draw_image(axis, np.asarray(colour), upper=True)
        axis.set_title(words, color=FOREGROUND, fontsize=10.5, pad=7)
    bars = figure.add_axes(((0.12 + 2.35 * count + 0.95) / wide, 0.52 / tall, 1.4 / wide, 2.2 / tall))
    bars.set_title("probability  ·  colour key", color=FOREGROUND, fontsize=10.5, pad=7)
    draw_probabilities(bars, probabilities[shown], [class_names[k] for k in shown], colours[shown])
    words = f"CLEAR response: {shares_text(shares, class_names)}" + (f"   ·   {note}" if note else "")
    figure.text(0.12 / wide, 0.24 / tall, words, color=MUTED, fontsize=8.5, va="center")
    return figure


def short(name: str) -> str:
    """Returns the last part of a file name, for a title."""
    return os.path.basename(name) or name


def turned(image: Float[np.ndarray, "x y C"]) -> Float[np.ndarray, "y x C"]:
    """Returns a detector image whose first axis is x as rows of y."""
    return np.clip(np.swapaxes(np.asarray(image), 0, 1), 0, 1)


def brightened(colours: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """Returns colours of the same hue with the square root of their brightness."""
    return colours / np.sqrt(np.maximum(colours.max(axis=-1, keepdims=True), 1e-6))


def stretched(fingerprint: Float[np.ndarray, "x y 3"]) -> Float[np.ndarray, "y x 3"]:
    """Returns a fingerprint for the eye: its square root, since a few peaks outshine all others."""
    return np.sqrt(turned(fingerprint))
