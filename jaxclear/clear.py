"""CLEAR maps: for every pixel the dominant class and how strongly it responds, and their colours."""

import colorsys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Float, Int

from jaxclear.class_backprop import Apply, ClassBackprop, ClassResponse, constant_map
from jaxclear.inputs import check_classes
from jaxclear.rules import Rule, resolve
from jaxclear.trace import OnUnmatched
from jaxclear.transformation import transformation


class ClearMap(NamedTuple):
    """The class that dominates each pixel, and how strongly.

    Attributes:
        dominant_class: (B, *spatial) int32, `C(x) = argmax_c R(x|c)`; the lowest class where several are equal, -1
            where no class responds.
        dominant_response: (B, *spatial), `D(x) = R(x|C(x))`, summed over the image's channels. Where no class
            responds it is zero or negative.
        class_scores: (B, K), what the network's softmax sees: class maps averaged over positions, or the logits.
    """

    dominant_class: Int[Array, "B *spatial"]
    dominant_response: Float[Array, "B *spatial"]
    class_scores: Float[Array, "B K"]


export.register_namedtuple_serialization(ClearMap, serialized_name="jaxclear.ClearMap")


def clear_map(
    apply: Apply,
    *,
    rule: str | Rule = "deconvnet",
    classes: Sequence[int] | None = None,
    top_k: int | None = None,
    class_block: int | None = None,
    image_block: int | None = None,
    on_unmatched: OnUnmatched = "warn",
) -> Callable[[Any, Float[Array, "B *spatial C"]], ClearMap]:
    """Returns a function `(variables, images) -> ClearMap`.

        C(x) = argmax_c R(x|c)          D(x) = R(x|C(x))

    The responses of all classes never stand in memory together: blocks of classes pass a running maximum. Images that
    lie on several devices (`jaxclear.place`, or any `NamedSharding` that splits no other axis than the batch) are
    explained by all of them, and devices with the same images share their classes; a network whose answer for an image
    depends on the others of the batch is not for this. `jax.jit` around the function hides from it how images lie,
    unless the axes of their mesh are explicit; without it the function is compiled as well.

    Args:
        apply: `(variables, images)` -> class maps (B, *map, K) or logits (B, K).
        rule: a rule's name or a `jaxclear.Rule`.
        classes: compare only these classes.
        top_k: compare only the `top_k` classes with the highest scores, in each image its own.
        class_block: how many classes are worked on at once; chosen by the device by default.
        image_block: how many images a device works on at once at most. By default the library chooses: all of them, but
            on a CPU with a rule of `jaxclear.RULES` and a network that is seen to answer each image by itself. A number
            is taken on trust.
        on_unmatched: what to do, once a trace, about non-linearities the rule does not know.

    Raises:
        ValueError: an argument or the images are not as described; nothing has been compiled then.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", eqs. 5.1–5.5; for many classes, 6.1.1.
    """
    resolved = resolve(rule)
    if classes is not None and top_k is not None:
        raise ValueError("expected classes or top_k, got both")
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k to be at least 1, got {top_k}")

    def core(class_axes: tuple[str, ...], variables: Any, images: Array) -> ClearMap:
        backprop = ClassBackprop.trace(apply, resolved, variables, images, on_unmatched, class_axes)
        # In ascending order here and below, so that the lowest of equal classes comes first and wins.
        chosen = np.sort(check_classes(classes, backprop.num_classes))
        scores = None
        if top_k is not None:
            if top_k > backprop.num_classes:
                raise ValueError(f"expected top_k of at most {backprop.num_classes} classes, got {top_k}")
            scores = backprop.scores(class_block)
            chosen = jnp.sort(lax.top_k(scores, top_k)[1], axis=-1)
        elif classes is not None:
            scores = backprop.scores(class_block)
        empty = constant_map(images, -1, jnp.int32), constant_map(images, -jnp.inf)
        (best_class, best), found = backprop.fold(_running_maximum, _largest, empty, chosen, class_block)
        return ClearMap(jnp.where(best > 0, best_class, -1), best, found if scores is None else scores)

    return transformation(apply, resolved, core, class_block=class_block, image_block=image_block)


def _running_maximum(carry: tuple[Array, Array], ids: Array, found: ClassResponse) -> tuple[Array, Array]:
    best_class, best = carry
    responses = found.responses.sum(axis=-1)
    winner = jnp.argmax(responses, axis=0)
    response = jnp.max(responses, axis=0)
    if ids.ndim == 1:
        winner_class = ids[winner]
    else:
        flat = winner.reshape(len(ids), -1)
        winner_class = jnp.take_along_axis(ids, flat, axis=-1).reshape(winner.shape)
    better = response > best
    best_class = jnp.where(better, winner_class, best_class)
    return best_class, jnp.where(better, response, best).astype(best.dtype)


def _largest(found: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns each pixel's class and response from those of all devices, the lower classes first."""
    classes, responses = found
    winner = jnp.argmax(responses, axis=0, keepdims=True)
    return jnp.take_along_axis(classes, winner, axis=0)[0], responses.max(axis=0)


def hues(num_classes: int) -> Float[np.ndarray, " K"]:
    """Returns a hue in [0, 1) for each class, evenly around the colour circle: the default `F` of eq. 5.6."""
    return np.arange(num_classes) / num_classes


def palette_rgb(palette: Any, num_classes: int) -> Float[np.ndarray, "K 3"]:
    """Returns each class's colour at full brightness.

    Args:
        palette: None for `hues`, (K,) hues in [0, 1], or (K, 3) colours in [0, 1].
        num_classes: K.

    Raises:
        ValueError: the palette has another shape or values outside [0, 1].
    """
    values = np.asarray(hues(num_classes) if palette is None else palette, np.float32)
    if values.shape not in ((num_classes,), (num_classes, 3)):
        raise ValueError(
            f"expected palette as {num_classes} hues or ({num_classes}, 3) colours, got shape {values.shape}"
        )
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("expected palette values between 0 and 1")
    if values.ndim == 1:
        values = np.array([colorsys.hsv_to_rgb(hue, 1.0, 1.0) for hue in values.tolist()], np.float32)
    return values


def brightness(response: Float[Array, "B *spatial"]) -> Float[Array, "B *spatial"]:
    """Returns the response clipped at 0 and divided by its maximum over each image; 0 where nothing responds."""
    positive = jnp.maximum(response, 0)
    largest = positive.max(axis=tuple(range(1, response.ndim)), keepdims=True)
    return positive / jnp.where(largest > 0, largest, 1)


def to_rgb(clear: ClearMap, *, palette: Any = None) -> Float[Array, "B *spatial 3"]:
    """Returns the CLEAR map in colour: `H = F(C)`, `S = 1`, `V = D`, with values in [0, 1].

    `V` is the dominant response clipped at 0 and divided by its maximum over the image. A pixel where no class
    responds is black.

    Args:
        clear: the map.
        palette: (K,) hues in [0, 1], or (K, 3) colours in [0, 1]; evenly spaced hues by default.

    Raises:
        ValueError: the palette does not fit the number of classes.

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", eq. 5.6.
    """
    colours = jnp.asarray(palette_rgb(palette, clear.class_scores.shape[-1]))
    return _coloured(colours, clear.dominant_class, clear.dominant_response)


@jax.jit
def _coloured(
    colours: Float[Array, "K 3"], classes: Int[Array, "B *spatial"], response: Float[Array, "B *spatial"]
) -> Float[Array, "B *spatial 3"]:
    value = jnp.where(classes >= 0, brightness(response), 0)
    return colours[jnp.maximum(classes, 0)] * value[..., None]


def overlay(
    colour: Float[Array, "B *spatial 3"], images: Float[Array, "B *spatial C"], *, opacity: float = 0.6
) -> Float[Array, "B *spatial 3"]:
    """Returns a colour map laid over its images in grey, each image stretched to its own range.

    Args:
        colour: a map in [0, 1]; it covers the image by its own brightness times `opacity`.
        images: the images, any range and number of channels.
        opacity: between 0 (the image alone) and 1.

    Raises:
        ValueError: the shapes differ or `opacity` is outside [0, 1].
    """
    if colour.shape[:-1] != images.shape[:-1]:
        raise ValueError(f"expected images of shape {(*colour.shape[:-1], 'C')}, got {images.shape}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected opacity between 0 and 1, got {opacity}")
    grey = images.mean(axis=-1, keepdims=True)  # of NumPy's numbers by NumPy: float64 may need all of its digits
    axes = tuple(range(1, images.ndim))
    low, high = grey.min(axis=axes, keepdims=True), grey.max(axis=axes, keepdims=True)
    return _laid_over(colour, (grey - low) / jnp.where(high > low, high - low, 1), opacity)


@jax.jit
def _laid_over(
    colour: Float[Array, "B *spatial 3"], grey: Float[Array, "B *spatial 1"], opacity: float
) -> Float[Array, "B *spatial 3"]:
    cover = opacity * colour.max(axis=-1, keepdims=True)
    return jnp.clip(grey * (1 - cover) + colour * opacity, 0, 1)
