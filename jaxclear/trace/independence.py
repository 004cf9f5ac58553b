"""Whether a network's answer for an image depends on the other images of the batch.

A walk over the jaxpr follows the axis that counts images. What it does not know counts as mixing: then the batch is
worked on whole, which is never wrong.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxclear.trace import jaxprs
from jaxclear.trace.leaves import split_leaves


def keeps_images_apart(apply: Callable[..., Any], variables: Any, images: Any) -> bool:
    """Returns whether each image is answered as it would be without the others; nothing is computed.

    True only if every operation is known to leave images apart, no value differs from one place of the batch to
    another but by the images, and the first axis of every result counts images.

    Args:
        apply: a pure function of `variables` and a batch of images.
        variables: its variables.
        images: a batch of images, the first axis counting them.
    """
    arrays, fixed = split_leaves((variables, images))
    opened, _ = jaxprs.trace(lambda *values: apply(*fixed.join(values)), arrays)
    inputs = [_OTHER] * (len(arrays) - 1) + [_Value(images=0)]
    try:
        return all(value.images == 0 for value in _walk(opened, inputs))
    except _Mixed:
        return False


class _Value(NamedTuple):
    """What is known of a value.

    Attributes:
        images: the axis that counts images; None where the value does not depend on them.
        alike: axes along which all its elements are the same, where it does not depend on images.
    """

    images: int | None = None
    alike: frozenset[int] = frozenset()


_OTHER = _Value()


class _Mixed(Exception):
    """An operation mixes images, or is not known to leave them apart."""


def _walk(opened: jaxprs.OpenJaxpr, inputs: Sequence[_Value]) -> list[_Value]:
    known: dict[Any, _Value] = dict.fromkeys(opened.jaxpr.constvars, _OTHER)
    known.update(zip(opened.jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Value:
        return _OTHER if jaxprs.is_literal(atom) else known[atom]

    for eqn in opened.jaxpr.eqns:
        known.update(zip(eqn.outvars, _equation(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in opened.jaxpr.outvars]


def _equation(eqn: Any, values: list[_Value]) -> list[_Value]:
    name = eqn.primitive.name
    if name in jaxprs.JIT or name in jaxprs.REMAT or name == "custom_jvp_call":
        return _walk(jaxprs.inner_jaxpr(eqn), values)
    depends = any(value.images is not None for value in values)
    if not depends:
        return [_Value(alike=_alike(eqn, values))] * len(eqn.outvars)
    if name == "scan":
        return _scan(eqn, values)
    if name in _ELEMENTWISE:
        return [_Value(_elementwise(eqn, values))] * len(eqn.outvars)
    rule = _RULES.get(name)
    if rule is None:
        raise _Mixed
    return [_Value(rule(eqn, values))] * len(eqn.outvars)


def _alike(eqn: Any, values: list[_Value]) -> frozenset[int]:
    """The axes along which the result of an equation without images is the same everywhere."""
    if len(eqn.outvars) != 1:
        return frozenset()
    rank = len(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "broadcast_in_dim":
        shape, placed = eqn.invars[0].aval.shape, eqn.params["broadcast_dimensions"]
        differing = {out for axis, out in enumerate(placed) if shape[axis] != 1 and axis not in values[0].alike}
        return frozenset(range(rank)) - differing
    if eqn.primitive.name in _ELEMENTWISE:
        shapes = [atom.aval.shape for atom in eqn.invars]
        return frozenset(axis for axis in range(rank) if all(map(_is_alike, values, shapes, [axis] * len(values))))
    return frozenset()


def _is_alike(value: _Value, shape: tuple[int, ...], axis: int) -> bool:
    """Whether an operand without images gives all places along an axis of the result the same."""
    return not shape or shape[axis] == 1 or axis in value.alike


def _only(values: Sequence[_Value]) -> int:
    """The images' axis of the first operand, the only one that depends on images."""
    first, *others = values
    if first.images is None or any(value.images is not None for value in others):
        raise _Mixed
    return first.images


def _require(holds: bool) -> None:
    if not holds:
        raise _Mixed


def _elementwise(eqn: Any, values: list[_Value]) -> int:
    axes = {value.images for value in values if value.images is not None}
    _require(len(axes) == 1)
    (axis,) = axes
    for value, atom in zip(values, eqn.invars, strict=True):
        _require(value.images is not None or _is_alike(value, atom.aval.shape, axis))
    return axis


def _convolution(eqn: Any, values: list[_Value]) -> int:
    axis, numbers = _only(values), eqn.params["dimension_numbers"]
    _require(axis == numbers.lhs_spec[0] and eqn.params["batch_group_count"] == 1)
    return numbers.out_spec[0]


def _product(eqn: Any, values: list[_Value]) -> int:
    contracted, batched = eqn.params["dimension_numbers"]
    places = set()
    for side, value in enumerate(values):
        if value.images is None:
            continue
        axis = value.images
        _require(axis not in contracted[side])
        if axis in batched[side]:
            place = batched[side].index(axis)
            other = values[1 - side]
            _require(other.images == batched[1 - side][place] or batched[1 - side][place] in other.alike)
            places.add(place)
            continue
        _require(values[1 - side].images is None)
        ranks = [len(atom.aval.shape) for atom in eqn.invars]
        free = [[d for d in range(rank) if d not in (*contracted[s], *batched[s])] for s, rank in enumerate(ranks)]
        places.add(len(batched[0]) + side * len(free[0]) + free[side].index(axis))
    _require(len(places) == 1)
    return places.pop()


def _reduction(eqn: Any, values: list[_Value]) -> int:
    axis = _only(values)
    _require(axis not in eqn.params["axes"])
    return axis - sum(reduced < axis for reduced in eqn.params["axes"])


def _squeeze(eqn: Any, values: list[_Value]) -> int:
    axis = _only(values)
    _require(axis not in eqn.params["dimensions"])
    return axis - sum(dropped < axis for dropped in eqn.params["dimensions"])


def _window(eqn: Any, values: list[_Value]) -> int:
    axis, params = _only(values), eqn.params
    lengths = (params[name][axis] for name in ("window_dimensions", "window_strides", "base_dilation"))
    _require(all(length == 1 for length in lengths) and tuple(params["padding"][axis]) == (0, 0))
    return axis


def _broadcast(eqn: Any, values: list[_Value]) -> int:
    axis = _only(values)
    place = eqn.params["broadcast_dimensions"][axis]
    _require(eqn.params["shape"][place] == eqn.invars[0].aval.shape[axis])
    return place


def _reshape(eqn: Any, values: list[_Value]) -> int:
    axis, before, after = _only(values), eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    _require(eqn.params["dimensions"] is None)
    leading = math.prod(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[:place]) == leading:
            return place
    raise _Mixed


def _transpose(eqn: Any, values: list[_Value]) -> int:
    return eqn.params["permutation"].index(_only(values))


def _slice(eqn: Any, values: list[_Value]) -> int:
    axis, params = _only(values), eqn.params
    whole = params["start_indices"][axis] == 0 and params["limit_indices"][axis] == eqn.invars[0].aval.shape[axis]
    _require(whole and (params["strides"] is None or params["strides"][axis] == 1))
    return axis


def _pad(eqn: Any, values: list[_Value]) -> int:
    axis = _only(values)
    _require(tuple(eqn.params["padding_config"][axis]) == (0, 0, 0))
    return axis


def _concatenation(eqn: Any, values: list[_Value]) -> int:
    axis = _elementwise(eqn, values)
    _require(axis != eqn.params["dimension"])
    return axis


def _along(parameter: str) -> Callable[[Any, list[_Value]], int]:
    """The rule of an operation that works along the axis, or the axes, that a parameter names."""

    def rule(eqn: Any, values: list[_Value]) -> int:
        axis, worked_on = _elementwise(eqn, values), eqn.params[parameter]
        _require(axis not in (worked_on if isinstance(worked_on, tuple) else (worked_on,)))
        return axis

    return rule


def _scan(eqn: Any, values: list[_Value]) -> list[_Value]:
    num_consts, num_carry = jaxprs.scan_counts(eqn)
    consts, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    elements = []
    for value in values[num_consts + num_carry :]:
        _require(value.images != 0)
        elements.append(_OTHER if value.images is None else _Value(value.images - 1))
    while True:
        found = _walk(jaxprs.inner_jaxpr(eqn), [*consts, *carry, *elements])
        after = [_in_all_rounds(before, now) for before, now in zip(carry, found[:num_carry], strict=True)]
        if after == carry:
            break
        carry = after
    stacked = [_OTHER if value.images is None else _Value(value.images + 1) for value in found[num_carry:]]
    return [*carry, *stacked]


def _in_all_rounds(before: _Value, after: _Value) -> _Value:
    """What is known of a carried value before and after a round."""
    if after.images is None:
        _require(before.images is None)
        return _Value(alike=before.alike & after.alike)
    _require(before.images == after.images or after.images in before.alike)
    return _Value(after.images)


_ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "pow",
        "reduce_precision",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    ]
)
_RULES: dict[str, Callable[[Any, list[_Value]], int]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenation,
    "rev": _along("dimensions"),
    "split": _along("axis"),
    "sort": _along("dimension"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    **dict.fromkeys(("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window),
    **dict.fromkeys(("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or"), _reduction),
    **dict.fromkeys(("reduce_prod", "reduce_sum"), _reduction),
}
