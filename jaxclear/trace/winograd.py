"""Convolutions by 3x3 kernels of many channels with 16 multiplications for every 36.

Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR
2016): tiles of 4x4 pixels and the kernel are transformed by sums, multiplied number by number, and what comes out are
the 2x2 pixels in the middle of the tile. All multiplications of one place of the tiles are a matrix product over the
channels.

The values are those of the convolution but for the order of sums. A pixel whose 3x3 neighbours are zero is exactly
zero, as a pixel without a response has to be; with larger tiles, F(4x4, 3x3), which are faster, it is not. Where only a
kernel's taps are zero, as in a masked convolution, what would be zero may be left with rounding; and an infinite number
makes all numbers of its tile NaN. The transformed kernel takes 16/9 of the kernel's memory, the tiles several times
that of the images.

Images are (B, H, W, C), kernels (3, 3, C, F); there is no stride and no dilation.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

TAPS = (3, 3)

_PLACES = 4  # of a tile, along each axis
_STEP = 2  # from tile to tile, which is the pixels that come out of one
_OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""What a place of a tile takes of the three taps along an axis."""

# Where a CPU gains: benchmarks/bench_winograd.py. With fewer channels than `_MANY` only large images do; with more some
# pixels are enough, or the matrices are narrow. Tiles at the edges must not be too empty.
_FEWEST, _MANY = 64, 128
_LARGE, _SOME = 2**13, 2**7
_PIXELS_A_KERNEL = 2**11
_FILLED = 0.65


def is_faster(taps: Sequence[int], channels: Sequence[int], out: tuple[int, int, int], rounds: int) -> bool:
    """Whether a CPU gains, the kernel's transformation included.

    Args:
        taps: of the kernel, along each axis.
        channels: of the images and of the result.
        out: images, height and width of the result.
        rounds: how many such results are computed with the same kernel; 0 where it is not known before.
    """
    if tuple(taps) != TAPS or min(channels) < _FEWEST:
        return False
    pixels, tiles = math.prod(out), out[0] * math.prod(_tiles(size) for size in out[1:])
    enough = _SOME if min(channels) >= _MANY else _LARGE
    filled = pixels >= _FILLED * tiles * _STEP**2
    return filled and pixels >= enough and rounds * pixels >= _PIXELS_A_KERNEL


def kernels(kernel: Array) -> list[Array]:
    """Returns the matrices (C, F) of the 16 places of a tile, row by row."""
    places = jnp.asarray(np.kron(_OF_KERNEL, _OF_KERNEL), kernel.dtype)
    taps = kernel.reshape(len(places[0]), -1)
    return list((places @ taps).reshape(-1, *kernel.shape[2:]))


def convolve(images: Array, kernels: Sequence[Array], padding: Sequence[tuple[int, int]]) -> Array:
    """Returns the convolution.

    Args:
        images: (B, H, W, C).
        kernels: as the function `kernels` returns them.
        padding: zeros before and after each axis; a negative number takes pixels away.
    """
    height, width = (size + sum(edges) - 2 for size, edges in zip(images.shape[1:3], padding, strict=True))
    down, across = _tiles(height), _tiles(width)
    padded = _with_edges(images, padding, (down, across))
    batch, channels, filters = images.shape[0], *kernels[0].shape

    rows = _of_tile([_every_second(padded, place, down, axis=1) for place in range(_PLACES)])
    tiles = [_of_tile([_every_second(row, place, across, axis=2) for place in range(_PLACES)]) for row in rows]
    places = [place.reshape(-1, channels) for row in tiles for place in row]
    products = [
        (place @ matrix).reshape(batch, down, across, filters) for place, matrix in zip(places, kernels, strict=True)
    ]
    columns = [_of_products(products[first : first + _PLACES]) for first in range(0, _PLACES**2, _PLACES)]
    pixels = zip(*(_of_products(list(column)) for column in zip(*columns, strict=True)), strict=True)
    out = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)
    return out.reshape(batch, _STEP * down, _STEP * across, filters)[:, :height, :width]


def _tiles(pixels: int) -> int:
    """How many tiles lie along an axis."""
    return -(-pixels // _STEP)


def _of_tile(pixels: Sequence[Array]) -> list[Array]:
    first, second, third, fourth = pixels
    return [first - third, second + third, third - second, second - fourth]


def _of_products(places: Sequence[Array]) -> list[Array]:
    first, second, third, fourth = places
    return [first + second + third, second - third - fourth]


def _every_second(images: Array, start: int, count: int, axis: int) -> Array:
    return lax.slice_in_dim(images, start, start + _STEP * count - 1, stride=_STEP, axis=axis)


def _with_edges(images: Array, padding: Sequence[tuple[int, int]], tiles: Sequence[int]) -> Array:
    """Images with zeros around, as many pixels as the tiles have."""
    edges = [
        (before, _STEP * count + _PLACES - _STEP - size - before, 0)
        for size, (before, _), count in zip(images.shape[1:3], padding, tiles, strict=True)
    ]
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
