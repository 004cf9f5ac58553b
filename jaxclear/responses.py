"""Class, layer and unit responses: one backward pass from a layer's activation to the images, under a rule.

Array contract: images are floating point, (B, *spatial, C) with one spatial axis or more (NLC, NHWC, NDHWC).
`apply(variables, images)` is a pure function that returns class maps (B, *map, K) or logits (B, K).
"""

import functools
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
from jaxclear.even_blocks import places_in_blocks
from jaxclear.inputs import check_apply, check_classes, check_outputs
from jaxclear.mesh_context import own_mesh
from jaxclear.rules import Rule, resolve
from jaxclear.trace import (
    ClassHead,
    Coverage,
    OnUnmatched,
    Program,
    act_on,
    is_array,
    loop_body,
    per_image,
    split_head,
)
from jaxclear.transformation import transformation

Apply = Callable[[Any, Any], Any]
"""`apply(variables, images)`: a pure function of a tree of arrays and a batch of images."""

_Carry = TypeVar("_Carry")

# Pixels (times classes) that one back-projection works on at a time unless the user says otherwise. On a CPU they have
# to fit the cache: benchmarks/bench_class_blocks.py. On an accelerator they have to fill it.
_BLOCK_PIXELS = {"cpu": 2**13}
_ACCELERATOR_BLOCK_PIXELS = 2**22
_MOST_CLASSES = 64
# Blocks of classes that stand side by side in the body of a loop. The cores of a CPU work on both: up to a quarter less
# time for half as much memory again; on two cores four were slower than two: benchmarks/bench_class_blocks.py.
SIDE_BY_SIDE = {"cpu": 2}


def with_rule(apply: Apply, rule: str | Rule = "deconvnet", *, on_unmatched: OnUnmatched = "ignore") -> Apply:
    """Returns a function with the values of `apply` and the VJP of a rule.

    The function is traced once for each shape; like everything in JAX it must be pure.

    Args:
        apply: any pure function `(variables, images) -> arrays`.
        rule: a rule's name or a `jaxclear.Rule`.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: `rule` is unknown, or `on_unmatched="error"` and something was not replaced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> linear = with_rule(lambda w, x: jnp.maximum(w * x, 0), "linear")
        >>> jax.grad(lambda x: linear(2.0, x).sum())(jnp.array([1.0, -1.0])).tolist()
        [2.0, 2.0]
    """
    resolved = resolve(rule)
    check_apply(apply)
    programs: dict[Any, Program] = {}

    @functools.wraps(apply)
    def ruled(variables: Any, images: Any) -> Any:
        key = _trace_key(variables, images)
        program = programs.get(key)
        if program is None:
            program = Program(apply, variables, images)
            act_on(program.coverage(resolved), on_unmatched)
            if program.reusable:
                programs[key] = program
        return program(resolved, variables, images)

    return ruled


def coverage(apply: Apply, variables: Any, images: Any, *, rule: str | Rule = "deconvnet") -> Coverage:
    """Returns what a rule replaces in `apply` and what keeps its true gradient; `print` shows it as a table.

    Args:
        apply: any pure function `(variables, images) -> arrays`.
        variables: its variables.
        images: a batch of images, or `jax.ShapeDtypeStruct` of one: nothing is computed.
        rule: a rule's name or a `jaxclear.Rule`.
    """
    resolved = resolve(rule)
    check_apply(apply)
    return Program(apply, variables, images).coverage(resolved)


def layers(apply: Apply, variables: Any, images: Any) -> tuple[str, ...]:
    """Returns the names of the convolutions and dense layers that `unit_responses` can be asked for, in order."""
    check_apply(apply)
    return tuple(layer.name for layer in Program(apply, variables, images).layers)


def class_responses(
    apply: Apply,
    *,
    rule: str | Rule = "deconvnet",
    classes: Sequence[int] | None = None,
    class_block: int | None = None,
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[[Any, Float[Array, "B *spatial C"]], Float[Array, "K B *spatial C"]]:
    """Returns a function `(variables, images) -> (K, B, *spatial, C)`: every class's response in every image.

        R(x|c) = G_1 U_1 G_2 U_2 … G_L^c z_L

    The seed of class `c` is the network's class map restricted to kernel `c`, a map in space; for a network that
    returns logits it is `logit_c` at unit `c`. By `deconvnet` and `guided` only its positive part is passed back, so a
    class that is ruled out responds nowhere. Several devices are used as by `clear_map`; those with the same images
    share the work and all get every response.

    Args:
        apply: `(variables, images)` -> class maps (B, *map, K) or logits (B, K).
        rule: a rule's name or a `jaxclear.Rule`.
        classes: the classes to respond, in this order; all by default.
        class_block: how many classes are worked on at once; chosen by the device by default.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: an argument or the images are not as described; nothing has been compiled then.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", eqs. 5.1–5.3.
    """
    resolved = resolve(rule)

    def core(class_axes: tuple[str, ...], variables: Any, images: Array) -> Array:
        backprop = ClassBackprop.trace(apply, resolved, variables, images, on_unmatched, class_axes)
        chosen = check_classes(classes, backprop.num_classes)
        blocks = backprop.blocks(chosen, class_block)
        _, stacked = backprop.loop(lambda _, ids: (None, backprop.respond(ids).responses), None, blocks)
        responses = stacked.reshape(-1, *stacked.shape[2:])
        return from_all(responses, class_axes, joined=True)[: len(chosen)]

    return transformation(apply, resolved, core, class_block=class_block, image_block=image_block, out_axes=1)


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
        z, pull_head = jax.vjp(lambda features: self._class_maps(features, classes), self.features)
        seeds = self.rule.seed(z)

        def one(unit: Array) -> Array:
            return self.pull(*pull_head(seeds * unit))[0]

        return ClassResponse(jax.vmap(one)(jnp.eye(z.shape[-1], dtype=z.dtype)), scores_of(z))

    def scores(self, class_block: int | None) -> Float[Array, "B K"]:
        """Returns every class's score, forward only."""
        blocks = self.blocks(np.arange(self.num_classes), class_block)
        scores = lax.map(lambda ids: scores_of(self.class_maps(ids)), blocks)
        return unblock(from_all(scores, self.class_axes, joined=True), self.num_classes)

    def blocks(self, classes: np.ndarray | Array, class_block: int | None) -> Int[Array, "n_blocks *B block"]:
        """Returns this device's classes in blocks of equal size; the last class fills them up.

        `classes` is (n,) or, each image its own, (B, n). A block is as large as asked for, or smaller, so that little
        has to be filled.
        """
        most = class_block or default_block(self.image_shape)
        places = places_in_blocks(classes.shape[-1], most, number_of_parts(self.class_axes))
        blocks = jnp.take(jnp.asarray(classes, jnp.int32), places, axis=-1)
        return own_part(jnp.moveaxis(blocks, -2, 0), self.class_axes)

    def loop(
        self, body: Callable[[_Carry, Array], tuple[_Carry, Any]], carry: _Carry, blocks: Array
    ) -> tuple[_Carry, Any]:
        """Returns the last carry, and what `body` found of all of this device's blocks, stacked; one is no loop."""
        check_threads(blocks.shape[0] * blocks.shape[-1] * self.layers)
        body = loop_body(body, carry, blocks[0])
        if len(blocks) > 1:
            return lax.scan(body, carry, blocks, unroll=SIDE_BY_SIDE.get(jax.default_backend(), 1))
        carry, found = body(carry, blocks[0])
        return carry, jax.tree.map(lambda value: value[None], found)

    def fold(
        self,
        step: Callable[[_Carry, Array, ClassResponse], _Carry],
        merge: Callable[[_Carry], _Carry],
        carry: _Carry,
        blocks: Array,
    ) -> tuple[_Carry, Float[Array, "n_blocks B block"]]:
        """Returns the carry after every block's responses, and the scores of all devices' blocks.

        Args:
            step: from a carry, a block of classes and its responses to the next carry.
            merge: from the carries of all devices, stacked along a new first axis, to one.
            carry: the first.
            blocks: as `blocks` returns them.
        """

        def body(carried: _Carry, ids: Array) -> tuple[_Carry, Array]:
            found = self.respond(ids)
            return step(carried, ids, found), found.scores

        carry, scores = self.loop(body, carry, blocks)
        if self.class_axes:
            carry = merge(from_all(carry, self.class_axes))
        return carry, from_all(scores, self.class_axes, joined=True)


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


def unblock(stacked: Float[Array, "n_blocks B block"], count: int) -> Float[Array, "B count"]:
    """Returns the blocks' columns side by side, without the filling of the last block."""
    return jnp.moveaxis(stacked, 0, 1).reshape(stacked.shape[1], -1)[:, :count]


def default_block(image_shape: tuple[Any, ...]) -> int:
    """Returns how many classes to work on at once on the default device, for a batch of images of that shape.

    One class where a number is a symbol, as in an exported function.
    """
    if not all(isinstance(size, int) for size in image_shape):
        return 1
    budget = _BLOCK_PIXELS.get(jax.default_backend(), _ACCELERATOR_BLOCK_PIXELS)
    return min(_MOST_CLASSES, max(1, budget // math.prod(image_shape[:-1])))


def _trace_key(variables: Any, images: Any) -> Any:
    """Returns what a trace depends on: the trees, types and shapes of the arguments and JAX's own settings."""
    leaves, treedef = jax.tree_util.tree_flatten((variables, images))
    kinds = tuple(jax.typeof(leaf) if is_array(leaf) else leaf for leaf in leaves)
    settings = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision  # pyright: ignore
    return treedef, kinds, settings
