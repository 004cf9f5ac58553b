"""Layers by the names their users know: the path of their weights in the variables, or their number in the trace."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxclear.trace import patterns
from jaxclear.trace.graph import Graph
from jaxclear.trace.patterns import Node, Path

# Keys of a variable tree that name a kind of variable or a wrapper, not a module.
_COLLECTIONS = frozenset({"params", "batch_stats"})
_WRAPPERS = frozenset({"value", "raw_value"})


class Layer(NamedTuple):
    """A convolution or dense layer.

    Attributes:
        name: the path of its module in the variables ("encoder/Conv_2"), or its place in the source's scopes.
        is_convolution: whether it is a convolution.
        activation: the node of what the layer passes on: the output of the ReLU that follows it (with only additions
            and scalings between), or else its own output with its bias.
        in_scan: whether it lies in a `scan`; its activation then has a leading axis for the steps.
    """

    name: str
    is_convolution: bool
    activation: Node
    in_scan: bool


def name_layers(graph: Graph, leaf_paths: Sequence[Any]) -> tuple[Layer, ...]:
    """Returns the layers of a graph, in the order of the trace.

    A module that is called again is named `name:1`, `name:2`, and so on.

    Layers inside a conditional are left out: the branch that was not taken has no activation.
    """
    layers: list[Layer] = []
    calls: dict[str, int] = {}
    for number, node in enumerate(graph.linear_layers):
        if _lies_in(node, graph.conditionals):
            continue
        name = _module_path(node, leaf_paths) or _scope(node) or f"layer{number}"
        calls[name] = calls.get(name, -1) + 1
        label = f"{name}:{calls[name]}" if calls[name] else name
        is_convolution = node.primitive == "conv_general_dilated"
        layers.append(Layer(label, is_convolution, _activation(graph, node), _lies_in(node, graph.scans)))
    return tuple(layers)


def _activation(graph: Graph, node: Node) -> Node:
    while True:
        following = [n for n in graph.consumers.get(node, ()) if n.depends]
        rectified = [n for n in following if n.path in graph.sites and patterns.is_rectified(graph.sites[n.path])]
        if rectified:
            capped = (n for n in graph.consumers.get(rectified[0], ()) if _caps(graph, n, rectified[0]))
            return next(capped, rectified[0])
        if len(following) != 1 or not patterns.is_affine(following[0]):
            return node
        node = following[0]


def _caps(graph: Graph, node: Node, rectified: Node) -> bool:
    return node.path in graph.sites and graph.sites[node.path].capped is rectified


def _module_path(node: Node, leaf_paths: Sequence[Any]) -> str:
    weights = next((operand for operand in reversed(node.inputs) if not operand.depends), None)
    while weights is not None and weights.inputs:
        weights = next((i for i in weights.inputs if i.inputs or i.leaf is not None), None)
    if weights is None or weights.leaf is None:
        return ""
    # The first key says which argument; the last ones name the weights within their module.
    keys = [_key(entry) for entry in leaf_paths[weights.leaf][1:]]
    while keys and keys[-1] in _WRAPPERS:
        keys.pop()
    if len(keys) > 1 and keys[0] in _COLLECTIONS:
        keys = keys[1:]
    return "/".join(keys[:-1])


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return jax.tree_util.keystr((entry,))


def _scope(node: Node) -> str:
    """Returns the module path that the tracing framework wrote into the scopes, without the network's own name."""
    stack = str(node.eqn.source_info.name_stack) if node.eqn is not None else ""
    return stack.partition("/")[2]


def _lies_in(node: Node, calls: set[Path]) -> bool:
    path = node.path or ()
    return any(path[:length] in calls for length in range(1, len(path)))
