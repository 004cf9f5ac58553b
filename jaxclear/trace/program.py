"""A traced network: evaluated again with a rule in the place of its rectifiers and max-poolings."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import lax

from jaxclear.rules import Rectifier, Rule, max_pool, rectify
from jaxclear.trace import convolutions, jaxprs
from jaxclear.trace.coverage import Coverage, coverage_of
from jaxclear.trace.graph import Graph, leaf_nodes
from jaxclear.trace.layers import Layer, name_layers
from jaxclear.trace.leaves import array_paths, split_leaves
from jaxclear.trace.patterns import Node, Path, Site

# A tapped value's name: its equation's path and the number of the result.
_Tap = tuple[int, ...]


class Program:
    """`apply(variables, images)` as a jaxpr and its graph.

    Attributes:
        graph: what the walk found; `graph.outputs` are the nodes of the results.
        out_tree: the tree structure of the result.
        layers: the convolutions and dense layers, named.
    """

    def __init__(self, apply: Callable[..., Any], variables: Any, images: Any):
        """Traces `apply`; nothing is compiled or computed."""
        arrays, fixed = split_leaves((variables, images))
        self._jaxpr, self.out_tree = jaxprs.trace(lambda *values: apply(*fixed.join(values)), arrays)
        num_images = len(jax.tree_util.tree_leaves(images))
        depends = [False] * (len(arrays) - num_images) + [True] * num_images
        leaves = leaf_nodes([var.aval for var in self._jaxpr.jaxpr.invars], depends)
        self.graph = Graph.of(self._jaxpr, leaves)
        self.layers: tuple[Layer, ...] = name_layers(self.graph, array_paths((variables, images)))
        self._evaluator = functools.cache(self._make_evaluator)

    @property
    def reusable(self) -> bool:
        """Returns whether the program may be kept for later calls: it closes over no value that is being traced."""
        return jaxprs.is_tracer_free(self._jaxpr.consts)

    def coverage(self, rule: Rule) -> Coverage:
        """Returns what `rule` replaces and what keeps its true gradient."""
        return coverage_of(self.graph, rule.name)

    def __call__(self, rule: Rule, variables: Any, images: Any) -> Any:
        """Returns `apply(variables, images)`, with the same values and the rule's VJP."""
        arrays, _ = split_leaves((variables, images))
        outs, _ = self._evaluator(rule, frozenset())(self._jaxpr, arrays, ())
        return jax.tree_util.tree_unflatten(self.out_tree, outs)

    def values(self, rule: Rule, nodes: Sequence[Node], variables: Any, images: Any) -> list[Any]:
        """Returns the values of any nodes of the graph, with the rule's VJP.

        A node inside a `scan` has a leading axis for its steps.
        """
        arrays, _ = split_leaves((variables, images))
        taps = frozenset((*node.path, node.output) for node in nodes if node.path is not None)
        tapped: dict[_Tap, Any] = {}
        if taps:
            _, tapped = self._evaluator(rule, taps)(self._jaxpr, arrays, ())

        def value(node: Node) -> Any:
            if node.leaf is not None:
                return arrays[node.leaf]
            return node.value if node.path is None else tapped[(*node.path, node.output)]

        return [value(node) for node in nodes]

    def _make_evaluator(self, rule: Rule, taps: frozenset[_Tap]) -> "_Evaluator":
        return _Evaluator(rule, self.graph.sites, taps)


class _Evaluator:
    """Evaluates a jaxpr, entering only the calls that hold a site or a tapped value."""

    def __init__(self, rule: Rule, sites: dict[Path, Site], taps: frozenset[_Tap]):
        self._rule = rule
        self._sites = sites
        self._taps = taps
        self._entered = frozenset(_prefixes([*sites, *(tap[:-1] for tap in taps)]))
        # One function a call, made once, so that repeated evaluation does not compile again.
        self._inner = functools.cache(self._make_inner)
        self._bodies: dict[Path, jaxprs.OpenJaxpr] = {}

    def __call__(self, opened: jaxprs.OpenJaxpr, args: Sequence[Any], prefix: Path) -> tuple[list[Any], dict]:
        tapped: dict[_Tap, Any] = {}

        def equation(number: int, eqn: Any, operands: list[Any]) -> list[Any]:
            path = (*prefix, number)
            if path in self._sites:
                outs = [_apply_site(self._rule, self._sites[path], operands)]
            elif path in self._entered:
                outs, inner = self._enter(eqn, path, operands)
                tapped.update(inner)
            elif eqn.primitive.name == convolutions.PRIMITIVE:
                outs = [convolutions.Convolution(eqn).forward(*operands)]
            else:
                outs = jaxprs.bind(eqn, operands)
            tapped.update({(*path, i): out for i, out in enumerate(outs) if (*path, i) in self._taps})
            return outs

        return jaxprs.interpret(opened, args, equation), tapped

    def _enter(self, eqn: Any, path: Path, operands: list[Any]) -> tuple[list[Any], dict]:
        name = eqn.primitive.name
        if name == "cond":
            branches = [
                functools.partial(self._branch, jaxprs.open_jaxpr(jaxpr), (*path, number))
                for number, jaxpr in enumerate(eqn.params["branches"])
            ]
            return lax.switch(operands[0], branches, *operands[1:]), {}
        self._bodies[path] = jaxprs.inner_jaxpr(eqn)
        if name == "scan":
            return self._scan(eqn, path, operands)
        if name in jaxprs.JIT or name in jaxprs.REMAT:
            policy = (eqn.params["prevent_cse"], eqn.params["policy"]) if name in jaxprs.REMAT else None
            return self._inner(path, policy)(*operands)
        return self(self._bodies[path], operands, path)

    def _make_inner(self, path: Path, remat: tuple[Any, Any] | None) -> Callable[..., tuple[list[Any], dict]]:
        def inner(*operands: Any) -> tuple[list[Any], dict]:
            return self(self._bodies[path], operands, path)

        if remat is None:
            return jax.jit(inner)
        prevent_cse, policy = remat
        return jax.checkpoint(inner, prevent_cse=prevent_cse, policy=policy)

    def _branch(self, opened: jaxprs.OpenJaxpr, prefix: Path, *operands: Any) -> list[Any]:
        return self(opened, operands, prefix)[0]

    def _scan(self, eqn: Any, path: Path, operands: list[Any]) -> tuple[list[Any], dict]:
        num_consts, num_carry = jaxprs.scan_counts(eqn)
        consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]

        def body(carried: list[Any], elements: list[Any]) -> tuple[list[Any], tuple[list[Any], dict]]:
            outs, tapped = self(self._bodies[path], [*consts, *carried, *elements], path)
            return outs[:num_carry], (outs[num_carry:], tapped)

        params = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        carry, (stacked, tapped) = lax.scan(body, carry, operands[num_consts + num_carry :], **params)
        return [*carry, *stacked], tapped


def _apply_site(rule: Rule, site: Site, operands: list[Any]) -> Any:
    x = operands[site.operand]
    if isinstance(site.operation, Rectifier):
        return rectify(rule, site.operation, x)
    return max_pool(rule, site.operation, x)


def _prefixes(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        for length in range(1, len(path)):
            yield path[:length]
