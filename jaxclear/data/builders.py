"""TFDS builders of MNIST and SVHN that need no TensorFlow: the stock ones' files, checksums and features.

The builders of TensorFlow Datasets 4.9 open the publishers' files with `tf.io.gfile` and encode images with TensorFlow.
These read IDX (LeCun's format) and MATLAB files themselves and hand over PNGs, which TFDS stores as they are. Names,
versions and features are the stock builders', so that `tfds.data_source` reads what these prepared, and
`jaxclear.data.load` what those did.
"""

import gzip
import io
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from jaxclear.data.sources import DataError

__all__ = ["BUILDERS", "IDX_FILES", "Mnist", "SvhnCropped", "read_idx", "read_mat"]

_UINT8_IDX = 8
IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Images and labels of each split of MNIST."""


def read_idx(file: Path) -> UInt8[np.ndarray, "*shape"]:
    """Returns the array of a gzipped IDX file of unsigned bytes.

    Raises:
        DataError: another format, or a file cut short.
    """
    try:
        content = gzip.decompress(Path(file).read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{file}: expected a gzipped IDX file, got {type(error).__name__}: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8_IDX]):
        raise DataError(f"{file}: expected an IDX file of unsigned bytes (0, 0, 8), got {tuple(content[:3])}")
    axes = content[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:start]) if len(content) >= start else ()
    if len(shape) != axes or len(content) - start != np.prod(shape):
        raise DataError(f"{file}: expected {shape} values, got {max(len(content) - start, 0)}; the file is cut short")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mat(file: Path) -> tuple[UInt8[np.ndarray, "N H W C"], UInt8[np.ndarray, " N"]]:
    """Returns images and digits of a cropped SVHN file, whose variables are X (H, W, C, N) and y (N, 1), 10 for "0".

    Raises:
        DataError: another format, or labels that are no digits.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(str(file), variable_names=["X", "y"])
        images, labels = np.moveaxis(content["X"], -1, 0), content["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # SciPy raises many kinds for a file that is none
        raise DataError(f"{file}: expected a MATLAB file with X and y, got {type(error).__name__}: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
        raise DataError(
            f"{file}: expected X as uint8 (H, W, C, N) and N labels, got {content['X'].shape}, {len(labels)}"
        )
    if labels.min() < 1 or labels.max() > 10:
        raise DataError(f"{file}: expected labels from 1 to 10, got {labels.min()} to {labels.max()}")
    return images, (labels % 10).astype(np.uint8)


def _png(image: UInt8[np.ndarray, "H W C"]) -> io.BytesIO:
    # TFDS stores what a file object gives as it is; an array it would encode with TensorFlow.
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    encoded.seek(0)
    return encoded


def _digits(shape: tuple[int, int, int], **others: Any) -> Any:
    return tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(num_classes=10), **others}
    )


def _recorded(file: str) -> dict[str, Any]:
    """Size, SHA-256 and file name of each address, out of a file of TFDS's own."""
    from tensorflow_datasets.core.download.checksums import load_url_infos
    from tensorflow_datasets.core.utils import tfds_path

    return load_url_infos(tfds_path() / file)


class _Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What both have in common: a base address, and files whose checksums TFDS records."""

    URL: ClassVar[str]
    FILES: ClassVar[Mapping[str, tuple[str, ...]]]
    """Names of the files of each split."""

    def needed(self) -> dict[str, tuple[str, ...]]:
        """The names of the files of each split that is prepared."""
        return dict(self.FILES)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        found = dl_manager.download(
            {split: [self.URL + name for name in names] for split, names in self.needed().items()}
        )
        return {split: self._generate_examples(split, [Path(path) for path in paths]) for split, paths in found.items()}


class Mnist(_Digits, skip_registration=True):
    """MNIST, 60,000 and 10,000 digits of 28×28 (LeCun, Cortes, Burges), as TFDS's builder `mnist`."""

    name = "mnist"
    VERSION = tfds.core.Version("3.0.1")
    URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    FILES: ClassVar = IDX_FILES
    url_infos = _recorded("url_checksums/mnist.txt")

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The MNIST database of handwritten digits.",
            features=_digits((28, 28, 1)),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
        )

    def _generate_examples(self, split: str, files: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = (read_idx(file) for file in files)
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise DataError(f"{split}: expected images (N, 28, 28) and N labels, got {images.shape}, {labels.shape}")
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": _png(image[..., None]), "label": int(label)}


class SvhnCropped(_Digits, skip_registration=True):
    """SVHN's cropped digits of 32×32 (Netzer et al. 2011), as TFDS's builder `svhn_cropped`.

    73,257 digits in `train`, 26,032 in `test`; the 531,131 of `extra` (1.3 GB) are a configuration of their own, so
    that nobody has to download them for the other two.
    """

    name = "svhn_cropped"
    VERSION = tfds.core.Version("3.1.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="train_test", description="train and test"),
        tfds.core.BuilderConfig(name="all", description="train, test and extra"),
    ]
    URL = "http://ufldl.stanford.edu/housenumbers/"
    FILES: ClassVar = {split: (f"{split}_32x32.mat",) for split in ("train", "test", "extra")}
    url_infos = _recorded("datasets/svhn_cropped/checksums.tsv")

    def needed(self) -> dict[str, tuple[str, ...]]:
        """The names of the files of each split that is prepared."""
        everything = self.builder_config is not None and self.builder_config.name == "all"
        return {split: files for split, files in self.FILES.items() if split != "extra" or everything}

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The Street View House Numbers (SVHN) data set, cropped digits.",
            features=_digits((32, 32, 3), id=tfds.features.Text()),
            supervised_keys=("image", "label"),
            homepage=self.URL,
        )

    def _generate_examples(self, split: str, files: list[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = read_mat(files[0])
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": _png(image), "label": int(label), "id": f"{split}_{index:06d}"}


BUILDERS: Mapping[str, type[_Digits]] = {builder.name: builder for builder in (Mnist, SvhnCropped)}
"""What can be prepared without TensorFlow."""
