"""Unit responses: attentive response maps of the kernels of any layer, passed back to the images under a rule.

Array contract: images are floating point, (B, *spatial, C) with one spatial axis or more (NLC, NHWC, NDHWC).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array, Float, Int

from jaxclear.class_backprop import Apply
from jaxclear.cpu_threads import check_threads
from jaxclear.inputs import check_classes
from jaxclear.rules import Rule, resolve
from jaxclear.trace import Layer, OnUnmatched, Program, act_on, loop_body
from jaxclear.transformation import transformation


class UnitResponses(NamedTuple):
    """Attentive response maps of the most activated units of a layer.

    Attributes:
        responses: (n, B, *spatial, C), the response of each unit.
        units: (B, n), which units, most activated first.
        activations: (B, n), each unit's activation summed over positions.
        dominant: (B, *spatial, C), the maximum over the n units at each pixel.
    """

    responses: Float[Array, "n B *spatial C"]
    units: Int[Array, "B n"]
    activations: Float[Array, "B n"]
    dominant: Float[Array, "B *spatial C"]


export.register_namedtuple_serialization(UnitResponses, serialized_name="jaxclear.UnitResponses")


def unit_responses(
    apply: Apply,
    layer: str | int,
    *,
    top_n: int = 25,
    units: Sequence[int] | None = None,
    step: int | None = None,
    rule: str | Rule = "deconvnet",
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[[Any, Float[Array, "B *spatial C"]], UnitResponses]:
    """Returns a function `(variables, images) -> UnitResponses` for the units (kernels) of one layer.

        R(x|f) = G_1 U_1 … G_L^f z_L

    The seed of unit `f` is the layer's own activation map of that unit: the output of the ReLU that follows the
    layer, or where none follows the layer's output with its bias, of which `deconvnet` and `guided` take the positive
    part. Devices among which the images are divided each explain their own; those with the same images all do the same.

    Args:
        apply: any pure function `(variables, images) -> arrays`.
        layer: the layer's module path in the variables ("Conv_2", or its ending where that is enough), or the number
            of a convolution in the trace (negative from the end). `jaxclear.layers` lists the names.
        top_n: how many units: those with the largest activation summed over positions, in each image.
        units: these units instead, in every image.
        step: which step, for a layer inside a `scan`.
        rule: a rule's name or a `jaxclear.Rule`.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: the layer is unknown (the message lists those there are), or another argument is not as described.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", eqs. 3.2, 3.3.
    """
    resolved = resolve(rule)
    if top_n < 1:
        raise ValueError(f"expected top_n to be at least 1, got {top_n}")

    def core(_: tuple[str, ...], variables: Any, images: Array) -> UnitResponses:
        program = Program(apply, variables, images)
        act_on(program.coverage(resolved), on_unmatched)
        found = _find_layer(program.layers, layer)
        if found.in_scan and step is None:
            raise ValueError(f"expected step, the number of a step, since layer {found.name!r} lies in a scan")

        def activation(pixels: Array) -> Array:
            (value,) = program.values(resolved, [found.activation], variables, pixels)
            return value[step] if found.in_scan else value

        z, pull = jax.vjp(activation, images)
        if z.ndim < 2 or z.shape[0] != images.shape[0]:
            raise ValueError(f"expected layer {found.name!r} to count images by its first axis, got shape {z.shape}")
        seeds = resolved.seed(z)
        # Sums of many numbers of 16 bits overflow.
        sums = z.astype(jnp.promote_types(z.dtype, jnp.float32)).sum(axis=tuple(range(1, z.ndim - 1)))
        if units is None:
            if top_n > z.shape[-1]:
                raise ValueError(f"expected top_n of at most {z.shape[-1]}, the units of {found.name!r}, got {top_n}")
            activations, chosen = lax.top_k(sums, top_n)
        else:
            fixed = check_classes(units, z.shape[-1], name="units")
            chosen = jnp.broadcast_to(jnp.asarray(fixed, jnp.int32), (z.shape[0], len(fixed)))
            activations = jnp.take_along_axis(sums, chosen, axis=-1)

        def respond(unit: Array) -> Array:
            mask = jax.nn.one_hot(unit, z.shape[-1], dtype=z.dtype)
            return pull(seeds * mask.reshape(z.shape[0], *[1] * (z.ndim - 2), z.shape[-1]))[0]

        check_threads(chosen.shape[-1] * len(program.layers))
        responses = lax.map(loop_body(respond, chosen.T[0], rounds=chosen.shape[-1]), chosen.T)
        return UnitResponses(responses, chosen, activations, responses.max(axis=0))

    return transformation(apply, resolved, core, image_block=image_block, out_axes=UnitResponses._make((1, 0, 0, 0)))


def _find_layer(known: Sequence[Layer], wanted: str | int) -> Layer:
    names = [layer.name for layer in known]
    if isinstance(wanted, int):
        convolutions = [layer for layer in known if layer.is_convolution]
        if -len(convolutions) <= wanted < len(convolutions):
            return convolutions[wanted]
        raise ValueError(f"expected layer to be below {len(convolutions)}, the number of convolutions, got {wanted}")
    exact = [layer for layer in known if layer.name == wanted]
    ending = [layer for layer in known if layer.name.endswith(f"/{wanted}")]
    if len(exact or ending) != 1:
        problem = f"layer {wanted!r} is not one" if not ending else f"several layers end in {wanted!r}"
        raise ValueError(f"expected layer to be one of {', '.join(map(repr, names))}; {problem}")
    return (exact or ending)[0]
