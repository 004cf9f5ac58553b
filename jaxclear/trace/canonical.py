"""Convolutions in the one layout that XLA's CPU backend runs fast inside a loop.

The transpose of a convolution comes from JAX with its kernel's axes exchanged in the dimension numbers. XLA rewrites
such a convolution to its canonical layout, but only outside of loops; inside one, a CPU falls back to a generic kernel
that is tens of times slower. Here the axes are exchanged by transposes instead, with the same values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclear.trace import jaxprs


def with_canonical_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` with every convolution in it laid out batch first, channels last, kernel input-output."""

    def canonical(*args: Any) -> Any:
        leaves, treedef = jax.tree_util.tree_flatten(args)
        opened, out_tree = jaxprs.trace(lambda *arrays: function(*treedef.unflatten(arrays)), leaves)
        return out_tree.unflatten(jaxprs.interpret(opened, leaves, _equation))

    return canonical


def _equation(number: int, eqn: Any, operands: list[Any]) -> list[Any]:
    if eqn.primitive.name == "conv_general_dilated":
        return [_convolve(eqn, *operands)]
    if eqn.primitive.name in jaxprs.JIT:
        return jaxprs.interpret(jaxprs.inner_jaxpr(eqn), operands, _equation)
    return jaxprs.bind(eqn, operands)


def _convolve(eqn: Any, images: Any, kernel: Any) -> Any:
    numbers = eqn.params["dimension_numbers"]
    spatial = len(numbers.lhs_spec) - 2
    channels_last = (0, spatial + 1, *range(1, spatial + 1))
    input_output = (spatial + 1, spatial, *range(spatial))
    canonical = type(numbers)(channels_last, input_output, channels_last)
    if numbers == canonical:
        return jaxprs.bind(eqn, [images, kernel])[0]
    images = jnp.transpose(images, _permutation(numbers.lhs_spec, channels_last))
    kernel = jnp.transpose(kernel, _permutation(numbers.rhs_spec, input_output))
    params = {**eqn.params, "dimension_numbers": canonical}
    out = eqn.primitive.bind(images, kernel, **eqn.primitive.get_bind_params(params))
    return jnp.transpose(out, _permutation(channels_last, numbers.out_spec))


def _permutation(current: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Returns the transpose that moves each kind of axis from its place in `current` to its place in `wanted`."""
    order = np.empty(len(current), int)
    order[list(wanted)] = list(current)
    return tuple(int(axis) for axis in order)
