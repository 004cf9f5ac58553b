"""The pixels of an image, whatever holds them, and the error of data that are not what they should be."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxclear.image_files import eight_bits

__all__ = ["DataError", "pixels"]


class DataError(ValueError):
    """Data that are missing, damaged or of another kind than their place and name promise."""


def pixels(image: Any, what: str) -> UInt8[np.ndarray, "H W C"]:
    """Returns an image as uint8 (H, W, C), C 1 or 3.

    Args:
        image: an array, or a Pillow image; palettes and bits become RGB and grey.
        what: its name, for the message.

    Raises:
        DataError: another type of pixel, or another shape.
    """
    if hasattr(image, "getbands"):  # an image of Pillow
        try:
            image = eight_bits(image)
        except ValueError as error:
            raise DataError(f"{what}: {error}") from error
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise DataError(f"{what}: expected uint8, got {array.dtype}; scale it to 0 … 255")
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DataError(f"{what}: expected the shape (H, W), (H, W, 1) or (H, W, 3), got {array.shape}")
    return array
