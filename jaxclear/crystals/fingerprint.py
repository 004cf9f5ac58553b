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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxclear.crystals.batching import run_batched
from jaxclear.crystals.beam import PUBLISHED, Beam, Orbits, orbits_of, turned
from jaxclear.crystals.cells import Orientation, clusters_of
from jaxclear.crystals.structures import Crystal, read

ACCELERATOR_BATCH = 32
"""Structures worked on at once on a GPU or TPU; on a CPU one at a time, so that its terms stay in the cache."""
ACCELERATOR_CHUNK = 256
"""Atoms of a structure worked on at once on a GPU or TPU, so that memory does not grow with them."""
CPU_CHUNK = 32
"""Atoms of a structure worked on at once on a CPU; structures are filled up to multiples of it.

As few as stay in the cache, but enough that XLA does not compute their terms anew for each sum: below 16 it does, and
takes ten times as long.
"""


@functools.cache
def _series() -> tuple[float, ...]:
    """Coefficients of ``cos(2 pi r)`` in powers of ``r^2`` for ``|r| <= 1/2``.

    Least squares on Chebyshev nodes, close to the best uniform fit: worst error 1e-8, below float32.
    """
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400) / 2
    even = np.stack([nodes ** (2 * n) for n in range(7)], axis=1)
    return tuple(map(float, np.linalg.lstsq(even, np.cos(2 * np.pi * nodes), rcond=None)[0]))


@jax.custom_jvp
def _cosine(turns: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cosine of ``2 pi turns``, absolute error 5e-7.

    The library function reduces arguments of any size, in code that XLA may not vectorise on a CPU; in turns the
    reduction is one rounding, and what is left is a polynomial.
    """
    remainder = turns - jnp.round(turns)
    square = remainder * remainder
    *others, value = _series()
    for coefficient in reversed(others):
        value = value * square + coefficient
    return jnp.asarray(value)


@_cosine.defjvp
def _cosine_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    return _cosine(*primals), _cosine(primals[0] + 0.25) * (2 * np.pi * tangents[0])


_RealSums = Float[Array, "8 5 2 orbits"]
"""Over the atoms: of cosines and sines of ``2 pi u``, of the five shots, times cosines and sines of ``2 pi w``."""


def _terms(
    positions: Float[Array, "atoms 3"], weights: Float[Array, "atoms orbits"], orbits: Orbits
) -> tuple[Float[Array, "8 5 atoms orbits"], Float[Array, "5 2 atoms orbits"]]:
    """What the structure factors at ``k`` and ``-k`` are sums of products of.

    With ``u = s_x x + s_y y``, which changes its sign from ``k`` to ``-k``, and ``w = s_z z``, which does not,
    ``F(±k) = sum f exp(-2 pi i w) exp(∓2 pi i u)``: one sine and cosine serve two pixels, those of ``w`` eight.

    Returns:
        the cosines of ``2 pi u`` for the four pairs of pixels and then its sines, and the weighted cosine and sine of
        ``2 pi w``, for each of the five shots.
    """
    x, y, z = jnp.moveaxis(turned(positions), -1, 0)
    both = np.array([0, 0.25], np.float32)  # turns from the cosine back to the sine
    sx, sy = (np.concatenate([s, s]).astype(np.float32)[:, None, None] for s in (orbits.sx, orbits.sy))
    across = _cosine(x[..., None] * sx + y[..., None] * sy - np.repeat(both, 4)[:, None, None, None])
    along = _cosine(z[:, None, :, None] * orbits.sz.astype(np.float32) - both[:, None, None])
    return across, weights * along


def _multiplied(across: Float[Array, "8 5 atoms orbits"], along: Float[Array, "5 2 atoms orbits"]) -> _RealSums:
    """The sums over atoms as products of matrices."""
    return jnp.einsum("mtjo,tqjo->mtqo", across, along, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def _added_up(across: Float[Array, "8 5 atoms orbits"], along: Float[Array, "5 2 atoms orbits"]) -> _RealSums:
    """The same, one atom after the other: a loop over the orbits that XLA vectorises on a CPU."""
    atoms = range(along.shape[2])
    return functools.reduce(jnp.add, (across[:, :, None, atom] * along[:, :, atom] for atom in atoms))


@_added_up.defjvp
def _added_up_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[_RealSums, _RealSums]:
    (across, along), (across_step, along_step) = primals, tangents
    return _added_up(across, along), _multiplied(across_step, along) + _multiplied(across, along_step)


class _Way(NamedTuple):
    """How a kind of device goes through structures and atoms."""

    structures: int | None
    """So many at once; one at a time when None."""
    atoms: int
    """At most so many at once."""
    add: Callable[[Any, Any], _RealSums]
    """Adds the terms of so many atoms up."""
    skips: bool
    """Leaves out what is padding alone, which takes a decision while it runs."""


_CPU = _Way(None, CPU_CHUNK, _added_up, skips=True)
_ACCELERATOR = _Way(ACCELERATOR_BATCH, ACCELERATOR_CHUNK, _multiplied, skips=False)


def _sums(atoms: Any, orbits: Orbits, way: _Way) -> _RealSums:
    """The sums over all atoms of a structure, chunk by chunk."""
    table = jnp.asarray(orbits.form_factors, jnp.float32)
    count = len(atoms[1])
    size = min(way.atoms, max(count + -count % CPU_CHUNK, CPU_CHUNK))

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a gradient computes terms again, faster than reading them
    def add(sums: _RealSums, chunk: Any) -> _RealSums:
        positions, species, occupancies = chunk
        return sums + way.add(*_terms(positions, table[species] * occupancies[:, None], orbits))

    def step(sums: _RealSums, chunk: Any) -> tuple[_RealSums, None]:
        if not way.skips:
            return add(sums, chunk), None
        return lax.cond(jnp.any(chunk[1] != 0), add, lambda sums, chunk: sums, sums, chunk), None

    chunks = tuple(
        jnp.pad(v, [(0, -count % size)] + [(0, 0)] * (v.ndim - 1)).reshape(-1, size, *v.shape[1:]) for v in atoms
    )
    # Under `shard_map` the loop's carry must start with the type that it ends with, which varies as the atoms do.
    any_number = sum((jnp.sum(v) for v in atoms), jnp.float32(0))
    nothing = jnp.where(jnp.isnan(any_number), jnp.float32(0), jnp.float32(0))
    return lax.scan(step, jnp.full((8, 5, 2, len(orbits.sz)), nothing), chunks)[0]


def _intensities(atoms: Any, orbits: Orbits, way: _Way) -> Float[Array, "shots 2 4 orbits"]:
    """``|F|^2`` times the solid angle, for the five shots, both signs of ``k``, the four pairs and all orbits."""
    (cos_cos, cos_sin), (sin_cos, sin_sin) = _sums(atoms, orbits, way).reshape(2, 4, 5, 2, -1).transpose(0, 3, 2, 1, 4)
    plus = (cos_cos - sin_sin) ** 2 + (cos_sin + sin_cos) ** 2
    minus = (cos_cos + sin_sin) ** 2 + (cos_sin - sin_cos) ** 2
    return jnp.stack([plus, minus], axis=1) * jnp.asarray(orbits.solid_angle, jnp.float32)


def _image(intensities: Float[Array, "5 2 4 orbits"], orbits: Orbits) -> Float[Array, "pixels pixels 3"]:
    """The image from the values of its pixels."""
    values = jnp.pad(intensities.reshape(5, -1), ((0, 0), (0, 1)))
    shots = values[:, orbits.pixel]
    about_z = shots[4] + jnp.rot90(shots[4], k=-1)
    image = jnp.stack([shots[0] + shots[1], shots[2] + shots[3], about_z], axis=-1)
    brightest = image.max()
    return image / jnp.where(brightest > 0, brightest, 1.0)


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
        species: atomic numbers 0 to 98; 0 scatters nothing. On a CPU whole chunks of it take no time, but under
            `jax.vmap`.
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
    orbits = orbits_of(beam)

    def images(way: _Way, *atoms: Any) -> Float[Array, "*batch pixels pixels 3"]:
        def image(atoms: Any) -> Float[Array, "pixels pixels 3"]:
            return _image(_intensities(atoms, orbits, way), orbits)

        return image(atoms) if atoms[1].ndim == 1 else lax.map(image, atoms, batch_size=way.structures)

    cpu, others = functools.partial(images, _CPU), functools.partial(images, _ACCELERATOR)
    return lax.platform_dependent(positions, species, occupancies, cpu=cpu, default=others)


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
