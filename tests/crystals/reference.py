"""The fingerprint as plain loops in NumPy float64: every atom, every pixel, every rotation, nothing shared."""

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals.form_factors import coefficients

WAVELENGTH, DISTANCE, PIXEL, PIXELS = 0.05, 0.1, 4e-4, 64


def rotation(axis: int, degrees: float) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns column vectors about an axis, counter-clockwise as seen from its tip."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = cosine
    matrix[i, j], matrix[j, i] = -sine, sine
    return matrix


def solid_angle(x: float, y: float) -> float:
    """Solid angle of the pixel at (x, y) by summing over 16 x 16 parts of it."""
    parts = (np.arange(16) - 7.5) / 16 * PIXEL
    u, v = np.meshgrid(x + parts, y + parts)
    return float(np.sum((PIXEL / 16) ** 2 * DISTANCE / (u**2 + v**2 + DISTANCE**2) ** 1.5))


def fingerprint(
    positions: Float[np.ndarray, "atoms 3"],
    species: Int[np.ndarray, " atoms"],
    occupancies: Float[np.ndarray, " atoms"],
    *,
    pixels: list[tuple[int, int]] | None = None,
) -> Float[np.ndarray, "64 64 3"]:
    """One fingerprint by direct summation; before the division by the maximum when only some pixels are asked for."""
    rows = coefficients()[species]
    image = np.zeros((PIXELS, PIXELS, 3))
    turned = [[positions @ rotation(axis, angle).T for angle in (45, -45)] for axis in range(3)]
    centre = solid_angle(0.0, 0.0)
    for i, j in pixels or np.ndindex(PIXELS, PIXELS):
        kx, ky = i - 31.5, j - 31.5
        if not 10 < np.hypot(kx, ky) < 30:
            continue
        point = np.array([kx * PIXEL, ky * PIXEL, DISTANCE])
        s = (point / np.linalg.norm(point) - np.array([0, 0, 1])) / WAVELENGTH
        gaussians = rows[:, :4] * np.exp(-rows[:, 4:8] * (s @ s) / 4)
        weights = (gaussians.sum(axis=1) + rows[:, 8]) * occupancies
        for axis in range(3):
            for atoms in turned[axis]:
                factor = np.sum(weights * np.exp(-2j * np.pi * (atoms @ s)))
                image[i, j, axis] += np.abs(factor) ** 2 * solid_angle(point[0], point[1]) / centre
    return image if pixels else image / image.max()
