"""The curves of table 5.3 as a picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxclear.drawing import BACKGROUND, FOREGROUND, FRAME, MUTED, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "dress"]

_LINES = {
    "only": ("#4cc2ff", "-", "only strong features"),
    "only_control": ("#4cc2ff", ":", "only a random region of the same area and shape"),
    "without": ("#ff8a4c", "-", "without strong features"),
    "without_control": ("#ff8a4c", ":", "without a random region of the same area and shape"),
}


def dress(axis: "Axes") -> None:
    """Gives an axis the dark ground of the project's pictures."""
    axis.set_facecolor(BACKGROUND)
    axis.tick_params(which="both", colors=MUTED, labelsize=8.5)
    axis.grid(color=FRAME, linewidth=0.5)
    for spine in axis.spines.values():
        spine.set_color(FRAME)


def curves_figure(results: Mapping[str, Any]) -> "Figure":
    """Returns accuracies over the threshold, and over the area it leaves, one column a rule.

    Args:
        results: of `experiments.table_5_3.run`.
    """
    columns = len(results["rules"])
    wide, tall = 3.0 * columns + 0.7, 7.2
    figure = new_figure(wide, tall)
    used, name = results["images"], results["config"]["name"]
    title = f"What strong features are worth: {name}, {used['used']:,} of {used['of']:,} test images"
    heading(figure, title, y=1 - 0.3 / tall, size=13)
    words = f"Accuracy on full images {results['full']:.2f} %."
    if results["published"]:
        words += " Horizontal lines: published, at a threshold not named."
    figure.text(0.012, 1 - 0.62 / tall, words, color=MUTED, fontsize=9, va="center")
    for column, (rule, curves) in enumerate(results["rules"].items()):
        for row, (across, label) in enumerate(
            (("thresholds", "threshold t"), ("area_percent", "area of the region, %"))
        ):
            place = ((0.62 + 3.0 * column) / wide, (1.1 + 2.85 * (1 - row)) / tall, 2.6 / wide, 2.25 / tall)
            axis = figure.add_axes(place)
            _draw(axis, curves, across, results["published"] or {})
            axis.set_xlabel(label, color=FOREGROUND, fontsize=9)
            if column == 0:
                axis.set_ylabel("accuracy, %", color=FOREGROUND, fontsize=9)
            if row == 0:
                axis.set_title(rule, color=FOREGROUND, fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="lower center", ncols=2, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(FOREGROUND)
    return figure


def _draw(axis: "Axes", curves: Mapping[str, Any], across: str, published: Mapping[str, float]) -> None:
    dress(axis)
    for part, (colour, line, label) in _LINES.items():
        axis.plot(curves[across], curves[part], color=colour, linestyle=line, marker=".", markersize=5, label=label)
        if part in published:
            axis.axhline(published[part], color=colour, linewidth=0.9, alpha=0.55)
    axis.set_ylim(0, 102)
