"""Lung nodule phantoms: slices of drawn nodules on drawn lung, with the pixels of nodule, spicules and calcification.

Each nodule has a margin, a density and a size, and gives a few slices, which differ in the size of the section and
in the noise, as neighbouring slices of a scan do. The rule, without label noise:

    malignant    spiculated and not calcified
    benign       smooth, or calcified

So among solid and ground-glass nodules the margin decides, and among spiculated ones the calcification; size decides
nothing. Malignant ones are solid or ground-glass, benign ones smooth and solid, smooth and ground-glass, smooth and
calcified or spiculated and calcified, each equally often.

Drawn in Hounsfield units: parenchyma about -850 with an uneven part and noise, vessels, in a third of the nodules a
chest wall, half of these with a rib (so that bright pixels alone are no sign of a calcified nodule). A window goes
through the preprocessing of `jaxclear.data.lidc`. The rule is a caricature of what radiologists look for: nothing
measured on these phantoms says how a network does on CT.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.phantom_shapes import curve, draw_rod, smooth_field
from jaxclear.data.lidc import AIR, CLASSES, min_max
from jaxclear.data.sources import index_in
from jaxclear.dataset.sources import digests

__all__ = ["DENSITIES", "KINDS", "MARGINS", "Drawing", "Kind", "NodulePhantoms", "draw", "malignant"]

MARGINS = ("smooth", "spiculated")
DENSITIES = ("solid", "ground-glass", "calcified")
_MARKED = 0.4
"""Least coverage of a pixel that belongs to a mask."""
_MARGIN = 4
"""Pixels between the end of the longest spicule and the rim of the window, at least."""


class Kind(NamedTuple):
    """What a nodule is like: margin out of `MARGINS`, density out of `DENSITIES`."""

    margin: str
    density: str


KINDS: tuple[tuple[Kind, ...], tuple[Kind, ...]] = (
    tuple(Kind(*names) for names in (*(("smooth", density) for density in DENSITIES), ("spiculated", "calcified"))),
    (Kind("spiculated", "solid"), Kind("spiculated", "ground-glass")),
)
"""The kinds of benign and of malignant nodules."""


class Drawing(NamedTuple):
    """A window and what is known of it.

    Attributes:
        hounsfield: the window in Hounsfield units.
        mask: the nodule, spicules and calcification included.
        spicules: its spicules outside of its body; none of a smooth nodule.
        calcification: its calcified core; none of others.
    """

    hounsfield: Int[np.ndarray, "S S"]
    mask: Bool[np.ndarray, "S S"]
    spicules: Bool[np.ndarray, "S S"]
    calcification: Bool[np.ndarray, "S S"]


def malignant(kind: Kind) -> bool:
    """Returns whether the rule calls a kind of nodule malignant."""
    return kind.margin == "spiculated" and kind.density != "calcified"


def draw(kind: Kind, size: int, *, seed: int, nodule: int, section: int = 0, sections: int = 1) -> Drawing:
    """Returns one slice of a nodule phantom.

    Args:
        kind: of the nodule.
        size: height and width of the window in pixels.
        seed: of all draws.
        nodule: its number; with the seed it fixes the nodule's shape and surroundings.
        section: which of its slices; only the section's size and the noise depend on it.
        sections: how many there are, the largest in their middle.
    """
    shape, noise = (np.random.default_rng((seed, nodule, part)) for part in (0, 1 + section))
    units = _lung(size, shape)
    off = (section - (sections - 1) / 2) / max(sections, 2)
    radius = shape.uniform(0.075, 0.14) * size * np.sqrt(1 - off**2)
    reach = radius * 1.15 + (radius * 0.55 + 0.05 * size) + _MARGIN
    room = max(size / 2 - reach, 0)
    centre = (size - 1) / 2 + shape.uniform(-1, 1, 2) * min(0.06 * size, room)
    body = _body(size, centre, radius, shape)
    rays = np.zeros((size, size))
    for start, stop, width in _spicules(centre, radius, size, shape):
        draw_rod(rays, start, (start + stop) / 2, width)
        draw_rod(rays, start, stop, 0.6 * width)
    if kind.margin == "smooth":
        rays[:] = 0
    core = np.zeros((size, size))
    place = centre + shape.uniform(-0.15, 0.15, 2) * radius
    draw_rod(core, place, place, shape.uniform(0.45, 0.6) * radius)
    grey = shape.uniform(-480, -350) if kind.density == "ground-glass" else shape.uniform(-20, 60)
    units = _laid(units, np.maximum(body, rays), grey, glass=kind.density == "ground-glass")
    if kind.density == "calcified":
        units = _laid(units, core, shape.uniform(350, 700), glass=False)
    units = units + 35 * smooth_field(size, 0.6, noise)
    mask = np.maximum(body, rays) >= _MARKED
    return Drawing(
        hounsfield=np.clip(np.rint(units), AIR, 3071).astype(np.int16),
        mask=mask,
        spicules=mask & ~(body >= _MARKED),
        calcification=(core >= _MARKED) & mask & (kind.density == "calcified"),
    )


def _lung(size: int, rng: np.random.Generator) -> Float[np.ndarray, "S S"]:
    """Parenchyma with vessels, and perhaps the chest wall with a rib."""
    units = -850 + 35 * smooth_field(size, size / 10, rng) + 25 * smooth_field(size, 1.5, rng)
    vessels = np.zeros((size, size))
    for _ in range(rng.integers(3, 8)):
        points = curve(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), 10, size / 12, rng.normal(0, 0.25, 10))
        for start, stop, width in zip(
            points[:-1], points[1:], np.linspace(rng.uniform(0.8, 2.2), 0.5, 10), strict=True
        ):
            draw_rod(vessels, start, stop, width * size / 96)
    units = _laid(units, vessels, rng.uniform(-250, 0), glass=False)
    if rng.uniform() < 1 / 3:
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.46) * size
        rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
        along, across = (
            rows * np.cos(angle) + columns * np.sin(angle),
            columns * np.cos(angle) - rows * np.sin(angle),
        )
        bulge = depth - across**2 / (3 * size)
        units = _laid(units, np.clip(along - bulge + 0.5, 0, 1), rng.uniform(20, 60), glass=False)
        if rng.uniform() < 0.5:
            rib = np.hypot((along - bulge - 0.12 * size) / (0.06 * size), (across - rng.uniform(-0.2, 0.2) * size) / 16)
            units = _laid(units, np.clip((1 - rib) * 4, 0, 1), rng.uniform(350, 700), glass=False)
    return units


def _body(
    size: int, centre: Float[np.ndarray, " 2"], radius: float, rng: np.random.Generator
) -> Float[np.ndarray, "S S"]:
    """The coverage of a round body whose radius varies a little with the angle."""
    rows, columns = np.mgrid[:size, :size]
    down, right = rows - centre[0], columns - centre[1]
    angle = np.arctan2(right, down)
    edge = radius * np.ones_like(angle)
    for wave in (2, 3):
        edge += radius * rng.uniform(0, 0.07) * np.cos(wave * (angle - rng.uniform(0, 2 * np.pi)))
    return np.clip(edge - np.hypot(down, right) + 0.5, 0, 1)


def _spicules(
    centre: Float[np.ndarray, " 2"], radius: float, size: int, rng: np.random.Generator
) -> Iterator[tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"], float]]:
    """Start, end and half width of spicules all around a body."""
    count = int(rng.integers(9, 15))
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    for angle in angles:
        length = radius * rng.uniform(0.3, 0.55) + rng.uniform(0.02, 0.05) * size
        way = np.array([np.cos(angle), np.sin(angle)])
        bent = np.array([np.cos(angle + 0.15), np.sin(angle + 0.15)])
        yield centre + 0.85 * radius * way, centre + radius * way + length * bent, rng.uniform(0.8, 1.2) * size / 96


def _laid(
    units: Float[np.ndarray, "S S"], layer: Float[np.ndarray, "S S"], value: float, *, glass: bool
) -> Float[np.ndarray, "S S"]:
    """A layer over what is there, by its coverage; glass lets what is denser than itself show through."""
    return units * (1 - layer) + layer * (np.maximum(units, value) if glass else value)


class NodulePhantoms:
    """Slices of nodule phantoms, (size, size, 1), benign or malignant, as `jaxclear.data.lidc.LungNodules` gives them.

    An item also has `hounsfield`, and the masks `mask`, `spicules` and `calcification`.

    Attributes:
        classes: those of LIDC-IDRI.
        failures: none.
        groups: the nodule of each item.
        kinds: what the nodule of each item is like.
        labels: the class of each item; both equally often.
    """

    reading = "threads"

    def __init__(self, nodules: int, *, slices: int = 2, size: int = 96, seed: int = 0) -> None:
        """Decides on the kinds of the nodules.

        Args:
            nodules: how many.
            slices: of each nodule.
            size: height and width of a window in pixels.
            seed: of all draws; nodule i is the same whatever their number.

        Raises:
            ValueError: less than two nodules, no slice, or less than 32 pixels.
        """
        if nodules < 2 or slices < 1 or size < 32:
            raise ValueError(
                f"expected at least 2 nodules, 1 slice and a size of 32, got {nodules}, {slices} and {size}"
            )
        self.classes, self.failures = CLASSES, ()
        self._slices, self._size, self._seed = slices, size, seed
        own = [KINDS[number % 2][number // 2 % len(KINDS[number % 2])] for number in range(nodules)]
        self.kinds = tuple(kind for kind in own for _ in range(slices))
        self.labels: Int[np.ndarray, " N"] = np.array([malignant(kind) for kind in self.kinds], np.int32)
        self.groups = tuple(f"phantom-{number:04d}" for number in range(nodules) for _ in range(slices))

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index_in(self, index)
        drawing = self.drawn(number, self.kinds[number])
        return {
            "image": min_max(drawing.hounsfield),
            "label": int(self.labels[number]),
            "id": self.name(number),
            **drawing._asdict(),
        }

    def drawn(self, index: int, kind: Kind) -> Drawing:
        """Returns an item's slice as it were, had its nodule been of that kind: all else stays as it is."""
        nodule, section = divmod(index, self._slices)
        return draw(kind, self._size, seed=self._seed, nodule=nodule, section=section, sections=self._slices)

    def name(self, index: int) -> str:
        """The phantom's number, its kind, and the number of the slice."""
        return f"{self.groups[index]}/{'-'.join(self.kinds[index])}/slice-{index % self._slices + 1}"

    def identity(self) -> dict[str, str]:
        """Digests of the names and labels, and what the drawings depend on."""
        names = [self.name(index) for index in range(len(self))]
        return digests(names=names, labels=self.labels.tolist()) | {"prepared": f"phantoms {self._seed} {self._size}"}
