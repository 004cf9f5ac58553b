"""Whose pixels does a class mark, when another digit stands beside its own? Exact masks on a stand-in for SVHN.

Source: the question of D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo
    (2020), chapter 5. The network is that of ccexam, which others trained on SVHN (experiments/ccexam_network.py); the
    images are those of experiments/standin.py, whose digits are known pixel by pixel. SVHN has no masks.
Command: python -m experiments.neighbour_digits [--images N] [--weights FILE] [--workdir DIR] [--record]
    --weights names svhn.safetensors of `python -m experiments.train_svhn --stand-in`: the network of table 5.2, which
    has seen nothing but the stand-in, is measured beside that of ccexam.
Run time: 6 minutes for both networks at low priority on 2 CPU cores that others used as well.
Published: nothing of the kind.
Own figure: experiments/results/neighbour_digits.json, and experiments/figures/neighbour_digits-NETWORK.png. All of it
    is measured on the stand-in, none of it on SVHN. With the network of ccexam the class of the digit beside the middle
    one responds on that digit no more than the class of a digit that is not there, by any rule (by `guided` and
    `deconvnet` with the seed *one*: with its own its logit is positive in .2 % of the images): its maps do not tell
    them apart. With the network of table 5.2 it does, a little, by `backprop` and `guided`.

For each image the class of the digit in the middle, of a digit beside it, and of a digit that is not there: the share
of the class's positive response on the digit in the middle, on the one beside it, on a second one beside it if there is
one, and on the background, against the share of the pixels, which a map that knows nothing would reach. And how many of
a digit's pixels the CLEAR map gives to its class, inside the digit and outside it. Intervals are from a bootstrap over
images.

The seed is the class layer's value, as the method defines it: *own*. Of a network that returns logits a class with a
negative one responds nowhere by `guided` and `deconvnet`; by `backprop` and `linear` its response marks what speaks
against it. So such a network is measured with a second seed as well, *one*: 1 for every class, what would speak for it,
were it asked; softmax is blind to a constant added to all logits, so the network itself does not tell the two apart.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments import ccexam_network, mapping, standin
from experiments.records import provenance, ship
from jaxclear import models
from jaxclear.class_backprop import Apply, scores_of
from jaxclear.localisation import localise

NAME = "neighbour_digits"
ROLES = ("middle", "beside", "absent")
"""Whose class is asked: of the digit in the middle, of the one beside it, of a digit that is not in the image."""
REGIONS = ("middle", "beside", "second", "background")
"""Where the response lies; `second` is the digit at the other side."""
_LIFT = 1e5  # so much above all logits that every class's seed is the same to 0.1 %


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        images: with a digit in the middle and one beside it.
        seed: of the images, and of the bootstrap.
        smallest: pixels of the digit beside it that the image shows at least.
        resamples: of the bootstrap.
        rules: which are compared.
        batch_size: images a call.
    """

    images: int = 500
    seed: int = 7
    smallest: int = 20
    resamples: int = 2_000
    rules: tuple[str, ...] = mapping.RULES
    batch_size: int = 25

    def __post_init__(self) -> None:
        """Raises ValueError for less than one image."""
        if self.images < 1:
            raise ValueError(f"expected images >= 1, got {self.images}")


class Scenes(NamedTuple):
    """Images of the stand-in that have a digit beside the one in the middle.

    Attributes:
        images: RGB, uint8.
        classes: of each role in `ROLES`.
        masks: of each region in `REGIONS`; without overlap they cover the image.
    """

    images: np.ndarray
    classes: Int[np.ndarray, "N 3"]
    masks: Bool[np.ndarray, "N 4 32 32"]


def smoke_config() -> Config:
    """Returns settings that run in seconds."""
    return Config(images=6, resamples=50, rules=("guided", "linear"), batch_size=6)


def scenes(config: Config, *, photographs: Sequence[np.ndarray] | None = None) -> Scenes:
    """Returns the first images of a seed that show a digit beside the one in the middle.

    Args:
        config: how many, and from what size on a digit counts as shown.
        photographs: to cut backgrounds from; those of `standin.PHOTOGRAPHS` by default.

    Raises:
        CcexamError: a package that carries the photographs is not installed.
    """
    made = standin.make(2 * config.images + 20, seed=config.seed, photographs=photographs)
    sizes = made.neighbour_masks.sum(axis=(2, 3))
    chosen = np.flatnonzero(sizes.max(axis=1) >= config.smallest)[: config.images]
    if len(chosen) < config.images:
        raise ValueError(f"expected {config.images} images with a digit of {config.smallest} pixels beside the middle")
    rows, side = np.arange(len(chosen)), sizes[chosen].argmax(axis=1)
    middle, beside = made.masks[chosen], made.neighbour_masks[chosen][rows, side]
    second = made.neighbour_masks[chosen][rows, 1 - side]
    masks = np.stack([middle, beside, second, ~(middle | beside | second)], axis=1)
    labels, neighbours = made.labels[chosen], made.neighbours[chosen]
    rng = np.random.default_rng((config.seed, 1))
    absent = [
        rng.choice(np.setdiff1d(np.arange(10), [label, *row])) for label, row in zip(labels, neighbours, strict=True)
    ]
    return Scenes(made.images[chosen], np.stack([labels, neighbours[rows, side], absent], axis=1), masks)


def lifted(apply: Apply) -> Apply:
    """Returns a network with one large constant added to all logits: the same probabilities, the same seed a class."""
    return lambda variables, images: apply(variables, images) + _LIFT


SEEDS: dict[str, Callable[[Apply], Apply]] = {"own": lambda apply: apply, "one": lifted}


def seeds_of(model: models.LoadedModel) -> tuple[str, ...]:
    """Returns the seeds that are measured: `one` of logits, `own` of class maps as well."""
    return ("own",) if model.network.returns_class_maps else ("own", "one")


def run(
    config: Config,
    workdir: pathlib.Path,
    networks: dict[str, models.LoadedModel],
    *,
    photographs: Sequence[np.ndarray] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures, draws examples, and returns the results, written to `workdir`.

    Args:
        config: settings.
        workdir: folder for results and pictures.
        networks: by name.
        photographs: of the stand-in; its own by default.
        progress: whether to report on standard error.
    """
    from experiments.neighbour_digits_figure import draw

    workdir.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    made_by = provenance()
    found = scenes(config, photographs=photographs)
    figures = {}
    for name, model in networks.items():
        figures[name] = _network_figures(config, model, found)
        for seeds in seeds_of(model):
            figures[name][seeds] = {}
            for rule in config.rules:
                maps = responses(model, found.images, rule=rule, seeds=seeds, batch_size=config.batch_size)
                figures[name][seeds][rule] = measured(config, maps, found)
                if progress:
                    took = time.perf_counter() - started
                    print(f"{name}, seeds {seeds}, {rule}: {took:.0f} s", file=sys.stderr, flush=True)
        draw(name, model, found, workdir / f"{NAME}-{name}.png")
    results = {
        "experiment": NAME,
        "data": "stand-in for SVHN: no figure of SVHN",
        "config": dataclasses.asdict(config),
        "networks": {name: model.metadata for name, model in networks.items()},
        "area_share": {
            region: _mean(found.masks[:, place].mean(axis=(1, 2)), config) for place, region in enumerate(REGIONS)
        },
        "figures": figures,
        "seconds": round(time.perf_counter() - started, 1),
        **made_by,
    }
    (workdir / f"{NAME}.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def responses(
    model: models.LoadedModel, images: np.ndarray, *, rule: str, seeds: str, batch_size: int
) -> Float[np.ndarray, "N 10 H W"]:
    """Returns the response of every class in every image, summed over channels.

    Args:
        model: the network.
        images: uint8.
        rule: by name.
        seeds: a key of `SEEDS`.
        batch_size: images a call.
    """
    by_image = mapping.class_maps_of(SEEDS[seeds](model.apply), rule=rule, on_unmatched="warn")
    return mapping.mapped(by_image, model.variables, images, batch_size=batch_size)


def measured(config: Config, maps: Float[np.ndarray, "N 10 H W"], found: Scenes) -> dict[str, Any]:
    """Returns where the classes of each role respond, what the roles differ by, and whose the pixels of a digit are."""
    rows = np.arange(len(maps))
    share = {
        (role, region): localise(maps[rows, found.classes[:, asked]], found.masks[:, place]).share
        for asked, role in enumerate(ROLES)
        for place, region in enumerate(REGIONS)
    }
    # A region that an image lacks holds none of the response; a class that responds nowhere has no share at all.
    for asked, role in enumerate(ROLES):
        responds = (maps[rows, found.classes[:, asked]] > 0).any(axis=(1, 2))
        for region in REGIONS:
            share[role, region] = np.where(responds, np.nan_to_num(share[role, region]), np.nan)
    gained = {
        f"{digit}: own class - {other} class": _mean(share[digit, digit] - share[other, digit], config)
        for digit in ROLES[:2]
        for other in ROLES
        if other != digit
    }
    return {
        "share": {role: {region: _mean(share[role, region], config) for region in REGIONS} for role in ROLES},
        "gained": gained,
        "clear": {role: _dominance(config, maps, found, place) for place, role in enumerate(ROLES[:2])},
    }


def _dominance(config: Config, maps: np.ndarray, found: Scenes, place: int) -> dict[str, Any]:
    """How many pixels of a digit, and how many others, the CLEAR map gives to the digit's class."""
    owned = maps.argmax(axis=1) == found.classes[:, place, None, None]
    owned &= maps.max(axis=1) > 0
    mask = found.masks[:, place]
    inside = (owned & mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
    outside = (owned & ~mask).sum(axis=(1, 2)) / (~mask).sum(axis=(1, 2))
    return {
        "inside": _mean(inside, config),
        "outside": _mean(outside, config),
        "inside - outside": _mean(inside - outside, config),
    }


def _network_figures(config: Config, model: models.LoadedModel, found: Scenes) -> dict[str, Any]:
    """Accuracy on the scenes, and how often a class's logit is positive at all."""

    def scores(variables: Any, images: Array) -> Array:
        return scores_of(model.apply(variables, images))

    logits = mapping.mapped(scores, model.variables, found.images, batch_size=config.batch_size)
    asked = np.take_along_axis(logits, found.classes, axis=1)
    return {
        "accuracy": _mean(logits.argmax(axis=1) == found.classes[:, 0], config),
        "logit_positive": {role: _mean(asked[:, place] > 0, config) for place, role in enumerate(ROLES)},
    }


def _mean(values: np.ndarray, config: Config) -> dict[str, Any]:
    """The mean over the images that have a value, its 95 % bootstrap interval, and how many they are."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"mean": None, "interval_95": None, "images": 0}
    rng = np.random.default_rng((config.seed, 2))
    weights = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=config.resamples)
    low, high = np.percentile(weights @ known / len(known), (2.5, 97.5))
    return {
        "mean": round(float(known.mean()), 5),
        "interval_95": [round(float(low), 5), round(float(high), 5)],
        "images": len(known),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=Config().images, help="how many, by default %(default)s")
    parser.add_argument("--weights", type=pathlib.Path, help="of the network of table 5.2, trained on the stand-in")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir") / NAME)
    parser.add_argument("--record", action="store_true", help="write results and pictures into the checkout")
    options = parser.parse_args(arguments)
    try:
        networks = {"ccexam": ccexam_network.load()}
        if options.weights is not None:
            networks["standin-trained"] = models.load("svhn", weights=options.weights)
        results = run(Config(images=options.images), options.workdir, networks)
    except ValueError as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.record:
        ship(options.workdir, f"{NAME}.json", [f"{NAME}-{name}.png" for name in networks])
    for name, by_seeds in results["figures"].items():
        for seeds in seeds_of(networks[name]):
            for rule, figures in by_seeds[seeds].items():
                shares = [figures["share"][role][role]["mean"] for role in ROLES[:2]]
                print(f"{name:16s} seeds {seeds:9s} {rule:10s} own digit, middle and beside: {shares}")


if __name__ == "__main__":
    main()
