"""Image files as float32 arrays in [0, 1]."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["eight_bits", "open_image", "read_image"]


def open_image(file: str) -> "Image.Image":
    """Returns an image file as a Pillow image, its pixels read.

    Args:
        file: anything Pillow reads.

    Raises:
        ValueError: no image, or a damaged one.
    """
    from PIL import Image

    if Path(file).is_dir():
        raise ValueError(f"{file}: expected an image file, got a folder; name the files in it")
    if not Path(file).exists():
        raise ValueError(f"{file}: expected an image file, got no such file; check the name")
    try:
        with Image.open(file) as opened:
            opened.load()
            return opened
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".replace(f" '{file}'", "")
        raise ValueError(
            f"{file}: expected an image that Pillow reads, got another or a damaged file ({reason})"
        ) from error


def eight_bits(picture: "Image.Image") -> UInt8[np.ndarray, "H W C"]:
    """Returns a Pillow image as numbers, C 1 or 3; palettes and bits become RGB and grey.

    Raises:
        ValueError: more than eight bits a channel.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ValueError(f"expected 8 bits a channel, got an image of mode {picture.mode}; scale it to 8 bits")
    grey = picture.mode in ("1", "L", "LA")
    array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("L" if grey else "RGB"))
    return array[..., None] if grey else array


def read_image(file: str, channels: int, input_shape: tuple[int, int, int] | None = None) -> Float[np.ndarray, "H W C"]:
    """Returns an image file as float32 in [0, 1].

    Args:
        file: anything Pillow reads; 16-bit images are divided by 65535, floating-point ones have to be in [0, 1].
        channels: 1 for grey or 3 for RGB.
        input_shape: height, width and channels to resize to (bilinear); None keeps the size.

    Raises:
        ValueError: no image, or values that are not finite or outside [0, 1].
    """
    from PIL import Image

    picture = open_image(file)
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture, np.float32) / (1 if picture.mode == "F" else 65535)
        if not np.isfinite(values).all():
            raise ValueError(f"{file}: expected finite values, got NaN or infinity; repair the image")
        if values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"{file}: expected values in [0, 1], got {values.min():g} to {values.max():g}; scale the image"
            )
        planes = [Image.fromarray(values)] * channels
    else:
        planes = picture.convert("L" if channels == 1 else "RGB").split()
    if input_shape is not None:
        size = input_shape[1], input_shape[0]
        planes = [plane.resize(size, Image.Resampling.BILINEAR) for plane in planes]
    scale = 1 if planes[0].mode == "F" else 255
    return np.stack([np.asarray(plane, np.float32) / scale for plane in planes], axis=-1)
