"""Radiograph phantoms: eight regions of the body as drawings of rods and ellipses, with the bones that tell them apart.

Each phantom has a random pose (turned by up to 20°, mirrored, stretched, shifted, every joint a little elsewhere),
contrast, uneven exposure, noise, and a lead marker in a corner that says nothing about the region. Landmarks, after the
anatomy that the study names where it does:

    hand     phalanges and metacarpals           foot    metatarsals, phalanges, cuneiforms and heel
    elbow    trochlea, olecranon, radial head    knee    condyles, tibial plateau, patella, neck of the fibula
    skull    vault, orbits and jaw               chest   ribs
    pelvis   iliac wings, pubic ring             spine   vertebrae with their processes

Other bones (forearm, shins, femurs, the vertebrae beside ribs, pelvis and skull) are drawn, and are no landmarks.
Nothing measured on these phantoms says how a network does on radiographs.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from experiments.phantom_shapes import draw_ellipse, draw_rod, smooth_field

__all__ = ["REGIONS", "LimbPhantoms", "make"]

REGIONS = ("chest", "elbow", "foot", "hand", "knee", "pelvis", "skull", "spine")
_LAYERS = ("tissue", "bone", "landmark")
_MARKED = 0.4
"""Least coverage of a pixel that belongs to a mask."""


class LimbPhantoms(NamedTuple):
    """Phantoms and what is known of them.

    Attributes:
        images: (N, S, S, 1).
        labels: numbers of the `REGIONS`.
        landmarks: the bones that tell the regions apart.
        bones: all bones, landmarks included.
    """

    images: UInt8[np.ndarray, "N S S 1"]
    labels: Int[np.ndarray, " N"]
    landmarks: Bool[np.ndarray, "N S S"]
    bones: Bool[np.ndarray, "N S S"]


class _Pose:
    """A canvas on which drawings in the unit square (-1 to 1, rows downwards) come out posed at random."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.layers = {name: np.zeros((size, size)) for name in _LAYERS}
        angle = np.deg2rad(rng.uniform(-20, 20))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        stretch = rng.uniform(0.78, 0.98) * np.array([rng.uniform(0.93, 1.07), rng.choice([-1, 1])])
        self._matrix = (size / 2) * turn * stretch
        self._shift = (size - 1) / 2 + (size / 2) * rng.uniform(-0.1, 0.1, 2)
        self._scale = (size / 2) * abs(float(stretch[0]))
        self._angle = angle
        self._mirror = np.sign(stretch[1])

    def _at(self, point: tuple[float, float]) -> Float[np.ndarray, " 2"]:
        return self._matrix @ (np.array(point) + self._rng.normal(0, 0.012, 2)) + self._shift

    def rod(self, layer: str, start: tuple[float, float], stop: tuple[float, float], radius: float) -> None:
        """A rod; a bone has broader ends."""
        first, last = self._at(start), self._at(stop)
        draw_rod(self.layers[layer], first, last, radius * self._scale)
        if layer != "tissue":
            for end in (first, last):
                draw_rod(self.layers[layer], end, end, 1.25 * radius * self._scale)

    def ellipse(
        self, layer: str, centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
    ) -> None:
        """An ellipse; `degrees` from downwards to the right."""
        angle = (np.deg2rad(degrees)) * self._mirror - self._angle
        radii = (radii[0] * self._scale, radii[1] * self._scale)
        draw_ellipse(self.layers[layer], self._at(centre), radii, angle)

    def arc(
        self, layer: str, centre: tuple[float, float], radii: tuple[float, float], degrees: tuple[float, float],
        radius: float,
    ) -> None:  # fmt: skip
        """A bent rod along part of an ellipse's rim, from one angle to another."""
        angles = np.deg2rad(np.linspace(*degrees, 13))
        points = [(centre[0] + radii[0] * float(np.cos(a)), centre[1] + radii[1] * float(np.sin(a))) for a in angles]
        places = [self._matrix @ np.array(point) + self._shift for point in points]
        for start, stop in itertools.pairwise(places):
            draw_rod(self.layers[layer], start, stop, radius * self._scale)


def _fingers(pose: _Pose, roots: float, lengths: tuple[float, ...], spread: float, radius: float, parts: int) -> None:
    """Five rays of rods upwards, the thumb's (or great toe's) first."""
    for ray, length in enumerate(lengths):
        side = (ray - 2) * spread
        lean = (ray - 2) * 0.16
        for part in range(parts):
            start, stop = (length * (part + edge) / parts for edge in (0.08, 0.88))
            rod = [(roots - way, side * (1 + 0.4 * way) + lean * way) for way in (start, stop)]
            pose.rod("landmark", rod[0], rod[1], radius * (1 - 0.1 * part))
        tip = (roots - length, side * (1 + 0.4 * length) + lean * length)
        pose.rod("tissue", (roots, side), tip, 2.3 * radius)


def _hand(pose: _Pose) -> None:
    pose.ellipse("tissue", (0.2, 0.0), (0.42, 0.36))
    _fingers(pose, 0.3, (0.72, 1.12, 1.2, 1.12, 0.95), 0.13, 0.042, 4)
    for column in (-0.2, -0.07, 0.07, 0.2):
        pose.ellipse("bone", (0.4, column), (0.07, 0.06))
        pose.ellipse("bone", (0.53, 0.8 * column), (0.06, 0.055))
    for column in (-0.11, 0.11):
        pose.rod("bone", (0.68, column), (1.2, 0.9 * column), 0.07)
    pose.rod("tissue", (0.6, 0.0), (1.3, 0.0), 0.3)


def _foot(pose: _Pose) -> None:
    pose.ellipse("tissue", (0.25, 0.0), (0.85, 0.36))
    _fingers(pose, 0.15, (0.95, 0.9, 0.85, 0.78, 0.7), 0.12, 0.05, 2)
    for column in (-0.2, -0.05, 0.1):
        pose.ellipse("landmark", (0.24, column), (0.09, 0.07))
    pose.ellipse("bone", (0.42, -0.08), (0.08, 0.14))
    pose.ellipse("bone", (0.4, 0.2), (0.12, 0.08))
    pose.ellipse("landmark", (0.75, 0.05), (0.28, 0.15), 8.0)
    pose.ellipse("bone", (0.55, 0.0), (0.1, 0.16))


def _elbow(pose: _Pose) -> None:
    pose.rod("tissue", (-1.2, -0.25), (0.1, -0.2), 0.32)
    pose.rod("tissue", (0.1, -0.2), (0.35, 1.2), 0.28)
    pose.rod("bone", (-1.2, -0.25), (-0.05, -0.2), 0.1)
    pose.rod("bone", (0.16, 0.0), (0.28, 1.2), 0.075)
    pose.rod("bone", (0.38, 0.12), (0.52, 1.2), 0.06)
    pose.ellipse("landmark", (0.03, -0.2), (0.15, 0.2))
    pose.ellipse("landmark", (0.2, -0.36), (0.11, 0.2), 60.0)
    pose.ellipse("landmark", (0.34, 0.02), (0.1, 0.08))


def _knee(pose: _Pose) -> None:
    pose.rod("tissue", (-1.2, 0.0), (0.0, 0.0), 0.45)
    pose.rod("tissue", (0.0, 0.0), (1.2, 0.0), 0.38)
    pose.rod("bone", (-1.2, 0.0), (-0.3, 0.0), 0.13)
    pose.rod("bone", (0.4, -0.05), (1.2, -0.05), 0.12)
    pose.rod("bone", (0.42, 0.27), (1.2, 0.22), 0.045)
    for column in (-0.16, 0.16):
        pose.ellipse("landmark", (-0.14, column), (0.17, 0.18))
    pose.ellipse("landmark", (0.17, 0.0), (0.1, 0.34))
    pose.ellipse("landmark", (-0.36, 0.02), (0.13, 0.11))
    pose.ellipse("landmark", (0.35, 0.28), (0.09, 0.075))


def _skull(pose: _Pose) -> None:
    pose.ellipse("tissue", (-0.15, 0.0), (0.85, 0.68))
    pose.arc("landmark", (-0.15, 0.0), (0.78, 0.62), (60, 300), 0.06)
    for column in (-0.22, 0.22):
        pose.arc("landmark", (0.12, column), (0.13, 0.15), (0, 360), 0.03)
    pose.arc("landmark", (0.3, 0.0), (0.5, 0.38), (-75, 75), 0.06)
    pose.rod("landmark", (0.5, -0.18), (0.5, 0.18), 0.045)
    _vertebrae(pose, "bone", (0.85, 1.15), 2, 0.1)


def _chest(pose: _Pose) -> None:
    pose.ellipse("tissue", (0.1, 0.0), (1.1, 0.9))
    for rib in range(7):
        row = -0.5 + 0.2 * rib
        for side in (-1, 1):
            pose.arc("landmark", (row + 0.12, 0.0), (0.24, side * (0.58 + 0.035 * rib)), (190, 280), 0.03)
    _vertebrae(pose, "bone", (-1.0, 1.1), 11, 0.07)
    for side in (-1, 1):
        pose.rod("bone", (-0.68, side * 0.12), (-0.82, side * 0.62), 0.045)
    pose.ellipse("tissue", (0.35, 0.14), (0.3, 0.26))


def _pelvis(pose: _Pose) -> None:
    pose.ellipse("tissue", (0.1, 0.0), (0.95, 0.95))
    for side in (-1, 1):
        pose.ellipse("landmark", (-0.2, side * 0.48), (0.42, 0.22), side * 30.0)
        pose.arc("landmark", (0.38, side * 0.24), (0.2, 0.2), (0, 360), 0.055)
        pose.ellipse("bone", (0.22, side * 0.66), (0.13, 0.13))
        pose.rod("bone", (0.28, side * 0.7), (1.2, side * 0.6), 0.1)
    _vertebrae(pose, "bone", (-1.1, -0.1), 5, 0.11)


def _spine(pose: _Pose) -> None:
    pose.rod("tissue", (-1.2, 0.0), (1.2, 0.0), 0.6)
    _vertebrae(pose, "landmark", (-1.1, 1.1), 10, 0.15)
    for row in np.linspace(-1.0, 1.0, 10):
        for side in (-1, 1):
            pose.rod("landmark", (float(row), side * 0.17), (float(row) + 0.03, side * 0.36), 0.025)


def _vertebrae(pose: _Pose, layer: str, rows: tuple[float, float], count: int, half: float) -> None:
    for row in np.linspace(*rows, count):
        pose.ellipse(layer, (float(row), 0.0), (0.4 * (rows[1] - rows[0]) / count, half))


_DRAWINGS: dict[str, Callable[[_Pose], None]] = {
    "chest": _chest,
    "elbow": _elbow,
    "foot": _foot,
    "hand": _hand,
    "knee": _knee,
    "pelvis": _pelvis,
    "skull": _skull,
    "spine": _spine,
}


def make(count: int, size: int, *, seed: int) -> LimbPhantoms:
    """Returns phantoms of all regions, equally often up to the last few.

    Args:
        count: how many.
        size: height and width, pixels.
        seed: of all draws; phantom i is the same whatever the count.

    Raises:
        ValueError: less than one phantom, or less than 32 pixels.
    """
    if count < 1 or size < 32:
        raise ValueError(f"expected count of at least 1 and size of at least 32, got {count} and {size}")
    images = np.zeros((count, size, size, 1), np.uint8)
    landmarks, bones = np.zeros((2, count, size, size), bool)
    labels = np.arange(count, dtype=np.int32) % len(REGIONS)
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        pose = _Pose(size, rng)
        _DRAWINGS[REGIONS[labels[index]]](pose)
        images[index, ..., 0] = _exposed(pose.layers, rng)
        landmarks[index] = pose.layers["landmark"] >= _MARKED
        bones[index] = np.maximum(pose.layers["landmark"], pose.layers["bone"]) >= _MARKED
    return LimbPhantoms(images, labels, landmarks, bones)


def _exposed(layers: dict[str, np.ndarray], rng: np.random.Generator) -> UInt8[np.ndarray, "S S"]:
    """The radiograph of a drawing: uneven exposure, noise, a marker, sometimes the collimator's edge."""
    size = len(layers["bone"])
    bone = np.maximum(layers["bone"], layers["landmark"])
    tissue = np.maximum(layers["tissue"], bone)
    picture = rng.uniform(0.2, 0.35) * tissue + rng.uniform(0.25, 0.45) * bone * (1 + 0.1 * smooth_field(size, 2, rng))
    picture = picture * (1 + 0.12 * smooth_field(size, size / 6, rng)) + rng.uniform(0.02, 0.1)
    corner = size * (0.5 + 0.42 * rng.choice([-1, 1], 2))
    marker = np.zeros((size, size))
    draw_rod(marker, corner, corner + size * 0.05 * rng.choice([-1, 1], 2), 0.025 * size)
    picture = np.maximum(picture, 0.95 * marker)
    if rng.uniform() < 0.3:
        edge = int(rng.integers(1, max(2, size // 12)))
        picture[:edge] *= 0.2
        picture[-edge:] *= 0.2
    noisy = picture ** rng.uniform(0.85, 1.2) + rng.normal(0, 0.03, picture.shape)
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
