"""How many classes should be worked on at once? CLEAR maps of the crystal, mnist and svhn networks by block size.

    python benchmarks/bench_class_blocks.py [--quick] [--network NAME …] [--batch 1 4 8 64] [--json]

`auto` is what the library chooses for the device; beside it, with other numbers of blocks side by side in the body of
the loop. Every block size is first compared with all classes at once (relative difference below 1e-4), then all are
timed in turn. `ratio` is to all classes at once: below 1 the blocks are faster; `ratio_cpu` the same by the processor's
time. `mib` is what the compiled program takes beside its arguments and results. The networks are untrained: speed does
not depend on that.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator
from unittest import mock

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jaxclear
from benchmarks import blocks, networks, timing
from benchmarks.blocks import COLUMNS
from jaxclear.class_backprop import SIDE_BY_SIDE


def bench(name: str, batch: int, *, rounds: int) -> list[timing.Row]:
    """Returns one row a block size.

    Raises:
        Disagreement: a block size gives another map.
    """
    network = networks.network(name)
    images = jax.random.uniform(jax.random.key(0), (batch, *network.input_shape))
    compared = blocks.Blocks(name, network, images, str(network.num_classes))
    sizes = {str(block): block for block in (network.num_classes, 1, 2, 4)} | {"auto": None}
    for words, block in sizes.items():
        compared.add(words, jaxclear.clear_map(network.apply, rule="guided", class_block=block))
    backend = jax.default_backend()
    for number in sorted({1, 2, 4} - {SIDE_BY_SIDE.get(backend, 1)}):
        with mock.patch.dict(SIDE_BY_SIDE, {backend: number}):
            compared.add(f"auto, {number} side by side", jaxclear.clear_map(network.apply, rule="guided"))
    return compared.rows(rounds)


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of the networks."""
    batches = options.batch or ((8,) if options.quick else (1, 4, 8, 64))
    rounds = 3 if options.quick else 7
    for name in options.network:
        for batch in batches:
            yield from bench(name, batch, rounds=rounds)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what to measure."""
    parser.add_argument("--network", nargs="+", choices=networks.NAMES, default=("crystal", "mnist", "svhn"))
    parser.add_argument("--batch", type=int, nargs="+")


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS, add=add_options)
