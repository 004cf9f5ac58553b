"""Gradients of kernels as products of large matrices.

The gradient of a convolution's kernel is a convolution by a kernel as large as the images, into few pixels: one a tap.
A CPU reads that whole kernel again for each channel and row of the result. Here pixels are shifted by the taps of one
axis and responses by those of the other; the product of the two, over all images and pixels, has every pair of taps.
Blocks of pixels that fit the cache are multiplied one after another.

The values are those of the convolution but for the order of sums; an infinite number may make more of them NaN.

Images are (N, H, W, C), kernels (h, w, C, F), as for any convolution: C counts what the network's images are, h and w
their pixels, N and F the channels of its kernel, whose taps are the pixels of the result. There is no stride and no
dilation.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxclear.even_blocks import even_groups

# Where a CPU gains: benchmarks/bench_kernel_gradient.py.
_NARROWEST = 16
_FEWEST_PRODUCTS = 2**27
_MOST_EDGES = 1.5
_NUMBERS_A_BLOCK = 2**20


def is_faster(taps: Sequence[int], channels: Sequence[int], out: tuple[int, int, int]) -> bool:
    """Whether a CPU gains.

    Args:
        taps: of the kernel, along each axis.
        channels: of the images and of the result.
        out: images, height and width of the result.
    """
    (height, width), (batch, down, across) = taps, out
    if down > height or across > width or width + across - 1 > _MOST_EDGES * width:
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
    (height, width, count, filters), batch = kernel.shape, images.shape[0]
    down, across = (
        size + sum(edges) - taps + 1
        for size, edges, taps in zip(images.shape[1:3], padding, (height, width), strict=True)
    )
    columns = width + across - 1
    pixels_a_block = max(1, _NUMBERS_A_BLOCK // (down * batch + across * filters))
    groups, together = even_groups(count, max(1, pixels_a_block // (height * columns)))
    strips, rows = even_groups(height, max(1, pixels_a_block // columns))
    more_images, more_rows = groups * together - count, strips * rows - height

    edges = [(0, more_images), (padding[0][0], padding[0][1] + more_rows), padding[1], (0, 0)]
    pixels = _padded(jnp.transpose(images, (3, 1, 2, 0)), edges)
    responses = jnp.moveaxis(kernel, 2, 0)
    responses = _padded(responses, [(0, more_images), (0, more_rows), (across - 1, across - 1), (0, 0)])

    def product(first: Array | int, row: Array | int) -> Array:
        block = lax.dynamic_slice(pixels, (first, row, 0, 0), (together, rows + down - 1, columns, batch))
        own = lax.dynamic_slice(responses, (first, row, 0, 0), (together, rows, responses.shape[2], filters))
        below = [block[:, tap : tap + rows] for tap in range(down)]
        beside = [own[:, :, across - 1 - tap : across - 1 - tap + columns] for tap in range(across)]
        left, right = (jnp.concatenate(shifted, axis=-1) for shifted in (below, beside))
        return jnp.tensordot(left, right, axes=((0, 1, 2), (0, 1, 2)))

    def add(number: Array, total: Array) -> Array:
        return total + product(together * (number // strips), rows * (number % strips))

    empty = jnp.zeros((down * batch, across * filters), images.dtype)
    total = product(0, 0) if groups * strips == 1 else lax.fori_loop(0, groups * strips, add, empty)
    return jnp.moveaxis(total.reshape(down, batch, across, filters), 1, 0)


def _padded(values: Array, edges: Sequence[tuple[int, int]]) -> Array:
    return lax.pad(values, jnp.zeros((), values.dtype), [(*edge, 0) for edge in edges])
