"""Arithmetic of a traced program: dense multiply-adds of convolutions and matrix products, and elementwise operations.

Counted on the jaxpr, before a compiler removes or adds anything, so that any network can be counted and contenders are
measured against the same number.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

_ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "neg", "max", "min", "round", "floor", "integer_pow", "square"})


class Operations(NamedTuple):
    """How much arithmetic a program does.

    Attributes:
        multiply_adds: of convolutions and matrix products, every entry of the kernel at every position, padding
            included; the zeros between the pixels of a dilated input are not counted.
        elementwise: single operations on floating-point arrays: sums, products, extrema, roundings.
    """

    multiply_adds: int
    elementwise: int

    def __add__(self, other: Any) -> "Operations":
        return Operations(self.multiply_adds + other.multiply_adds, self.elementwise + other.elementwise)

    def times(self, count: int) -> "Operations":
        """Returns the operations of so many repetitions."""
        return Operations(self.multiply_adds * count, self.elementwise * count)


def operations(function: Callable[..., Any], *arguments: Any) -> Operations:
    """Returns the arithmetic of a function, by a trace alone.

    Loops count as often as they run; of a `cond` the dearest branch counts, of a `while` one turn.

    Args:
        function: anything JAX can trace.
        arguments: arrays, or `jax.ShapeDtypeStruct` of them.

    Example:
        >>> import jax.numpy as jnp
        >>> operations(lambda a, b: 2 * (a @ b), jnp.ones((3, 4)), jnp.ones((4, 5)))
        Operations(multiply_adds=60, elementwise=15)
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Operations:
    total = Operations(0, 0)
    for equation in jaxpr.eqns:
        total += _of_equation(equation)
    return total


def _of_equation(equation: Any) -> Operations:
    name = equation.primitive.name
    out: Any = equation.outvars[0].aval if equation.outvars else None
    if name == "conv_general_dilated":
        return Operations(_convolution(equation), 0)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return Operations(math.prod(out.shape) * math.prod(left[axis] for axis in contracted), 0)
    if name in _ELEMENTWISE:
        floating = jax.numpy.issubdtype(out.dtype, jax.numpy.floating)
        return Operations(0, math.prod(out.shape) if floating else 0)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs(equation.params.values())]
    if name == "cond":
        return max(inner)
    return sum(inner, Operations(0, 0)).times(equation.params.get("length", 1) if name == "scan" else 1)


def _convolution(equation: Any) -> int:
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    numbers = equation.params["dimension_numbers"]
    outputs = kernel[numbers.rhs_spec[0]]
    return math.prod(out) * math.prod(kernel) // outputs // math.prod(equation.params["lhs_dilation"])


def _jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
