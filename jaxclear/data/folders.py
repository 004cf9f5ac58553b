"""What the publishers' folders of image files have in common: a table of labels, and the file of each image."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxclear.data.sources import DataError, LabelledImage, index_in, pixels
from jaxclear.dataset.sources import Failure, digests, versions_of
from jaxclear.file_tree import content_digest
from jaxclear.image_files import open_image

__all__ = ["Entry", "FileSource", "check_folder", "files_in", "read_table"]


class Entry(NamedTuple):
    """An image file: its name in the data set, its class, and what it must not be separated from (a patient)."""

    id: str
    file: Path
    label: int
    group: str


class FileSource:
    """Image files with labels, read when they are asked for.

    Attributes:
        classes: names of the classes.
        failures: name and reason of what is missing.
        groups: for each item what must stay on one side of a split.
        labels: the class of each item.
        reading: how `jaxclear.explain_dataset` may read it.
    """

    reading = "threads"

    def __init__(
        self,
        entries: Sequence[Entry],
        classes: Sequence[str],
        failures: Sequence[Failure],
        prepare: Callable[[UInt8[np.ndarray, "H W C"]], UInt8[np.ndarray, "H2 W2 C2"]],
        settings: str,
    ) -> None:
        self.classes, self.failures = tuple(classes), tuple(failures)
        self.labels: Int[np.ndarray, " N"] = np.array([entry.label for entry in entries], np.int32)
        self.groups = tuple(entry.group for entry in entries)
        self._entries, self._prepare, self._settings = tuple(entries), prepare, settings

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> LabelledImage:
        entry = self._entries[index_in(self, index)]
        try:
            image = self._prepare(pixels(open_image(str(entry.file)), str(entry.file)))
        except DataError:
            raise
        except ValueError as error:  # no image, or a damaged one
            raise DataError(str(error)) from error
        return {"image": image, "label": entry.label, "id": entry.id}

    def name(self, index: int) -> str:
        """The name of an item."""
        return self._entries[index].id

    def identity(self) -> dict[str, str]:
        """Digests of the names, labels, file sizes and content, and how the images are prepared."""
        names, files = [f"{entry.id}={entry.label}" for entry in self._entries], [entry.file for entry in self._entries]
        found = digests(names=names, sizes=[file.stat().st_size for file in files])
        return found | {"contents": content_digest(files), "prepared": self._settings} | versions_of("pillow")


def check_folder(folder: Path, what: str, wanted: Mapping[str, str]) -> None:
    """Checks that a folder has the parts that its publisher gave it.

    Args:
        folder: the folder.
        what: the data set, for the message.
        wanted: for each name below it "file" or "folder".

    Raises:
        DataError: it is not there, or a part is missing.
    """
    if not folder.is_dir():
        raise DataError(f"expected the folder of {what}, got {folder}, which is none; check the name")
    missing = [
        f"the {kind} {name}"
        for name, kind in wanted.items()
        if not ((folder / name).is_file() if kind == "file" else (folder / name).is_dir())
    ]
    if missing:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"expected {what} in {folder}, got it without {' and '.join(missing)}; in it is {there}")


def read_table(file: Path, columns: Sequence[str], delimiter: str) -> list[dict[str, str]]:
    """Returns the rows of a table, with the columns that are asked for.

    Raises:
        DataError: no such columns, a row cut short, or no row.
    """
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, delimiter=delimiter, skipinitialspace=True)
        header = [name.strip() for name in reader.fieldnames or ()]
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(
                f"{file}: expected the columns {', '.join(columns)} separated by {delimiter!r}, got {', '.join(header)}"
            )
        reader.fieldnames = header
        rows = []
        for row in reader:
            values: dict[str, Any] = {column: row[column] for column in columns}
            if any(value is None for value in values.values()):
                raise DataError(f"{file}, line {reader.line_num}: expected {len(header)} values, got a row cut short")
            rows.append({column: value.strip() for column, value in values.items()})
    if not rows:
        raise DataError(f"{file}: expected at least one row, got none")
    return rows


def files_in(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Returns the files of a folder with one of the suffixes (in any case), by their names without it."""
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    }
