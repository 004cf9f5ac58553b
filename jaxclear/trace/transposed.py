"""Transposed convolutions without the zeros between their inputs.

The gradient of a convolution with stride ``s`` convolves an image with ``s - 1`` zeros between its pixels; a CPU
multiplies them all. But the outputs ``o = s q + r`` of one phase ``r`` see only every ``s``-th tap of the kernel, and
these taps make an ordinary convolution of the image as it is::

    out[s q + r] = sum_m in[q + c_r + m] w[s m + t_r]        t_r = (p - r) mod s        c_r = (r + t_r - p) / s

with ``p`` zeros before the image. The phases are convolved one by one, or, where few channels come out, side by side as
channels of one convolution, and then woven together.

Source: W. Shi et al., arXiv:1609.07009 (2016), for strides and sub-pixels.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxclear.trace.thin import Convolve

FEW_CHANNELS = 16
"""Channels up to which one convolution of all phases, some taps of which are zero, is faster than one a phase."""


class _Phase(NamedTuple):
    """What the outputs of one phase see along one axis."""

    first_tap: int
    offset: int
    """Of the first tap from the output, in pixels of the input."""
    taps: int


class Transposed:
    """A convolution of images with zeros between their pixels.

    Args:
        taps: of the kernel along each axis.
        filters: channels that come out.
        dilation: along each axis, one more than the zeros between two pixels.
        padding: zeros before and after, in pixels of the output; they may be negative.
    """

    def __init__(
        self, taps: Sequence[int], filters: int, *, dilation: Sequence[int], padding: Sequence[tuple[int, int]]
    ):
        self._taps, self._filters, self._steps, self._padding = taps, filters, dilation, padding
        axes = [_phases(*axis) for axis in zip(taps, dilation, padding, strict=True)]
        self._phases = list(itertools.product(*axes))
        self._together = filters <= FEW_CHANNELS
        seen = [[phase for phase in axis if phase.taps] for axis in axes]
        self._first = [min(phase.offset for phase in axis) for axis in seen]
        self._end = [max(phase.offset + phase.taps for phase in axis) for axis in seen]

    def kernels(self, kernel: Array) -> list[Array]:
        """Returns a kernel for each phase, or one for all.

        Args:
            kernel: (*taps, C, F).
        """
        own = [
            kernel[tuple(slice(p.first_tap, None, step) for p, step in zip(phases, self._steps, strict=True))]
            for phases in self._phases
        ]
        if not self._together:
            return own
        edges = [
            [
                (p.offset - first, end - p.offset - p.taps) if p.taps else (0, end - first)
                for p, first, end in zip(phases, self._first, self._end, strict=True)
            ]
            for phases in self._phases
        ]
        padded = [jnp.pad(part, [*around, (0, 0), (0, 0)]) for part, around in zip(own, edges, strict=True)]
        return [jnp.concatenate(padded, axis=-1)]

    def __call__(self, convolve: Convolve, images: Array, kernels: Sequence[Array]) -> Array:
        """Returns (B, *out, F) of images (B, *spatial, C).

        Args:
            convolve: an ordinary convolution.
            images: without the zeros.
            kernels: as `kernels` returns them.
        """
        batch, *sizes = images.shape[:-1]
        all_axes = zip(sizes, self._steps, self._padding, self._taps, strict=True)
        extents = [(size - 1) * step + 2 + sum(edges) - taps for size, step, edges, taps in all_axes]
        counts = [-(-extent // step) for extent, step in zip(extents, self._steps, strict=True)]
        front, back = range(1, len(sizes) + 1), range(len(sizes) + 1, 2 * len(sizes) + 1)
        if self._together:
            axes = zip(self._first, self._end, counts, sizes, strict=True)
            found = convolve(images, kernels[0], [(-first, count - 1 + end - size) for first, end, count, size in axes])
            parts = found.reshape(batch, *counts, *self._steps, self._filters)
            order = zip(front, back, strict=True)
        else:
            phases = zip(self._phases, kernels, strict=True)
            found = jnp.stack([_phase(convolve, images, own, kernel, counts) for own, kernel in phases], axis=1)
            parts = found.reshape(batch, *self._steps, *counts, self._filters)
            order = zip(back, front, strict=True)
        woven = jnp.transpose(parts, (0, *itertools.chain(*order), parts.ndim - 1))
        whole = woven.reshape(batch, *(n * step for n, step in zip(counts, self._steps, strict=True)), self._filters)
        return whole[:, *(slice(extent) for extent in extents)]


def _phases(taps: int, step: int, edges: tuple[int, int]) -> list[_Phase]:
    found = []
    for phase in range(step):
        first = (edges[0] - phase) % step
        found.append(_Phase(first, (phase + first - edges[0]) // step, max(0, -(-(taps - first) // step))))
    return found


def _phase(convolve: Convolve, images: Array, phases: Sequence[_Phase], kernel: Array, counts: Sequence[int]) -> Array:
    """The outputs of one phase of every axis: (B, *counts, F)."""
    if 0 in kernel.shape:
        return jnp.zeros((images.shape[0], *counts, kernel.shape[-1]), images.dtype)
    axes = zip(phases, counts, images.shape[1:-1], strict=True)
    return convolve(images, kernel, [(-p.offset, count - 1 + p.offset + p.taps - size) for p, count, size in axes])
