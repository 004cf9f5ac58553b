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


class TwoParts(NamedTuple):
    """Two functions; `second(first(x))` is what the function that was cut returns of `x`."""

    first: Callable[[Any], list[Any]]
    second: Callable[[Sequence[Any]], Any]


def cut(function: Callable[[Any], Any], example: Any, pixels: int) -> TwoParts | None:
    """Returns a function cut before its first convolution of images of `pixels` or more, all images together.

    None where no convolution would be in the first part, or none in the second, and where there are side effects.

    Args:
        function: of one array; it may close over others.
        example: an argument like those of each call; only its type matters.
        pixels: that are many.
    """
    opened, out_tree = jaxprs.trace_inlined(function, [example])
    jaxpr = opened.jaxpr
    if jaxpr.effects:
        return None
    moving = _equations_that_move(jaxpr)
    sizes = {number: _pixels(jaxpr.eqns[number]) for number in moving if jaxpr.eqns[number].primitive.name == PRIMITIVE}
    large = [number for number, size in sizes.items() if size >= pixels]
    if not large or large[0] == min(sizes):
        return None
    position = large[0]
    in_first = {var for number in moving if number < position for var in jaxpr.eqns[number].outvars} | {*jaxpr.invars}
    later = [jaxpr.eqns[number].invars for number in moving if number >= position]
    wanted = {atom for atoms in [*later, jaxpr.outvars] for atom in atoms if not jaxprs.is_literal(atom)}
    passed = [var for var in jaxpr.invars if var in wanted]
    passed += [v for n in sorted(moving) if n < position for v in jaxpr.eqns[n].outvars if v in wanted & in_first]

    def first(value: Any) -> list[Any]:
        found: dict[Any, Any] = dict(zip(jaxpr.invars, [value], strict=True))

        def evaluate(number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
            if number in moving and number >= position:
                return [None] * len(eqn.outvars)
            results = jaxprs.bind(eqn, operands)
            found.update(zip(eqn.outvars, results, strict=True))
            return results

        jaxprs.interpret(opened, [value], evaluate)
        return [found[var] for var in passed]

    def second(values: Sequence[Any]) -> Any:
        given = dict(zip(passed, values, strict=True))

        def evaluate(number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
            if number in moving and number < position:
                return [given.get(var) for var in eqn.outvars]
            return jaxprs.bind(eqn, operands)

        return out_tree.unflatten(jaxprs.interpret(opened, [given.get(var) for var in jaxpr.invars], evaluate))

    return TwoParts(first, second)


def _equations_that_move(jaxpr: Any) -> frozenset[int]:
    """The equations whose results depend on the arguments; the others are the same in every call."""
    depends = set(jaxpr.invars)
    found = set()
    for number, eqn in enumerate(jaxpr.eqns):
        if any(not jaxprs.is_literal(atom) and atom in depends for atom in eqn.invars):
            found.add(number)
            depends.update(eqn.outvars)
    return frozenset(found)


def _pixels(convolution: Any) -> float:
    """How many pixels go in, those of all images; without end where the number is a symbol, as when exported."""
    spec = convolution.params["dimension_numbers"].lhs_spec
    sizes = [convolution.invars[0].aval.shape[axis] for axis in (spec[0], *spec[2:])]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else math.inf
