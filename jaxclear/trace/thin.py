"""Convolutions of very few channels, in which a CPU's inner loop over channels has nothing to do.

The taps of a kernel that lie side by side become channels: of the images, where few channels go in, by putting pixels
that lie side by side into one; of the result, where one comes out, which is shifted for each tap and added then.

Images are (B, *spatial, C), kernels (*taps, C, F); there is no stride and no dilation.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

MOST_CHANNELS_IN = 4
"""Channels that are few. One channel is fast as it is."""

Padding = Sequence[tuple[int, int]]
Convolve = Callable[[Array, Array, Padding], Array]
"""``(images, kernel, padding) -> images``: an ordinary convolution."""


def out_of_few_channels(convolve: Convolve, images: Array, kernel: Array, padding: Padding) -> Array:
    """Returns the convolution of images of few channels; `convolve` gets as many times more as there are taps across.

    Args:
        convolve: an ordinary convolution.
        images: (B, *spatial, C).
        kernel: (*taps, C, F).
        padding: zeros before and after each axis.
    """
    *others, across = kernel.shape[:-2]
    padded, last = _with_edges(images, padding[-1]), images.ndim - 2
    width = padded.shape[last] - across + 1
    shifted = [lax.slice_in_dim(padded, tap, tap + width, axis=last) for tap in range(across)]
    column = kernel.reshape(*others, 1, -1, kernel.shape[-1])
    return convolve(jnp.concatenate(shifted, axis=-1), column, [*padding[:-1], (0, 0)])


def beside(kernel: Array) -> Array:
    """Returns the kernel of `into_one_channel`: (*taps, C, 1) to (*others, 1, C, across), across the last axis."""
    *others, across, channels, _ = kernel.shape
    return jnp.moveaxis(kernel[..., 0], -2, -1).reshape(*others, 1, channels, across)


def into_one_channel(convolve: Convolve, images: Array, kernel: Array, padding: Padding) -> Array:
    """Returns the convolution of images into one channel, (B, *out, 1); `convolve` gets a channel a tap across.

    Args:
        convolve: an ordinary convolution.
        images: (B, *spatial, C).
        kernel: as `beside` returns it.
        padding: zeros before and after each axis.
    """
    products = convolve(images, kernel, [*padding[:-1], (0, 0)])
    padded = _with_edges(products, padding[-1])
    axis, across = images.ndim - 2, kernel.shape[-1]
    width = padded.shape[axis] - across + 1
    parts = [lax.slice_in_dim(padded[..., tap], tap, tap + width, axis=axis) for tap in range(across)]
    return functools.reduce(jnp.add, parts)[..., None]


def _with_edges(images: Array, edges: tuple[int, int]) -> Array:
    """Images with zeros before and after the last axis in space; a negative number takes pixels away."""
    config = [(0, 0, 0)] * (images.ndim - 2) + [(*edges, 0), (0, 0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), config)
