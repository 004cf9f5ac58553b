"""How many images should be worked on at once? CLEAR maps of large batches by block size.

    python benchmarks/bench_image_blocks.py [--quick] [--networks mnist …] [--json]

`auto` is what the library chooses for the device. Every block size is first compared with the whole batch (relative
difference below 1e-4), then all are timed in turn. `ratio` is to the whole batch: below 1 the blocks are faster;
`ratio_cpu` the same by the processor's time. `mib` is what the compiled program takes beside its arguments and results.
The networks are untrained, and of the two of ImageNet's size eight classes are compared: the ratios do not depend on
either.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxclear
from benchmarks import blocks, networks, timing
from benchmarks.blocks import COLUMNS

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_BATCHES = {"mnist": (64, 512), "svhn": (64, 512), "crystal": (16, 64), "vgg": (4,), "resnet": (16,)}


def bench(name: str, batch: int, *, rounds: int) -> list[timing.Row]:
    """Returns one row a block size.

    Raises:
        Disagreement: a block size gives another map.
    """
    network = networks.network(name)
    images = jax.random.uniform(jax.random.key(0), (batch, *network.input_shape))
    classes = range(min(network.num_classes, 8)) if network.num_classes > 10 else None
    compared = blocks.Blocks(name, network, images, str(batch))
    smallest = max(1, batch // 64)
    sizes = {str(size): size for size in (batch, *_SIZES) if smallest <= size <= batch} | {"auto": None}
    for words, size in sizes.items():
        explain = jaxclear.clear_map(network.apply, rule="guided", classes=classes, image_block=size)
        compared.add(words, explain)
    return compared.rows(rounds)


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of all networks."""
    rounds, last = (3, 1) if options.quick else (5, None)
    names = ["mnist"] if options.quick else options.networks
    for name in names:
        for batch in _BATCHES[name][:last]:
            yield from bench(name, batch, rounds=rounds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument("--networks", nargs="+", choices=_BATCHES, default=list(_BATCHES), metavar="NAME")


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS, add=add_options)
