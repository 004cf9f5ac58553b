"""Pictures of crystals beyond a single map: peaks named in a CLEAR map, and a slice through a map of regions.

matplotlib is imported when a figure is made, as in :mod:`jaxclear.plot`, whose `save` writes these figures too.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from jaxclear.drawing import (
    BACKGROUND,
    FOREGROUND,
    FRAME,
    MUTED,
    certainty,
    draw_image,
    draw_probabilities,
    heading,
    new_figure,
    percent,
)
from jaxclear.palettes import legible
from jaxclear.plot import brightened, short, stretched, turned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxclear.crystals import Crystal, CrystalExplanation, PeakTable, RegionMap

LEAST_SHARE = 0.008
"""Regions with a smaller part of the response are not labelled."""
NO_CLASS = (0.42, 0.44, 0.48)


def peaks_figure(found: "CrystalExplanation", row: int, table: "PeakTable") -> "Figure":
    """Returns a figure of one structure: fingerprint, CLEAR map with the peaks named, and each family's share.

    Args:
        found: explanations, as `jaxclear.crystals.explain` returns them.
        row: which of them.
        table: its peaks, as `jaxclear.crystals.explain_peaks` returns them.
    """
    figure = new_figure(12.2, 5.2)
    answer = f"{table.class_name} ({certainty(table.probability)})"
    heading(figure, f"{short(table.name)}: peaks that speak for {answer}", y=0.95, size=14)
    note = "A label names the reciprocal-lattice points of the standard cell under a bright region of the class. "
    note += "Brightness: square root of intensity and of response."
    figure.text(0.012, 0.035, note, color=MUTED, fontsize=8.5, va="center")
    panels = [figure.add_axes((left, 0.1, 0.327, 0.767)) for left in (0.012, 0.352)]
    for axis, words in zip(panels, ("diffraction fingerprint", f"CLEAR map, {table.class_name} named"), strict=True):
        axis.set_title(words, color=FOREGROUND, fontsize=11, pad=7)
    draw_image(panels[0], stretched(found.fingerprint[row]))
    draw_image(panels[1], brightened(turned(found.rgb[row])))
    name_regions(panels[1], table)
    colour = found.colours[found.class_names.index(table.class_name)]
    _draw_families(figure.add_axes((0.775, 0.1, 0.125, 0.767)), table, colour)
    return figure


def name_regions(axis: "Axes", table: "PeakTable", *, size: float = 8.5) -> None:
    """Writes a region's families outside of it, as seen from the beam; a name that would cover another is left out.

    Args:
        axis: where the map is drawn, its pixels one unit wide.
        table: the peaks of the class that is named.
        size: of the letters, points, for a map about 4 inches wide.
    """
    from matplotlib.patheffects import withStroke

    pixels = axis.get_xlim()[1] + 0.5
    shown = [region for region in table.regions if region.share >= LEAST_SHARE]
    bright = np.array([region.centre for region in shown]).reshape(-1, 2)
    outline = [withStroke(linewidth=2.2, foreground="black")]
    taken: list[tuple[float, float, float]] = []
    for region in shown:
        words = "+".join(name.strip("{}").replace(" ", ",") for name in region.families)
        half = 0.75 * len(words)
        free = [place for place in _places(region.centre, half, pixels) if not _covers(place, half, taken)]
        clear = [place for place in free if not np.any(np.all(np.abs(bright - place) < (half + 1.2, 2.4), axis=1))]
        if words and free:
            x, y = (clear or free)[0]
            taken.append((x, y, half))
            style = {"color": FOREGROUND, "fontsize": size, "ha": "center", "va": "center"}
            axis.text(x, y, words, path_effects=outline, **style)


def _places(centre: tuple[float, float], half: float, pixels: float) -> list[tuple[float, float]]:
    """Where the name of a region may stand: away from the beam, beside it, and towards the beam."""
    x, y = centre
    right, up = np.sign(x - pixels / 2) or 1.0, np.sign(y - pixels / 2) or 1.0
    across = half + 2.1
    tried = [(0, 3.4 * up), (across * right, 0), (across * right, 2.2 * up), (-across * right, 0), (0, -3.4 * up)]
    inside = [(x + dx, y + dy) for dx, dy in tried]
    return [(u, v) for u, v in inside if half <= u <= pixels - 1 - half and 1 <= v <= pixels - 2]


def _covers(place: tuple[float, float], half: float, taken: list[tuple[float, float, float]]) -> bool:
    """Whether a name at a place would cover another."""
    return any(abs(place[0] - x) <= half + other + 0.4 and abs(place[1] - y) <= 2.4 for x, y, other in taken)


def _draw_families(axis: "Axes", table: "PeakTable", colour: Float[np.ndarray, "3"]) -> None:
    """Bars of the families' shares with their lattice spacing."""
    names = [family.name for family in table.families[:12]]
    shares = list(table.shares[:12])
    notes = [
        f"{100 * share:.1f} %   d {family.d_spacing:.2f} Å"
        for family, share in zip(table.families, shares, strict=False)
    ]
    if table.beside > 0:
        names, shares, notes = [*names, "no peak"], [*shares, table.beside], [*notes, f"{100 * table.beside:.1f} %"]
    places = np.arange(len(names))
    axis.set_title("share of the response", color=FOREGROUND, fontsize=11, pad=7)
    axis.set_facecolor(BACKGROUND)
    axis.barh(places, shares, color=colour, height=0.62)
    axis.set_ylim(max(len(names), 8) - 0.4, -0.6)
    axis.set_xlim(0, max(shares, default=1.0))
    axis.set_xticks([])
    axis.set_yticks(places, names, color=FOREGROUND, fontsize=9.5)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for place, share, words in zip(places, shares, notes, strict=True):
        right = share / max(shares, default=1.0)
        axis.text(right + 0.05, float(place), words, color=MUTED, fontsize=8, va="center", transform=_mixed(axis))


def _mixed(axis: "Axes") -> Any:
    """Fractions of the axis to the right, places of the bars upwards."""
    return axis.get_yaxis_transform()


def regions_figure(
    found: "RegionMap",
    structure: "Crystal",
    *,
    axis: Literal["x", "y", "z"] = "z",
    at: float | None = None,
    thickness: float | None = None,
) -> "Figure":
    """Returns a figure of a slice through a structure, atoms in the colour of their class, pale where it is unsure.

    Args:
        found: the map of its regions, as `jaxclear.crystals.map_regions` returns it.
        structure: what was mapped.
        axis: the normal of the slice.
        at: where on this axis, Å; the middle by default.
        thickness: of the slice, Å; 1.2 nearest-neighbour distances by default.

    Raises:
        ValueError: for another axis, or a slice without atoms.
    """
    if axis not in ("x", "y", "z"):
        raise ValueError(f'expected axis "x", "y" or "z", got {axis!r}')
    normal = "xyz".index(axis)
    across = [k for k in range(3) if k != normal]
    depth = structure.positions[:, normal]
    middle = float((depth.min() + depth.max()) / 2) if at is None else at
    width = 1.2 * found.d_nn if thickness is None else thickness
    inside = np.flatnonzero(np.abs(depth - middle) <= width / 2)
    if not len(inside):
        raise ValueError(f"expected a slice with atoms, got none within {width / 2:.3g} Å of {axis} = {middle:.3g} Å")
    points = structure.positions[inside][:, across]
    extent = np.ptp(points, axis=0) + 1.5 * found.d_nn
    scale = min(8.2 / extent[0], 5.6 / extent[1])
    wide, tall = max(extent[0] * scale, 3.6), max(extent[1] * scale, 2.1)
    figure = new_figure(wide + 3.4, tall + 1.5)
    total = tall + 1.5
    count = len(structure.numbers)
    heading(
        figure, f"{short(structure.name)}: {count:,} atoms, {len(found.centres):,} regions", y=1 - 0.27 / total, size=13
    )
    box = (0.15 / (wide + 3.4), 0.72 / total, wide / (wide + 3.4), tall / total)
    colours = legible(len(found.class_names))
    panel = figure.add_axes(box)
    _draw_slice(panel, points, found.atom_class[inside], found.atom_confidence[inside], colours, found.d_nn)
    words = f"{axis} = {middle:.1f} ± {width / 2:.1f} Å   ·   up: {'xyz'[across[1]]}, right: {'xyz'[across[0]]}"
    words += f"   ·   regions of {found.size:.1f} Å every {found.stride:.1f} Å   ·   pale: unsure"
    figure.text(0.012, 0.48 / total, words, color=MUTED, fontsize=8.5, va="center")
    shares = np.bincount(found.atom_class[found.atom_class >= 0], minlength=len(colours)) / count
    bars = figure.add_axes(((wide + 1.25) / (wide + 3.4), 0.72 / total, 1.3 / (wide + 3.4), min(tall, 3.0) / total))
    bars.set_title("share of the atoms", color=FOREGROUND, fontsize=10.5, pad=7)
    draw_probabilities(bars, shares, found.class_names, colours, text=percent)
    if shares.sum() < 1 - 1e-9:
        figure.text(0.012, 0.2 / total, "grey: no class", color=MUTED, fontsize=8.5, va="center")
    return figure


def _draw_slice(
    axis: "Axes",
    points: Float[np.ndarray, "n 2"],
    classes: Any,
    confidence: Float[np.ndarray, " n"],
    colours: Float[np.ndarray, "K 3"],
    d_nn: float,
) -> None:
    """Draws atoms as discs in the colour of their class, mixed with grey by their uncertainty."""
    from matplotlib.collections import EllipseCollection

    grey = np.array(NO_CLASS)
    sure = np.where(classes >= 0, np.clip(confidence, 0, 1), 0.0)[:, None]
    fill = grey + (colours[np.maximum(classes, 0)] - grey) * sure
    sizes = np.full(len(points), 0.8 * d_nn)
    discs = EllipseCollection(
        sizes,
        sizes,
        np.zeros(len(points)),
        units="x",
        offsets=points,
        offset_transform=axis.transData,
        facecolors=fill,
        edgecolors="none",
    )
    axis.add_collection(discs)
    low, high = points.min(axis=0) - 0.75 * d_nn, points.max(axis=0) + 0.75 * d_nn
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_facecolor("black")
    for spine in axis.spines.values():
        spine.set_color(FRAME)
