"""The simulated experiment of the fingerprint: beam, detector, the wave vectors that its pixels see.

Wave vectors are in cycles per mean nearest-neighbour distance, no 2π. See :mod:`~jaxclear.crystals.fingerprint`.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxclear.crystals.form_factors import MAX_ATOMIC_NUMBER, form_factors


@dataclass(frozen=True, kw_only=True)
class Beam:
    """The simulated experiment; the defaults are the published ones."""

    wavelength: float = 0.05
    """In units of the nearest-neighbour distance (published as Å, with structures scaled to 1 Å)."""
    detector_distance: float = 0.1
    """From the sample to the detector, m."""
    pixel_size: float = 4e-4
    """Edge of a square pixel, m."""
    pixels: int = 64
    """Pixels along one edge of the detector; even."""
    inner_radius: float = 10.0
    """Pixels up to this distance from the beam are dropped."""
    outer_radius: float = 30.0
    """Pixels from this distance on are dropped."""

    def __post_init__(self) -> None:
        lengths = (self.wavelength, self.detector_distance, self.pixel_size)
        if self.pixels < 2 or self.pixels % 2 or not all(length > 0 for length in lengths):
            raise ValueError(f"expected an even number of pixels and lengths above 0, got {self}")
        if not 0 <= self.inner_radius < self.outer_radius:
            raise ValueError(f"expected 0 <= inner_radius < outer_radius, got {self.inner_radius}, {self.outer_radius}")


PUBLISHED = Beam()
"""The published experiment."""


class Orbits(NamedTuple):
    """The kept pixels, grouped by the eightfold symmetry of the detector.

    An orbit is ``k_x >= k_y > 0`` with its images under sign changes and exchange. They share ``|s|`` and ``s_z``, and
    fall into four pairs ``(k, -k)``.
    """

    sx: Float[np.ndarray, "4 orbits"]
    """x component of the wave vector of the first pixel in each pair."""
    sy: Float[np.ndarray, "4 orbits"]
    sz: Float[np.ndarray, " orbits"]
    form_factors: Float[np.ndarray, "elements orbits"]
    solid_angle: Float[np.ndarray, " orbits"]
    """Relative to that of a pixel at the centre of the detector."""
    pixel: Int[np.ndarray, "pixels pixels"]
    """Where a pixel is found among the ``2 * 4 * orbits`` values; one past the end where it is dropped."""


@functools.cache
def orbits_of(beam: Beam) -> Orbits:
    """The geometry of a beam, computed once in float64."""
    half = np.arange(beam.pixels // 2) + 0.5
    kx, ky = np.meshgrid(half, half, indexing="ij")
    radius = np.hypot(kx, ky)
    kept = (radius > beam.inner_radius) & (radius < beam.outer_radius) & (kx >= ky)
    kx, ky = kx[kept], ky[kept]
    first_x, first_y = np.stack([kx, kx, ky, ky]), np.stack([ky, -ky, kx, -kx])
    p, distance = beam.pixel_size, beam.detector_distance
    length = np.sqrt((kx**2 + ky**2) * p**2 + distance**2)
    sx, sy = (k * p / length / beam.wavelength for k in (first_x, first_y))
    sz = (distance / length - 1) / beam.wavelength
    wave_number = np.sqrt(sx[0] ** 2 + sy[0] ** 2 + sz**2)
    elements = form_factors(np.arange(MAX_ATOMIC_NUMBER + 1), wave_number)
    angle = _solid_angle(kx, ky, beam) / _solid_angle(np.zeros(1), np.zeros(1), beam)

    signs = np.array([1.0, -1.0])[:, None, None]
    centre = beam.pixels / 2 - 0.5
    columns = [np.round(signs * k + centre).astype(int).ravel() for k in (first_x, first_y)]
    pixel = np.full((beam.pixels, beam.pixels), columns[0].size)
    pixel[columns[0], columns[1]] = np.arange(columns[0].size)
    return Orbits(sx, sy, sz, elements, angle, pixel)


def _solid_angle(
    kx: Float[np.ndarray, " orbits"], ky: Float[np.ndarray, " orbits"], beam: Beam
) -> Float[np.ndarray, " orbits"]:
    """Solid angle of pixels in sr, exact for a flat rectangle: ``atan(x y / (D |P|))`` differenced over its corners."""
    total = np.zeros_like(kx)
    for i in (0.5, -0.5):
        for j in (0.5, -0.5):
            x, y = (kx + i) * beam.pixel_size, (ky + j) * beam.pixel_size
            distance = beam.detector_distance
            corner = np.arctan2(x * y, distance * np.sqrt(x**2 + y**2 + distance**2))
            total += np.sign(i * j) * corner
    return total


def turned(positions: Float[Array, "atoms 3"]) -> Float[Array, "5 atoms 3"]:
    """The structure turned by +45° and -45° about x, the same about y, and by +45° about z.

    The pattern at -45° about the beam is that at +45° turned by 90° in the detector, whose pixels have that symmetry.
    """
    x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
    half = np.float32(np.sqrt(0.5))
    y_plus_z, y_minus_z, x_plus_z, x_minus_z = (half * v for v in (y + z, y - z, x + z, x - z))
    shots = (
        (x, y_minus_z, y_plus_z),
        (x, y_plus_z, -y_minus_z),
        (x_plus_z, y, -x_minus_z),
        (x_minus_z, y, x_plus_z),
        (half * (x - y), half * (x + y), z),
    )
    return jnp.stack([jnp.stack(shot, axis=-1) for shot in shots])


def wave_vectors(beam: Beam = PUBLISHED) -> Float[np.ndarray, "pixels pixels 3 2 3"]:
    """The wave vectors ``M^-1 s`` that each pixel sees in the structure's own frame, NaN where a pixel is dropped.

    Axes: detector x, detector y, channel (axis of the rotation), rotation by +45° or -45°, component. In cycles per
    nearest-neighbour distance, no 2π.

    Args:
        beam: the simulated experiment.

    Example:
        >>> s = wave_vectors()[55, 31]  # 23.5 pixels from the beam
        >>> print(np.linalg.norm(s, axis=-1).round(2))
        [[1.87 1.87]
         [1.87 1.87]
         [1.87 1.87]]
    """
    orbits = orbits_of(beam)
    first = np.stack([orbits.sx, orbits.sy, np.broadcast_to(orbits.sz, orbits.sx.shape)], axis=-1).reshape(-1, 3)
    seen = np.concatenate([first, first * [-1, -1, 1], np.full((1, 3), np.nan)])[orbits.pixel]
    inverses = np.asarray(turned(jnp.eye(3)), np.float64)
    both = np.concatenate([inverses, inverses[4:].transpose(0, 2, 1)]).reshape(3, 2, 3, 3)
    return np.einsum("crij,xyj->xycri", both, seen)
