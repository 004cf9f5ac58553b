"""Max-pooling that remembers its switches: where in each window the maximum was.

Array contract: arrays of any rank; a window covers every axis, size 1 where an axis is not pooled. The switches are
kept once and serve any number of responses, so a `vmap` over classes does not select again.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

# Above this many positions in a window the unrolled comparison costs more than one gather by index.
_UNROLLED_POSITIONS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxPool:
    """One max-pooling of arrays of `shape`; every axis has a window, a stride, a padding and two dilations.

    The names and meanings are those of `lax.reduce_window`.
    `floor` is the value the reduction starts from; a window in which no element exceeds it has no switch.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    base_dilation: tuple[int, ...]
    window_dilation: tuple[int, ...]
    floor: float = -math.inf

    def forward(self, x: Float[Array, "*in"]) -> Float[Array, "*out"]:
        """Returns the maximum of every window, by the operation the network itself uses.

        Raises:
            ValueError: a window is larger than what it pools.
        """
        self._check()
        return lax.reduce_window(
            x,
            np.asarray(self.floor, x.dtype)[()],
            lax.max,
            self.window,
            self.strides,
            self.padding,
            base_dilation=self.base_dilation,
            window_dilation=self.window_dilation,
        )

    def _check(self) -> None:
        axes = zip(self.shape, self.window, self.base_dilation, self.window_dilation, self.padding, strict=True)
        for size, window, step, hole, edges in axes:
            present = (size - 1) * step + 1 + sum(edges)
            if window > 1 and (window - 1) * hole + 1 > present:
                raise ValueError(
                    f"expected max-poolings of windows no larger than what they pool, got a window {self.window} on "
                    f"{self.shape} with padding {self.padding}; use larger images"
                )

    def switches(self, x: Float[Array, "*in"]) -> Int[Array, "*out"]:
        """Returns the position of each window's maximum, the first in row-major order where several are equal.

        Small windows number their own positions; large ones number the elements of `x`. -1 stands for no switch.
        """
        if math.prod(self.window) > _UNROLLED_POSITIONS:
            return self._element_switches(x)
        padded = self._pad(x)
        best = switch = None
        for position, offset in enumerate(self._offsets()):
            value = lax.slice(padded, offset, self._limits(padded.shape, offset), self.strides)
            if best is None or switch is None:
                best = value
                switch = jnp.where(value > self.floor, 0, -1).astype(jnp.int8)
            else:
                larger = value > best
                switch = jnp.where(larger & (value > self.floor), jnp.int8(position), switch)
                best = jnp.where(larger, value, best)
        if switch is None:
            raise ValueError(f"expected a window of at least one position, got {self.window}")
        return switch

    def unpool(self, switches: Int[Array, "*out"], response: Float[Array, "*out"]) -> Float[Array, "*in"]:
        """Returns `response` moved to the switches, zeros elsewhere: the sum is conserved where switches exist.

        Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", section 2.2.3; M. Zeiler and
        R. Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
        """
        if math.prod(self.window) > _UNROLLED_POSITIONS:
            flat = jnp.zeros(math.prod(self.shape) + 1, response.dtype)
            target = jnp.where(switches < 0, flat.size - 1, switches)
            return flat.at[target.ravel()].add(response.ravel())[:-1].reshape(self.shape)
        if self._tiles():
            return self._unpool_tiles(switches, response)
        padded_shape = self._padded_shape()
        total = jnp.zeros(padded_shape, response.dtype)
        zero = jnp.zeros((), response.dtype)
        for position, offset in enumerate(self._offsets()):
            part = jnp.where(switches == position, response, zero)
            spread = [
                (start, full - start - ((size - 1) * stride + 1), stride - 1)
                for start, full, size, stride in zip(offset, padded_shape, part.shape, self.strides, strict=True)
            ]
            total = total + lax.pad(part, zero, spread)
        return self._unpad(total)

    def _unpool_tiles(self, switches: Array, response: Array) -> Array:
        """Un-pools windows that tile the array: one broadcast times the one-hot of the switches."""
        window_axes = tuple(2 * axis + 1 for axis in range(len(self.window)))
        positions = np.arange(math.prod(self.window), dtype=np.int8).reshape(self.window)
        positions = np.expand_dims(positions, tuple(2 * axis for axis in range(len(self.window))))
        chosen = jnp.expand_dims(switches, window_axes) == positions
        spread = chosen.astype(response.dtype) * jnp.expand_dims(response, window_axes)
        tiled = spread.reshape([n * w for n, w in zip(response.shape, self.window, strict=True)])
        margins = [(0, full - size, 0) for full, size in zip(self._padded_shape(), tiled.shape, strict=True)]
        return self._unpad(lax.pad(tiled, jnp.zeros((), tiled.dtype), margins))

    def _element_switches(self, x: Array) -> Array:
        """Finds the switches of large windows by reducing values and element numbers together."""
        lowest = jnp.asarray(self.floor, x.dtype)
        numbers = jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape)
        last = jnp.int32(np.iinfo(np.int32).max)

        def larger(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
            return jnp.where(first, a[0], b[0]), jnp.where(first, a[1], b[1])

        best, number = lax.reduce_window(
            (x, numbers),
            (lowest, last),
            larger,  # pyright: ignore[reportArgumentType]
            self.window,
            self.strides,
            self.padding,
            base_dilation=self.base_dilation,
            window_dilation=self.window_dilation,
        )
        return jnp.where((number == last) | ~(best > lowest), -1, number)

    def _tiles(self) -> bool:
        undilated = all(d == 1 for d in (*self.base_dilation, *self.window_dilation))
        return undilated and self.window == self.strides

    def _offsets(self) -> Iterator[tuple[int, ...]]:
        for position in np.ndindex(*self.window):
            yield tuple(int(p) * d for p, d in zip(position, self.window_dilation, strict=True))

    def _limits(self, padded_shape: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, ...]:
        limits = []
        for size, start, window, dilation, stride in zip(
            padded_shape, offset, self.window, self.window_dilation, self.strides, strict=True
        ):
            windows = (size - ((window - 1) * dilation + 1)) // stride + 1
            limits.append(start + (windows - 1) * stride + 1)
        return tuple(limits)

    def _padding_config(self) -> list[tuple[int, int, int]]:
        return [(lo, hi, base - 1) for (lo, hi), base in zip(self.padding, self.base_dilation, strict=True)]

    def _pad(self, x: Array) -> Array:
        return lax.pad(x, jnp.asarray(-math.inf, x.dtype), self._padding_config())

    def _padded_shape(self) -> tuple[int, ...]:
        return tuple(
            lo + hi + size + max(size - 1, 0) * inner
            for size, (lo, hi, inner) in zip(self.shape, self._padding_config(), strict=True)
        )

    def _unpad(self, padded: Array) -> Array:
        starts = [lo for lo, _ in self.padding]
        limits = [
            lo + (size - 1) * base + 1 for lo, size, base in zip(starts, self.shape, self.base_dilation, strict=True)
        ]
        return lax.slice(padded, starts, limits, self.base_dilation)


def max_pool(x: Float[Array, "B *spatial C"], window: int, stride: int) -> Float[Array, "B *pooled C"]:
    """Returns the max-pooling of square windows without padding, with a gradient by its switches.

    Values and gradients are those of `flax.linen.max_pool`; where windows overlap, the gradient's sums run in another
    order. On a CPU XLA's own gradient of a pooling (select and scatter) takes longer than all convolutions of a small
    network together.

    Args:
        x: images or features.
        window: side of a window, pixels.
        stride: from one window to the next, pixels.

    Raises:
        ValueError: a window is larger than the image.
    """
    inner = x.ndim - 2
    ones = (1,) * x.ndim
    pool = MaxPool(
        shape=x.shape,
        window=(1, *[window] * inner, 1),
        strides=(1, *[stride] * inner, 1),
        padding=((0, 0),) * x.ndim,
        base_dilation=ones,
        window_dilation=ones,
    )
    return _pooled(pool, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pooled(pool: MaxPool, x: Array) -> Array:
    return pool.forward(x)


def _pooled_forward(pool: MaxPool, x: Array) -> tuple[Array, Array]:
    return pool.forward(x), pool.switches(x)


def _pooled_backward(pool: MaxPool, switches: Array, gradient: Array) -> tuple[Array]:
    return (pool.unpool(switches, gradient),)


_pooled.defvjp(_pooled_forward, _pooled_backward)
