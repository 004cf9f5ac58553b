"""A back-projection cut in two where its arrays become large.

The convolutions of a network's deep layers have few pixels and large kernels. For one class they only read kernels; for
several at once they compute. Those near the image are the other way about: what they make of several classes does not
fit a cache. So a loop over classes takes the first part for several classes at once and the second for a few.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxclear.trace import jaxprs
from jaxclear.trace.convolutions import PRIMITIVE

_WITH_EQUATIONS_INSIDE = jaxprs.REMAT | jaxprs.CUSTOM_DERIVATIVE | {"scan", "while", "cond"}


class TwoParts(NamedTuple):
    """Two functions; `second(first(x))` is what the function that was cut returns of `x`."""

    first: Callable[[Any], list[Any]]
    second: Callable[[Sequence[Any]], Any]


def cut(function: Callable[[Any], Any], example: Any, pixels: int) -> TwoParts | None:
    """Returns a function cut before its first convolution of images of `pixels` or more, all images together.

    None where no convolution would be in the first part, or none in the second, and where there are side effects. A
    loop or another equation with equations of its own is never in the first part.

    Args:
        function: of one array; it may close over others.
        example: an argument like those of each call; only its type matters.
        pixels: that are many.
    """
    opened, out_tree = jaxprs.trace_inlined(function, [example])
    jaxpr = opened.jaxpr
    if jaxpr.effects:
        return None
    sizes = {number: _pixels(jaxpr.eqns[number]) for number in _equations_that_move(jaxpr)}
    position = next((number for number, size in sizes.items() if size >= pixels), None)
    if position is None or not any(size for number, size in sizes.items() if number < position):
        return None
    later = [jaxpr.eqns[number].invars for number in sizes if number >= position]
    wanted = {atom for atoms in [*later, jaxpr.outvars] for atom in atoms if not jaxprs.is_literal(atom)}
    passed = [var for var in jaxpr.invars if var in wanted]
    passed += [var for number in sizes if number < position for var in jaxpr.eqns[number].outvars if var in wanted]

    def first(value: Any) -> list[Any]:
        found: dict[Any, Any] = dict(zip(jaxpr.invars, [value], strict=True))

        def evaluate(number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
            if number in sizes and number >= position:
                return [None] * len(eqn.outvars)
            results = jaxprs.bind(eqn, operands)
            found.update(zip(eqn.outvars, results, strict=True))
            return results

        jaxprs.interpret(opened, [value], evaluate)
        return [found[var] for var in passed]

    def second(values: Sequence[Any]) -> Any:
        given = dict(zip(passed, values, strict=True))

        def evaluate(number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
            if number in sizes and number < position:
                return [given.get(var) for var in eqn.outvars]
            return jaxprs.bind(eqn, operands)

        return out_tree.unflatten(jaxprs.interpret(opened, [given.get(var) for var in jaxpr.invars], evaluate))

    return TwoParts(first, second)


def _equations_that_move(jaxpr: Any) -> list[int]:
    """The equations whose results depend on the arguments, in order; the others are the same in every call."""
    depends = set(jaxpr.invars)
    found = []
    for number, eqn in enumerate(jaxpr.eqns):
        if any(not jaxprs.is_literal(atom) and atom in depends for atom in eqn.invars):
            found.append(number)
            depends.update(eqn.outvars)
    return found


def _pixels(eqn: Any) -> float:
    """How many pixels go into a convolution, those of all images, and none into other equations.

    Without end where the number is a symbol, as when exported, and where equations with their own inside may have any.
    """
    if eqn.primitive.name in _WITH_EQUATIONS_INSIDE:
        return math.inf
    if eqn.primitive.name != PRIMITIVE:
        return 0
    spec = eqn.params["dimension_numbers"].lhs_spec
    sizes = [eqn.invars[0].aval.shape[axis] for axis in (spec[0], *spec[2:])]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else math.inf
