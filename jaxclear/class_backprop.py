"""Class back-projection: one forward pass, from which any classes are passed back in a loop over blocks of them.

Array contract: images are floating point, (B, *spatial, C) with one spatial axis or more (NLC, NHWC, NDHWC).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxclear.cpu_threads import check_threads
from jaxclear.devices import from_all, number_of_parts, own_part
from jaxclear.even_blocks import even_groups, group_size, places_in_blocks
from jaxclear.inputs import check_outputs
from jaxclear.mesh_context import own_mesh
from jaxclear.rules import Rule
from jaxclear.trace import ClassHead, OnUnmatched, Program, TwoParts, act_on, cut, loop_body, per_image, split_head

Apply = Callable[[Any, Any], Any]
"""`apply(variables, images)`: a pure function of a tree of arrays and a batch of images."""

_Carry = TypeVar("_Carry")
_Values = TypeVar("_Values")

# Pixels (times classes) that one back-projection works on at a time unless the user says otherwise. On a CPU they have
# to fit the cache, unless all classes together are so few that no loop pays: benchmarks/bench_class_blocks.py. On an
# accelerator they have to fill it.
_BLOCK_PIXELS = 2**13
_PIXELS_WITHOUT_LOOP = 2**15
_ACCELERATOR_BLOCK_PIXELS = 2**22
_MOST_CLASSES = 64
# Blocks of classes that stand side by side in the body of a loop. The cores of a CPU work on both: a tenth less time on
# the crystal network, for up to twice the memory; of others most take the same: benchmarks/bench_class_blocks.py.
SIDE_BY_SIDE = {"cpu": 2}
# Blocks of classes that pass the deep layers of a network together on a CPU, and the pixels, those of all images, from
# which a layer is not deep.
_TOGETHER = 8
_MANY_PIXELS = 2**9
# Images, those of all classes, of which jaxlib 0.10 convolves all on one thread of a CPU, whatever is done.
_ON_ONE_THREAD = 16


class ClassResponse(NamedTuple):
    """The responses of a block of n classes, (n, B, *spatial, C), and their scores, (B, n)."""

    responses: Float[Array, "n B *spatial C"]
    scores: Float[Array, "B n"]


class ClassBackprop(NamedTuple):
    """One forward pass, kept so that any block of classes can be passed back from it.

    Along `class_axes`, axes of a mesh, devices share the classes: each works on blocks of its own. `layers` counts the
    convolutions and dense layers of the network.
    """

    rule: Rule
    head: ClassHead
    weights: Sequence[Array]
    features: Float[Array, "B *f C"]
    pull: Callable[[Array], tuple[Array]]
    image_shape: tuple[int, ...]
    class_axes: tuple[str, ...]
    layers: int

    @classmethod
    def trace(
        cls,
        apply: Apply,
        rule: Rule,
        variables: Any,
        images: Float[Array, "B *spatial C"],
        on_unmatched: OnUnmatched,
        class_axes: tuple[str, ...],
    ) -> "ClassBackprop":
        """Traces `apply` and runs it forward up to its class layer."""
        program = Program(apply, variables, images)
        check_outputs(program.graph.outputs, program.out_tree, images)
        act_on(program.coverage(rule), on_unmatched)
        head = split_head(program.graph)

        def below_head(pixels: Array) -> tuple[Array, list[Array]]:
            features, *weights = program.values(rule, [head.features, *head.weights], variables, pixels)
            return features, weights

        features, pull, weights = jax.vjp(below_head, images, has_aux=True)
        return cls(rule, head, weights, features, pull, images.shape, class_axes, len(program.layers))

    @property
    def num_classes(self) -> int:
        """Returns K."""
        return self.head.num_classes

    def class_maps(self, classes: Array) -> Float[Array, "B *map n"]:
        """Returns the class maps or logits of `classes`, (n,) for every image the same or (B, n)."""
        return self._class_maps(self.features, classes)

    def _class_maps(self, features: Array, classes: Array) -> Array:
        if classes.ndim == 2:
            return per_image(self.head, self.rule, features, self.weights, classes)
        return self.head.class_maps(self.rule, features, self.weights, classes)

    def respond(self, classes: Int[Array, " n"] | Int[Array, "B n"]) -> ClassResponse:
        """Returns the responses and scores of `classes`."""
        return ClassResponse(*self._passed_back(classes, self._to_images))

    def _to_images(self, response: Float[Array, "B *f C"]) -> Float[Array, "B *spatial C"]:
        return self.pull(response)[0]

    def _passed_back(self, classes: Array, pull: Callable[[Array], _Values]) -> tuple[_Values, Array]:
        """Returns what `pull` makes of each class's response in the features, stacked, and the scores."""
        z, pull_head = jax.vjp(lambda features: self._class_maps(features, classes), self.features)
        seeds, units = self.rule.seed(z), jnp.eye(z.shape[-1], dtype=z.dtype)
        return jax.vmap(lambda unit: pull(*pull_head(seeds * unit)))(units), scores_of(z)

    def scores(self, class_block: int | None) -> Float[Array, "B K"]:
        """Returns every class's score, forward only."""
        blocks = self._blocks(np.arange(self.num_classes), class_block)
        scores = lax.map(lambda ids: scores_of(self.class_maps(ids)), blocks)
        return _unblock(from_all(scores, self.class_axes, joined=True), self.num_classes)

    def loop(
        self,
        step: Callable[[_Carry, Array, ClassResponse], tuple[_Carry, Any]],
        carry: _Carry,
        classes: np.ndarray | Array,
        class_block: int | None = None,
    ) -> tuple[_Carry, Any]:
        """Returns the last carry, and what `step` found of all of this device's blocks of classes, stacked.

        Args:
            step: from a carry, a block of n classes, (n,) or (B, n), and its responses to the next carry and a finding.
            carry: the first.
            classes: (n,) or, each image its own, (B, n).
            class_block: how many classes at once at most, on the whole way; chosen by the device by default.
        """
        blocks = self._blocks(classes, class_block)
        check_threads(blocks.shape[0] * blocks.shape[-1] * self.layers)
        if len(blocks) > 1 and class_block is None and jax.default_backend() == "cpu":
            parts = cut(self._to_images, self.features, _MANY_PIXELS // blocks.shape[-1])
            if parts is not None:
                return self._loop_in_two_parts(parts, step, carry, self._blocks(classes, None, _TOGETHER))

        def body(carried: _Carry, ids: Array) -> tuple[_Carry, Any]:
            return step(carried, ids, self.respond(ids))

        return _scan(loop_body(body, carry, blocks[0], rounds=len(blocks)), carry, blocks)

    def _loop_in_two_parts(
        self,
        parts: TwoParts,
        step: Callable[[_Carry, Array, ClassResponse], tuple[_Carry, Any]],
        carry: _Carry,
        blocks: Array,
    ) -> tuple[_Carry, Any]:
        """Returns what `loop` does; the blocks of a group pass the first part together, the second one by one."""
        size = group_size(len(blocks), _TOGETHER)
        groups = blocks.reshape(-1, size, *blocks.shape[1:])

        def first(ids: Array) -> tuple[list[Array], Array]:
            values, scores = self._passed_back(_side_by_side(ids), parts.first)
            scores = jnp.moveaxis(scores.reshape(-1, size, ids.shape[-1]), 1, 0)
            return [value.reshape(size, -1, *value.shape[1:]) for value in values], scores

        def second(carried: _Carry, given: tuple[Array, tuple[list[Array], Array]]) -> tuple[_Carry, Any]:
            ids, (values, scores) = given
            return step(carried, ids, ClassResponse(jax.vmap(parts.second)(values), scores))

        example = jax.eval_shape(lambda ids: jax.tree.map(lambda leaf: leaf[0], first(ids)), groups[0])
        each = loop_body(second, carry, (groups[0, 0], example), rounds=len(blocks))

        def body(carried: _Carry, ids: Array) -> tuple[_Carry, Any]:
            return _scan(each, carried, (ids, first(ids)))

        carry, found = _scan(loop_body(body, carry, groups[0], rounds=len(groups)), carry, groups, unroll=1)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    def fold(
        self,
        step: Callable[[_Carry, Array, ClassResponse], _Carry],
        merge: Callable[[_Carry], _Carry],
        carry: _Carry,
        classes: np.ndarray | Array,
        class_block: int | None,
    ) -> tuple[_Carry, Float[Array, "B n"]]:
        """Returns the carry after all classes' responses, and the scores of the classes.

        Args:
            step: from a carry, a block of classes and its responses to the next carry.
            merge: from the carries of all devices, stacked along a new first axis, to one.
            carry: the first.
            classes: (n,) or, each image its own, (B, n).
            class_block: how many classes at once at most; chosen by the device by default.
        """

        def and_scores(carried: _Carry, ids: Array, found: ClassResponse) -> tuple[_Carry, Array]:
            return step(carried, ids, found), found.scores

        carry, scores = self.loop(and_scores, carry, classes, class_block)
        if self.class_axes:
            carry = merge(from_all(carry, self.class_axes))
        return carry, _unblock(from_all(scores, self.class_axes, joined=True), classes.shape[-1])

    def _blocks(
        self, classes: np.ndarray | Array, class_block: int | None, together: int = 1
    ) -> Int[Array, "n_blocks *B block"]:
        """Returns this device's classes in blocks of equal size; the last class fills them up.

        `classes` is (n,) or, each image its own, (B, n). A block is as large as asked for, or smaller, so that little
        has to be filled.
        """
        devices = number_of_parts(self.class_axes)
        most = class_block or _default_block(self.image_shape, -(-classes.shape[-1] // devices))
        places = places_in_blocks(classes.shape[-1], most, devices=devices, together=together)
        blocks = jnp.take(jnp.asarray(classes, jnp.int32), places, axis=-1)
        return own_part(jnp.moveaxis(blocks, -2, 0), self.class_axes)


def num_classes(apply: Apply, variables: Any, images: Any) -> int:
    """Returns K, by a trace alone."""
    with own_mesh(images):
        program = Program(apply, variables, images)
    check_outputs(program.graph.outputs, program.out_tree, images)
    return program.graph.outputs[0].shape[-1]


def constant_map(images: Float[Array, "B *spatial C"], value: float, dtype: Any = None) -> Shaped[Array, "B *spatial"]:
    """Returns a map with one value at every pixel that varies over the same mesh axes as the images.

    Under `shard_map` a loop's carry must start with the type that it ends with.
    """
    pixels = images[..., 0]
    number = jnp.asarray(value, dtype or images.dtype)
    return jnp.where(jnp.isnan(pixels), number, number)


def scores_of(class_maps: Float[Array, "B *map n"]) -> Float[Array, "B n"]:
    """Returns what the network's softmax sees: class maps averaged over positions, or the logits themselves."""
    return class_maps.mean(axis=tuple(range(1, class_maps.ndim - 1))) if class_maps.ndim > 2 else class_maps


def _unblock(stacked: Float[Array, "n_blocks B block"], count: int) -> Float[Array, "B count"]:
    """Returns the blocks' columns side by side, without the filling of the last block."""
    return jnp.moveaxis(stacked, 0, 1).reshape(stacked.shape[1], -1)[:, :count]


def _default_block(image_shape: tuple[Any, ...], classes: int) -> int:
    """Returns how many of so many classes to work on at once on the default device.

    One class where a number in the shape of the images, those of the whole batch, is a symbol, as in an exported
    function.
    """
    if not all(isinstance(size, int) for size in image_shape):
        return 1
    on_cpu = jax.default_backend() == "cpu"
    pixels = math.prod(image_shape[:-1])
    budget = _ACCELERATOR_BLOCK_PIXELS
    if on_cpu:
        few = classes <= _MOST_CLASSES and classes * pixels <= _PIXELS_WITHOUT_LOOP
        budget = _PIXELS_WITHOUT_LOOP if few else _BLOCK_PIXELS
    _, size = even_groups(classes, min(_MOST_CLASSES, max(1, budget // pixels)))
    if on_cpu and size * image_shape[0] == _ON_ONE_THREAD:
        return size - 1 if size > 1 else 2
    return size


def _side_by_side(ids: Int[Array, "blocks *B block"]) -> Int[Array, "*B n"]:
    """Returns the classes of several blocks as those of one."""
    return jnp.moveaxis(ids, 0, -2).reshape(*ids.shape[1:-1], -1)


def _scan(
    body: Callable[[_Carry, Any], tuple[_Carry, Any]], carry: _Carry, rounds: Any, unroll: int | None = None
) -> tuple[_Carry, Any]:
    """Returns the last carry and the findings of all rounds, stacked; one round is no loop."""
    number = len(jax.tree.leaves(rounds)[0])
    if number > 1:
        return lax.scan(body, carry, rounds, unroll=unroll or SIDE_BY_SIDE.get(jax.default_backend(), 1))
    carry, found = body(carry, jax.tree.map(lambda leaf: leaf[0], rounds))
    return carry, jax.tree.map(lambda leaf: leaf[None], found)
