"""Strong features of a class: the pixels whose response is near the largest, and what they are worth to the network.

    S_t(x) = { x : R(x|c) > t max R(x|c) }

for the class `c` that the network predicts. The network sees the image again with only these pixels, without them, and
both once more for a control region of the same area and shape at a random place.

Array contract: floating-point images (B, H, W, C) in the range that the network takes; a mask is (B, H, W) bool.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxclear.class_backprop import Apply, ClassBackprop, num_classes, scores_of
from jaxclear.inputs import check_images, check_labels
from jaxclear.rules import Rule, resolve
from jaxclear.trace import OnUnmatched
from jaxclear.transformation import transformation

__all__ = ["Ablation", "ablation", "keep", "own_response", "random_region", "strong_mask"]


class Ablation(NamedTuple):
    """What the network predicts, threshold by threshold, from parts of images.

    Attributes:
        full: (B,), the class predicted from the whole image, whose response is cut.
        only: (T, B), predicted from the strong features alone, all else filled.
        without: (T, B), predicted from what is left when they are filled.
        only_control: (T, B), as `only`, of the random region.
        without_control: (T, B), as `without`, of the random region.
        area: (T, B), share of the image's pixels that are strong.
        overlap: (T, B), share of the control region's pixels that are strong as well; 0 where there are none.
        signal: (T, B), share of the image's sum of absolute differences from the fill that is strong.
        signal_control: (T, B), the same for the control region.
    """

    full: Int[Array, " B"]
    only: Int[Array, "T B"]
    without: Int[Array, "T B"]
    only_control: Int[Array, "T B"]
    without_control: Int[Array, "T B"]
    area: Float[Array, "T B"]
    overlap: Float[Array, "T B"]
    signal: Float[Array, "T B"]
    signal_control: Float[Array, "T B"]


def own_response(
    apply: Apply,
    *,
    rule: str | Rule = "deconvnet",
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[..., Float[Array, "B H W"]]:
    """Returns a function `(variables, images, labels=None) -> (B, H, W)`: each image's response of one class.

    Summed over the image's channels; the predicted class where no labels are given. One back-projection, whatever the
    number of classes. Devices among which the images are divided each work on their own.

    Args:
        apply: `(variables, images)` -> class maps (B, *map, K) or logits (B, K).
        rule: a rule's name or a `jaxclear.Rule`.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: an argument, the images or the labels are not as described.
    """
    resolved = resolve(rule)

    def core(class_axes: tuple[str, ...], variables: Any, images: Array, labels: Array | None = None) -> Array:
        backprop = ClassBackprop.trace(apply, resolved, variables, images, on_unmatched, class_axes)
        if labels is None:
            labels = backprop.scores(None).argmax(axis=-1)
        (response,) = backprop.loop(lambda _, ids, found: (None, found.responses[0]), None, labels[:, None], 1)[1]
        return response.sum(axis=-1)

    compiled = transformation(apply, resolved, core, image_block=image_block, more_axes=(0,))

    def respond(variables: Any, images: Any, labels: Any = None) -> Array:
        if labels is None:
            return compiled(variables, images)
        return compiled(variables, images, check_labels(labels, len(images), num_classes(apply, variables, images)))

    return respond


def strong_mask(response: Float[Array, "B H W"], threshold: float | Array) -> Bool[Array, "B H W"]:
    """Returns where a response is positive and above `threshold` times its maximum over the image.

    Example:
        >>> strong_mask(jnp.array([[[1.0, 4.0], [-3.0, 3.0]]]), 0.5).tolist()
        [[[False, True], [False, True]]]
    """
    largest = response.max(axis=(1, 2), keepdims=True)
    return (response > threshold * largest) & (response > 0)


def keep(images: Float[Array, "B H W C"], mask: Bool[Array, "B H W"], fill: float) -> Float[Array, "B H W C"]:
    """Returns the images where the mask holds, and `fill` elsewhere."""
    return jnp.where(mask[..., None], images, jnp.asarray(fill, images.dtype))


def random_region(key: PRNGKeyArray, mask: Bool[Array, "B H W"]) -> Bool[Array, "B H W"]:
    """Returns for each mask a region of the same area and shape: mirrored, turned and moved at random.

    Turned by a multiple of 90 degrees (of 180 where images are not square), mirrored or not, and moved to any place at
    which it lies wholly inside the image, all equally likely.
    """
    return _random_regions(jax.random.split(key, len(mask)), mask)


def _random_regions(keys: PRNGKeyArray, mask: Bool[Array, "B H W"]) -> Bool[Array, "B H W"]:
    height, width = mask.shape[1:]

    def one(key: PRNGKeyArray, region: Array) -> Array:
        mirror, turn, down, right = jax.random.split(key, 4)
        region = jnp.where(jax.random.bernoulli(mirror), region[:, ::-1], region)
        turned = jnp.stack([jnp.rot90(region, k) for k in ((0, 1, 2, 3) if height == width else (0, 2))])
        region = turned[jax.random.randint(turn, (), 0, len(turned))]
        for axis, size, key_ in ((0, height, down), (1, width, right)):
            taken = region.any(axis=1 - axis)
            first, last = jnp.argmax(taken), size - 1 - jnp.argmax(taken[::-1])
            place = jax.random.randint(key_, (), 0, size - (last - first))
            region = jnp.where(taken.any(), jnp.roll(region, place - first, axis), region)
        return region

    return jax.vmap(one)(keys, mask)


def ablation(
    apply: Apply,
    *,
    thresholds: Sequence[float],
    rule: str | Rule = "deconvnet",
    fill: float = 0.0,
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[[Any, Float[Array, "B H W C"], PRNGKeyArray], Ablation]:
    """Returns a function `(variables, images, key) -> Ablation`.

    Devices among which the images are divided each work on their own; those with the same images all do the same.

    Args:
        apply: `(variables, images)` -> class maps (B, *map, K) or logits (B, K).
        thresholds: T values of `t`, from 0 (all that responds) to below 1.
        rule: a rule's name or a `jaxclear.Rule`.
        fill: value that takes the place of pixels: 0 for a black background, 0.5 for a grey patch.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: an argument or the images are not as described.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", table 5.3; the thesis names no
        threshold, and no control.
    """
    values = [float(threshold) for threshold in thresholds]
    if not values or not all(0 <= threshold < 1 for threshold in values):
        raise ValueError(f"expected thresholds as at least one number in [0, 1), got {list(thresholds)}")
    respond = own_response(apply, rule=rule, on_unmatched=on_unmatched)

    def predict(variables: Any, images: Array) -> Array:
        return scores_of(apply(variables, images)).argmax(axis=-1)

    def core(_: tuple[str, ...], variables: Any, images: Array, keys: PRNGKeyArray) -> Ablation:
        response, full = respond(variables, images), predict(variables, images)

        def at(pair: tuple[Array, Array]) -> tuple[Array, ...]:
            threshold, own_keys = pair
            strong = strong_mask(response, threshold)
            control = _random_regions(own_keys, strong)
            seen = (strong, ~strong, control, ~control)
            answers = [predict(variables, keep(images, mask, fill)) for mask in seen]
            overlap = (strong & control).sum((1, 2)) / jnp.maximum(control.sum((1, 2)), 1)
            # Sums of many numbers of 16 bits overflow.
            differs = jnp.abs(images - fill).astype(jnp.promote_types(images.dtype, jnp.float32)).sum(-1)
            whole = jnp.maximum(differs.sum((1, 2)), jnp.finfo(differs.dtype).tiny)
            signals = [(differs * mask).sum((1, 2)) / whole for mask in (strong, control)]
            return (*answers, strong.mean((1, 2)), overlap, *signals)

        found = lax.map(at, (jnp.asarray(values), keys))
        return Ablation(full, *found)

    out_axes = 0, *[1] * (len(Ablation._fields) - 1)
    axes = Ablation._make(out_axes)
    compiled = transformation(apply, resolve(rule), core, image_block=image_block, out_axes=axes, more_axes=(1,))

    def ablate(variables: Any, images: Any, key: PRNGKeyArray) -> Ablation:
        images = check_images(images)
        return compiled(variables, images, _keys(key, len(values), len(images)))

    return ablate


@functools.partial(jax.jit, static_argnums=(1, 2))
def _keys(key: PRNGKeyArray, thresholds: int, images: int) -> PRNGKeyArray:
    return jax.vmap(lambda own: jax.random.split(own, images))(jax.random.split(key, thresholds))
