"""The shapes that phantoms are drawn of: rods and ellipses with soft edges, and smooth random fields.

Coordinates are (row, column) in pixels, pixel centres at whole numbers. A layer holds the coverage of each pixel,
0 to 1; shapes drawn into one layer are joined.
"""

import numpy as np
from jaxtyping import Float

__all__ = ["blob", "curve", "draw_ellipse", "draw_rod", "smooth_field"]

Point = Float[np.ndarray, " 2"]
Layer = Float[np.ndarray, "H W"]


def draw_rod(layer: Layer, start: Point, stop: Point, radius: float) -> None:
    """Draws a rod with round ends into a layer.

    Args:
        layer: changed in place.
        start: one end.
        stop: the other end; equal to `start` for a disc.
        radius: pixels.
    """
    ends = np.stack([start, stop])
    window, rows, columns = _window(layer, ends.min(0) - radius, ends.max(0) + radius)
    if not layer[window].size:
        return
    along = stop - start
    length = float(along @ along)
    place = ((rows - start[0]) * along[0] + (columns - start[1]) * along[1]) / (length or 1.0)
    place = np.clip(place, 0, 1)
    distance = np.hypot(rows - start[0] - place * along[0], columns - start[1] - place * along[1])
    _join(layer, window, radius - distance)


def draw_ellipse(layer: Layer, centre: Point, radii: tuple[float, float], angle: float = 0.0) -> None:
    """Draws an ellipse into a layer.

    Args:
        layer: changed in place.
        centre: its centre.
        radii: its half axes, pixels.
        angle: from the rows' axis to the first half axis, radians.
    """
    reach = max(radii)
    window, rows, columns = _window(layer, centre - reach, centre + reach)
    if not layer[window].size:
        return
    down, right = rows - centre[0], columns - centre[1]
    first = (down * np.cos(angle) + right * np.sin(angle)) / radii[0]
    second = (right * np.cos(angle) - down * np.sin(angle)) / radii[1]
    _join(layer, window, (1 - np.hypot(first, second)) * min(radii))


def curve(start: Point, heading: float, steps: int, length: float, turns: Float[np.ndarray, " steps"]) -> np.ndarray:
    """Returns the points of a walk, (steps + 1, 2).

    Args:
        start: where it begins.
        heading: its first direction, radians from the rows' axis.
        steps: how many.
        length: of one step, pixels.
        turns: change of direction before each step, radians.
    """
    headings = heading + np.cumsum(turns)
    moves = length * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.concatenate([start[None], start + np.cumsum(moves[:steps], axis=0)])


def blob(layer: Layer, centre: Point, radius: float, rng: np.random.Generator) -> None:
    """Draws an irregular spot of about a radius into a layer: three overlapping ellipses."""
    for _ in range(3):
        radii = radius * rng.uniform(0.6, 1.0, 2)
        draw_ellipse(layer, centre + radius * rng.uniform(-0.4, 0.4, 2), (radii[0], radii[1]), rng.uniform(0, np.pi))


def smooth_field(size: int, grain: float, rng: np.random.Generator) -> Layer:
    """Returns a random field (size, size) of mean 0 and deviation 1 whose structures are about `grain` pixels wide."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.normal(size=(size, size)), grain, mode="wrap")
    return (field - field.mean()) / field.std()


def _window(layer: Layer, low: Point, high: Point) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The part of a layer that a shape can touch, and the coordinates of its pixels."""
    first = np.maximum(np.floor(low).astype(int) - 1, 0)
    last = np.minimum(np.ceil(high).astype(int) + 2, layer.shape)
    window = (slice(first[0], max(first[0], last[0])), slice(first[1], max(first[1], last[1])))
    rows, columns = np.ogrid[window]
    return window, rows, columns


def _join(layer: Layer, window: tuple[slice, slice], depth: np.ndarray) -> None:
    """Covers pixels by how deep their centres lie inside the shape: half of a pixel's width on its edge."""
    layer[window] = np.maximum(layer[window], np.clip(depth + 0.5, 0, 1))
