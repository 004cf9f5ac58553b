"""Class colours that can be told from black by their brightness too."""

import numpy as np
from jaxtyping import Float

from jaxclear.clear import palette_rgb

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_DARKEST = 0.34


def legible(num_classes: int) -> Float[np.ndarray, "K 3"]:
    """Returns evenly spaced hues, the dark ones (blue, violet, red) mixed with white up to one least luminance.

    The published composition (eq. 5.6) is fully saturated: its blue peaks all but vanish on a black map.

    Example:
        >>> print(legible(3).round(2))
        [[1.   0.16 0.16]
         [0.   1.   0.  ]
         [0.29 0.29 1.  ]]
    """
    colours = palette_rgb(None, num_classes).astype(np.float64)
    luminance = colours @ _LUMINANCE
    white = np.clip((_DARKEST - luminance) / (1 - luminance), 0, 1)[:, None]
    return (colours + (1 - colours) * white).astype(np.float32)
