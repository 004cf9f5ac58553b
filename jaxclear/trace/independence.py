"""Whether a network's answer for an image depends on the other images of the batch, or on how many there are.

A walk over two jaxprs, of the whole batch and of a part of it, follows the axis that counts images. What it does not
know counts as mixing: then the batch is worked on whole, which is never wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from jaxclear.trace import jaxprs
from jaxclear.trace.image_axes import ELEMENTWISE, NO_IMAGES, RULES, Mixed, Value, alike_axes, require
from jaxclear.trace.leaves import split_leaves


def keeps_images_apart(apply: Callable[..., Any], variables: Any, images: Any, part: int) -> bool:
    """Returns whether a part of a batch is answered as it would be among the others; nothing is computed.

    True only if every operation is known to leave images apart, no value differs from one place of the batch to
    another but by the images, the first axis of every result counts images, and a part of the batch is answered by the
    same operations with the same numbers. Of functions with a derivative of their own only JAX's are known.

    Args:
        apply: a pure function of `variables` and a batch of images.
        variables: its variables.
        images: a batch of images, the first axis counting them.
        part: how many images, fewer than in the batch.
    """
    arrays, fixed = split_leaves((variables, images))
    fewer = jax.ShapeDtypeStruct((part, *images.shape[1:]), images.dtype)
    whole, _ = jaxprs.trace(lambda *values: apply(*fixed.join(values)), arrays)
    try:
        opened, _ = jaxprs.trace(lambda *values: apply(*fixed.join(values)), [*arrays[:-1], fewer])
    except Exception:  # a function for batches of one size; whatever it says, the whole batch is no mistake
        return False
    inputs = [NO_IMAGES] * (len(arrays) - 1) + [Value(images=0)]
    try:
        results = _walk(_Pair(whole, opened), inputs)
    except Mixed:
        return False
    return bool(results) and all(value.images == 0 for value in results)


class _Pair(NamedTuple):
    """The same computation for the whole batch and for a part of it: two jaxprs, or two equations."""

    whole: Any
    part: Any

    @property
    def inner(self) -> "_Pair":
        """The bodies of two calls."""
        return _Pair(*map(jaxprs.inner_jaxpr, self))


def _walk(pair: _Pair, inputs: Sequence[Value]) -> list[Value]:
    whole, part = pair.whole.jaxpr, pair.part.jaxpr
    require(len(whole.eqns) == len(part.eqns) and _same(pair.whole.consts, pair.part.consts))
    known = dict(
        zip(whole.constvars, zip([NO_IMAGES] * len(whole.constvars), part.constvars, strict=True), strict=True)
    )
    known.update(zip(whole.invars, zip(inputs, part.invars, strict=True), strict=True))

    def read(atom: Any, other: Any) -> Value:
        if jaxprs.is_literal(atom):
            require(jaxprs.is_literal(other) and _same(atom.val, other.val))
            return NO_IMAGES
        value, expected = known[atom]
        require(other is expected)
        return value

    def read_all(atoms: Sequence[Any], others: Sequence[Any]) -> list[Value]:
        require(len(atoms) == len(others))
        return [read(atom, other) for atom, other in zip(atoms, others, strict=True)]

    for eqns in map(_Pair, whole.eqns, part.eqns):
        values = _equation(eqns, read_all(eqns.whole.invars, eqns.part.invars))
        for var, other, value in zip(eqns.whole.outvars, eqns.part.outvars, values, strict=True):
            require(_differ_by_images(value, var.aval, other.aval))
            known[var] = value, other
    return read_all(whole.outvars, part.outvars)


def _equation(eqns: _Pair, values: list[Value]) -> list[Value]:
    eqn, name = eqns.whole, eqns.whole.primitive.name
    require(name == eqns.part.primitive.name and len(eqn.outvars) == len(eqns.part.outvars))
    known_call = name == "custom_jvp_call" and all(map(jaxprs.is_jax_function, eqns))
    if name in jaxprs.JIT or name in jaxprs.REMAT or known_call:
        return _walk(eqns.inner, values)
    depends = any(value.images is not None for value in values)
    require(_same_parameters(eqns, without=("jaxpr",) if depends and name == "scan" else ()))
    if not depends:
        one_size = all(map(_same_shape, eqn.invars, eqns.part.invars))
        require(one_size or name in ELEMENTWISE or name == "broadcast_in_dim")
        return [Value(alike=alike_axes(eqn, values))] * len(eqn.outvars)
    if name == "scan":
        return _scan(eqns, values)
    if name == "optimization_barrier":
        return values
    rule = RULES.get(name)
    if rule is None:
        raise Mixed
    return [Value(rule(eqn, values))] * len(eqn.outvars)


def _differ_by_images(value: Value, aval: Any, other: Any) -> bool:
    """Whether a value has another size for a part of the batch only where it may: where its elements are alike."""
    shape, smaller = _shape(aval), _shape(other)
    if shape is None or smaller is None or len(shape) != len(smaller):
        return shape == smaller
    free = value.alike if value.images is None else {value.images}
    return all(axis in free or size == smaller[axis] for axis, size in enumerate(shape))


def _shape(aval: Any) -> tuple[int, ...] | None:
    """The shape of what has one; a token has none."""
    return getattr(aval, "shape", None)


def _same_shape(atom: Any, other: Any) -> bool:
    return _shape(atom.aval) == _shape(other.aval)


# Parameters that say again what the shape of the result says.
_SIZES = {"broadcast_in_dim": ("shape",), "reshape": ("new_sizes",), "slice": ("limit_indices",)}


def _same_parameters(eqns: _Pair, without: tuple[str, ...]) -> bool:
    """Whether two equations do the same to arrays of any size."""
    left_out = (*without, *_SIZES.get(eqns.whole.primitive.name, ()))
    whole, part = ({k: v for k, v in eqn.params.items() if k not in left_out} for eqn in eqns)
    return _same(whole, part)


def _same(one: Any, other: Any) -> bool:
    """Whether constants or parameters of two traces are equal; False where that cannot be seen."""
    if one is other:
        return True
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Tracer) or isinstance(other, Tracer):
        return False
    if hasattr(one, "eqns"):
        opened = _Pair(*map(jaxprs.open_jaxpr, (one, other)))
        return str(one) == str(other) and _same(opened.whole.consts, opened.part.consts)
    if isinstance(one, np.ndarray | np.generic | jax.Array):
        return np.shape(one) == np.shape(other) and bool(np.array_equal(one, other))
    return type(one) is type(other) and bool(one == other)


def _scan(eqns: _Pair, values: list[Value]) -> list[Value]:
    num_consts, num_carry = jaxprs.scan_counts(eqns.whole)
    consts, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    elements = []
    for value in values[num_consts + num_carry :]:
        require(value.images != 0)
        elements.append(NO_IMAGES if value.images is None else Value(value.images - 1))
    while True:
        found = _walk(eqns.inner, [*consts, *carry, *elements])
        after = [_in_all_rounds(before, now) for before, now in zip(carry, found[:num_carry], strict=True)]
        if after == carry:
            break
        carry = after
    stacked = [NO_IMAGES if value.images is None else Value(value.images + 1) for value in found[num_carry:]]
    return [*carry, *stacked]


def _in_all_rounds(before: Value, after: Value) -> Value:
    """What is known of a carried value before and after a round."""
    if after.images is None:
        require(before.images is None)
        return Value(alike=before.alike & after.alike)
    require(before.images == after.images or after.images in before.alike)
    return Value(after.images)
