"""From how many channels and pixels on is a convolution in tiles (Winograd) faster? Only a CPU takes it.

    python benchmarks/bench_winograd.py [--quick] [--json]

A response passed back through a 3x3 convolution in a loop, as over classes, directly and in tiles, at the sizes of the
layers of VGG and ResNet. Both must agree to 1e-5 of the largest value before they are timed in turn. `direct_ms` and
`tiles_ms` are a round's; `times` is how much faster tiles are, without the transformation of the kernel, which takes
`kernel_ms` once a loop; with it they are faster from `pays_from` pixels on, those of all rounds. `taken` says whether
the library does so by itself for one image and 16 classes.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing
from jaxclear.trace import loop_body, winograd

COLUMNS = {
    **{"images": "d", "side": "d", "channels": "d", "filters": "d", "direct_ms": ".2f", "tiles_ms": ".2f"},
    **{"spread": ".0%", "times": ".2f", "kernel_ms": ".2f", "pays_from": "d", "taken": "s"},
}
ROUNDS = 8
CLASSES = 16
SIZES = (
    *((1, 224, 64, 64), (1, 112, 64, 128), (1, 112, 128, 128), (1, 56, 64, 64), (1, 56, 128, 256), (1, 56, 256, 256)),
    *((1, 28, 128, 128), (1, 28, 256, 512), (1, 28, 512, 512), (1, 14, 256, 256), (1, 14, 512, 512), (8, 14, 512, 512)),
    *((1, 7, 512, 512), (8, 7, 512, 512)),
)
"""Images a round, pixels along a side, channels of the result and of what is passed back."""
QUICK = ((1, 28, 128, 128), (8, 7, 512, 512))


def bench(images: int, side: int, channels: int, filters: int, *, rounds: int, budget: float) -> timing.Row:
    """Returns the row of one size.

    Raises:
        Disagreement: the two ways give other values.
    """
    kernel = jax.random.normal(jax.random.key(0), (3, 3, channels, filters)) / (9 * filters) ** 0.5
    responses = jax.random.normal(jax.random.key(1), (ROUNDS, images, side, side, filters))

    def passed_back(kernel: Array, responses: Float[Array, "n B H W F"], *, tiles: bool) -> Float[Array, "n B H W C"]:
        def network(pixels: Array) -> Array:
            layout = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(pixels, kernel, (1, 1), "SAME", dimension_numbers=layout)

        _, pull = jax.vjp(network, jnp.zeros((images, side, side, channels)))
        with mock.patch.object(winograd, "is_faster", return_value=tiles):
            body = loop_body(lambda response: jnp.maximum(pull(response)[0], 0), responses[0])
            return lax.map(body, responses)

    direct, _ = timing.compiled(lambda *given: passed_back(*given, tiles=False), kernel, responses)
    tiles, _ = timing.compiled(lambda *given: passed_back(*given, tiles=True), kernel, responses)
    transform, _ = timing.compiled(winograd.kernels, jnp.swapaxes(kernel, 2, 3))
    name = f"{images} x {side}², {filters} to {channels}"
    timing.assert_agreement(name, tiles(kernel, responses), direct(kernel, responses), tolerance=1e-5)
    contenders = {
        "direct": lambda: direct(kernel, responses),
        "tiles": lambda: tiles(kernel, responses),
        "kernel": lambda: transform(jnp.swapaxes(kernel, 2, 3)),
    }
    times = timing.alternate(contenders, rounds=rounds, budget=budget)
    alone = 1e3 * times["kernel"].median
    each = {way: (1e3 * times[way].median - (alone if way == "tiles" else 0)) / ROUNDS for way in ("direct", "tiles")}
    pixels, gain = images * side**2, each["direct"] - each["tiles"]
    taken = winograd.is_faster(winograd.TAPS, (channels, filters), (images, side, side), CLASSES // images)
    return {
        **{"images": images, "side": side, "channels": channels, "filters": filters},
        **{f"{way}_ms": ms for way, ms in each.items()},
        "spread": max(times[way].spread for way in each),
        "times": each["direct"] / each["tiles"],
        "kernel_ms": alone,
        "pays_from": round(alone / gain * pixels) if gain > 0 else None,
        "taken": "yes" if taken else "no",
    }


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of all sizes."""
    rounds, budget = (3, 5.0) if options.quick else (15, 15.0)
    for size in QUICK if options.quick else SIZES:
        yield bench(*size, rounds=rounds, budget=budget)


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS)
