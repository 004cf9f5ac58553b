"""Class probabilities along three paths between crystal classes, and how wide the windows at the special points are.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), figures
    3.4b and 3.4d; A. Ziletti et al., Nat. Commun. 9, 2775 (2018), figure 4.
Command: python -m experiments.crystal_paths [--weights FILE] [--workdir DIR] [--ship]
    With --ship the results go into experiments/results/ and the pictures into experiments/figures/.
Run time: 3 minutes a network on 2 CPU cores, several times that where others use them too.
Published: bcc until about 75 % of the centre atoms are gone, then mixed, sc at 100 %; along the rhombohedral path bcc,
    sc and fcc exactly at the special values, hex/rh elsewhere.
Own figure: experiments/results/crystal_paths.json.

The paths:
- "bcc to sc": clusters of 250 atoms (5 x 5 x 5 cells) of bcc crystals of different elements and lattice constants; a
  random share of the centre atoms is removed, 125 atoms stay at the end. Divided by the length that the network uses
  for a structure of its own ("measured"), and by that of the undamaged bcc crystal ("pristine").
- "rhombohedral": one atom on a rhombohedral lattice (group 166), by c/a of the hexagonal cell; bcc at √.375, sc at
  √1.5, fcc at √6.
- "bain": body-centred tetragonal (group 139) by c/a; bcc at 1, fcc at √2.

The last two in two settings. "family": the cell of the path itself, hexagonal axes for group 166, all along the path.
"standard": the cell that spglib finds at a tolerance; at a special point it jumps to the cubic cell, and the width of
the window in which it does is that of the tolerance. The special points are points of the grid.
"""

import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.networks import command
from experiments.records import provenance, say_to
from jaxclear import models, plot
from jaxclear.crystals import defects
from jaxclear.crystals.cells import cluster, standard_cell
from jaxclear.crystals.explain import class_probabilities
from jaxclear.crystals.structures import Crystal
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.drawing import BACKGROUND, FOREGROUND, FRAME, MUTED, colour_key, heading, new_figure
from jaxclear.palettes import legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = "crystal_paths.json"
VOLUME = 20.0
"""Of an atom on the rhombohedral and on the Bain path, Å³; matters beside a tolerance alone."""
_CHUNK = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        structures: bcc crystals of the first path.
        cells: cubic cells along an edge of their clusters.
        fractions: points of the first path.
        points: points of each of the other two, without the special ones.
        elements: elements on these.
        tolerances: of spglib's standard cell, Å.
        window_offsets: relative deviations of c/a from the special points that are points too.
        seed: of elements, lattice constants and removals.
    """

    structures: int = 120
    cells: int = 5
    fractions: int = 21
    points: int = 201
    elements: int = 5
    tolerances: tuple[float, ...] = (0.01, 0.1)
    window_offsets: tuple[float, ...] = tuple(float(x) for x in np.geomspace(1e-5, 0.1, 25))
    seed: int = 0


SMOKE = Config(
    structures=2, cells=3, fractions=3, points=4, elements=1, tolerances=(0.01,), window_offsets=(1e-4, 0.05)
)


class AxialPath(NamedTuple):
    """Crystals of one atom a primitive cell by an axial ratio."""

    name: str
    parameter: str
    cell: Callable[[float, int], Crystal]
    """c/a and atomic number to the conventional cell of the path's own group."""
    limits: tuple[float, float]
    special: dict[str, float]
    """Class to the c/a at which the crystal is one of it."""


def rhombohedral_cell(ratio: float, number: int) -> Crystal:
    """The hexagonal cell of the rhombohedral lattice, obverse setting."""
    a = (VOLUME * 3 / (ratio * np.sqrt(0.75))) ** (1 / 3)
    lattice = a * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, ratio]])
    fractions = np.array([[0, 0, 0], [2, 1, 1], [1, 2, 2]]) / 3
    return _elemental(lattice, fractions, number, f"rhombohedral c/a {ratio:.4f}")


def tetragonal_cell(ratio: float, number: int) -> Crystal:
    """The body-centred tetragonal cell."""
    a = (VOLUME * 2 / ratio) ** (1 / 3)
    return _elemental(
        a * np.diag([1, 1, ratio]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), number, f"bct c/a {ratio:.4f}"
    )


def _elemental(
    lattice: Float[np.ndarray, "3 3"], fractions: Float[np.ndarray, "atoms 3"], number: int, name: str
) -> Crystal:
    count = len(fractions)
    numbers = np.full(count, number, dtype=np.int32)
    return Crystal(lattice, fractions @ lattice, numbers, np.ones(count), np.ones(3, dtype=bool), name)


PATHS = (
    AxialPath(
        name="rhombohedral",
        parameter="c/a of the hexagonal cell",
        cell=rhombohedral_cell,
        limits=(0.45, 3.4),
        special={"bcc": float(np.sqrt(0.375)), "sc": float(np.sqrt(1.5)), "fcc": float(np.sqrt(6))},
    ),
    AxialPath(
        name="bain",
        parameter="c/a of the body-centred tetragonal cell",
        cell=tetragonal_cell,
        limits=(0.7, 2.0),
        special={"bcc": 1.0, "fcc": float(np.sqrt(2))},
    ),
)


def run(
    config: Config, networks: dict[str, models.LoadedModel], workdir: pathlib.Path, *, progress: bool = True
) -> dict[str, Any]:
    """Follows all paths with all networks, and returns the results, written to `workdir` beside the pictures."""
    workdir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    made_by = provenance()
    say = say_to(progress)
    found: dict[str, Any] = {}
    for name, model in networks.items():
        paths = {"bcc to sc": _removal_path(config, model)}
        say(f"{name}: bcc to sc after {time.perf_counter() - started:.0f} s")
        for path in PATHS:
            paths[path.name] = _axial_path(config, path, model)
            say(f"{name}: {path.name} after {time.perf_counter() - started:.0f} s")
        scale = model.metadata.get("length_scale", "mean nearest-neighbour distance")
        found[name] = {"sha256": model.metadata["sha256"], "length_scale": scale, "paths": paths}
        plot.save(paths_figure(name, paths), workdir / f"crystal_paths-{name}.png")
    results = {
        "experiment": "crystal_paths",
        "config": dataclasses.asdict(config),
        "classes": CLASS_NAMES,
        "networks": found,
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    (workdir / RESULTS).write_text(_compact(json.dumps(results, indent=1, ensure_ascii=False)) + "\n")
    return results


def _compact(document: str) -> str:
    """Indented JSON with each list of numbers on one line."""
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", document)


def _removal_path(config: Config, model: models.LoadedModel) -> dict[str, Any]:
    """From bcc to sc by the removal of centre atoms, figure 3.4b."""
    rng = np.random.default_rng(config.seed)
    elements = np.concatenate([rng.permutation(98) + 1 for _ in range(-(-config.structures // 98))])[
        : config.structures
    ]
    constants = rng.uniform(2.5, 6.0, config.structures)
    fractions = np.linspace(0, 1, config.fractions)
    pieces, lengths = [], []
    for fraction in fractions:
        for row, (number, a) in enumerate(zip(elements, constants, strict=True)):
            cell = _elemental(a * np.eye(3), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), int(number), f"bcc {number}")
            whole = cluster(cell, min_atoms=2 * config.cells**3)
            centres = np.arange(len(whole.numbers)) % 2 == 1
            pieces.append(defects.remove_sublattice(whole, centres, float(fraction), seed=config.seed + 1000 + row))
            lengths.append(a * np.sqrt(0.75))
    answers = {}
    for scale, known in (("measured", [None] * len(pieces)), ("pristine", lengths)):
        probabilities = _probabilities(pieces, known, model).reshape(len(fractions), config.structures, -1)
        answers[scale] = _summary(probabilities) | _crossings(fractions, probabilities)
    whole = 2 * config.cells**3
    return {"fraction": fractions.tolist(), "structures": config.structures, "atoms": [whole, whole // 2]} | answers


def _axial_path(config: Config, path: AxialPath, model: models.LoadedModel) -> dict[str, Any]:
    """The classes over an axial ratio, in the path's own setting and in spglib's, figure 3.4d."""
    rng = np.random.default_rng(config.seed)
    elements = rng.choice(np.arange(3, 99), config.elements, replace=False)
    offsets = np.array(config.window_offsets)
    near = np.outer(list(path.special.values()), np.concatenate([[1.0], 1 - offsets, 1 + offsets]))
    ratios = np.unique(np.concatenate([np.geomspace(*path.limits, config.points), near.ravel()]))
    settings = {"family": None} | {f"standard {tolerance} Å": tolerance for tolerance in config.tolerances}
    answers: dict[str, Any] = {"c/a": ratios.tolist(), "special": path.special, "elements": elements.tolist()}
    for name, tolerance in settings.items():
        probabilities = _along(path, ratios, elements, tolerance, model)
        mean = probabilities.mean(axis=1, dtype=np.float64)
        runs = _runs(ratios, mean.argmax(axis=1))
        windows = {special: _window(ratios, mean, special, value) for special, value in path.special.items()}
        answers[name] = _summary(probabilities) | {"runs": runs, "windows": windows}
    return answers


def _along(
    path: AxialPath,
    ratios: Float[np.ndarray, " points"],
    elements: Int[np.ndarray, " elements"],
    tolerance: float | None,
    model: models.LoadedModel,
) -> Float[np.ndarray, "points elements K"]:
    """Class probabilities at axial ratios; in the path's own setting without a tolerance."""
    cells = [path.cell(float(ratio), int(number)) for ratio in ratios for number in elements]
    if tolerance is not None:
        cells = [standard_cell(cell, symprec=tolerance).crystal for cell in cells]
    pieces = [cluster(cell) for cell in cells]
    return _probabilities(pieces, [None] * len(pieces), model).reshape(len(ratios), len(elements), -1)


def _runs(ratios: Float[np.ndarray, " points"], named: Int[np.ndarray, " points"]) -> list[dict[str, Any]]:
    """The stretches of the path with one named class, by their first and last point."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(named)) + 1])
    ends = np.concatenate([starts[1:], [len(named)]]) - 1
    return [
        {"class": CLASS_NAMES[named[a]], "from": round(float(ratios[a]), 6), "to": round(float(ratios[b]), 6)}
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def _window(
    ratios: Float[np.ndarray, " points"], mean: Float[np.ndarray, "points K"], special: str, value: float
) -> dict[str, Any]:
    """What is said exactly at a special point, and how far on both sides the cubic class is still named."""
    at = int(np.argmin(np.abs(ratios - value)))
    wanted = CLASS_NAMES.index(special)
    there = mean.argmax(axis=1) == wanted
    below, above = at, at
    while there[at] and below > 0 and there[below - 1]:
        below -= 1
    while there[at] and above + 1 < len(ratios) and there[above + 1]:
        above += 1
    return {
        "c/a": value,
        "named_exactly_there": CLASS_NAMES[int(mean[at].argmax())],
        "probability_of_special_class": round(float(mean[at, wanted]), 5),
        "relative_width": {
            "below": round(float(1 - ratios[below] / value), 6),
            "above": round(float(ratios[above] / value - 1), 6),
        },
    }


def _probabilities(
    pieces: Sequence[Crystal], lengths: Sequence[float | None], model: models.LoadedModel
) -> Float[np.ndarray, "B K"]:
    parts = [slice(start, start + _CHUNK) for start in range(0, len(pieces), _CHUNK)]
    return np.concatenate([class_probabilities(pieces[part], model=model, d_nn=lengths[part]) for part in parts])


def _summary(probabilities: Float[np.ndarray, "points structures K"]) -> dict[str, Any]:
    """Mean, spread and named class over the structures at each point."""
    named = np.eye(probabilities.shape[-1])[probabilities.argmax(axis=-1)].mean(axis=1)
    return {
        "mean": probabilities.mean(axis=1, dtype=np.float64).round(4).tolist(),
        "standard_deviation": probabilities.std(axis=1, dtype=np.float64).round(4).tolist(),
        "named": named.round(4).tolist(),
    }


def _crossings(
    fractions: Float[np.ndarray, " points"], probabilities: Float[np.ndarray, "points structures K"]
) -> dict[str, Any]:
    """Where, by linear interpolation, the mean of bcc first falls below a half, and that of sc stays above it."""
    mean = probabilities.mean(axis=1, dtype=np.float64)
    bcc, sc = mean[:, CLASS_NAMES.index("bcc")], mean[:, CLASS_NAMES.index("sc")]
    falls = np.flatnonzero((bcc[:-1] >= 0.5) & (bcc[1:] < 0.5))
    rises = np.flatnonzero((sc[:-1] < 0.5) & (sc[1:] >= 0.5))

    def between(k: int, values: Float[np.ndarray, " points"]) -> float:
        share = (values[k] - 0.5) / (values[k] - values[k + 1])
        return round(float(fractions[k] + share * (fractions[k + 1] - fractions[k])), 3)

    return {
        "bcc_above_half_until": between(int(falls[0]), bcc) if len(falls) else None,
        "sc_above_half_from": between(int(rises[-1]), sc) if len(rises) and sc[-1] >= 0.5 else None,
    }


def paths_figure(network: str, paths: dict[str, Any]) -> "Figure":
    """Returns a figure of all paths for one network: a row for each, its two ways of asking side by side."""
    colours = legible(len(CLASS_NAMES))
    figure = new_figure(13.0, 10.4)
    heading(figure, f"Class probabilities along three paths, {network} network", y=0.975, size=15)
    words = "line: mean over structures; band: standard deviation"
    colour_key(figure, CLASS_NAMES, colours, y=0.022, size=10, words=words)
    removal = paths["bcc to sc"]
    rows = [[
        ("bcc to sc: own length scale of the network", removal["fraction"], removal["measured"], {}),
        ("bcc to sc: divided by the bcc crystal's distance", removal["fraction"], removal["pristine"], {}),
    ]]  # fmt: skip
    labels = ["share of the centre atoms removed"]
    for path in PATHS:
        found = paths[path.name]
        settings = [name for name in found if name.startswith(("family", "standard"))][:2]
        titles = {"family": "the path's own cell"}
        rows.append(
            [
                (f"{path.name}: {titles.get(name, f'spglib, {name}')}", found["c/a"], found[name], path.special)
                for name in settings
            ]
        )
        labels.append(path.parameter)
    for row, (panels, label) in enumerate(zip(rows, labels, strict=True)):
        for column, (title, x, answer, special) in enumerate(panels):
            axis = figure.add_axes((0.055 + 0.487 * column, 0.105 + 0.3 * (2 - row), 0.44, 0.2))
            _draw_path(axis, np.array(x), answer, colours, special)
            axis.set_title(title, color=FOREGROUND, fontsize=11, loc="left", pad=20 if special else 7)
            axis.set_xlabel(label, color=MUTED, fontsize=9.5)
    return figure


def _draw_path(
    axis: "Axes",
    x: Float[np.ndarray, " points"],
    answer: dict[str, Any],
    colours: Float[np.ndarray, "K 3"],
    special: dict[str, float],
) -> None:
    mean, spread = np.array(answer["mean"]), np.array(answer["standard_deviation"])
    axis.set_facecolor(BACKGROUND)
    for number, colour in enumerate(colours):
        low, high = (
            np.clip(mean[:, number] - spread[:, number], 0, 1),
            np.clip(mean[:, number] + spread[:, number], 0, 1),
        )
        axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        axis.plot(x, mean[:, number], color=colour, linewidth=1.7)
    for name, value in special.items():
        axis.axvline(value, color=FOREGROUND, linewidth=0.8, linestyle=":")
        axis.text(value, 1.03, name, color=MUTED, fontsize=9, ha="center", transform=axis.get_xaxis_transform())
        at = int(np.argmin(np.abs(x - value)))
        axis.scatter([value], [mean[at].max()], color=colours[mean[at].argmax()], s=22, zorder=3)
    axis.set_xticks([tick for tick in axis.get_xticks() if x[0] - 1e-9 <= tick <= x[-1] + 1e-9])
    axis.set_xlim(float(x[0]), float(x[-1]))
    axis.set_ylim(-0.02, 1.02)
    axis.tick_params(colors=MUTED, labelsize=9)
    for spine in axis.spines.values():
        spine.set_color(FRAME)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    results = command(
        "crystal_paths", __doc__, arguments, lambda networks, at: run(Config(), networks, at), ["crystal_paths-{}.png"]
    )
    for name, found in results["networks"].items():
        for scale in ("measured", "pristine"):
            answer = found["paths"]["bcc to sc"][scale]
            until, since = answer["bcc_above_half_until"], answer["sc_above_half_from"]
            print(f"{name}: {scale} length: bcc above a half until {until}, sc from {since}")


if __name__ == "__main__":
    main()
