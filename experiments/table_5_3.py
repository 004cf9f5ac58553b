"""Table 5.3 as curves: accuracy from strong features alone and without them, over the threshold, with a control.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), table 5.3.
Command: python -m experiments.table_5_3 mnist [--weights FILE] [--images N] [--data-dir DIR] [--manual-dir DIR]
    [--workdir DIR] [--record]
    python -m experiments.table_5_3 svhn --weights FILE ... is the same with a grey patch; no weights ship for it.
Run time: 6 minutes on 2 CPU cores for MNIST.
Published: MNIST 99.26 % full image, 79.89 % only strong features, 43.45 % without; SVHN 92.60, 69.12, 54.46 %.
Own figure: experiments/results/table_5_3_mnist.json, and experiments/figures/table_5_3_mnist.png.

The thesis names neither rule nor threshold: each rule has its curve over t, where pixels with R(x|c) > t max R(x|c) are
strong, c being the predicted class. The control is a region of the same area and shape at a random place. Much of an
MNIST image is background, where nothing can be removed; how much of the image's signal a region holds is given beside.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from experiments.records import one_line, provenance, ship, weights_of, wilson
from experiments.table_5_3_figure import curves_figure
from experiments.train_mnist import add_arguments
from jaxclear import data, models, plot, strong_features
from jaxclear.inputs import as_floats

RULES = ("backprop", "deconvnet", "guided", "linear")
PUBLISHED = {
    "mnist": {"full": 99.26, "only": 79.89, "without": 43.45},
    "svhn": {"full": 92.60, "only": 69.12, "without": 54.46},
}
FILL = {"mnist": 0.0, "svhn": 0.5}
PARTS = ("only", "without", "only_control", "without_control")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        name: of the data set, for titles and files; `PUBLISHED` has the figures to compare with.
        fill: what takes the place of pixels.
        rules: how responses pass back.
        thresholds: shares of the largest response.
        images: how many, evenly spaced over the split; all by default.
        batch_size: images a call.
        seed: of the control regions.
    """

    name: str = "mnist"
    fill: float = 0.0
    rules: tuple[str, ...] = RULES
    thresholds: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    images: int | None = None
    batch_size: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of images that no run can have."""
        if self.batch_size < 1 or (self.images is not None and self.images < 1):
            raise ValueError(f"expected at least one image, in all and a call, got {self.images} and {self.batch_size}")


def smoke_config() -> Config:
    """Returns settings that run in seconds on a few images."""
    return Config(rules=("guided", "linear"), thresholds=(0.0, 0.3), batch_size=10)


def run(
    config: Config,
    workdir: pathlib.Path,
    apply: Callable[..., Any],
    variables: Any,
    images: Shaped[np.ndarray, "N H W C"],
    labels: Int[np.ndarray, " N"],
    *,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Cuts the images of a data set by each rule, and returns the curves, written to `workdir` with a picture.

    Args:
        config: settings.
        workdir: folder for table_5_3_NAME.json and table_5_3_NAME.png.
        apply: the network, `(variables, images) -> class maps or logits`.
        variables: its variables.
        images: float32 in [0, 1] or uint8.
        labels: their classes.
        metadata: what to keep in the results of the network and the data, such as the weights' SHA-256.
        progress: whether to report on standard error.

    Raises:
        ValueError: an argument is not as described.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    made_by, started = provenance(), time.perf_counter()
    rows = np.arange(len(labels))
    if config.images is not None and config.images < len(labels):
        rows = np.linspace(0, len(labels) - 1, config.images).round().astype(int)
    curves = {}
    for rule in config.rules:
        found = _ablated(config, rule, apply, variables, images[rows])
        curves[rule] = curves_of(found, labels[rows], config.thresholds, PUBLISHED.get(config.name))
        if progress:
            seconds = time.perf_counter() - started
            print(f"{rule}: {len(rows)} images, {seconds:.0f} s", file=sys.stderr, flush=True)
    results = {
        "experiment": f"table_5_3_{config.name}",
        "config": dataclasses.asdict(config),
        "images": {"used": len(rows), "of": len(labels)},
        "published": PUBLISHED.get(config.name),
        "full": next(iter(curves.values()))["full"],
        "rules": curves,
        "seconds": round(time.perf_counter() - started, 1),
        **(metadata or {}),
        **made_by,
    }
    (workdir / f"table_5_3_{config.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    plot.save(curves_figure(results), workdir / f"table_5_3_{config.name}.png")
    return results


def _ablated(
    config: Config, rule: str, apply: Callable[..., Any], variables: Any, images: np.ndarray
) -> strong_features.Ablation:
    """Every image's ablation, in batches of one size, as NumPy arrays (T, N)."""
    explain = jax.jit(
        strong_features.ablation(apply, thresholds=config.thresholds, rule=rule, fill=config.fill, on_unmatched="error")
    )
    parts = []
    for number, start in enumerate(range(0, len(images), config.batch_size)):
        chosen = images[start : start + config.batch_size]
        filled = chosen[np.minimum(np.arange(config.batch_size), len(chosen) - 1)]
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        found = explain(variables, as_floats(filled), key)
        parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=-1)[..., : len(images)], *parts)


def curves_of(
    found: strong_features.Ablation,
    labels: Int[np.ndarray, " N"],
    thresholds: Sequence[float],
    published: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Returns accuracies in percent over the thresholds with 95 % intervals, areas, and where published ones are met.

    Args:
        found: of N images.
        labels: their classes.
        thresholds: T, ascending.
        published: `"only"` and `"without"`, in percent.
    """
    accuracy = {part: 100 * (getattr(found, part) == labels).mean(axis=1) for part in PARTS}
    curves: dict[str, Any] = {
        "full": round(100 * float((found.full == labels).mean()), 3),
        "thresholds": list(thresholds),
    }
    for part in PARTS:
        right = (getattr(found, part) == labels).sum(axis=1)
        curves[part] = accuracy[part].round(3).tolist()
        bounds = [wilson(int(count), len(labels)) for count in right]
        curves[f"{part}_interval"] = [[round(100 * bound, 2) for bound in pair] for pair in bounds]
    for name in ("area", "overlap", "signal", "signal_control"):
        curves[f"{name}_percent"] = (100 * getattr(found, name).mean(axis=1, dtype=np.float64)).round(3).tolist()
    if published is not None:
        both = ("only", "without")
        met = functools.partial(crossings, np.asarray(thresholds))
        curves["published_met_at"] = {part: met(accuracy[part], published[part]) for part in both}
        fine = np.linspace(thresholds[0], thresholds[-1], 1001)
        between = {part: np.interp(fine, thresholds, accuracy[part]) for part in both}
        distance = np.maximum(*[np.abs(between[part] - published[part]) for part in both])
        nearest = int(distance.argmin())
        curves["nearest_to_both"] = {"threshold": round(float(fine[nearest]), 4)} | {
            part: round(float(between[part][nearest]), 2) for part in both
        }
    return curves


def crossings(thresholds: Float[np.ndarray, " T"], accuracy: Float[np.ndarray, " T"], level: float) -> list[float]:
    """Returns every threshold at which a curve, straight between its points, meets a level.

    Example:
        >>> crossings(np.array([0.0, 0.5, 1.0]), np.array([10.0, 20.0, 10.0]), 15.0)
        [0.25, 0.75]
    """
    above = accuracy - level
    places = [float(t) for t, value in zip(thresholds, above, strict=True) if value == 0]
    for index in np.flatnonzero(above[:-1] * above[1:] < 0):
        share = above[index] / (above[index] - above[index + 1])
        places.append(float(thresholds[index] + share * (thresholds[index + 1] - thresholds[index])))
    return [round(place, 4) for place in sorted(places)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(PUBLISHED))
    parser.add_argument("--weights", type=pathlib.Path, help="of the network, where other than the shipped ones")
    parser.add_argument("--images", type=int, help="how many of the test split, evenly spaced")
    add_arguments(parser, "table_5_3")
    options = parser.parse_args(arguments)
    with one_line("table_5_3"):
        config = Config(name=options.name, fill=FILL[options.name], images=options.images)
        model = models.load(options.name, weights=options.weights)
        folders = {"data_dir": options.data_dir, "manual_dir": options.manual_dir}
        test = data.gather(data.load(options.name, "test", **folders))
        known = weights_of(model)
        results = run(config, options.workdir, model.apply, model.variables, test.images, test.labels, metadata=known)
    if options.record:
        stem = results["experiment"]
        ship(options.workdir, f"{stem}.json", (f"{stem}.png",))
    for rule, curves in results["rules"].items():
        print(rule, curves["published_met_at"], curves["nearest_to_both"])


if __name__ == "__main__":
    main()
