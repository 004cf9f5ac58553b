"""Convolutions as XLA's CPU backend runs them fast, with the same values but for the order of sums.

The transpose of a convolution comes from JAX with its kernel's axes exchanged in the dimension numbers. XLA rewrites
such a convolution to its canonical layout, but only outside of loops; inside one, a CPU falls back to a generic kernel
that is tens of times slower. Here the axes are exchanged by transposes instead. On a CPU there are other ways besides
for a gradient with a stride (:mod:`jaxclear.trace.transposed`), for few channels (:mod:`jaxclear.trace.thin`), for many
(:mod:`jaxclear.trace.winograd`), for a kernel's gradient (:mod:`jaxclear.trace.kernel_gradient`) and for several
threads (:mod:`jaxclear.trace.all_threads`); an accelerator's library of convolutions knows its own.

All that is done to the kernel is apart from what is done to the images, so that it can be done once, before a loop.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxclear.trace import all_threads, jaxprs, kernel_gradient, thin, winograd
from jaxclear.trace.transposed import Transposed

PRIMITIVE = "conv_general_dilated"


class Convolution:
    """An equation `conv_general_dilated`, laid out batch first, channels last, kernel input-output.

    Args:
        eqn: the equation.
        summed: whether the sum over the result's channels, which are its last axis, is wanted instead, as one channel.
        rectified: whether the positive part of the result is wanted instead.
        rounds: how often as many images are convolved with the same kernel; 0 where it is not known before.
    """

    def __init__(self, eqn: Any, *, summed: bool = False, rectified: bool = False, rounds: int = 0):
        numbers = eqn.params["dimension_numbers"]
        shape = np.array(eqn.invars[1].aval.shape)[list(numbers.rhs_spec)]
        self._eqn, self._summed, self._floor = eqn, summed, 0.0 if rectified else all_threads.NO_FLOOR
        self._filters, self._taps = 1 if summed else int(shape[0]), tuple(shape[2:].tolist())
        self._spatial, self._across = len(self._taps), self._taps[-1] if self._taps else 1
        self._channels_last = (0, self._spatial + 1, *range(1, self._spatial + 1))
        self._input_output = (self._spatial + 1, self._spatial, *range(self._spatial))
        self._one_group_on_cpu = jax.default_backend() == "cpu" and _has_one_group(eqn)
        self._transposed, other_ways = None, self._one_group_on_cpu and _is_dense(eqn)
        self._zeros_between = any(step > 1 for step in eqn.params["lhs_dilation"])
        if other_ways and self._zeros_between:
            dilation, padding = eqn.params["lhs_dilation"], eqn.params["padding"]
            self._transposed = Transposed(self._taps, self._filters, dilation=dilation, padding=padding)
        self._thin = other_ways and not self._zeros_between and self._across > 1 and is_wide(eqn)
        self._into_one = self._thin and self._filters == 1
        plain = other_ways and not self._zeros_between and self._is_plain()
        self._in_tiles = plain and winograd.is_faster(self._taps, self._channels(), self._out(), rounds)
        plain_gradient = plain and kernel_gradient.is_kernel_gradient(numbers)
        self._as_product = plain_gradient and kernel_gradient.is_faster(self._taps, self._channels(), self._out())

    def kernels(self, kernel: Array) -> list[Array]:
        """Returns what the images are convolved with, in the layout for it."""
        laid_out = self._laid_out(kernel)
        if self._transposed is not None:
            return self._transposed.kernels(laid_out)
        if self._in_tiles:
            return winograd.kernels(laid_out)
        return [thin.beside(laid_out) if self._into_one else laid_out]

    def __call__(self, images: Array, kernels: Sequence[Array]) -> Array:
        """Returns the result of the equation, rectified if so wanted."""
        numbers, padding = self._eqn.params["dimension_numbers"], self._eqn.params["padding"]
        images = _moved(images, numbers.lhs_spec, self._channels_last)
        if self._transposed is not None:
            out = _at_least(self._transposed(self._dense, images, kernels), self._floor)
        elif self._into_one:
            out = _at_least(thin.into_one_channel(self._dense, images, kernels[0], padding), self._floor)
        elif self._in_tiles:
            out = _at_least(winograd.convolve(images, kernels, padding), self._floor)
        elif self._as_product:
            out = _at_least(kernel_gradient.convolve(images, kernels[0], padding), self._floor)
        elif self._zeros_between:
            out = _at_least(self._bind(images, kernels[0]), self._floor)
        else:
            out = self._shared(self._bind(images, kernels[0]), self._floor)
        return _moved(out, self._channels_last, numbers.out_spec)

    def forward(self, images: Array, kernel: Array) -> Array:
        """Returns the result of the equation; its derivatives are those of the equation as it is."""
        channels = images.shape[self._eqn.params["dimension_numbers"].lhs_spec[1]]
        if not (self._thin and 1 < channels <= thin.MOST_CHANNELS_IN):
            out = jaxprs.bind(self._eqn, [images, kernel])[0]
            return self._shared(out) if self._eqn.params["dimension_numbers"].out_spec == self._channels_last else out

        @jax.custom_jvp
        def convolve(images: Array, kernel: Array) -> Array:
            numbers = self._eqn.params["dimension_numbers"]
            laid_out = _moved(images, numbers.lhs_spec, self._channels_last), self._laid_out(kernel)
            out = thin.out_of_few_channels(self._dense, *laid_out, self._eqn.params["padding"])
            return _moved(out, self._channels_last, numbers.out_spec)

        def derivative(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
            pairs = (tangents[0], primals[1]), (primals[0], tangents[1])
            known = [pair for pair, tangent in zip(pairs, tangents, strict=True) if not _is_zero(tangent)]
            parts = [jaxprs.bind(self._eqn, list(pair))[0] for pair in known]
            out = convolve(*primals)
            return out, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(out)

        convolve.defjvp(derivative, symbolic_zeros=True)
        return convolve(images, kernel)

    def _is_plain(self) -> bool:
        """Whether there are two axes in space, numbers of 32 bits and sizes that are known."""
        atoms = (*self._eqn.invars, *self._eqn.outvars)
        known = all(isinstance(size, int) for atom in atoms for size in atom.aval.shape)  # a symbol, when exported
        return known and self._spatial == 2 and all(atom.aval.dtype == jnp.float32 for atom in atoms)

    def _channels(self) -> tuple[int, int]:
        """Of the images and of the result."""
        kernel, spec = self._eqn.invars[1].aval, self._eqn.params["dimension_numbers"].rhs_spec
        return kernel.shape[spec[1]], self._filters

    def _out(self) -> tuple[int, int, int]:
        """How many images result, their height and width."""
        out, spec = self._eqn.outvars[0].aval, self._eqn.params["dimension_numbers"].out_spec
        batch, height, width = (out.shape[axis] for axis in (spec[0], *spec[2:]))
        return batch, height, width

    def _laid_out(self, kernel: Array) -> Array:
        laid_out = _moved(kernel, self._eqn.params["dimension_numbers"].rhs_spec, self._input_output)
        return laid_out.sum(axis=-1, keepdims=True) if self._summed else laid_out

    def _dense(self, images: Array, kernel: Array, padding: thin.Padding) -> Array:
        """An ordinary convolution in the layout, without zeros between pixels."""
        return self._shared(self._bind(images, kernel, padding=tuple(padding), lhs_dilation=(1,) * self._spatial))

    def _shared(self, out: Array, floor: float = all_threads.NO_FLOOR) -> Array:
        """A convolution's result in the layout, and at least `floor`, shared among the threads of a CPU."""
        if not (self._one_group_on_cpu and all_threads.is_helped(out)):
            return _at_least(out, floor)
        return all_threads.shared(out) if floor == all_threads.NO_FLOOR else all_threads.at_least(out, floor)

    def _bind(self, images: Array, kernel: Array, **changed: Any) -> Array:
        numbers = type(self._eqn.params["dimension_numbers"])
        layout = numbers(self._channels_last, self._input_output, self._channels_last)
        params = {**self._eqn.params, "dimension_numbers": layout, **changed}
        with self._eqn.ctx.manager:
            return self._eqn.primitive.bind(images, kernel, **self._eqn.primitive.get_bind_params(params))


def _at_least(values: Array, floor: float) -> Array:
    return values if floor == all_threads.NO_FLOOR else jnp.maximum(values, floor)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def is_wide(eqn: Any) -> bool:
    """Whether an equation's numbers have 32 bits or more: sums in another order differ by little then."""
    dtypes = [atom.aval.dtype for atom in (*eqn.invars, *eqn.outvars)]
    return all(jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 for dtype in dtypes)


def _has_one_group(eqn: Any) -> bool:
    return eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1


def _is_dense(eqn: Any) -> bool:
    """Whether there are no stride, no holes in the kernel, and some pixels."""
    dense = all(step == 1 for step in (*eqn.params["window_strides"], *eqn.params["rhs_dilation"]))
    sizes = [size for atom in (*eqn.invars, *eqn.outvars) for size in atom.aval.shape]
    empty = any(isinstance(size, int) and size == 0 for size in sizes)  # a batch may be of any size, when exported
    return dense and not empty


def _moved(values: Array, current: Sequence[int], wanted: Sequence[int]) -> Array:
    """Returns values transposed so that each kind of axis moves from its place in `current` to that in `wanted`."""
    order = np.empty(len(current), int)
    order[list(wanted)] = list(current)
    return values if np.array_equal(order, np.arange(len(order))) else jnp.transpose(values, order.tolist())
