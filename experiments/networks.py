"""What the experiments on the trained crystal networks share: which networks, and the command line."""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from experiments.records import one_line, ship
from jaxclear import models


def networks_of(weights: Sequence[pathlib.Path]) -> dict[str, models.LoadedModel]:
    """The shipped networks and those of weights files, by name; one that is there twice is taken once."""
    named = {"pristine": models.load("crystal", variant="pristine"), "default": models.load("crystal")}
    named |= {path.stem: models.load("crystal", weights=path) for path in weights}
    kept: dict[str, models.LoadedModel] = {}
    for name, model in named.items():
        if model.metadata["sha256"] not in {other.metadata["sha256"] for other in kept.values()}:
            kept[name] = model
    return kept


def command(
    name: str,
    doc: str | None,
    arguments: Sequence[str] | None,
    run: Callable[[dict[str, models.LoadedModel], pathlib.Path], dict[str, Any]],
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Runs an experiment on networks from the command line, [--weights FILE] [--workdir DIR] [--ship].

    Args:
        name: of the experiment; NAME.json is its results file.
        doc: what --help prints.
        arguments: of the command line; those of the process by default.
        run: `(networks, workdir) -> results`.
        pictures: files that --ship takes along, with {} for the network.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=pathlib.Path, action="append", default=[], help="of another network")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir") / name)
    parser.add_argument("--ship", action="store_true", help="write results and pictures into the checkout")
    options = parser.parse_args(arguments)
    with one_line(name):
        networks = networks_of(options.weights)
        results = run(networks, options.workdir)
    if options.ship:
        ship(options.workdir, f"{name}.json", [picture.format(network) for network in networks for picture in pictures])
    return results
