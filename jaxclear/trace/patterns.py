"""What in a data-flow graph is a rectifier, a max-pooling, a linear operation or a layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxclear.pooling import MaxPool
from jaxclear.rules import Rectifier, RectifierForm
from jaxclear.trace import jaxprs

Path = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A value in the graph; two nodes are equal only if they are the same one.

    Attributes:
        primitive: the operation's name, or "input", "constant", "carry", "element".
        depends: whether the value depends on the images.
        path, output: the equation that computes it and which of its results it is; None for inputs and constants.
        leaf: the number of the argument, for inputs.
        value: the value, for constants.
    """

    primitive: str
    params: Mapping[str, Any]
    inputs: tuple["Node", ...]
    shape: tuple[int, ...]
    dtype: Any
    depends: bool
    path: Path | None = None
    output: int = 0
    leaf: int | None = None
    value: Any = None
    eqn: Any = None


@dataclasses.dataclass(frozen=True)
class Site:
    """An equation in whose place a rule goes.

    Attributes:
        operation: the rectifier or the max-pooling.
        operand: which operand of the equation is its input.
        capped: the rectified node below, where the equation only adds the cap of a ReLU6.
    """

    operation: Rectifier | MaxPool
    operand: int
    capped: Node | None = None

    @property
    def name(self) -> str:
        """Returns what reports call it."""
        if isinstance(self.operation, MaxPool):
            return "max_pool"
        return "relu" if self.operation.cap is None else f"relu{self.operation.cap:g}"


def constant_node(value: Any) -> Node:
    """Returns the node of a literal or of a constant that the traced function closed over."""
    return Node("constant", {}, (), tuple(np.shape(value)), getattr(value, "dtype", None), False, value=value)


# Operations that move, convert or mark a value without changing the number it is.
_VALUE_KEEPING = frozenset(
    {"convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy", "pvary", "pcast", "reshard"}
)


def constant_value(node: Node) -> float | None:
    """Returns the one number that a node always equals, or None."""
    while node.primitive in _VALUE_KEEPING:
        node = node.inputs[0]
    if node.primitive != "constant" or not jaxprs.is_tracer_free([node.value]):
        return None
    values = np.asarray(node.value)
    if values.size == 0 or not jnp.issubdtype(values.dtype, jnp.number):
        return None
    first = values.flat[0]
    return float(first) if values.size == 1 or bool(np.all(values == first)) else None


def match(node: Node) -> Site | None:
    """Returns where a rule goes in the equation that computes `node`, or None.

    Recognised: `max(x, 0)`, `max(0, x)`, `where(x > 0, x, 0)` in all its orders, `x * (x > 0)`, `clamp(0, x, cap)`,
    `min(relu(x), cap)`, `reduce_window_max` and `reduce_window` with a maximum.
    """
    if node.dtype is None or not jnp.issubdtype(node.dtype, jnp.floating):
        return None
    matcher = _MATCHERS.get(node.primitive)
    return matcher(node) if matcher else None


def _is_zero(node: Node) -> bool:
    return constant_value(node) == 0


def _match_max(node: Node) -> Site | None:
    forms: tuple[RectifierForm, RectifierForm] = ("max", "max_swapped")
    for operand, form in enumerate(forms):
        x, other = node.inputs[operand], node.inputs[1 - operand]
        if x.depends and _is_zero(other) and not _is_moment(x):
            return Site(Rectifier(form), operand)
    return None


def _match_min(node: Node) -> Site | None:
    for operand in (0, 1):
        x, cap = node.inputs[operand], constant_value(node.inputs[1 - operand])
        site = match(x) if x.depends else None
        is_uncapped = site is not None and isinstance(site.operation, Rectifier) and site.operation.cap is None
        if is_uncapped and cap is not None and 0 < cap < np.inf:
            return Site(Rectifier("cap", cap), operand, capped=x)
    return None


def _match_clamp(node: Node) -> Site | None:
    low, x, high = node.inputs
    cap = constant_value(high)
    if x.depends and _is_zero(low) and cap is not None and cap > 0:
        return Site(Rectifier("clamp", cap), 1)
    return None


_KEPT_WHERE_TRUE: dict[str | None, RectifierForm] = {"gt": "select", "ge": "select_or_equal"}
_KEPT_WHERE_FALSE: dict[str | None, RectifierForm] = {"le": "select", "lt": "select_or_equal"}


def _match_select(node: Node) -> Site | None:
    if len(node.inputs) != 3:
        return None
    predicate, if_false, if_true = node.inputs
    for operand, x, other, relations in (
        (2, if_true, if_false, _KEPT_WHERE_TRUE),
        (1, if_false, if_true, _KEPT_WHERE_FALSE),
    ):
        form = relations.get(_comparison_with_zero(predicate, x)) if x.depends and _is_zero(other) else None
        if form is not None:
            return Site(Rectifier(form), operand)
    return None


def _comparison_with_zero(predicate: Node, x: Node) -> str | None:
    """Returns the relation ("gt", "ge", "lt", "le") of `x` to zero that a predicate states, or None."""
    mirrored = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
    if predicate.primitive in mirrored:
        left, right = predicate.inputs
        if left is x and _is_zero(right):
            return predicate.primitive
        if right is x and _is_zero(left):
            return mirrored[predicate.primitive]
    return None


def _match_multiply(node: Node) -> Site | None:
    for operand in (0, 1):
        x, mask = node.inputs[operand], node.inputs[1 - operand]
        is_mask = mask.primitive == "convert_element_type" and _comparison_with_zero(mask.inputs[0], x) in ("gt", "ge")
        if x.depends and is_mask:
            return Site(Rectifier("multiply"), operand)
    return None


def _match_pool(node: Node) -> Site | None:
    params = node.params
    floor = -np.inf
    if node.primitive == "reduce_window":
        initial = constant_value(node.inputs[1]) if len(node.inputs) == 2 else None
        if initial is None or not _reduces_by_maximum(params):
            return None
        floor = initial
    pool = MaxPool(
        shape=node.inputs[0].shape,
        window=tuple(params["window_dimensions"]),
        strides=tuple(params["window_strides"]),
        padding=tuple(map(tuple, params["padding"])),
        base_dilation=tuple(params["base_dilation"]),
        window_dilation=tuple(params["window_dilation"]),
        floor=floor,
    )
    return Site(pool, 0) if node.inputs[0].depends else None


def _reduces_by_maximum(params: Mapping[str, Any]) -> bool:
    body = jaxprs.open_jaxpr(params["jaxpr"]).jaxpr
    return len(body.eqns) == 1 and body.eqns[0].primitive.name == "max" and len(body.invars) == 2


_MATCHERS = {
    "max": _match_max,
    "min": _match_min,
    "clamp": _match_clamp,
    "select_n": _match_select,
    "mul": _match_multiply,
    "reduce_window_max": _match_pool,
    "reduce_window": _match_pool,
}


def _is_moment(node: Node) -> bool:
    """Returns whether a value is a variance or a mean of squares, which `max(·, 0)` only guards against rounding."""
    if node.primitive in ("div", "mul", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "reduce_sum"):
        return any(_is_moment(operand) for operand in node.inputs if operand.depends)
    if node.primitive == "select_n":
        return any(_is_moment(operand) for operand in node.inputs[1:] if operand.depends)
    if node.primitive == "sub":
        return _is_square(node.inputs[1]) and _is_moment(node.inputs[0])
    return _is_square(node)


def _is_square(node: Node) -> bool:
    if node.primitive == "mul":
        return node.inputs[0] is node.inputs[1]
    return node.primitive == "square" or (node.primitive == "integer_pow" and node.params["y"] % 2 == 0)


_ADDITIVE = frozenset(
    {"add", "sub", "neg", "add_any", "convert_element_type", "reduce_precision", "real", "imag", "fft"}
)
_MOVING = frozenset(
    {
        *(
            "copy",
            "copy_p",
            "reshape",
            "broadcast_in_dim",
            "transpose",
            "squeeze",
            "expand_dims",
            "rev",
            "pad",
            "slice",
        ),
        *("concatenate", "split", "tile", "unstack", "stack", "stop_gradient", "optimization_barrier", "device_put"),
        *("all_gather", "ppermute", "all_to_all", "sharding_constraint", "pvary", "pcast", "reshard", "mesh_cast"),
    }
)
_SUMMING = frozenset({"reduce_sum", "cumsum", "reduce_window_sum", "psum", "psum2", "psum_invariant"})
_LINEAR = _ADDITIVE | _MOVING | _SUMMING
_BILINEAR = frozenset({"mul", "dot_general", "conv_general_dilated"})
_INDEXED = frozenset({"gather", "dynamic_slice", "dynamic_update_slice", "scatter-add", "scatter_add", "scatter"})


def is_linear(node: Node) -> bool:
    """Returns whether the operation is linear in those of its operands that depend on the images."""
    depends = [operand.depends for operand in node.inputs]
    if node.primitive in _LINEAR or not any(depends):
        return True
    if node.primitive in _BILINEAR:
        return sum(depends) <= 1
    if node.primitive == "div":
        return not depends[1]
    if node.primitive == "select_n":
        return not depends[0]
    if node.primitive in _INDEXED:
        return not any(d for d, i in zip(depends, node.inputs, strict=True) if jnp.issubdtype(i.dtype, jnp.integer))
    return False


def is_layer(node: Node) -> bool:
    """Returns whether a value is the result of a convolution or of a product with weights."""
    return node.primitive in ("conv_general_dilated", "dot_general") and is_linear(node)


def is_rectified(site: Site) -> bool:
    """Returns whether a site is a rectifier."""
    return isinstance(site.operation, Rectifier)


def is_affine(node: Node) -> bool:
    """Returns whether an operation adds to or scales its one image-dependent operand element by element."""
    if node.primitive in ("convert_element_type", "copy", "reduce_precision"):
        return True
    depends = [operand.depends for operand in node.inputs]
    return node.primitive in ("add", "sub", "mul", "div") and sum(depends) == 1 and is_linear(node)
