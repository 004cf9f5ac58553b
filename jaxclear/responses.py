"""Class, layer and unit responses: one backward pass from a layer's activation to the images, under a rule.

Array contract: images are floating point, (B, *spatial, C) with one spatial axis or more (NLC, NHWC, NDHWC).
`apply(variables, images)` is a pure function that returns class maps (B, *map, K) or logits (B, K).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxclear.class_backprop import Apply, ClassBackprop
from jaxclear.devices import from_all
from jaxclear.inputs import check_apply, check_classes
from jaxclear.rules import Rule, resolve
from jaxclear.trace import Coverage, OnUnmatched, Program, act_on, is_array
from jaxclear.transformation import transformation


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
        _, stacked = backprop.loop(lambda _, ids, found: (None, found.responses), None, chosen, class_block)
        responses = stacked.reshape(-1, *stacked.shape[2:])
        return from_all(responses, class_axes, joined=True)[: len(chosen)]

    return transformation(apply, resolved, core, class_block=class_block, image_block=image_block, out_axes=1)


def _trace_key(variables: Any, images: Any) -> Any:
    """Returns what a trace depends on: the trees, types and shapes of the arguments and JAX's own settings."""
    leaves, treedef = jax.tree_util.tree_flatten((variables, images))
    kinds = tuple(jax.typeof(leaf) if is_array(leaf) else leaf for leaf in leaves)
    settings = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision  # pyright: ignore
    return treedef, kinds, settings
