"""Fundus phantoms: drawn discs with vessels, optic disc, macula and uneven light, with lesions whose masks are known.

What makes the grade, after the international clinical scale (C. P. Wilkinson et al., Ophthalmology 110, 1677 (2003)):

    0 negative        no lesion
    1 mild            4 to 10 microaneurysms, nothing else
    2 moderate        the same, 3 to 6 haemorrhages in one or two quadrants, 1 or 2 clusters of exudates
    3 severe          the same microaneurysms, 4 to 6 haemorrhages in each of the four quadrants, 0 to 2 clusters
    4 proliferative   1 or 2 tangles of new vessels, beside the lesions of grade 1, 2 or 3

Lesions are larger, against the fundus, than real ones, so that pictures of 100 pixels hold them: microaneurysms have a
radius of 2.2 to 3 % of the fundus's, haemorrhages 5 to 8 %, exudates 2.2 to 3.5 %. Nothing measured on these phantoms
says how a network does on patients.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from experiments.phantom_shapes import blob, curve, draw_ellipse, draw_rod, smooth_field

__all__ = ["KINDS", "FundusPhantoms", "make"]

KINDS = ("microaneurysm", "haemorrhage", "exudate", "new vessels")
"""Of lesions, in the order of the masks."""
_COLOURS = {"microaneurysm": (0.4, 0.07, 0.07), "haemorrhage": (0.33, 0.05, 0.05), "exudate": (0.96, 0.88, 0.5)}
_NEW_VESSEL = (0.62, 0.08, 0.1)
_MARKED = 0.4
"""Least coverage of a pixel that belongs to a lesion's mask."""


class FundusPhantoms(NamedTuple):
    """Phantoms and what is known of them.

    Attributes:
        images: (N, S, S, 3).
        grades: 0 to 4.
        lesions: where lesions of each of the `KINDS` are.
        fundus: the disc, the same in each.
        photographed: whether the ground is a photograph of a healthy fundus, not a drawing.
    """

    images: UInt8[np.ndarray, "N S S 3"]
    grades: Int[np.ndarray, " N"]
    lesions: Bool[np.ndarray, "N 4 S S"]
    fundus: Bool[np.ndarray, "S S"]
    photographed: Bool[np.ndarray, " N"]


def make(count: int, size: int, *, seed: int, photograph_share: float = 0.0) -> FundusPhantoms:
    """Returns phantoms of all five grades, equally often up to the last few.

    Args:
        count: how many.
        size: height and width, pixels.
        seed: of all draws; phantom i is the same whatever the count.
        photograph_share: part of the phantoms whose ground is scikit-image's photograph of a healthy fundus (CC0, M.
            Häggström), turned, mirrored and lit anew. Needs scikit-image.

    Raises:
        ValueError: less than one phantom, less than 32 pixels, or a share outside [0, 1].
    """
    if count < 1 or size < 32 or not 0 <= photograph_share <= 1:
        raise ValueError(
            f"expected count of at least 1, size of at least 32 and photograph_share in [0, 1], got {count}, {size} "
            f"and {photograph_share}"
        )
    photograph = _photograph(size) if photograph_share else None
    images = np.zeros((count, size, size, 3), np.uint8)
    lesions = np.zeros((count, len(KINDS), size, size), bool)
    grades = np.arange(count, dtype=np.int32) % 5
    photographed = np.zeros(count, bool)
    fundus = _disc(size)
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        photographed[index] = rng.uniform() < photograph_share
        eye = _Eye.draw(size, rng)
        ground = _relit(photograph, rng) if photographed[index] and photograph is not None else _drawn(eye, rng)
        layers = _lesions(int(grades[index]), eye, rng)
        images[index] = _exposed(_painted(ground, layers, rng), fundus, rng)
        lesions[index] = (layers >= _MARKED) & fundus
    return FundusPhantoms(images, grades, lesions, fundus, photographed)


class _Eye(NamedTuple):
    """Where things are, in pixels."""

    size: int
    radius: float
    centre: Float[np.ndarray, " 2"]
    disc: Float[np.ndarray, " 2"]
    macula: Float[np.ndarray, " 2"]

    @classmethod
    def draw(cls, size: int, rng: np.random.Generator) -> "_Eye":
        radius, centre = size / 2 - 1.5, np.full(2, (size - 1) / 2)
        jitter = rng.uniform(-0.06, 0.06, (2, 2))
        # A right eye as a camera sees it: the optic disc on the nasal side, at the right.
        disc = centre + radius * (np.array([0.0, 0.5]) + jitter[0])
        macula = centre + radius * (np.array([0.05, -0.12]) + jitter[1])
        return cls(size, radius, centre, disc, macula)


def _disc(size: int) -> Bool[np.ndarray, "S S"]:
    rows, columns = np.ogrid[:size, :size]
    return np.hypot(rows - (size - 1) / 2, columns - (size - 1) / 2) < size / 2 - 1.5


def _photograph(size: int) -> Float[np.ndarray, "S S 3"]:
    """The photograph, cropped and brought to a size as any other is."""
    import skimage.data

    from jaxclear.data.retinopathy import fundus

    return fundus(skimage.data.retina(), size).astype(np.float64) / 255


def _relit(photograph: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "S S 3"]:
    """The photograph turned by a right angle or mirrored at random, with another exposure."""
    turned = np.rot90(photograph, int(rng.integers(4)))
    turned = turned[:, ::-1] if rng.uniform() < 0.5 else turned
    return np.clip(turned ** rng.uniform(0.8, 1.2) * rng.uniform(0.85, 1.15, 3) * rng.uniform(0.85, 1.1), 0, 1)


def _drawn(eye: _Eye, rng: np.random.Generator) -> Float[np.ndarray, "S S 3"]:
    """A healthy fundus: ground colour, vessels, optic disc and macula."""
    size = eye.size
    tone = np.array([0.78, 0.4, 0.2]) * rng.uniform(0.85, 1.1, 3)
    texture = 1 + 0.05 * smooth_field(size, size / 40, rng) + 0.06 * smooth_field(size, size / 8, rng)
    ground = texture[..., None] * tone
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    spot = np.exp(-((rows - eye.macula[0]) ** 2 + (columns - eye.macula[1]) ** 2) / (0.13 * eye.radius) ** 2)
    ground *= 1 - 0.35 * spot[..., None]
    vessels = _vessels(eye, rng)
    ground = _over(ground, 0.75 * vessels, np.array([0.45, 0.12, 0.1]))
    disc = np.zeros((size, size))
    draw_ellipse(disc, eye.disc, (0.15 * eye.radius, 0.13 * eye.radius))
    # The vessels go over the disc's rim, but show through its bright middle too.
    return _over(ground, 0.85 * disc * (1 - 0.6 * vessels), np.array([0.98, 0.85, 0.55]))


def _vessels(eye: _Eye, rng: np.random.Generator) -> Float[np.ndarray, "S S"]:
    """Four arcades that leave the optic disc, arteries and veins, with branches."""
    layer = np.zeros((eye.size, eye.size))
    step = 0.11 * eye.radius
    for up in (-1, 1):
        for side in (-1, 1):  # towards the macula and away from it
            for _ in range(2):
                heading = np.pi / 2 - up * (np.pi / 2) + up * side * rng.uniform(0.3, 0.9)
                # Arcades bend round the macula.
                bend = up * side * rng.uniform(0.06, 0.12) if side < 0 else 0.0
                points = curve(eye.disc, heading, 14, step, bend + rng.normal(0, 0.12, 14))
                _vessel(layer, points, eye.radius * rng.uniform(0.018, 0.03))
                for joint in rng.choice(np.arange(3, 12), 2, replace=False):
                    way = points[joint + 1] - points[joint]
                    turn = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
                    branch = curve(points[joint], np.arctan2(way[1], way[0]) + turn, 6, step, rng.normal(0, 0.15, 6))
                    _vessel(layer, branch, eye.radius * rng.uniform(0.009, 0.015))
    return layer


def _vessel(layer: np.ndarray, points: np.ndarray, width: float) -> None:
    for part in range(len(points) - 1):
        radius = width * (1 - 0.65 * part / len(points))
        # Finer than a pixel: as wide as one, and fainter.
        thin = np.zeros_like(layer)
        draw_rod(thin, points[part], points[part + 1], max(radius, 0.5))
        np.maximum(layer, thin * min(1.0, radius / 0.5), out=layer)


def _lesions(grade: int, eye: _Eye, rng: np.random.Generator) -> Float[np.ndarray, "4 S S"]:
    """The coverage by each kind of lesion that a grade asks for."""
    layers = np.zeros((len(KINDS), eye.size, eye.size))
    if grade == 4:
        for _ in range(rng.integers(1, 3)):
            _tangle(layers[3], eye, rng)
        grade = int(rng.integers(1, 4))
    if grade >= 1:
        for _ in range(rng.integers(4, 11)):
            radius = eye.radius * rng.uniform(0.022, 0.03)
            place = _place(eye, rng)
            draw_ellipse(layers[0], place, (radius, radius))
    quadrants = {0: [], 1: [], 2: rng.choice(4, int(rng.integers(1, 3)), replace=False), 3: range(4)}[grade]
    total = rng.integers(3, 7)
    for number, quadrant in enumerate(quadrants):
        share = len(range(number, total, len(quadrants))) if grade == 2 else rng.integers(4, 7)
        for _ in range(share):
            blob(layers[1], _place(eye, rng, quadrant=int(quadrant)), eye.radius * rng.uniform(0.05, 0.08), rng)
    for _ in range({0: 0, 1: 0, 2: rng.integers(1, 3), 3: rng.integers(0, 3)}[grade]):
        middle = _place(eye, rng)
        for _ in range(rng.integers(5, 11)):
            radius = eye.radius * rng.uniform(0.022, 0.035)
            draw_ellipse(layers[2], middle + eye.radius * rng.normal(0, 0.06, 2), (radius, radius))
    return layers


def _place(eye: _Eye, rng: np.random.Generator, *, quadrant: int | None = None) -> Float[np.ndarray, " 2"]:
    """A place in the fundus (or in one quadrant of it) beside the optic disc and clear of the rim and the axes."""
    while True:
        angle = rng.uniform(0, 2 * np.pi) if quadrant is None else (quadrant + rng.uniform(0.1, 0.9)) * np.pi / 2
        place = eye.centre + eye.radius * np.sqrt(rng.uniform(0.03, 0.72)) * np.array([np.cos(angle), np.sin(angle)])
        if np.hypot(*(place - eye.disc)) > 0.24 * eye.radius:
            return place


def _tangle(layer: np.ndarray, eye: _Eye, rng: np.random.Generator) -> None:
    """New vessels: a knot of fine curls."""
    middle = _place(eye, rng)
    for _ in range(7):
        start = middle + eye.radius * rng.uniform(-0.05, 0.05, 2)
        bend = rng.choice([-1, 1]) * rng.uniform(0.45, 0.8)
        points = curve(start, rng.uniform(0, 2 * np.pi), 9, 0.045 * eye.radius, bend + rng.normal(0, 0.3, 9))
        for part in range(len(points) - 1):
            draw_rod(layer, points[part], points[part + 1], max(0.009 * eye.radius, 0.5))


def _painted(ground: np.ndarray, layers: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "S S 3"]:
    """The ground with lesions over it, each kind in its colour."""
    for kind, layer in zip(KINDS, layers, strict=True):
        colour = np.array(_COLOURS.get(kind, _NEW_VESSEL)) * rng.uniform(0.9, 1.1)
        ground = _over(ground, rng.uniform(0.65, 0.9) * layer, colour)
    return ground


def _exposed(image: np.ndarray, fundus: np.ndarray, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
    """The picture that a camera takes: uneven light, noise, black round the disc."""
    size = len(image)
    rows, columns = (np.mgrid[:size, :size] / (size - 1)) * 2 - 1
    light = 1 - 0.25 * (rows**2 + columns**2) + rng.uniform(-0.15, 0.15) * rows + rng.uniform(-0.15, 0.15) * columns
    noisy = image * light[..., None] * rng.uniform(0.85, 1.1) + rng.normal(0, 0.012, image.shape)
    return np.rint(255 * np.clip(noisy, 0, 1) * fundus[..., None]).astype(np.uint8)


def _over(ground: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> Float[np.ndarray, "S S 3"]:
    return ground * (1 - cover[..., None]) + cover[..., None] * colour
