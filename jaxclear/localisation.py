"""Response maps scored against a known truth: how much of a map lies on the pixels that it should lie on.

Array contract: responses are sums over the image's channels, (B, *spatial); masks are boolean, of the same shape.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Localisation", "LocalisationError", "localise"]


class LocalisationError(ValueError):
    """Responses and masks that do not fit each other."""


class Localisation(NamedTuple):
    """Where the positive response of each image lies, against chance.

    Attributes:
        share: part of the positive response that lies on the mask; NaN where nothing responds or the mask is empty.
        area: part of the pixels that belong to the mask: the share of a map that knows nothing. NaN as above.
        hit: 1 where the strongest response lies on the mask, else 0 (the pointing game); NaN as above.
    """

    share: Float[np.ndarray, " B"]
    area: Float[np.ndarray, " B"]
    hit: Float[np.ndarray, " B"]


def localise(
    responses: Float[Any, "B *spatial"], masks: Bool[Any, "B *spatial"], *, within: Any = None
) -> Localisation:
    """Returns how much of each image's positive response lies on its mask, and whether the strongest one does.

        share = Σ_mask max(R, 0) / Σ max(R, 0)          hit = [argmax R in mask]

    Args:
        responses: of one class, summed over channels.
        masks: the pixels that tell the truth.
        within: masks of the pixels that count at all (the fundus without its dark surround); all by default. Area and
            share are parts of these.

    Raises:
        LocalisationError: shapes that differ, or masks that are not boolean.

    Example:
        >>> localise(np.array([[[3.0, 1.0], [0.0, -5.0]]]), np.array([[[True, False], [False, False]]]))
        Localisation(share=array([0.75]), area=array([0.25]), hit=array([1.]))

    Source: J. Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016 (the pointing game).
    """
    found, truth = np.asarray(responses), np.asarray(masks)
    inside = np.ones(truth.shape, bool) if within is None else np.asarray(within)
    if not found.shape == truth.shape == inside.shape or found.ndim < 2 or truth.dtype != bool or inside.dtype != bool:
        raise LocalisationError(
            f"expected responses and boolean masks of one shape (B, *spatial), got {found.shape}, {truth.dtype}"
            f"{truth.shape} and {inside.dtype}{inside.shape}"
        )
    count = len(found)
    positive = np.where(inside, np.maximum(found, 0), 0).reshape(count, -1).astype(np.float64)
    marked = (truth & inside).reshape(count, -1)
    total = positive.sum(axis=1)
    known = (total > 0) & marked.any(axis=1)
    strongest = marked[np.arange(count), positive.argmax(axis=1)]

    def where_known(values: np.ndarray) -> np.ndarray:
        return np.where(known, values, np.nan)

    share = (positive * marked).sum(axis=1) / np.where(total > 0, total, 1)
    area = marked.sum(axis=1) / np.maximum(inside.reshape(count, -1).sum(axis=1), 1)
    return Localisation(where_known(share), where_known(area), where_known(strongest.astype(np.float64)))
