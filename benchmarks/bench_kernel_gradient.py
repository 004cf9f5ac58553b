"""From how much work on is a kernel's gradient faster as a product of matrices? Only a CPU takes it.

    python benchmarks/bench_kernel_gradient.py [--quick] [--json]

The gradient of one convolution's kernel, from the images and the responses of a batch, as a convolution (`direct_ms`)
and as products of blocks of pixels (`product_ms`), at the sizes of layers of the published networks and of VGG. Both
must agree to 1e-4 of the largest value before they are timed in turn; `times` is how much faster the product is,
`gflops` its rate, counting the multiplications of the convolution only. `taken` says whether the library takes it.
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
from jaxclear.trace import kernel_gradient, loop_body

COLUMNS = {
    **{"batch": "d", "side": "d", "channels": "d", "filters": "d", "taps": "d", "direct_ms": ".2f"},
    **{"product_ms": ".2f", "spread": ".0%", "times": ".2f", "gflops": ".0f", "taken": "s"},
}
SIZES = (
    *((32, 64, 3, 32, 7), (32, 64, 32, 32, 7), (32, 32, 32, 16, 7), (32, 16, 16, 8, 7), (32, 16, 8, 8, 7)),
    *((64, 28, 1, 32, 3), (64, 28, 32, 32, 3), (64, 14, 32, 64, 3), (64, 14, 64, 10, 1)),
    *((64, 32, 3, 32, 3), (64, 16, 64, 64, 3), (64, 8, 64, 128, 3), (4, 112, 64, 128, 3), (4, 28, 256, 512, 3)),
    *((8, 14, 512, 512, 3), (16, 7, 512, 512, 3), (16, 7, 1024, 1024, 1)),
)
"""Images, pixels along a side, channels, filters, taps along a side."""
QUICK = ((8, 28, 32, 32, 3), (32, 16, 8, 8, 7))


def bench(batch: int, side: int, channels: int, filters: int, taps: int, *, rounds: int, budget: float) -> timing.Row:
    """Returns the row of one size.

    Raises:
        Disagreement: the two ways give other values.
    """
    images = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    responses = jax.random.normal(jax.random.key(1), (batch, side, side, filters))
    kernel = jnp.zeros((taps, taps, channels, filters))

    def gradient(
        images: Float[Array, "B H W C"], responses: Float[Array, "B H W F"], *, product: bool
    ) -> Float[Array, "h w C F"]:
        def network(kernel: Array) -> Array:
            layout = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)

        def of_kernel(kernel: Array) -> Array:
            return jax.vjp(network, kernel)[1](responses)[0]

        with mock.patch.object(kernel_gradient, "is_faster", return_value=product):
            return loop_body(of_kernel, kernel)(kernel)

    direct, _ = timing.compiled(lambda *given: gradient(*given, product=False), images, responses)
    product, _ = timing.compiled(lambda *given: gradient(*given, product=True), images, responses)
    name = f"{batch} x {side}², {channels} to {filters}, {taps}²"
    timing.assert_agreement(name, product(images, responses), direct(images, responses), tolerance=1e-4)
    contenders = {"direct": lambda: direct(images, responses), "product": lambda: product(images, responses)}
    times = timing.alternate(contenders, rounds=rounds, budget=budget)
    taken = kernel_gradient.is_faster((side, side), (batch, filters), (channels, taps, taps))
    work = 2e-9 * batch * side**2 * channels * filters * taps**2
    return {
        **{"batch": batch, "side": side, "channels": channels, "filters": filters, "taps": taps},
        **{f"{way}_ms": 1e3 * took.median for way, took in times.items()},
        "spread": max(took.spread for took in times.values()),
        "times": times["direct"].median / times["product"].median,
        "gflops": work / times["product"].median,
        "taken": "yes" if taken else "no",
    }


def measure(options: argparse.Namespace) -> Iterator[timing.Row]:
    """Yields the rows of all sizes."""
    rounds, budget = (3, 5.0) if options.quick else (11, 12.0)
    for size in QUICK if options.quick else SIZES:
        yield bench(*size, rounds=rounds, budget=budget)


if __name__ == "__main__":
    timing.command(__doc__, measure, COLUMNS)
