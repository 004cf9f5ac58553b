"""What the units of the crystal network respond to, its class templates, and CLEAR maps with their peaks named.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), figure 3.5;
    A. Ziletti et al., Nat. Commun. 9, 2775 (2018), figure 5.
Command: python -m experiments.crystal_maps [--weights FILE] [--workdir DIR] [--ship]
    With --ship the results go into experiments/results/, and the pictures of fcc with the galleries into
    experiments/figures/.
Run time: 1 minute a network on 2 busy CPU cores.
Published: the first layer responds to all peaks, deeper ones to fewer; the sum of the last layer's responses shows the
    template of each class. No numbers.
Own figure: experiments/results/crystal_maps.json.

Attentive response maps are those of the four most activated units of the first, third and last convolution, one image
a colour channel. A class template is the sum of the responses of all units of the last convolution to one pristine
crystal of the class. The crystals are those of the demonstration: In, β-Sn, Mg, Po, Cu, Si and Fe.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

import jaxclear
from experiments.networks import command
from experiments.records import provenance, say_to
from jaxclear import models, plot
from jaxclear.commands.demo import SHOWN, Sample, elements
from jaxclear.crystal_plots import name_regions
from jaxclear.crystals.explain import CrystalExplanation, explain_clusters
from jaxclear.crystals.peak_tables import PeakTable, explain_peaks
from jaxclear.crystals.symmetry import CLASS_NAMES
from jaxclear.drawing import FOREGROUND, MUTED, certainty, colour_key, draw_image, heading, new_figure
from jaxclear.plot import brightened, stretched, turned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = "crystal_maps.json"
CHANNELS = (("x", (1.0, 0.36, 0.32)), ("y", (0.36, 1.0, 0.4)), ("z", (0.5, 0.62, 1.0)))
"""Rotation axis and colour of each channel's picture."""
PICTURED = "fcc"
"""The class whose unit responses are shown in the checkout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        layers: names of the convolutions: the first, the third, the last.
        units: most activated units of each.
        rule: how responses pass back; guided in the source.
        crystals: which of the demonstration's.
    """

    layers: tuple[str, ...] = ("Conv_0", "Conv_2", "Conv_5")
    units: int = 4
    rule: str = "guided"
    crystals: tuple[str, ...] = SHOWN


SMOKE = Config(layers=("Conv_0", "Conv_5"), units=2, crystals=("Cu", "Fe"))


class LayerResponses(NamedTuple):
    """The most activated units of one layer in every crystal."""

    layer: str
    units: Int[np.ndarray, "B n"]
    activations: Float[np.ndarray, "B n"]
    responses: Float[np.ndarray, "n B 64 64 3"]


def run(
    config: Config, networks: dict[str, models.LoadedModel], workdir: pathlib.Path, *, progress: bool = True
) -> dict[str, Any]:
    """Makes all pictures for all networks, and returns the results, written to `workdir` beside them."""
    workdir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    made_by = provenance()
    say = say_to(progress)
    samples = sorted(
        (sample for sample in elements() if sample.name in config.crystals),
        key=lambda sample: config.crystals.index(sample.name),
    )
    results: dict[str, Any] = {}
    for name, model in networks.items():
        found = explain_clusters([sample.cluster for sample in samples], rule=config.rule, model=model)
        layers = [_layer_responses(config, model, found.fingerprint, layer) for layer in config.layers]
        for row, sample in enumerate(samples):
            file = workdir / f"crystal_maps-{name}-units-{_plain(CLASS_NAMES[sample.label])}.png"
            plot.save(units_figure(sample, found.fingerprint[row], layers, row, network=name), file)
        templates = _templates(config, model, found.fingerprint)
        plot.save(
            templates_figure(samples, found.fingerprint, templates, name),
            workdir / f"crystal_maps-{name}-templates.png",
        )
        tables = [explain_peaks(found, row) for row in range(len(samples))]
        plot.save(peaks_gallery(samples, found, tables, name), workdir / f"crystal_maps-{name}-peaks.png")
        results[name] = {
            "sha256": model.metadata["sha256"],
            "crystals": {sample.name: _entry(sample, found, layers, row) for row, sample in enumerate(samples)},
        }
        say(f"{name}: after {time.perf_counter() - started:.0f} s")
    document = {
        "experiment": "crystal_maps",
        "config": dataclasses.asdict(config),
        "networks": results,
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    (workdir / RESULTS).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


def _layer_responses(
    config: Config, model: models.LoadedModel, images: Float[np.ndarray, "B 64 64 3"], layer: str
) -> LayerResponses:
    respond = jax.jit(jaxclear.unit_responses(model.apply, layer, top_n=config.units, rule=config.rule))
    found = respond(model.variables, images)
    return LayerResponses(layer, *(np.asarray(v) for v in (found.units, found.activations, found.responses)))


def _templates(
    config: Config, model: models.LoadedModel, images: Float[np.ndarray, "B 64 64 3"]
) -> Float[np.ndarray, "B 64 64 3"]:
    """The summed responses of all units of the last convolution."""
    last = config.layers[-1]
    bias = model.variables["params"][last]["bias"]
    respond = jax.jit(jaxclear.unit_responses(model.apply, last, units=range(len(bias)), rule=config.rule))
    return np.asarray(respond(model.variables, images).responses.sum(axis=0))


def _entry(sample: Sample, found: CrystalExplanation, layers: Sequence[LayerResponses], row: int) -> dict[str, Any]:
    table = explain_peaks(found, row)
    return {
        "class": CLASS_NAMES[sample.label],
        "named": table.class_name,
        "probability": round(table.probability, 5),
        "families": [
            {
                "hkl": family.name,
                "d": round(family.d_spacing, 4),
                "radius": round(family.radius, 4),
                "share": round(share, 4),
            }
            for family, share in zip(table.families, table.shares, strict=True)
            if share >= 0.005
        ],
        "beside_all_peaks": round(table.beside, 4),
        "bright_regions": len(table.regions),
        "units": {
            layer.layer: {
                "most_activated": layer.units[row].tolist(),
                "activations": layer.activations[row].round(3).tolist(),
                "share_of_response_by_channel": _channel_shares(layer.responses[:, row]),
                "beside_all_peaks": round(_beside(found, row, layer.responses[:, row]), 4),
            }
            for layer in layers
        },
    }


def _beside(found: CrystalExplanation, row: int, responses: Float[np.ndarray, "n 64 64 3"]) -> float:
    """The part of the units' summed positive response that lies under no peak of its own channel."""
    return explain_peaks(found, row, response=np.maximum(responses, 0).sum(axis=0)).beside


def _channel_shares(responses: Float[np.ndarray, "n 64 64 3"]) -> list[list[float]]:
    """For each unit the parts of its positive response in the three channels."""
    sums = np.maximum(responses, 0).sum(axis=(1, 2), dtype=np.float64)
    return (sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-30)).round(3).tolist()


def units_figure(
    sample: Sample,
    fingerprint: Float[np.ndarray, "64 64 3"],
    layers: Sequence[LayerResponses],
    row: int,
    *,
    network: str,
) -> "Figure":
    """Returns a figure of one crystal: for each layer its most activated units, three channels each."""
    units = layers[0].units.shape[1]
    side, gap = 0.98, 0.06
    group = 3 * side + 2 * gap + 0.24
    wide, tall = 2.4 + units * group, 1.25 + len(layers) * (side + 0.42)
    figure = new_figure(wide, tall)
    title = f"{sample.name} ({CLASS_NAMES[sample.label]}): most activated units, {network} network"
    heading(figure, title, y=1 - 0.28 / tall, size=14)
    words = (
        "Each unit: responses in the channels turned about x (red), y (green), z (blue); square root, of one maximum."
    )
    figure.text(0.012, 0.2 / tall, words, color=MUTED, fontsize=9, va="center")
    picture = figure.add_axes((0.15 / wide, 1 - (0.95 + 1.55) / tall, 1.55 / wide, 1.55 / tall))
    draw_image(picture, stretched(fingerprint))
    picture.set_title("fingerprint", color=FOREGROUND, fontsize=10, pad=5)
    for line, found in enumerate(layers):
        top = tall - 0.95 - line * (side + 0.42)
        name = f"convolution {int(found.layer.rpartition('_')[2]) + 1}"
        figure.text(1.86 / wide, (top - side / 2) / tall, name, color=FOREGROUND, fontsize=10, rotation=90, va="center")
        for unit in range(units):
            left = 2.3 + unit * group
            responses = np.maximum(found.responses[unit, row], 0)
            bright = np.sqrt(responses / max(float(responses.max()), 1e-30))
            words = f"unit {found.units[row, unit]}  ·  activation {found.activations[row, unit]:.3g}"
            centre = left + (3 * side + 2 * gap) / 2
            figure.text(centre / wide, (top + 0.12) / tall, words, color=MUTED, fontsize=9, ha="center", va="center")
            for channel, (_, colour) in enumerate(CHANNELS):
                x = left + channel * (side + gap)
                axis = figure.add_axes((x / wide, (top - side) / tall, side / wide, side / tall))
                draw_image(axis, turned(bright[..., channel, None] * np.array(colour)))
    return figure


def templates_figure(
    samples: Sequence[Sample],
    fingerprints: Float[np.ndarray, "B 64 64 3"],
    templates: Float[np.ndarray, "B 64 64 3"],
    network: str,
) -> "Figure":
    """Returns a figure of each class: its fingerprint above the summed response of the last convolution."""
    side, gap = 1.72, 0.1
    wide, tall = max(0.2 + len(samples) * (side + gap), 6.5), 2 * side + 1.45
    figure = new_figure(wide, tall)
    heading(figure, f"Class templates, {network} network", y=1 - 0.27 / tall, size=14)
    words = "Above: fingerprints. Below: summed responses of all units of the last convolution. Square roots."
    figure.text(0.012, 0.22 / tall, words, color=MUTED, fontsize=9, va="center")
    for column, sample in enumerate(samples):
        left = 0.15 + column * (side + gap)
        response = np.maximum(templates[column], 0)
        pictures = (stretched(fingerprints[column]), stretched(response / max(float(response.max()), 1e-30)))
        for line, picture in enumerate(pictures):
            bottom = 0.45 + (1 - line) * (side + gap)
            axis = figure.add_axes((left / wide, bottom / tall, side / wide, side / tall))
            draw_image(axis, picture)
            if line == 0:
                axis.set_title(f"{CLASS_NAMES[sample.label]} ({sample.name})", color=FOREGROUND, fontsize=10.5, pad=6)
    return figure


def peaks_gallery(
    samples: Sequence[Sample], found: CrystalExplanation, tables: Sequence[PeakTable], network: str
) -> "Figure":
    """Returns a figure of the CLEAR map of a crystal of each class with its peaks named, and the families' shares."""
    columns = min(4, len(samples))
    lines = -(-len(samples) // columns)
    side = 3.5
    wide, tall = max(0.15 + columns * (side + 0.15), 9.6), 1.05 + lines * (side + 0.85)
    figure = new_figure(wide, tall)
    heading(figure, f"Peaks that decide the class: CLEAR maps, {network} network", y=1 - 0.3 / tall, size=15)
    colour_key(figure, found.class_names, found.colours, y=0.28 / tall, size=10)
    for row, (sample, table) in enumerate(zip(samples, tables, strict=True)):
        left = 0.15 + (row % columns) * (side + 0.15)
        bottom = 0.98 + (lines - 1 - row // columns) * (side + 0.85)
        axis = figure.add_axes((left / wide, bottom / tall, side / wide, side / tall))
        draw_image(axis, brightened(turned(found.rgb[row])))
        title = f"{sample.name}: {table.class_name} ({certainty(table.probability)})"
        axis.set_title(title, color=FOREGROUND, fontsize=11, pad=6)
        name_regions(axis, table, size=7.5)
        parts = [
            f"{family.name} {100 * share:.0f} %" for family, share in zip(table.families, table.shares, strict=True)
        ]
        axis.text(
            0.5, -0.035, "  ".join(parts[:4]), transform=axis.transAxes, color=MUTED, fontsize=9, ha="center", va="top"
        )
    return figure


def _plain(name: str) -> str:
    """A class name for a file."""
    return name.replace("/", "-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    pictures = [f"crystal_maps-{{}}-{kind}.png" for kind in ("templates", "peaks", f"units-{PICTURED}")]
    results = command("crystal_maps", __doc__, arguments, lambda networks, at: run(Config(), networks, at), pictures)
    for name, found in results["networks"].items():
        for crystal, entry in found["crystals"].items():
            parts = ", ".join(f"{part['hkl']} {100 * part['share']:.0f} %" for part in entry["families"][:4])
            print(f"{name}: {crystal} ({entry['class']}) named {entry['named']}: {parts}")


if __name__ == "__main__":
    main()
