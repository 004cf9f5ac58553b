"""Labelled images: data sets of TensorFlow Datasets, and medical ones in their publishers' own folders.

Each is a source: `len(source)`, and `source[i]` gives `{"image": uint8 (H, W, C), "label": int, "id": str}`. Nothing
here needs TensorFlow.
"""

import os
from typing import Any

from jaxclear.data.sources import (
    DataError,
    Holdout,
    ImageSource,
    LabelledImage,
    LabelledImages,
    Prepared,
    Subset,
    as_source,
    gather,
    holdout,
    labels_of,
    unit_range,
)
from jaxclear.dataset.sources import Source

__all__ = [
    "DataError",
    "Holdout",
    "ImageSource",
    "LabelledImage",
    "LabelledImages",
    "Prepared",
    "Subset",
    "as_source",
    "gather",
    "holdout",
    "labels_of",
    "load",
    "unit_range",
]

_TEST_SHARE = 0.1
_SPLITS = ("train", "test", "all")


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Source:
    """Returns a split of a data set as a source of labelled images.

    Args:
        name: `"mnist"` or `"svhn"`, downloaded and prepared at the first call, without TensorFlow; the name of any
            other data set of images with labels that TFDS prepared in `data_dir` (`"cifar10"`, `"emnist/letters"`);
            or `"retinopathy"`, `"lidc"` or `"imageclef"`, read in place from its publisher's folder (see
            `jaxclear.data.retinopathy`, `.lidc`, `.imageclef`).
        split: a split of TFDS (`"train"`, `"test"`, `"train[:90%]"`, for SVHN also `"extra"`). The publisher's folders
            have no splits: `"all"`, or a tenth of the items, whole patients, as `"test"` and the others as `"train"`,
            the same at each call.
        data_dir: TFDS's folder, where data sets are looked for and prepared, by default TFDS's own
            (`~/tensorflow_datasets`, `TFDS_DATA_DIR`); or the publisher's folder.
        manual_dir: folder with the publisher's files of MNIST or SVHN, for a machine without internet. Their SHA-256
            have to be those that TFDS records, downloaded or not.
        **options: of the publisher's folder: the arguments of its class.

    Raises:
        DataError: it is not there and cannot be had, a checksum differs, no such split, or a folder of another layout.

    Example:
        train = jaxclear.data.load("mnist", "train")
        images, labels, *_ = jaxclear.data.gather(train)
    """
    if name not in ("retinopathy", "lidc", "imageclef"):
        if options:
            raise DataError(f"expected no options for {name!r}, got {', '.join(options)}")
        from jaxclear.data.stored import load_stored

        return load_stored(name, split, data_dir, manual_dir)
    if data_dir is None or manual_dir is not None:
        raise DataError(f"expected the publisher's folder of {name!r} as data_dir, and no manual_dir")
    if split not in _SPLITS:
        raise DataError(f"expected a split of {name!r} out of {', '.join(_SPLITS)}, got {split!r}")
    source = _folder_source(name, data_dir, options)
    return source if split == "all" else getattr(holdout(source, _TEST_SHARE), split)


def _folder_source(name: str, folder: str | os.PathLike[str], options: dict[str, Any]) -> Source:
    if name == "retinopathy":
        from jaxclear.data.retinopathy import Retinopathy

        return Retinopathy(folder, **options)
    if name == "lidc":
        from jaxclear.data.lidc import LungNodules

        return LungNodules(folder, **options)
    from jaxclear.data.imageclef import Radiographs

    return Radiographs(folder, **options)
