"""Attentive regions of a response map: boxes round its strongest parts, and the area on which it concentrates.

Array contract: a response is the sum over the image's channels, (H, W).
`jaxclear.strong_features.keep` cuts images to such an area.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

__all__ = ["AttentionError", "AttentiveRegion", "Box", "attentive_regions", "focus_area"]


class AttentionError(ValueError):
    """A response that is no map, or an area or threshold outside its range."""


class Box(NamedTuple):
    """A rectangle of whole pixels: first row and column, and the row and column after the last ones."""

    top: int
    left: int
    bottom: int
    right: int


class AttentiveRegion(NamedTuple):
    """One connected region of strong response.

    Attributes:
        box: the smallest rectangle that holds it.
        share: its part of the whole map's positive response.
        mask: its pixels.
    """

    box: Box
    share: float
    mask: Bool[np.ndarray, "H W"]


def attentive_regions(
    response: Float[Any, "H W"], *, threshold: float = 0.5, sigma: float = 0.0, most: int | None = None
) -> tuple[AttentiveRegion, ...]:
    """Returns the connected regions where a map responds strongly, the one with most of its response first.

    A pixel responds strongly when the map, smoothed by a Gaussian of `sigma`, is positive there and above `threshold`
    times its maximum. Pixels that touch at an edge or a corner belong together. The first region is the most attentive
    one, which CLEAR-DR boxes in red.

    Args:
        response: one map; negative values count as zero.
        threshold: between 0 and 1.
        sigma: pixels; back-projected maps are speckled, and want about the size of what is looked for.
        most: at most so many regions.

    Returns:
        The regions; none where nothing responds.

    Raises:
        AttentionError: no finite map (H, W), or an argument out of range.

    Example:
        >>> response = np.zeros((4, 6))
        >>> response[1:3, 1] = 2.0
        >>> response[0, 5] = 3.0
        >>> [region.box for region in attentive_regions(response)]
        [Box(top=1, left=1, bottom=3, right=2), Box(top=0, left=5, bottom=1, right=6)]

    Source: D. Kumar, "Class Based Strategies for Understanding Neural Networks", figure 5.9, which does not say how
        its boxes were found; threshold and smoothing are this project's.
    """
    from scipy import ndimage

    if not 0 <= threshold < 1 or (most is not None and most < 1):
        raise AttentionError(f"expected threshold in [0, 1) and most of at least 1, got {threshold} and {most}")
    positive, smooth = _smoothed(response, sigma)
    strong = smooth > threshold * smooth.max()
    numbered = np.zeros(strong.shape, np.int32)
    ndimage.label(strong, np.ones((3, 3)), output=numbered)
    sums = ndimage.sum_labels(positive, numbered, np.arange(1, numbered.max() + 1))
    order = np.argsort(-sums, kind="stable")[:most]
    places = ndimage.find_objects(numbered)
    regions = []
    for index in order:
        rows, columns = places[index]
        box = Box(rows.start, columns.start, rows.stop, columns.stop)
        regions.append(AttentiveRegion(box, float(sums[index] / positive.sum()), numbered == index + 1))
    return tuple(regions)


def focus_area(response: Float[Any, "H W"], area: float, *, sigma: float = 0.0) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels on which a map concentrates: those of strongest response that make up a share of the image.

    Args:
        response: one map; negative values count as zero.
        area: share of the pixels, between 0 and 1. Fewer are returned where the map responds on fewer.
        sigma: pixels; the map is smoothed by a Gaussian first.

    Returns:
        A mask of round(area H W) pixels at most; among equals the first in row-major order are taken.

    Raises:
        AttentionError: no finite map (H, W), or an argument out of range.

    Example:
        >>> focus_area(np.array([[0.0, 3.0], [2.0, 1.0]]), 0.5).tolist()
        [[False, True], [True, False]]
    """
    if not 0 < area <= 1:
        raise AttentionError(f"expected area in (0, 1], got {area}")
    _, smooth = _smoothed(response, sigma)
    order = np.argsort(-smooth, axis=None, kind="stable")[: round(area * smooth.size)]
    mask = np.zeros(smooth.size, bool)
    mask[order] = True
    return mask.reshape(smooth.shape) & (smooth > 0)


def _smoothed(response: Any, sigma: float) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """The positive part of a map, and the same smoothed."""
    from scipy import ndimage

    values = np.asarray(jax.device_get(response), np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise AttentionError(f"expected one finite map (H, W), got shape {values.shape}")
    if not sigma >= 0:
        raise AttentionError(f"expected sigma >= 0, got {sigma}")
    positive = np.maximum(values, 0)
    return positive, ndimage.gaussian_filter(positive, sigma, mode="constant") if sigma else positive
