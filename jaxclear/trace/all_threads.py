"""Convolutions on all threads of a CPU.

XLA's CPU backend hands convolutions to a library (YNNPACK) that plans loops for each group of operations by itself. A
convolution alone it plans over rows of pixels and channels only, so that one of few channels runs on one thread however
many images there are; a reduction it plans over everything, and what it reduces with it. So convolutions are given one:
the maximum of each number, taken twice, and a floor. It costs next to nothing, since it is computed where the
convolution's results lie in registers or cache. A select ends the group: with the next convolution in it, all would run
on one thread again.

benchmarks/bench_clear.py: with jaxlib 0.10 it is up to twice as fast; 0.12 seldom needs it, and it does not hurt there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NO_FLOOR = float("-inf")

_MOST_IN_A_ROW = 2**13
"""Numbers in a row of pixels up to which the library does not divide the row itself."""


@jax.custom_jvp
def shared(values: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns `values`; -infinity becomes NaN. Whoever follows a trace may take it for what it computes it from."""
    return at_least(values, NO_FLOOR)


@shared.defjvp
def _change(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return shared(*primals), tangents[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def at_least(values: Float[Array, "*s"], floor: float) -> Float[Array, "*s"]:
    """Returns `max(values, floor)`, as a reduction over one more axis; its derivatives are those of the maximum.

    The library's maximum of NaNs is the least number there is; here it is NaN again, and so is a value of -infinity.
    """
    twice = lax.broadcast_in_dim(values, (*values.shape, 2), range(values.ndim))
    most = twice.max(axis=-1)
    return jnp.where(most <= floor, jnp.where(most == NO_FLOOR, jnp.nan, floor), most)


@at_least.defjvp
def _derivative(floor: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return at_least(*primals, floor), jax.jvp(lambda values: jnp.maximum(values, floor), primals, tangents)[1]


def is_helped(out: Any) -> bool:
    """Whether a convolution of two axes in space, into (B, H, W, C), is left to one thread otherwise."""
    row = out.shape[-2:]
    known = all(isinstance(size, int) for size in row)  # a symbol, when exported
    return out.ndim == 4 and out.dtype == jnp.float32 and known and 0 < row[0] * row[1] <= _MOST_IN_A_ROW
