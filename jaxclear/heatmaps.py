"""Heat maps: what in an image speaks for one class, and what for any other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int

from jaxclear.class_backprop import Apply, ClassBackprop, ClassResponse, constant_map, num_classes
from jaxclear.clear import brightness
from jaxclear.inputs import check_images, check_labels
from jaxclear.mesh_context import own_mesh
from jaxclear.rules import Rule, resolve
from jaxclear.trace import OnUnmatched
from jaxclear.transformation import transformation

FOR, NEITHER, AGAINST = 1, 0, -1
"""The values of a binary map."""


class HeatMap(NamedTuple):
    """What speaks for a class and what against it, summed over the image's channels.

    Attributes:
        evidence_for: (B, *spatial), the response of the class itself (shown hot).
        evidence_against: (B, *spatial), the maximum over the responses of all other classes (shown green).
        labels: (B,), the class.
        class_scores: (B, K), as in `ClearMap`.
    """

    evidence_for: Float[Array, "B *spatial"]
    evidence_against: Float[Array, "B *spatial"]
    labels: Int[Array, " B"]
    class_scores: Float[Array, "B K"]


export.register_namedtuple_serialization(HeatMap, serialized_name="jaxclear.HeatMap")


def heat_map(
    apply: Apply,
    *,
    rule: str | Rule = "deconvnet",
    class_block: int | None = None,
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[..., HeatMap]:
    """Returns a function `(variables, images, labels=None) -> HeatMap`; without labels the predicted class is taken.

    Several devices are used as by `clear_map`.

    Args:
        apply: `(variables, images)` -> class maps (B, *map, K) or logits (B, K), with two classes or more.
        rule: a rule's name or a `jaxclear.Rule`.
        class_block: how many classes are worked on at once; chosen by the device by default.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: an argument, the images or the labels are not as described; nothing has been compiled then.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", 5.2.3 and figs. 5.3, 5.4.
    """
    resolved = resolve(rule)

    def core(class_axes: tuple[str, ...], variables: Any, images: Array, labels: Any = None) -> HeatMap:
        backprop = ClassBackprop.trace(apply, resolved, variables, images, on_unmatched, class_axes)
        if backprop.num_classes < 2:
            raise ValueError("expected a network of at least two classes: with one there is nothing against it")
        if labels is None:
            labels = jnp.argmax(backprop.scores(class_block), axis=-1)
        own = jnp.asarray(labels, jnp.int32)

        def step(carry: tuple[Array, Array], ids: Array, found: ClassResponse) -> tuple[Array, Array]:
            supporting, opposing = carry
            responses = found.responses.sum(axis=-1)
            is_own = (ids[:, None] == own).reshape(*responses.shape[:2], *[1] * (responses.ndim - 2))
            supporting = jnp.maximum(supporting, jnp.where(is_own, responses, -jnp.inf).max(axis=0))
            opposing = jnp.maximum(opposing, jnp.where(is_own, -jnp.inf, responses).max(axis=0))
            return supporting, opposing

        nothing = constant_map(images, -jnp.inf)
        every = np.arange(backprop.num_classes)
        (supporting, opposing), scores = backprop.fold(step, _largest, (nothing, nothing), every, class_block)
        return HeatMap(supporting, opposing, own, scores)

    compiled = transformation(apply, resolved, core, class_block=class_block, image_block=image_block, more_axes=(0,))
    counts: dict[tuple[int, ...], int] = {}

    def count_classes(variables: Any, images: Array) -> int:
        if images.shape not in counts:
            counts[images.shape] = num_classes(apply, variables, images)
        return counts[images.shape]

    def heat(variables: Any, images: Any, labels: Any = None) -> HeatMap:
        if labels is None:
            return compiled(variables, images)
        images = check_images(images)
        return compiled(variables, images, check_labels(labels, len(images), count_classes(variables, images)))

    return heat


def _largest(found: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns each pixel's evidence for and against from that of all devices."""
    supporting, opposing = found
    return supporting.max(axis=0), opposing.max(axis=0)


def binary_map(
    apply: Apply,
    *,
    rule: str | Rule = "deconvnet",
    class_block: int | None = None,
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[..., Int[Array, "B *spatial"]]:
    """Returns a function `(variables, images, labels=None) -> (B, *spatial)` of `FOR`, `NEITHER` and `AGAINST`.

    A pixel is `FOR` (1) where the class's own response is the largest, `AGAINST` (-1) where another's is, and
    `NEITHER` (0) where no response is positive. Arguments and errors are those of `heat_map`.
    """
    heat = heat_map(apply, rule=rule, class_block=class_block, image_block=image_block, on_unmatched=on_unmatched)

    def binary(variables: Any, images: Any, labels: Any = None) -> Array:
        found = heat(variables, images, labels)
        with own_mesh(found.labels):
            return to_binary(found)

    return binary


def to_binary(heat: HeatMap) -> Int[Array, "B *spatial"]:
    """Returns a heat map with its values replaced by `FOR`, `NEITHER` and `AGAINST`."""
    responding = jnp.maximum(heat.evidence_for, heat.evidence_against) > 0
    side = jnp.where(heat.evidence_for >= heat.evidence_against, FOR, AGAINST)
    return jnp.where(responding, side, NEITHER).astype(jnp.int32)


@jax.jit
def heat_rgb(heat: HeatMap) -> Float[Array, "B *spatial 3"]:
    """Returns a heat map in colour: each pixel hot (black, red, yellow, white) where the class wins, green elsewhere.

    Both share one scale, the largest response in the image.
    """
    value = brightness(jnp.maximum(heat.evidence_for, heat.evidence_against))
    hot = jnp.stack([jnp.clip(3 * value - shift, 0, 1) for shift in (0.0, 1.0, 2.0)], axis=-1)
    green = jnp.stack([jnp.zeros_like(value), value, jnp.zeros_like(value)], axis=-1)
    return jnp.where((to_binary(heat) == FOR)[..., None], hot, green)


@jax.jit
def binary_rgb(binary: Int[Array, "B *spatial"]) -> Float[Array, "B *spatial 3"]:
    """Returns a binary map in colour: red for the class, blue against it, black elsewhere."""
    colours = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    return colours[binary + 1]
