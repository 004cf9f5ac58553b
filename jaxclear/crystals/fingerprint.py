"""The two-dimensional diffraction fingerprint of a crystal structure.

Array contract: positions ``(..., atoms, 3)`` in units of the mean nearest-neighbour distance, images
``(..., 64, 64, 3)`` in [0, 1], float32. The first image axis is the detector's x, the second its y, the beam runs along
z; the channels are the rotations about x, y and z. Wave vectors are in cycles per unit length, the 2π in the exponent.

With pixel indices ``k = i - 31.5``, pixel size ``p`` and detector distance ``D``::

    P = (k_x p, k_y p, D)        s = (P / |P| - z) / wavelength
    F(s) = sum_j f_j(|s|) exp(-2 pi i s . (M r_j))        I = |F|^2 * (solid angle of the pixel)

``M`` turns the structure by +45° and by -45° about the axis; the two intensities are added. Pixels with
``10 < |k| < 30`` are kept, the others are zero, and the three channels are divided by their common maximum.

Source: A. Ziletti, D. Kumar, M. Scheffler and L. M. Ghiringhelli, Nat. Commun. 9, 2775 (2018); D. Kumar, Class Based
Strategies for Understanding Neural Networks, University of Waterloo (2020), appendix A.

Deviations: the form factor is that of the element itself (the original simulator looks up the one two places on), and
the image axes are not permuted by a reshape.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxclear.crystals.batching import run_batched
from jaxclear.crystals.cells import Orientation, clusters_of
from jaxclear.crystals.form_factors import MAX_ATOMIC_NUMBER, form_factors
from jaxclear.crystals.structures import Crystal, read

ATOM_CHUNK = 256
"""Larger structures are summed in chunks of so many atoms, so that memory does not grow with them."""
ACCELERATOR_BATCH = 32
"""Structures worked on at once on a GPU or TPU; on a CPU one at a time, so that its terms stay in the cache."""


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


class _Orbits(NamedTuple):
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
def _orbits(beam: Beam) -> _Orbits:
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
    return _Orbits(sx, sy, sz, elements, angle, pixel)


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


@functools.cache
def _series() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of ``sin(2 pi r) / r`` and ``cos(2 pi r)`` in powers of ``r^2`` for ``|r| <= 1/2``.

    Least squares on Chebyshev nodes, close to the best uniform fit: worst errors 1e-7 and 1e-8, below float32.
    """
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400) / 2
    odd = np.stack([nodes ** (2 * n + 1) for n in range(6)], axis=1)
    even = np.stack([nodes ** (2 * n) for n in range(7)], axis=1)
    sine = np.linalg.lstsq(odd, np.sin(2 * np.pi * nodes), rcond=None)[0]
    cosine = np.linalg.lstsq(even, np.cos(2 * np.pi * nodes), rcond=None)[0]
    return tuple(map(float, sine)), tuple(map(float, cosine))


def _horner(coefficients: tuple[float, ...], x: Float[Array, "..."]) -> Float[Array, "..."]:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


@jax.custom_jvp
def _sincos(turns: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Sine and cosine of ``2 pi turns``, absolute error 2e-7.

    The library functions reduce arguments of any size, in code that XLA may not vectorise on a CPU; in turns the
    reduction is one rounding, and what is left is a polynomial.
    """
    remainder = turns - jnp.round(turns)
    square = remainder * remainder
    sine, cosine = _series()
    return remainder * _horner(sine, square), _horner(cosine, square)


@_sincos.defjvp
def _sincos_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    sine, cosine = _sincos(*primals)
    step = 2 * np.pi * tangents[0]
    return (sine, cosine), (cosine * step, -sine * step)


def _turned(positions: Float[Array, "atoms 3"]) -> Float[Array, "5 atoms 3"]:
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


def _sums(
    turned: Float[Array, "shots atoms 3"], weights: Float[Array, "atoms orbits"], orbits: _Orbits
) -> tuple[Float[Array, "shots 4 orbits"], ...]:
    """The four real sums from which the structure factors at ``k`` and ``-k`` follow.

    With ``u = s_x x + s_y y``, which changes its sign from ``k`` to ``-k``, and ``w = s_z z``, which does not,
    ``F(±k) = sum f exp(-2 pi i w) exp(∓2 pi i u)``: one sine and cosine serve two pixels, those of ``w`` eight.
    """
    x, y, z = turned[..., 0], turned[..., 1], turned[..., 2]
    sx, sy, sz = (jnp.asarray(s, jnp.float32) for s in (orbits.sx, orbits.sy, orbits.sz))
    sin_w, cos_w = _sincos(z[..., None] * sz)
    sin_u, cos_u = _sincos(x[..., None, None] * sx + y[..., None, None] * sy)
    terms = ((weights * cos_w, cos_u), (weights * sin_w, sin_u), (weights * sin_w, cos_u), (weights * cos_w, sin_u))
    return tuple(jnp.einsum("tjo,tjmo->tmo", a, b, precision=lax.Precision.HIGHEST) for a, b in terms)


def _intensities(
    positions: Float[Array, "atoms 3"],
    species: Int[Array, " atoms"],
    occupancies: Float[Array, " atoms"],
    orbits: _Orbits,
) -> Float[Array, "shots 2 4 orbits"]:
    """``|F|^2`` times the solid angle, for the five shots, both signs of ``k``, the four pairs and all orbits."""
    table = jnp.asarray(orbits.form_factors, jnp.float32)

    def chunk(atoms: Any) -> tuple[Float[Array, "shots 4 orbits"], ...]:
        positions, species, occupancies = atoms
        return _sums(_turned(positions), table[species] * occupancies[:, None], orbits)

    atoms = positions, species, occupancies
    if len(species) <= ATOM_CHUNK:
        a, b, c, d = chunk(atoms)
    else:
        missing = -len(species) % ATOM_CHUNK
        atoms = tuple(jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for v in atoms)
        chunks = tuple(v.reshape(-1, ATOM_CHUNK, *v.shape[1:]) for v in atoms)
        zeros = (jnp.zeros((5, 4, len(orbits.sz)), jnp.float32),) * 4
        (a, b, c, d), _ = lax.scan(
            lambda sums, part: (tuple(p + q for p, q in zip(sums, chunk(part), strict=True)), None), zeros, chunks
        )
    plus, minus = (a - b) ** 2 + (c + d) ** 2, (a + b) ** 2 + (c - d) ** 2
    return jnp.stack([plus, minus], axis=1) * jnp.asarray(orbits.solid_angle, jnp.float32)


def _image(intensities: Float[Array, "5 2 4 orbits"], orbits: _Orbits) -> Float[Array, "pixels pixels 3"]:
    """The image from the values of its pixels."""
    values = jnp.pad(intensities.reshape(5, -1), ((0, 0), (0, 1)))
    shots = values[:, orbits.pixel]
    about_z = shots[4] + jnp.rot90(shots[4], k=-1)
    image = jnp.stack([shots[0] + shots[1], shots[2] + shots[3], about_z], axis=-1)
    brightest = image.max()
    return image / jnp.where(brightest > 0, brightest, 1.0)


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
    orbits = _orbits(beam)
    first = np.stack([orbits.sx, orbits.sy, np.broadcast_to(orbits.sz, orbits.sx.shape)], axis=-1).reshape(-1, 3)
    seen = np.concatenate([first, first * [-1, -1, 1], np.full((1, 3), np.nan)])[orbits.pixel]
    inverses = np.asarray(_turned(jnp.eye(3)), np.float64)
    both = np.concatenate([inverses, inverses[4:].transpose(0, 2, 1)]).reshape(3, 2, 3, 3)
    return np.einsum("crij,xyj->xycri", both, seen)


def fingerprint_kernel(
    positions: Float[Array, "*batch atoms 3"],
    species: Int[Array, "*batch atoms"],
    occupancies: Float[Array, "*batch atoms"],
    *,
    beam: Beam = PUBLISHED,
) -> Float[Array, "*batch pixels pixels 3"]:
    """Fingerprints of clusters of atoms; a pure function of arrays, to be compiled, differentiated and exported.

    Differentiable in the positions and in the occupancies. Worst error 1e-5 of the image's maximum against float64.

    Args:
        positions: one cluster or a batch, in units of the mean nearest-neighbour distance. The result does not depend
            on the origin, but float32 does: keep the atoms around it.
        species: atomic numbers 0 to 98; 0 scatters nothing.
        occupancies: weights of the atoms; 0 makes an atom padding.
        beam: the simulated experiment; static.

    Returns:
        Images in [0, 1] whose brightest value over all channels is 1; all zero when nothing scatters.

    Raises:
        ValueError: for arrays whose shapes do not belong together.

    Example:
        >>> import jax.numpy as jnp
        >>> fingerprint_kernel(jnp.eye(3), jnp.array([29, 29, 29]), jnp.ones(3)).shape
        (64, 64, 3)
    """
    positions, occupancies = jnp.asarray(positions, jnp.float32), jnp.asarray(occupancies, jnp.float32)
    species = jnp.asarray(species)
    expected = positions.shape[:-1]
    if positions.ndim not in (2, 3) or positions.shape[-1] != 3 or not species.shape == occupancies.shape == expected:
        raise ValueError(
            "expected positions (atoms, 3) or (batch, atoms, 3), and species and occupancies of the same shape without "
            f"the last axis, got {positions.shape}, {species.shape} and {occupancies.shape}"
        )
    if not jnp.issubdtype(species.dtype, jnp.integer):
        raise ValueError(f"expected integer species, got {species.dtype}; pass atomic numbers")
    orbits = _orbits(beam)

    def single(atoms: Any) -> Float[Array, "pixels pixels 3"]:
        positions, species, occupancies = atoms
        return _image(_intensities(positions, species, occupancies, orbits), orbits)

    if positions.ndim == 2:
        return single((positions, species, occupancies))
    return lax.platform_dependent(
        positions,
        species,
        occupancies,
        cpu=lambda *atoms: lax.map(single, atoms),
        default=lambda *atoms: lax.map(single, atoms, batch_size=ACCELERATOR_BATCH),
    )


_compiled = jax.jit(fingerprint_kernel, static_argnames="beam")


def fingerprint(
    structures: Any,
    *,
    orientation: Orientation = "standard",
    batch_size: int = 32,
    beam: Beam = PUBLISHED,
) -> Float[np.ndarray, "batch 64 64 3"]:
    """Fingerprints of structures, in their order.

    Args:
        structures: anything :func:`~jaxclear.crystals.read` takes: files, ``ase.Atoms``, pymatgen structures, or many.
        orientation: "standard" finds the standard conventional cell of each structure first; "as given" keeps its axes.
        batch_size: most structures in one call of the compiled kernel.
        beam: the simulated experiment.

    Returns:
        Images in [0, 1], float32.

    Raises:
        StructureError: when a structure cannot be used; nothing is compiled before all are read.

    Example:
        >>> from ase.build import bulk
        >>> fingerprint([bulk("Cu"), bulk("Fe")]).shape
        (2, 64, 64, 3)
    """
    return fingerprint_clusters(
        clusters_of(read(structures), orientation=orientation), batch_size=batch_size, beam=beam
    )


def fingerprint_clusters(
    clusters: Sequence[Crystal],
    *,
    d_nn: Float[np.ndarray, " batch"] | None = None,
    batch_size: int = 32,
    beam: Beam = PUBLISHED,
) -> Float[np.ndarray, "batch 64 64 3"]:
    """Fingerprints of finite clusters that were oriented and cut already, with or without defects added.

    Args:
        clusters: as :func:`~jaxclear.crystals.cells.clusters_of` cuts them.
        d_nn: length by which each cluster is divided, Å; its mean nearest-neighbour distance by default.
        batch_size: most clusters in one call of the compiled kernel.
        beam: the simulated experiment.

    Returns:
        Images in [0, 1], float32, in the order of the clusters.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
    if not clusters:
        return np.zeros((0, beam.pixels, beam.pixels, 3), dtype=np.float32)
    return run_batched(functools.partial(_compiled, beam=beam), clusters, d_nn=d_nn, batch_size=batch_size)
