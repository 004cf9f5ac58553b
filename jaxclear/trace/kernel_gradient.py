"""Gradients of kernels as products of large matrices.

The gradient of a convolution's kernel is a convolution of the images by the responses, a kernel as large as they are,
into few pixels: one a tap. A CPU reads that whole kernel again for each channel and row of the result. Here the images
are shifted by the taps of one axis and the responses by those of the other; the product of the two, over all images and
pixels, has every pair of taps. Blocks of pixels, small enough for the cache, are multiplied one after another.

The values are those of the convolution but for the order of sums; an infinite number may make more of them NaN.

The layout is that of any convolution, images (N, H, W, C), kernels (h, w, C, F): here C counts the images, h and w are
the pixels of the responses, N and F the channels of images and responses, and the pixels of the result are the taps.
There is no stride and no dilation.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxclear.even_blocks import even_groups

# Where a CPU gains: benchmarks/bench_kernel_gradient.py.
_NARROWEST = 16
_FEWEST_PRODUCTS = 2**27
_MOST_EDGES = 1.5
# Numbers and pixels of a block: they should fit the cache, but a product of few pixels is all reading of the result.
_NUMBERS_A_BLOCK = 2**20
_FEWEST_PIXELS = 2**9


def is_kernel_gradient(dimension_numbers: Any) -> bool:
    """Whether a convolution's channels count the images of a batch, as JAX has it in a kernel's gradient."""
    return dimension_numbers.lhs_spec[0] != 0


def is_faster(taps: Sequence[int], channels: Sequence[int], out: tuple[int, int, int]) -> bool:
    """Whether a CPU gains, where the convolution is a kernel's gradient.

    Args:
        taps: h and w.
        channels: C and F.
        out: N, and the height and width of the result.
    """
    (height, width), (batch, down, across) = taps, out
    if width + across - 1 > _MOST_EDGES * width:
        return False
    narrow, wide = sorted((down * batch, across * channels[1]))
    return narrow >= _NARROWEST and channels[0] * height * width * narrow * wide >= _FEWEST_PRODUCTS


def convolve(images: Array, kernel: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """Returns the convolution.

    Args:
        images: (N, H, W, C).
        kernel: (h, w, C, F).
        padding: zeros before and after each axis; a negative number takes pixels away.
    """
    height, width, count, filters = kernel.shape
    batch, *size, _ = images.shape
    (above, below), (left, right) = padding
    down, across = size[0] + above + below - height + 1, size[1] + left + right - width + 1
    columns = width + across - 1
    pixels_a_block = max(_FEWEST_PIXELS, _NUMBERS_A_BLOCK // (down * batch + across * filters))
    groups, together = even_groups(count, max(1, pixels_a_block // (height * columns)))
    strips, rows = even_groups(height, max(1, pixels_a_block // columns))
    more_images, more_rows = (0, groups * together - count, 0), strips * rows - height

    zero, around = jnp.zeros((), images.dtype), across - 1
    edges = [more_images, (above, below + more_rows, 0), (left, right, 0), (0, 0, 0)]
    pixels = lax.pad(jnp.transpose(images, (3, 1, 2, 0)), zero, edges)
    edges = [more_images, (0, more_rows, 0), (around, around, 0), (0, 0, 0)]
    responses = lax.pad(jnp.moveaxis(kernel, 2, 0), zero, edges)

    def product(first: Array | int, row: Array | int) -> Array:
        block = lax.dynamic_slice(pixels, (first, row, 0, 0), (together, rows + down - 1, columns, batch))
        own = lax.dynamic_slice(responses, (first, row, 0, 0), (together, rows, width + 2 * around, filters))
        upwards = [block[:, tap : tap + rows] for tap in range(down)]
        sideways = [own[:, :, around - tap : around - tap + columns] for tap in range(across)]
        images_of_taps, responses_of_taps = (jnp.concatenate(shifted, axis=-1) for shifted in (upwards, sideways))
        return jnp.tensordot(images_of_taps, responses_of_taps, axes=((0, 1, 2), (0, 1, 2)))

    def add(number: Array, total: Array) -> Array:
        return total + product(together * (number // strips), rows * (number % strips))

    total = lax.fori_loop(1, groups * strips, add, product(0, 0))
    return jnp.moveaxis(total.reshape(down, batch, across, filters), 1, 0)
