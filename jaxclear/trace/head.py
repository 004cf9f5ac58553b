"""The class layer, cut off from the network: the class maps of a few classes from the features below them.

A network's last layer has as many kernels as classes. Cut off here, it is evaluated and back-projected for a block of
classes by taking that block of kernels alone, so neither time nor memory is spent on kernels whose seed is zero.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxclear.rules import Rectifier, Rule, rectify
from jaxclear.trace import jaxprs, patterns
from jaxclear.trace.graph import Graph
from jaxclear.trace.patterns import Node

_ELEMENTWISE = {"add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "div": jnp.divide}


class _Step(NamedTuple):
    """One equation of the head; `operand` is the number of its weights among the head's, None if it has none."""

    node: Node
    main: int
    operand: int | None
    rectifier: Rectifier | None


class ClassHead(NamedTuple):
    """The class layer and what follows it.

    Attributes:
        num_classes: K, the size of the result's last axis.
        features: the node of what the class layer reads; the network's result itself where no class layer is found.
        weights: the nodes of the head's kernels, biases and scales; they do not depend on the images.
    """

    num_classes: int
    features: Node
    weights: tuple[Node, ...]
    steps: tuple[_Step, ...]

    def class_maps(
        self, rule: Rule, features: Float[Array, "B *f C"], weights: Sequence[Array], classes: Int[Array, " n"]
    ) -> Float[Array, "B *s n"]:
        """Returns the network's result restricted to `classes`."""
        if not self.steps:
            return jnp.take(features, classes, axis=-1)
        out: Any = features
        for step in self.steps:
            if step.rectifier is not None:
                out = rectify(rule, step.rectifier, out)
            elif step.operand is None:
                (out,) = jaxprs.bind(step.node.eqn, [out])
            else:
                out = _apply(step, out, weights[step.operand], classes, self.num_classes)
        return out


def split_head(graph: Graph) -> ClassHead:
    """Returns the class layer of a network whose only result is class maps or logits."""
    (output,) = graph.outputs
    num_classes = output.shape[-1]
    steps: list[_Step] = []
    weights: list[Node] = []
    node = output
    while True:
        step = _step(graph, node, num_classes, len(weights))
        if step is None:
            return ClassHead(num_classes, output, (), ())
        steps.append(step)
        if step.operand is not None:
            weights.append(node.inputs[1 - step.main])
        node = node.inputs[step.main]
        if patterns.is_layer(step.node):
            return ClassHead(num_classes, node, tuple(weights), tuple(reversed(steps)))


def _step(graph: Graph, node: Node, num_classes: int, number: int) -> _Step | None:
    if node.path is None or not node.depends or node.shape[-1:] != (num_classes,):
        return None
    site = graph.sites.get(node.path)
    if site is not None:
        return _Step(node, site.operand, None, site.operation) if isinstance(site.operation, Rectifier) else None
    if patterns.is_layer(node):
        return _Step(node, 0, number, None) if node.inputs[0].depends and _class_axis(node) is not None else None
    if not patterns.is_affine(node):
        return None
    main = next(i for i, operand in enumerate(node.inputs) if operand.depends)
    if node.inputs[main].shape != node.shape:
        return None
    if len(node.inputs) == 1:
        return _Step(node, main, None, None)
    return _Step(node, main, number, None) if _is_per_class(node.inputs[1 - main], node) else None


def _class_axis(node: Node) -> int | None:
    """Returns the axis of a layer's kernel that counts classes, if classes are the last axis of its result."""
    if node.primitive == "conv_general_dilated":
        numbers = node.params["dimension_numbers"]
        grouped = node.params["feature_group_count"] != 1 or node.params["batch_group_count"] != 1
        last = numbers.out_spec[1] == len(node.shape) - 1
        return numbers.rhs_spec[0] if last and not grouped else None
    (_, contracted), (_, batched) = node.params["dimension_numbers"]
    free = [axis for axis in range(len(node.inputs[1].shape)) if axis not in (*contracted, *batched)]
    return free[0] if len(free) == 1 and not batched else None


def _is_per_class(operand: Node, node: Node) -> bool:
    """Returns whether an operand has one value a class, or one for all, the same in every image."""
    shape = _unbroadcast(operand)
    return len(shape) in (0, len(node.shape)) and shape[:1] in ((), (1,))


def _unbroadcast(operand: Node) -> tuple[int, ...]:
    """Returns the shape of an operand with the axes along which it is only repeated set to 1."""
    if operand.primitive != "broadcast_in_dim":
        return operand.shape
    shape = [1] * len(operand.shape)
    for axis, size in zip(operand.params["broadcast_dimensions"], operand.inputs[0].shape, strict=True):
        shape[axis] = size
    return tuple(shape)


def _apply(step: _Step, out: Array, weights: Array, classes: Array, num_classes: int) -> Array:
    node = step.node
    if patterns.is_layer(node):
        axis = _class_axis(node)
        return jaxprs.bind(node.eqn, [out, jnp.take(weights, classes, axis=axis)])[0]
    shape = _unbroadcast(node.inputs[1 - step.main])
    if weights.shape != shape:
        weights = lax.slice(weights, [0] * weights.ndim, shape)
    if shape and shape[-1] == num_classes:
        weights = jnp.take(weights, classes, axis=-1)
    operands = [out, weights] if step.main == 0 else [weights, out]
    return _ELEMENTWISE[node.primitive](*operands).astype(out.dtype)


def per_image(head: ClassHead, rule: Rule, features: Array, weights: Sequence[Array], classes: Array) -> Array:
    """Returns the class maps of each image's own classes: `classes` is (B, n), the result (B, *s, n)."""

    def one(image_features: Array, image_classes: Array) -> Array:
        return head.class_maps(rule, image_features[None], weights, image_classes)[0]

    return jax.vmap(one)(features, classes)
