"""Table 5.3 with a grey patch for a network that others trained on SVHN: on a stand-in, and on four real images.

Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", University of Waterloo (2020), table 5.3;
    the network and the four images are those of experiments/ccexam_network.py, the stand-in is experiments/standin.py.
Command: python -m experiments.table_5_3_standin [--workdir DIR] [--record]
Run time: 7 minutes on 2 CPU cores that others kept busy, beside the drawing of the images.
Published: on SVHN, with the network of table 5.2: 92.60 % full image, 69.12 % only strong features, 54.46 % without.
Own figure: experiments/results/table_5_3_stand-in.json and table_5_3_four-images.json; neither is a figure of SVHN.

Another network on other images: where its curves meet the published figures says nothing, and is not looked for. The
claim that the table stands for is tested: removing strong features hurts more than removing as much elsewhere, and
keeping them alone preserves more. Here the second half of it holds for `deconvnet`, `guided` and `linear`, not for
`backprop`. The first half does not: from about a tenth of the area on, removing strong features hurts less than
removing a random region of the same shape; only where a few percent are removed it hurts a little more (`backprop`,
`guided`, `linear`). Four images are an illustration: one of them is 25 %.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import ccexam_network, standin, table_5_3
from experiments.records import ship
from jaxclear import models

GREY = table_5_3.FILL["svhn"]
STAND_IN = "stand-in"
FOUR = "four-images"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run.

    Attributes:
        images: of the stand-in.
        seed: of these images.
        table: settings of the curves; their name is set by the run.
    """

    images: int = 1_000
    seed: int = 11
    table: table_5_3.Config = table_5_3.Config(  # noqa: RUF009
        fill=GREY, thresholds=(0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    )


def smoke_config() -> Config:
    """Returns settings that run in seconds."""
    table = dataclasses.replace(table_5_3.smoke_config(), fill=GREY, rules=("guided",), batch_size=4)
    return Config(images=4, seed=1, table=table)


def run(
    config: Config,
    workdir: pathlib.Path,
    model: models.LoadedModel,
    *,
    photographs: Sequence[Any] | None = None,
    samples: ccexam_network.Samples | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Returns the curves on the stand-in and on the four images, by name, written to `workdir` with pictures.

    Args:
        config: settings.
        workdir: folder for results and pictures.
        model: the network.
        photographs: of the stand-in; its own by default.
        samples: instead of the four images of ccexam.
        progress: whether to report on standard error.

    Raises:
        CcexamError: a package that carries images is not installed.
    """
    made = standin.make(config.images, seed=config.seed, photographs=photographs)
    few = ccexam_network.samples() if samples is None else samples
    parts = {
        STAND_IN: (made.images, made.labels, "stand-in for SVHN: no figure of SVHN"),
        FOUR: (few.images, few.labels, f"{len(few.labels)} images of SVHN's test split: an illustration, no figure"),
    }
    found = {}
    for name, (images, labels, words) in parts.items():
        batch = min(config.table.batch_size, len(images))
        table = dataclasses.replace(config.table, name=name, batch_size=batch)
        known = {"data": words, "network": model.metadata, "stand_in_seed": config.seed if name == STAND_IN else None}
        found[name] = table_5_3.run(
            table, workdir, model.apply, model.variables, images, labels, metadata=known, progress=progress
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("workdir/table_5_3_standin"))
    parser.add_argument("--record", action="store_true", help="write results and pictures into the checkout")
    options = parser.parse_args(arguments)
    try:
        found = run(Config(), options.workdir, ccexam_network.load())
    except ValueError as error:
        parser.exit(2, f"table_5_3_standin: error: {error}\n")
    for name, results in found.items():
        stem = results["experiment"]
        if options.record:
            ship(options.workdir, f"{stem}.json", [f"{stem}.png"])
        for rule, curves in results["rules"].items():
            parts = ", ".join(f"{part} {curves[part]}" for part in ("only", "without"))
            print(f"{name:12s} {rule:10s} full {results['full']:.1f} %, {parts}")


if __name__ == "__main__":
    main()
