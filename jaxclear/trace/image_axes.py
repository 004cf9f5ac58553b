"""Where the axis that counts images goes in every operation that leaves images apart.

Each rule takes an equation and what is known of its operands, and gives that axis in the results.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Value(NamedTuple):
    """What is known of a value.

    Attributes:
        images: the axis that counts images; None where the value does not depend on them.
        alike: axes along which all its elements are the same, where it does not depend on images.
    """

    images: int | None = None
    alike: frozenset[int] = frozenset()


NO_IMAGES = Value()


class Mixed(Exception):
    """An operation mixes images, or is not known to leave them apart."""


def require(holds: bool) -> None:
    """Raises `Mixed` where a condition does not hold."""
    if not holds:
        raise Mixed


def alike_axes(eqn: Any, values: list[Value]) -> frozenset[int]:
    """The axes along which the result of an equation without images is the same everywhere."""
    if len(eqn.outvars) != 1 or eqn.primitive.name not in (*ELEMENTWISE, "broadcast_in_dim"):
        return frozenset()
    rank = len(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "broadcast_in_dim":
        shape, placed = eqn.invars[0].aval.shape, eqn.params["broadcast_dimensions"]
        differing = {out for axis, out in enumerate(placed) if shape[axis] != 1 and axis not in values[0].alike}
        return frozenset(range(rank)) - differing
    shapes = [atom.aval.shape for atom in eqn.invars]
    return frozenset(axis for axis in range(rank) if all(map(_is_alike, values, shapes, [axis] * len(values))))


def _is_alike(value: Value, shape: tuple[int, ...], axis: int) -> bool:
    """Whether an operand without images gives all places along an axis of the result the same."""
    return not shape or shape[axis] == 1 or axis in value.alike


def _only(values: Sequence[Value]) -> int:
    """The images' axis of the first operand, the only one that depends on images."""
    first, *others = values
    if first.images is None or any(value.images is not None for value in others):
        raise Mixed
    return first.images


def _elementwise(eqn: Any, values: list[Value]) -> int:
    axes = {value.images for value in values if value.images is not None}
    require(len(axes) == 1)
    (axis,) = axes
    for value, atom in zip(values, eqn.invars, strict=True):
        require(value.images is not None or _is_alike(value, atom.aval.shape, axis))
    return axis


def _convolution(eqn: Any, values: list[Value]) -> int:
    axis, numbers = _only(values), eqn.params["dimension_numbers"]
    require(axis == numbers.lhs_spec[0] and eqn.params["batch_group_count"] == 1)
    return numbers.out_spec[0]


def _product(eqn: Any, values: list[Value]) -> int:
    contracted, batched = eqn.params["dimension_numbers"]
    places = set()
    for side, value in enumerate(values):
        if value.images is None:
            continue
        axis = value.images
        require(axis not in contracted[side])
        if axis in batched[side]:
            place = batched[side].index(axis)
            other = values[1 - side]
            require(other.images == batched[1 - side][place] or batched[1 - side][place] in other.alike)
            places.add(place)
            continue
        require(values[1 - side].images is None)
        ranks = [len(atom.aval.shape) for atom in eqn.invars]
        free = [[d for d in range(rank) if d not in (*contracted[s], *batched[s])] for s, rank in enumerate(ranks)]
        places.add(len(batched[0]) + side * len(free[0]) + free[side].index(axis))
    require(len(places) == 1)
    return places.pop()


def _dropping(parameter: str) -> Callable[[Any, list[Value]], int]:
    """The rule of an operation whose result lacks the axes that a parameter names."""

    def rule(eqn: Any, values: list[Value]) -> int:
        axis, dropped = _only(values), eqn.params[parameter]
        require(axis not in dropped)
        return axis - sum(other < axis for other in dropped)

    return rule


def _window(eqn: Any, values: list[Value]) -> int:
    axis, params = _only(values), eqn.params
    require(len(eqn.outvars) == 1)  # with several a window may be reduced together with numbers of places
    lengths = (params[name][axis] for name in ("window_dimensions", "window_strides", "base_dilation"))
    require(all(length == 1 for length in lengths) and tuple(params["padding"][axis]) == (0, 0))
    return axis


def _broadcast(eqn: Any, values: list[Value]) -> int:
    axis = _only(values)
    place = eqn.params["broadcast_dimensions"][axis]
    require(eqn.params["shape"][place] == eqn.invars[0].aval.shape[axis])
    return place


def _reshape(eqn: Any, values: list[Value]) -> int:
    axis, before, after = _only(values), eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    require(eqn.params["dimensions"] is None)
    leading = math.prod(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[:place]) == leading:
            return place
    raise Mixed


def _transpose(eqn: Any, values: list[Value]) -> int:
    return eqn.params["permutation"].index(_only(values))


def _slice(eqn: Any, values: list[Value]) -> int:
    axis, params = _only(values), eqn.params
    whole = params["start_indices"][axis] == 0 and params["limit_indices"][axis] == eqn.invars[0].aval.shape[axis]
    require(whole and (params["strides"] is None or params["strides"][axis] == 1))
    return axis


def _pad(eqn: Any, values: list[Value]) -> int:
    axis = _only(values)
    require(tuple(eqn.params["padding_config"][axis]) == (0, 0, 0))
    return axis


def _concatenation(eqn: Any, values: list[Value]) -> int:
    axis = _elementwise(eqn, values)
    require(axis != eqn.params["dimension"])
    return axis


def _along(parameter: str) -> Callable[[Any, list[Value]], int]:
    """The rule of an operation that works along the axis, or the axes, that a parameter names."""

    def rule(eqn: Any, values: list[Value]) -> int:
        axis, worked_on = _elementwise(eqn, values), eqn.params[parameter]
        require(axis not in (worked_on if isinstance(worked_on, tuple) else (worked_on,)))
        return axis

    return rule


ELEMENTWISE = frozenset(
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
RULES: dict[str, Callable[[Any, list[Value]], int]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _dropping("dimensions"),
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenation,
    "rev": _along("dimensions"),
    "split": _along("axis"),
    "sort": _along("dimension"),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along("axis")),
    **dict.fromkeys(("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"), _window),
    **dict.fromkeys(("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or"), _dropping("axes")),
    **dict.fromkeys(("reduce_prod", "reduce_sum"), _dropping("axes")),
}
