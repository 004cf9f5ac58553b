"""Diabetic retinopathy: fundus photographs of the Kaggle challenge of 2015, in the folder as it is unpacked.

    trainLabels.csv              image,level         10_left,0
    train/10_left.jpeg           one eye of one patient; level 0 to 4

Preprocessing, in training and in explanation: `fundus` on the host (the background is cut away, the photograph brought
to one size), `normalise` inside the function that is explained, `lambda variables, images: apply(variables,
normalise(images))`, so that a map lies on the photograph itself.

Source: kaggle.com/c/diabetic-retinopathy-detection; Kumar, Taylor, Wong, CLEAR-DR (2017): right eyes, automatic
cropping of the background, channel-wise normalisation, flips. The paper says neither how it crops nor over what it
normalises: both are this project's decisions.
"""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxclear.data.folders import Entry, FileSource, check_folder, files_in, read_table
from jaxclear.data.sources import DataError, check_complete
from jaxclear.dataset.sources import Failure
from jaxclear.inputs import as_floats
from jaxclear.models.networks import GRADES

__all__ = ["GRADES", "Retinopathy", "crop_background", "fundus", "normalise"]

_EYES = {"right": ("right",), "left": ("left",), "both": ("left", "right")}
_NAME = re.compile(r"(?P<patient>.+)_(?P<eye>left|right)")
_SUFFIXES = (".jpeg", ".jpg", ".png")
_DARK = 0.1
_EMPTY = 0.01


def crop_background(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """Returns the square around the fundus, without the dark background beside it.

    A pixel belongs to the fundus when its mean over the channels is above a tenth of the 99th percentile of all such
    means: cameras and exposures differ. Rows and columns at the rim with less than 1 % of such pixels are cut off, and
    the shorter side is filled up with black to a square, so that bringing it to one size does not distort it.

    Raises:
        DataError: a photograph that is dark all over, or not RGB.
    """
    if image.ndim != 3 or image.shape[-1] != 3:
        raise DataError(f"expected an RGB photograph (H, W, 3), got shape {image.shape}")
    brightness = image.mean(axis=-1, dtype=np.float32)
    bright = np.percentile(brightness[:: max(1, len(brightness) // 512)], 99)
    if bright < 1:
        raise DataError(
            f"expected a fundus on a dark background, got an image that is dark all over ({bright:.2f} of 255)"
        )
    inside = brightness > _DARK * bright
    rows, columns = (np.flatnonzero(inside.mean(axis=axis) >= _EMPTY) for axis in (1, 0))
    cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(cut.shape[:2])
    before = [(side - length) // 2 for length in cut.shape[:2]]
    square = np.zeros((side, side, 3), np.uint8)
    square[before[0] : before[0] + cut.shape[0], before[1] : before[1] + cut.shape[1]] = cut
    return square


def fundus(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the cropped photograph (see `crop_background`) at a size in pixels, bilinear with antialiasing.

    Raises:
        DataError: see `crop_background`.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(crop_background(image)).resize((size, size), Image.Resampling.BILINEAR))


def normalise(images: Shaped[Any, "B H W 3"]) -> Float[jax.Array, "B H W 3"]:
    """Returns images whose channels have mean 0 and standard deviation 1, each channel of each image for itself.

    With x_c the channel c of an image: (x_c - mean(x_c)) / max(std(x_c), 1/255), the range being [0, 1]. Per image,
    because illumination and cameras differ from image to image, and because nothing then has to be stored beside the
    weights. It is differentiable, and part of the function that is trained and explained.

    Args:
        images: uint8, or floating point in [0, 1].
    """
    scaled = as_floats(images)
    mean = scaled.mean(axis=(1, 2), keepdims=True)
    deviation = jnp.sqrt(jnp.square(scaled - mean).mean(axis=(1, 2), keepdims=True) + 1e-12)
    return (scaled - mean) / jnp.maximum(deviation, 1 / 255)


class Retinopathy(FileSource):
    """Fundus photographs with their grades, (size, size, 3); `classes` are `GRADES`, `groups` the patients."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        eyes: str = "right",
        size: int = 224,
        labels: str = "trainLabels.csv",
        images: str = "train",
        incomplete: str = "error",
    ) -> None:
        """Reads the table and the names of the files.

        Args:
            folder: the challenge's folder.
            eyes: "right" (as CLEAR-DR), "left" or "both".
            size: height and width of an item in pixels.
            labels: name of the table.
            images: name of the folder of photographs.
            incomplete: what a photograph without a grade, a grade without a photograph, or a row that is none leads
                to: "error", or "record" in `failures`.

        Raises:
            DataError: another layout, something missing, or an argument out of range.
        """
        if eyes not in _EYES or size < 1:
            raise DataError(f"expected eyes out of {', '.join(_EYES)} and a size of at least 1, got {eyes!r}, {size}")
        root = Path(folder)
        check_folder(root, "the Kaggle diabetic retinopathy data", {labels: "file", images: "folder"})
        rows = read_table(root / labels, ("image", "level"), ",")
        entries, failures = _entries(rows, files_in(root / images, _SUFFIXES), _EYES[eyes], labels, images)
        found = check_complete(failures, incomplete, str(root))
        if not entries:
            raise DataError(f"{root}: expected photographs of {eyes} eyes with a grade, got none")
        super().__init__(entries, GRADES, found, functools.partial(fundus, size=size), f"fundus {size}")


def _entries(
    rows: Sequence[dict[str, str]], files: dict[str, Path], eyes: Sequence[str], labels: str, images: str
) -> tuple[list[Entry], list[Failure]]:
    entries: dict[str, Entry] = {}
    failures = []
    for row in rows:
        name, level = row["image"], row["level"]
        match = _NAME.fullmatch(name)
        if match is None:
            failures.append(Failure(name, f"expected a name as 10_left in {labels}"))
        elif match["eye"] not in eyes:
            continue
        elif name in entries:
            failures.append(Failure(name, f"expected one row in {labels}, got another"))
        elif level not in {"0", "1", "2", "3", "4"}:
            failures.append(Failure(name, f"expected a level from 0 to 4 in {labels}, got {level or 'none'}"))
        elif name not in files:
            failures.append(Failure(name, f"expected the photograph {images}/{name}.jpeg, got none"))
        else:
            entries[name] = Entry(name, files[name], int(level), match["patient"])
    named = {row["image"] for row in rows}
    for name in files:
        match = _NAME.fullmatch(name)
        if name not in named and (match is None or match["eye"] in eyes):
            failures.append(Failure(name, f"expected a row with its level in {labels}, got none"))
    return list(entries.values()), failures
