"""plain first version"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxclear.crystals import form_factors
from jaxclear.crystals.cells import Orientation, bucket, clusters_of, pad
from jaxclear.crystals.structures import read


@dataclass(frozen=True, kw_only=True)
class Beam:
    wavelength: float = 0.05
    detector_distance: float = 0.1
    pixel_size: float = 4e-4
    pixels: int = 64
    inner_radius: float = 10.0
    outer_radius: float = 30.0
    angle: float = 45.0


@functools.cache
def _geometry(beam):
    k = np.arange(beam.pixels) - (beam.pixels - 1) / 2
    kx, ky = np.meshgrid(k, k, indexing="ij")
    p = np.stack([kx * beam.pixel_size, ky * beam.pixel_size, np.full_like(kx, beam.detector_distance)], -1)
    length = np.linalg.norm(p, axis=-1)
    s = (p / length[..., None] - [0, 0, 1]) / beam.wavelength
    radius = np.hypot(kx, ky)
    mask = (radius > beam.inner_radius) & (radius < beam.outer_radius)
    omega = beam.pixel_size**2 * beam.detector_distance / length**3
    rows, columns = np.nonzero(mask)
    return rows, columns, s[mask], (omega / omega.max())[mask]


def _rotations(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        [[[1, 0, 0], [0, c, -s], [0, s, c]], [[c, 0, s], [0, 1, 0], [-s, 0, c]], [[c, -s, 0], [s, c, 0], [0, 0, 1]]]
    )


def _one(positions, species, occupancies, beam):
    rows, columns, s, omega = _geometry(beam)
    radii, where = np.unique(np.round(np.linalg.norm(s, axis=-1), 12), return_inverse=True)
    table = jnp.asarray(form_factors.form_factors(np.arange(99), radii), jnp.float32)
    f = table[species] * occupancies[:, None]
    weights = f[:, where]
    channels = []
    for axis in range(3):
        total = 0.0
        for sign in (1, -1):
            rotated = positions @ jnp.asarray(_rotations(sign * beam.angle)[axis].T, jnp.float32)
            phase = 2 * jnp.pi * (rotated @ jnp.asarray(s.T, jnp.float32))
            total += jnp.sum(weights * jnp.cos(phase), 0) ** 2 + jnp.sum(weights * jnp.sin(phase), 0) ** 2
        channels.append(total * jnp.asarray(omega, jnp.float32))
    image = jnp.zeros((beam.pixels, beam.pixels, 3)).at[rows, columns].set(jnp.stack(channels, -1))
    return image / jnp.maximum(image.max(), 1e-30)


def fingerprint_kernel(positions, species, occupancies, *, beam: Beam = Beam()):
    fn = functools.partial(_one, beam=beam)
    return jax.vmap(fn)(positions, species, occupancies) if positions.ndim == 3 else fn(positions, species, occupancies)


_jitted = jax.jit(fingerprint_kernel)


def fingerprint(
    structures: Any, *, orientation: Orientation = "standard", batch_size: int = 32
) -> Float[np.ndarray, "batch 64 64 3"]:
    """Fingerprints of structures, in order."""
    clusters = clusters_of(read(structures), orientation=orientation)
    images = np.zeros((len(clusters), 64, 64, 3), np.float32)
    sizes = np.array([bucket(len(c.numbers)) for c in clusters])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            images[part] = _jitted(*pad([clusters[i] for i in part]))
    return images
