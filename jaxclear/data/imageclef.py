"""Radiographs of the ImageCLEF 2009 medical annotation task, in the folder as it is unpacked.

    ImageCLEFmed2009_train_codes.02.csv    image_id;irma_code;…     1880;1121-127-700-500;…
    ImageCLEFmed2009_train.02/1880.png     a radiograph in grey

An IRMA code TTTT-DDD-AAA-BBB says technique, direction, anatomy and biological system, each axis a hierarchy whose
digits get finer from left to right.

Preprocessing, in training and in explanation: `radiograph` on the host, `jaxclear.data.unit_range` before the network.

Source: Tommasi et al., Overview of the CLEF 2009 medical image annotation track; Deserno, Ott, 15,363 IRMA images of
193 categories for ImageCLEFmed2009, doi:10.18154/RWTH-2016-06143.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxclear.data.folders import Entry, FileSource, check_folder, files_in, read_table
from jaxclear.data.sources import DataError, check_complete
from jaxclear.dataset.sources import Failure

__all__ = ["AXES", "Radiographs", "radiograph"]

AXES = {"technique": slice(0, 4), "direction": slice(5, 8), "anatomy": slice(9, 12), "system": slice(13, 16)}
"""Where each axis stands in an IRMA code."""
_CODE = re.compile(r"[0-9a-z]{4}-[0-9a-z]{3}-[0-9a-z]{3}-[0-9a-z]{3}")
_TABLE, _IMAGES = "ImageCLEFmed2009_train_codes.02.csv", "ImageCLEFmed2009_train.02"


def radiograph(image: UInt8[np.ndarray, "H W C"], size: int) -> UInt8[np.ndarray, "size size 1"]:
    """Returns a radiograph in grey at a size in pixels, bilinear with antialiasing, whatever its sides were.

    As in the study, whose images are resized to 224×224: the ratio of the sides is not kept.
    """
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L")
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))[..., None]


class Radiographs(FileSource):
    """Radiographs with the class of their IRMA code, (size, size, 1).

    Attributes:
        rare: classes that were left out, with their numbers of radiographs.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        axis: str = "anatomy",
        digits: int | None = 2,
        minimum: int = 50,
        size: int = 224,
        incomplete: str = "error",
    ) -> None:
        """Reads the table and the names of the files.

        Args:
            folder: the task's folder.
            axis: which part of the code makes the class, a name out of `AXES`, or "code" for all of it.
            digits: how many of its digits, from the left; None for all. The study "removed the hierarchical class
                representation" and had 24 classes of regions (foot, knee, hand, …) without saying how; the first two
                digits of the anatomy are that level of the code.
            minimum: radiographs that a class needs to be kept.
            size: height and width of an item in pixels.
            incomplete: what a radiograph without a code, a code without a radiograph, or a code of another form leads
                to: "error", or "record" in `failures`.

        Raises:
            DataError: another layout, something missing, no class left, or an argument out of range.
        """
        if axis not in (*AXES, "code") or size < 1 or minimum < 1 or (digits is not None and digits < 1):
            raise DataError(
                f"expected an axis out of {', '.join((*AXES, 'code'))}, and digits, minimum and size of at least 1, "
                f"got {axis!r}, {digits}, {minimum} and {size}"
            )
        root = Path(folder)
        check_folder(root, "the ImageCLEF 2009 radiographs", {_TABLE: "file", _IMAGES: "folder"})
        nested = root / _IMAGES / _IMAGES  # as some archives of it unpack
        files = files_in(nested if nested.is_dir() else root / _IMAGES, (".png",))
        coded, failures = _coded(read_table(root / _TABLE, ("image_id", "irma_code"), ";"), files)
        found = check_complete(failures, incomplete, str(root))
        names = {identifier: code[AXES.get(axis, slice(None))][:digits] for identifier, code in coded.items()}
        counts = Counter(names.values())
        classes = sorted(name for name, count in counts.items() if count >= minimum)
        if not classes:
            most = ", ".join(f"{name}: {count}" for name, count in counts.most_common(3)) or "no codes"
            raise DataError(f"{root}: expected classes of at least {minimum} radiographs, got none ({most})")
        self.rare = {name: count for name, count in sorted(counts.items()) if count < minimum}
        numbers = {name: number for number, name in enumerate(classes)}
        entries = [Entry(i, files[i], numbers[name], i) for i, name in names.items() if name in numbers]
        super().__init__(entries, classes, found, functools.partial(radiograph, size=size), f"radiograph {size}")


def _coded(rows: Sequence[dict[str, str]], files: dict[str, Path]) -> tuple[dict[str, str], list[Failure]]:
    """The code of each image that has one, and what is missing."""
    codes: dict[str, str] = {}
    failures = []
    for row in rows:
        name, code = row["image_id"], row["irma_code"].lower()
        if name in codes:
            failures.append(Failure(name, f"expected one row in {_TABLE}, got another"))
        elif not _CODE.fullmatch(code):
            failures.append(Failure(name, f"expected an IRMA code TTTT-DDD-AAA-BBB, got {code or 'none'}"))
        elif name not in files:
            failures.append(Failure(name, f"expected the radiograph {_IMAGES}/{name}.png, got none"))
        else:
            codes[name] = code
    named = {row["image_id"] for row in rows}
    failures += [
        Failure(name, f"expected a row with its code in {_TABLE}, got none") for name in files if name not in named
    ]
    return codes, failures
