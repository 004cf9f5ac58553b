"""Fingerprints of the eight prototypes, and what vacancies and displacements change in one of them.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), figure
    3.2b-h; A. Ziletti et al., Nat. Commun. 9, 2775 (2018), figure 2.
Command: python -m experiments.figure_3_2 [--workdir DIR] [--ship]
    With --ship the results go into experiments/results/ and the picture into experiments/figures/.
Run time: half a minute on 2 CPU cores.
Published: a picture; rhombohedral and hexagonal structures are said to have the same fingerprint.
Own figure: experiments/results/figure_3_2.json, experiments/figures/figure_3_2.png.

The prototypes are elements: In, β-Sn, Bi, Mg, Po, Cu, Si and Fe. The damaged one is simple cubic: once with a quarter
of its atoms missing, once with all displaced by a standard deviation of 0.08 Å. Differences are those of the
fingerprints, each of which has a maximum of 1; the greatest one between Bi and Mg tells how alike the fingerprints of
the two members of the class hex/rh are here.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from experiments.records import one_line, provenance, ship
from jaxclear import plot
from jaxclear.commands.demo import SHOWN, Sample, elements
from jaxclear.crystals import defects
from jaxclear.crystals.fingerprint import fingerprint_clusters
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.drawing import FOREGROUND, MUTED, draw_atoms, draw_image, heading, new_figure
from jaxclear.plot import stretched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxclear.crystals import Crystal

NAME = "figure_3_2"
VACANCIES, SIGMA = 0.25, 0.08
"""Share of the atoms; Å."""
SEED = 0
SIDE, GAP = 1.42, 0.1
"""Of a picture, inches."""

Image = Float[np.ndarray, "64 64 3"]


def prototypes() -> list[Sample]:
    """The eight prototypes: the crystals of the demonstration, and bismuth for the rhombohedral ones."""
    found = {sample.name: sample for sample in elements()}
    names: list[str] = list(SHOWN)
    names.insert(names.index("Mg"), "Bi")
    return [found[name] for name in names]


def run(workdir: pathlib.Path) -> dict[str, Any]:
    """Draws the figure and returns what was measured, both written to `workdir`."""
    workdir.mkdir(parents=True, exist_ok=True)
    made_by = provenance()
    samples = prototypes()
    cubic = next(sample.cluster for sample in samples if CLASS_NAMES[sample.label] == "sc")
    damaged = {
        f"{100 * VACANCIES:.0f} % missing": defects.vacancies(cubic, VACANCIES, seed=SEED),
        f"σ {SIGMA} Å": defects.displacements(cubic, SIGMA, seed=SEED),
    }
    images = np.asarray(fingerprint_clusters([*(sample.cluster for sample in samples), cubic, *damaged.values()]))
    first, pristine, others = images[: len(samples)], images[len(samples)], images[len(samples) + 1 :]
    plot.save(figure(samples, first, cubic, damaged, pristine, others), workdir / f"{NAME}.png")
    by_name = {sample.name: image for sample, image in zip(samples, first, strict=True)}
    results = {
        "experiment": NAME,
        "seed": SEED,
        "prototypes": {sample.name: CLASS_NAMES[sample.label] for sample in samples},
        "differences_from_pristine": {
            words: {"greatest": round(float(np.abs(image - pristine).max()), 4),
                    "mean": round(float(np.abs(image - pristine).mean()), 6)}
            for words, image in zip(damaged, others, strict=True)
        },
        "rhombohedral_from_hexagonal": round(float(np.abs(by_name["Bi"] - by_name["Mg"]).max()), 4),
        **made_by,
    }  # fmt: skip
    (workdir / f"{NAME}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return results


def figure(
    samples: Sequence[Sample],
    images: Float[np.ndarray, "N 64 64 3"],
    cubic: "Crystal",
    damaged: "dict[str, Crystal]",
    pristine: Image,
    others: Float[np.ndarray, "D 64 64 3"],
) -> "Figure":
    """Returns the figure: prototypes above their fingerprints, then the damaged structure and the differences."""
    wide, tall = 0.3 + len(samples) * (SIDE + GAP), 0.95 + 4 * (SIDE + GAP) + 0.95
    drawn = new_figure(wide, tall)
    heading(drawn, "The two-dimensional diffraction fingerprint", y=1 - 0.28 / tall, size=14)
    words = "Turned about x (red), y (green), z (blue); square roots. Differences: less than pristine blue, more red."
    drawn.text(0.012, 0.2 / tall, words, color=MUTED, fontsize=9, va="center")

    def panel(column: float, line: int, title: str = "") -> Any:
        top = tall - 0.95 - line * (SIDE + GAP) - (0.55 if line > 1 else 0)
        left = 0.15 + column * (SIDE + GAP)
        axis = drawn.add_axes((left / wide, (top - SIDE) / tall, SIDE / wide, SIDE / tall))
        axis.set_title(title, color=FOREGROUND, fontsize=9.5, pad=4)
        return axis

    for column, (sample, image) in enumerate(zip(samples, images, strict=True)):
        draw_atoms(panel(column, 0, f"{sample.name}  ·  {CLASS_NAMES[sample.label]}"), sample.cluster)
        draw_image(panel(column, 1), stretched(image))
    states = [("sc, pristine", cubic, pristine), *zip(damaged, damaged.values(), others, strict=True)]
    for column, (title, crystal, image) in enumerate(states):
        draw_atoms(panel(column, 2, title), crystal)
        draw_image(panel(column, 3), stretched(image))
    for column, (title, image) in enumerate(zip(damaged, others, strict=True), start=len(states)):
        draw_image(panel(column, 3, f"change: {title}"), signed(image - pristine))
    return drawn


def signed(difference: Image) -> Image:
    """A difference in colours: red where it is positive, blue where it is negative, square roots of one maximum."""
    strongest = difference[np.abs(difference).argmax(axis=-1)[..., None] == np.arange(3)].reshape(64, 64)
    bright = np.sqrt(np.abs(strongest) / max(float(np.abs(strongest).max()), 1e-30))
    red, blue = np.array([1.0, 0.35, 0.25]), np.array([0.3, 0.55, 1.0])
    return np.where(strongest[..., None] > 0, red, blue) * bright[..., None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir") / NAME)
    parser.add_argument("--ship", action="store_true", help="write results and picture into the checkout")
    options = parser.parse_args(arguments)
    with one_line(NAME):
        results = run(options.workdir)
    print(json.dumps(results, indent=1, ensure_ascii=False))
    if options.ship:
        ship(options.workdir, f"{NAME}.json", [f"{NAME}.png"])


if __name__ == "__main__":
    main()
