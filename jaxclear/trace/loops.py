"""The body of a loop, over classes or the steps of a training, made ready for XLA's CPU backend.

Its convolutions are those of :mod:`jaxclear.trace.convolutions`. What is the same in every round is computed once,
before the loop: XLA leaves transposes and reversals of kernels where they are. Where only the sum over the channels
of a convolution is used, as of a response in an image, the kernel is summed instead; and where only its positive part
is, the convolution itself takes it.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclear.trace import jaxprs
from jaxclear.trace.convolutions import PRIMITIVE, Convolution, is_wide

_IN_THE_LOOP = object()
"""Stands for a value that every round computes."""


def loop_body(function: Callable[..., Any], *examples: Any, rounds: int = 1) -> Callable[..., Any]:
    """Returns `function` with the values that it has, computed as this module says.

    Call it outside of the loop.

    Args:
        function: of trees of arrays; it may close over others.
        examples: arguments like those of each round; only their types matter.
        rounds: of the loop. Where there are many, more is done before it, each time that the loop is run.
    """
    leaves, treedef = jax.tree_util.tree_flatten(examples)
    opened, out_tree = jaxprs.trace_inlined(lambda *arrays: function(*treedef.unflatten(arrays)), leaves)
    each_round = _Rounds(opened, rounds)

    def body(*args: Any) -> Any:
        found, given = jax.tree_util.tree_flatten(args)
        if given != treedef:
            raise TypeError(f"expected arguments {treedef}, got {given}")
        return out_tree.unflatten(each_round(found))

    return body


class _Rounds:
    """A jaxpr without calls, and by the number of the equation what was computed before the first round."""

    def __init__(self, opened: jaxprs.OpenJaxpr, rounds: int):
        # The number of the equation that each variable comes from.
        made_by = {var: number for number, eqn in enumerate(opened.jaxpr.eqns) for var in eqn.outvars}
        self._opened, self._number_of_rounds = opened, rounds
        uses = _uses(opened.jaxpr)
        self._summed = _sums_of_channels(opened.jaxpr, made_by, uses)
        self._rectified = _positive_parts(opened.jaxpr, made_by, uses)
        self._wanted = _ancestors_of_kernels(opened.jaxpr, made_by)
        self._convolutions: dict[int, Convolution] = {}
        self._values: dict[int, Sequence[Any]] = {}
        self._kernels: dict[int, list[Any]] = {}
        jaxprs.interpret(opened, [_IN_THE_LOOP] * len(opened.jaxpr.invars), self._before)

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        """Returns the results of one round."""
        return jaxprs.interpret(self._opened, operands, self._inside)

    def _before(self, number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
        inside = any(operand is _IN_THE_LOOP for operand in operands)
        if eqn.primitive.name == PRIMITIVE:
            self._convolutions[number] = self._convolution(number, eqn, kernel_is_known=operands[1] is not _IN_THE_LOOP)
            if inside and operands[1] is not _IN_THE_LOOP:
                self._kernels[number] = self._convolutions[number].kernels(operands[1])
        if inside or number not in self._wanted or eqn.effects:
            return [_IN_THE_LOOP] * len(eqn.outvars)
        self._values[number] = self._inside(number, eqn, operands)
        return self._values[number]

    def _convolution(self, number: int, eqn: Any, *, kernel_is_known: bool) -> Convolution:
        rectified = number in self._rectified.values()
        rounds = self._number_of_rounds if kernel_is_known else 0
        return Convolution(eqn, summed=number in self._summed, rectified=rectified, rounds=rounds)

    def _inside(self, number: int, eqn: Any, operands: list[Any]) -> Sequence[Any]:
        if number in self._values:
            return self._values[number]
        if number in self._convolutions:
            convolution = self._convolutions[number]
            kernels = self._kernels[number] if number in self._kernels else convolution.kernels(operands[1])
            return [convolution(operands[0], kernels)]
        if number in self._summed:
            return [jnp.reshape(operands[0], (*eqn.params["new_sizes"][:-1], 1))]
        if number in self._rectified:
            return [operands[0]]
        return jaxprs.bind(eqn, operands)


def _sums_of_channels(jaxpr: Any, made_by: Mapping[Any, int], uses: Mapping[Any, int]) -> frozenset[int]:
    """The convolutions of which only the sum over the channels is used, and the reshapes between them and the sum."""
    found: set[int] = set()
    for eqn in jaxpr.eqns:
        last = len(eqn.invars[0].aval.shape) - 1 if eqn.primitive.name == "reduce_sum" else -1
        if last < 0 or last not in eqn.params["axes"]:
            continue
        way = _way_from_convolution(jaxpr, made_by, uses, eqn.invars[0], _keeps_channels)
        if way and _has_channels_last(jaxpr.eqns[way[-1]]) and is_wide(jaxpr.eqns[way[-1]]):
            found.update(way)
    return frozenset(found)


def _positive_parts(jaxpr: Any, made_by: Mapping[Any, int], uses: Mapping[Any, int]) -> dict[int, int]:
    """The maxima with zero of all that is used of a convolution, and which convolution that is."""
    found: dict[int, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name == "max" and _is_zero(eqn.invars[1]) and is_wide(eqn):
            way = _way_from_convolution(jaxpr, made_by, uses, eqn.invars[0], _is_reshape)
            if way:
                found[number] = way[-1]
    return found


def _is_zero(atom: Any) -> bool:
    return jaxprs.is_literal(atom) and np.ndim(atom.val) == 0 and atom.val == 0


def _uses(jaxpr: Any) -> collections.Counter[Any]:
    """How often each variable is used."""
    atoms = [*jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    return collections.Counter(atom for atom in atoms if not jaxprs.is_literal(atom))


def _way_from_convolution(
    jaxpr: Any, made_by: Mapping[Any, int], uses: Mapping[Any, int], var: Any, passes: Callable[[Any], bool]
) -> list[int]:
    """The equations that make `var`, each for the next alone, back to a convolution, the last; or none."""
    way: list[int] = []
    while not jaxprs.is_literal(var) and uses[var] == 1 and var in made_by:
        source = jaxpr.eqns[made_by[var]]
        way.append(made_by[var])
        if source.primitive.name == PRIMITIVE:
            return way
        if not passes(source):
            break
        var = source.invars[0]
    return []


def _has_channels_last(convolution: Any) -> bool:
    """Whether the last axis of the result counts the kernel's filters."""
    out_spec, params = convolution.params["dimension_numbers"].out_spec, convolution.params
    return out_spec[1] == len(out_spec) - 1 and params["feature_group_count"] == params["batch_group_count"] == 1


def _keeps_channels(eqn: Any) -> bool:
    """Whether an equation only gives the axes before the last another shape."""
    if not _is_reshape(eqn):
        return False
    before, after = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    return len(before) > 0 and len(after) > 0 and before[-1] == after[-1]


def _is_reshape(eqn: Any) -> bool:
    return eqn.primitive.name == "reshape" and eqn.params["dimensions"] is None and len(eqn.invars) == 1


def _ancestors_of_kernels(jaxpr: Any, made_by: Mapping[Any, int]) -> frozenset[int]:
    """The equations that kernels of convolutions are computed by."""
    found: set[int] = set()
    waiting = [eqn.invars[1] for eqn in jaxpr.eqns if eqn.primitive.name == PRIMITIVE]
    while waiting:
        var = waiting.pop()
        if not jaxprs.is_literal(var) and var in made_by and made_by[var] not in found:
            found.add(made_by[var])
            waiting += jaxpr.eqns[made_by[var]].invars
    return frozenset(found)
