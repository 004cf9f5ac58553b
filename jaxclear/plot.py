"""Pictures, drawn with matplotlib, which is imported only here and only when a picture is made."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxclear.clear import palette_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxclear.crystals import CrystalExplanation


def crystal_gallery(found: "CrystalExplanation", rows: Sequence[int], titles: Sequence[str]) -> "Figure":
    """Returns a figure with a row for each chosen structure: atoms, fingerprint, CLEAR map, class probabilities.

    Args:
        found: explanations, as `jaxclear.crystals.explain` returns them.
        rows: which of them.
        titles: one title a row.
    """
    from matplotlib.figure import Figure

    colours = palette_rgb(None, len(found.class_names))
    figure = Figure(figsize=(11, 0.7 + 2.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False, width_ratios=(1, 1, 1, 1.25))
    for line, (row, title) in enumerate(zip(rows, titles, strict=True)):
        _draw_atoms(axes[line, 0], found.clusters[row])
        axes[line, 0].set_ylabel(title, fontsize=10)
        # The few brightest peaks would leave all others black.
        axes[line, 1].imshow(np.sqrt(np.clip(found.fingerprint[row], 0, 1)))
        axes[line, 2].imshow(np.clip(found.rgb[row], 0, 1))
        _draw_probabilities(axes[line, 3], found.probabilities[row], found.class_names, colours)
        for axis in axes[line, :3]:
            axis.set_xticks([])
            axis.set_yticks([])
    headings = (
        "atoms, seen along z",
        "diffraction fingerprint",
        "CLEAR map: dominant class",
        "probability and colour key",
    )
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, fontsize=11)
    return figure


def save(figure: "Figure", file: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(file, dpi=110)


def _draw_atoms(axis: Any, crystal: Any) -> None:
    order = np.argsort(crystal.positions[:, 2])
    x, y, z = crystal.positions[order].T
    axis.scatter(x, y, c=z, s=28, cmap="Blues", vmin=z.min() - np.ptp(z) - 1, edgecolors="black", linewidths=0.4)
    axis.set_aspect("equal", adjustable="datalim")


def _draw_probabilities(axis: Any, probabilities: np.ndarray, names: Sequence[str], colours: np.ndarray) -> None:
    positions = np.arange(len(names))
    axis.barh(positions, np.ones(len(names)), color="0.94", height=0.8)
    axis.barh(positions, probabilities, color=colours, height=0.8)
    axis.scatter(np.full(len(names), -0.05), positions, c=colours, s=45, marker="s", clip_on=False)
    axis.set_yticks(positions, names, fontsize=9)
    axis.tick_params(axis="y", length=0, pad=12)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1])
    axis.invert_yaxis()
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
