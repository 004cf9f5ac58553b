"""Data sets that TFDS prepared, read without TensorFlow, and the preparation of those that can be had without it.

TFDS reads array_record files in any order by itself; of TFRecord files, its default where TensorFlow prepares a data
set, the places of all records are found first (12 bytes of each are read), so that these too can be read in any order.
"""

import bisect
import contextlib
import itertools
import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxclear.data.sources import DataError, ImageSource

if TYPE_CHECKING:
    from jaxclear.data.builders import _Digits

__all__ = ["TfRecords", "TfdsSource", "load_stored"]

_NAMES = {"svhn": "svhn_cropped"}
_PATIENCE = 20
"""Seconds to wait for a server."""
_LENGTH = struct.Struct("<Q")
_HEADER, _FOOTER = 12, 4  # length and its checksum; checksum of the data

PathLike = str | os.PathLike[str]


class TfdsSource(ImageSource):
    """A split of a data set of TFDS.

    Attributes:
        classes: names of the classes.
        folder: where the prepared data set is.
    """

    def __init__(self, rows: Any, classes: tuple[str, ...], folder: Path, split: str) -> None:
        super().__init__(rows)
        self.classes, self.folder, self._split = classes, folder, split

    def identity(self) -> dict[str, str]:
        """Which data set, in which version, and which split."""
        return {"data_set": "/".join(self.folder.parts[-3:]), "split": self._split}


class TfRecords:
    """The examples of a split in TFRecord files."""

    def __init__(self, info: Any, split: str) -> None:
        self._decode = info.features.deserialize_example_np
        self._parts = []  # file and places of its records
        for part in info.splits[split].file_instructions:
            places = _places(Path(part.filename))
            stop = None if part.take == -1 else part.skip + part.take
            self._parts.append((Path(part.filename), places[part.skip : stop]))
        self._ends = list(itertools.accumulate(len(places) for _, places in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        number = bisect.bisect_right(self._ends, index)
        file, places = self._parts[number]
        start, length = places[index - (self._ends[number - 1] if number else 0)]
        with file.open("rb") as opened:
            opened.seek(start)
            return self._decode(opened.read(length))


def _places(file: Path) -> list[tuple[int, int]]:
    """Start and length of each record of a TFRecord file."""
    places, size = [], file.stat().st_size
    with file.open("rb") as opened:
        while (header := opened.tell()) < size:
            head = opened.read(_HEADER)
            length = _LENGTH.unpack(head[:8])[0] if len(head) == _HEADER else size
            if header + _HEADER + length + _FOOTER > size:
                raise DataError(f"{file}: expected whole records, got one cut short at byte {header}; prepare it again")
            places.append((header + _HEADER, length))
            opened.seek(length + _FOOTER, os.SEEK_CUR)
    return places


def load_stored(name: str, split: str, data_dir: PathLike | None, manual_dir: PathLike | None) -> TfdsSource:
    """Returns a split of a data set of TFDS; see `jaxclear.data.load`.

    Raises:
        DataError: it is not there and cannot be prepared, a file is missing or has another checksum, or no such split.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.constants import DATA_DIR

    name = _NAMES.get(name, name)
    root = Path(data_dir if data_dir is not None else DATA_DIR).expanduser()
    folder = _folder(root, name, split) or _prepare(root, name, split, manual_dir)
    builder: Any = tfds.builder_from_directory(folder)
    info = builder.info
    try:
        count = info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise DataError(
            f"expected a split of {name} out of {', '.join(info.splits)}, or part of one as 'train[:90%]', got "
            f"{split!r}"
        ) from error
    if count == 0:
        raise DataError(f"expected at least one item, got none in {name}'s split {split!r}")
    features = info.features
    if "image" not in features or "label" not in features:
        raise DataError(f"expected a data set of images with labels, got {name} with {', '.join(features)}")
    rows = TfRecords(info, split) if info.file_format.value == "tfrecord" else builder.as_data_source(split=split)
    return TfdsSource(rows, tuple(features["label"].names), folder, split)


def _folder(root: Path, name: str, split: str) -> Path | None:
    """The folder of the newest prepared version that has the split; None if the data set is not there.

    Raises:
        DataError: several configurations have it.
    """
    wanted = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]", "", split))) - {"all"}
    base = root / name
    plain = _with_splits([file.parent for file in base.glob("*/dataset_info.json")], wanted)
    configured = _with_splits([file.parent for file in base.glob("*/*/dataset_info.json")], wanted)
    if not plain and len({folder.parent for folder in configured}) > 1 and name not in _own():
        names = ", ".join(sorted(f"{name}/{folder.parent.name}" for folder in configured))
        raise DataError(f"expected the name of one configuration, got {name!r}; there are {names}")
    return next(iter(plain or configured), None)


def _with_splits(folders: Sequence[Path], wanted: set[str]) -> list[Path]:
    """The folders of data sets that have the splits, the newest version first."""
    import tensorflow_datasets as tfds

    have = [folder for folder in folders if wanted <= set(tfds.builder_from_directory(folder).info.splits)]
    return sorted(have, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)], reverse=True)


def _own() -> "dict[str, type[_Digits]]":
    from jaxclear.data.builders import BUILDERS

    return dict(BUILDERS)


def _prepare(root: Path, name: str, split: str, manual_dir: PathLike | None) -> Path:
    """Prepares a data set as array_record; its folder."""
    import tensorflow_datasets as tfds

    if name not in _own():
        there = sorted(path.name for path in (root / name).glob("*")) if (root / name).is_dir() else []
        raise DataError(
            f"expected a data set that TFDS prepared in {root} and that has the split {split!r}, or one of "
            f"{', '.join(sorted(_own()))}, which are prepared here, got {name!r}"
            f"{' with ' + ', '.join(there) if there else ''}; prepare it where TensorFlow is installed, by "
            f"tfds.builder({name!r}, data_dir=...).download_and_prepare()"
        )
    cls = _own()[name]
    options = {"config": "all" if "extra" in split else "train_test"} if cls.BUILDER_CONFIGS else {}
    builder = cls(data_dir=root, file_format="array_record", **options)
    files = [file for needed in builder.needed().values() for file in needed]
    hint = f"or put {', '.join(builder.URL + file for file in files)} into a folder and give it as manual_dir"
    if manual_dir is not None:
        _check_manual(Path(manual_dir).expanduser(), files)
    elif not any((root / "downloads").glob("*")):
        _check_reachable(builder.URL + files[0], hint)
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir, force_checksums_validation=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the caller
            builder.download_and_prepare(download_config=settings)
    except DataError:
        raise
    except Exception as error:  # TFDS, requests and the file system raise many kinds
        raise DataError(
            f"expected to download and prepare {name} in {root}, got {type(error).__name__}: "
            f"{' '.join(str(error).split())}; try again, {hint}"
        ) from error
    return Path(builder.data_dir)


def _check_reachable(url: str, hint: str) -> None:
    """Raises DataError where there is no way to a file: TFDS would try again for minutes."""
    import requests

    try:
        requests.head(url, timeout=_PATIENCE, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        raise DataError(
            f"expected an answer for {url}, got {type(error).__name__}; check the network, {hint}"
        ) from error


def _check_manual(folder: Path, files: Sequence[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"expected {', '.join(files)} in manual_dir {folder}, got none of the name {', '.join(missing)}"
        )
