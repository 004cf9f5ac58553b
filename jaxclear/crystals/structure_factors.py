"""Structure factors of a cell on its own reciprocal lattice, and the background that its Bragg peaks stand on.

Wave vectors do not carry 2 pi. Lattice vectors are rows, in Å.

Source: this project's; kinematic diffraction as in B. E. Warren, X-ray Diffraction (1969), chapters 3 and 13.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

SHELL = 100
"""Wave vectors in a shell whose median gives the background."""
FLOOR = 1e-3
"""Least background, as a fraction of incoherent scattering; a pristine crystal has none of its own."""
SIGNAL = 5.0
"""Typical intensity of a Bragg peak over the background, in the prior of :func:`evidence`."""


class Spectrum(NamedTuple):
    """Structure factors of a cell on its reciprocal lattice, up to a cut-off and without the origin, sorted by length.

    Of each pair of opposite wave vectors, which have the same intensity, there is one.
    """

    indices: Int[np.ndarray, "waves 3"]
    """Integer coordinates in the reciprocal lattice of the cell."""
    lengths: Float[np.ndarray, " waves"]
    """1/Å."""
    amplitudes: Complex[np.ndarray, "species waves"]
    """Structure factor of the atoms of each species, each atom of weight 1."""


def spectrum(
    cell: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "atoms 3"],
    kinds: Int[np.ndarray, " atoms"],
    weights: Float[np.ndarray, " atoms"],
    *,
    cutoff: float,
) -> Spectrum:
    """Structure factors ``sum_j w_j exp(-2 pi i G . r_j)`` of a cell, apart for each kind of atom.

    Exponentials factorise over the three indices, so the sums are one matrix product.

    Args:
        cell: a reduced basis.
        positions: Cartesian, Å.
        kinds: 0, 1, ... for each atom.
        weights: of the atoms, their occupancies.
        cutoff: greatest length of a wave vector, 1/Å.
    """
    order = np.argsort(np.linalg.norm(cell, axis=1))
    inverse = np.linalg.inv(cell)[:, order]
    most = np.floor(cutoff * np.linalg.norm(cell, axis=1) + 1e-9).astype(int)[order]
    least = np.array([0, -most[1], -most[2]])
    inside, square = _half_ball(inverse, least, most, cutoff)
    kept = np.flatnonzero(inside)
    kept = kept[np.argsort(square.ravel()[kept])]
    indices = np.empty((len(kept), 3), dtype=np.int64)
    indices[:, order] = np.column_stack(np.unravel_index(kept, inside.shape)) + least
    first, second, third = (
        _powers(positions @ inverse[:, axis], least[axis], most[axis]).astype(np.complex64) for axis in range(3)
    )
    amplitudes = []
    for kind in range(int(kinds.max()) + 1):
        atoms = kinds == kind
        pairs = (first[atoms] * weights[atoms, None].astype(np.float32))[:, :, None] * second[atoms][:, None, :]
        amplitudes.append((pairs.reshape(len(pairs), -1).T @ third[atoms]).ravel()[kept])
    return Spectrum(indices, np.sqrt(square.ravel()[kept]), np.stack(amplitudes))


def _half_ball(
    reciprocal: Float[np.ndarray, "3 3"], least: Int[np.ndarray, "3"], most: Int[np.ndarray, "3"], cutoff: float
) -> tuple[Bool[np.ndarray, "first second third"], Float[np.ndarray, "first second third"]]:
    """Which wave vectors are shorter than a cut-off, one of each opposite pair, and the squares of their lengths.

    Args:
        reciprocal: lattice vectors, columns.
        least: indices that the axes begin with, the first with 0.
        most: indices that they end with.
        cutoff: 1/Å.
    """
    metric = reciprocal.T @ reciprocal
    h, k, m = np.ix_(*(np.arange(low, high + 1) for low, high in zip(least, most, strict=True)))
    plane = metric[0, 0] * h**2 + metric[1, 1] * k**2 + 2 * metric[0, 1] * h * k
    slope = 2 * (metric[0, 2] * h + metric[1, 2] * k)
    square = plane + m * (metric[2, 2] * m + slope)
    inside = square <= cutoff**2
    inside[0] &= (k[0] > 0) | ((k[0] == 0) & (m[0] > 0))
    return inside, np.maximum(square, 0.0)


def _powers(fractions: Float[np.ndarray, " atoms"], least: int, most: int) -> Complex[np.ndarray, "atoms powers"]:
    """``exp(-2 pi i n x)`` for whole ``n`` from `least`, which is 0 or `-most`, to `most`."""
    base = np.exp(-2j * np.pi * fractions)
    positive = np.ones((len(fractions), most + 1), dtype=np.complex128)
    positive[:, 1:] = base[:, None]
    np.multiply.accumulate(positive, axis=1, out=positive)
    return positive if least == 0 else np.concatenate([positive[:, :0:-1].conj(), positive], axis=1)


def background(intensities: Float[np.ndarray, " waves"], *, floor: float) -> Float[np.ndarray, " waves"]:
    """The mean of exponentially distributed intensities around each wave vector, from the median of shells.

    Args:
        intensities: sorted by the length of the wave vector.
        floor: least background.
    """
    size = min(SHELL, len(intensities))
    shells = len(intensities) // size
    in_order = np.sort(intensities[: shells * size].reshape(shells, size), axis=1)
    medians = (in_order[:, (size - 1) // 2] + in_order[:, size // 2]) / 2 / np.log(2)
    centres = (np.arange(shells) + 0.5) * size
    return np.maximum(np.interp(np.arange(len(intensities)), centres, medians), floor)


def signal(
    spectrum: Spectrum, counts: Float[np.ndarray, " species"]
) -> tuple[Float[np.ndarray, " waves"], Float[np.ndarray, " waves"]]:
    """Intensities in units of the background, and the part of the background that repeats itself from zone to zone.

    Intensities are the greatest over all atoms alike and each species against the average: where species are ordered,
    the difference of their structure factors has peaks that all atoms together lack; in a random alloy it is
    background.

    Args:
        spectrum: structure factors.
        counts: number of atoms of each species.
    """
    total = spectrum.amplitudes.sum(axis=0)
    shares = counts / counts.sum()
    channels = [(total, counts.sum())]
    if len(counts) > 1:
        contrasts = spectrum.amplitudes - shares[:, None] * total
        channels += [(c, n * (1 - s)) for c, n, s in zip(contrasts, counts, shares, strict=True)]
    ratios, coherences = [], []
    for amplitude, incoherent in channels[: 2 if len(counts) == 2 else None]:
        intensity = np.abs(amplitude.astype(np.complex128)) ** 2
        level = background(intensity, floor=FLOOR * incoherent)
        ratios.append(intensity / level)
        coherences.append(coherence(level / incoherent, spectrum.lengths))
    strongest = np.argmax(ratios, axis=0)[None]
    return tuple(np.take_along_axis(np.array(a), strongest, axis=0)[0] for a in (ratios, coherences))


def coherence(level: Float[np.ndarray, " waves"], lengths: Float[np.ndarray, " waves"]) -> Float[np.ndarray, " waves"]:
    """The part of the background that is much the same in every zone.

    Displacements of width ``sigma`` and vacancies of concentration ``c`` scatter ``1 - (1 - c) exp(-w)`` an atom beside
    the Bragg peaks, ``w = (2 pi sigma G)^2``. What vacancies make of it repeats itself in every zone, and nearly so
    the first order in the displacements, ``(1 - c) w exp(-w)``.

    Args:
        level: background an atom.
        lengths: of the wave vectors, 1/Å.
    """
    below = np.minimum(level, 0.95)
    slope, offset = _line(lengths**2, np.log1p(-below), (1 - below) ** 2)
    filled, exponent = min(1.0, float(np.exp(offset))), np.maximum(0.0, -slope * lengths**2)
    return np.clip((1 - filled + filled * exponent * np.exp(-exponent)) / level, 0.0, 1.0)


def _line(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"], weights: Float[np.ndarray, " points"]
) -> tuple[float, float]:
    """Slope and offset of the line with the least weighted squares."""
    total = weights.sum()
    mean_x, mean_y = weights @ x / total, weights @ y / total
    away = weights * (x - mean_x)
    slope = float(away @ y / max(away @ (x - mean_x), np.finfo(float).tiny))
    return slope, float(mean_y - slope * mean_x)


def evidence(ratios: Float[np.ndarray, " waves"]) -> Float[np.ndarray, " waves"]:
    """Log-likelihood ratio (nats) of a Bragg peak to background, for intensities in units of the background.

    Background is exponential, ``p(x) = exp(-x)``. The strength of a Bragg peak is unknown over decades:
    ``p(x) = a / (a + x)^2`` with ``a = SIGNAL``.
    """
    return ratios - np.log(SIGNAL) - 2 * np.log1p(ratios / SIGNAL)
