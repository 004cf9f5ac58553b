"""Point defects, displacements and strain on padded arrays: pure functions of a key.

Each takes one structure as :class:`~jaxclear.crystals.PaddedAtoms` without a batch axis, in any length unit. They
compile, and ``jax.vmap`` over keys gives a thousand defective copies in one call. Atoms keep their places in the
arrays: a vacancy becomes padding, an interstitial takes the place of padding. Counts may be traced; where they ask for
more than there is they are cut to it, and one atom always stays.

:mod:`jaxclear.crystals.defects` has the same for structures, with errors instead of cuts.

Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), table 3.2 and
figure 3.4, for displacements, vacancies and the removal of a sublattice; the other kinds are this project's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from jaxclear.crystals.cells import PaddedAtoms

WAVES = 64
"""Plane waves that make up a field of correlated displacements."""
HOLE_CANDIDATES = 16
"""Places tried for each interstitial; the one farthest from all atoms is taken."""


def count_of(atoms: PaddedAtoms, fraction: ArrayLike) -> Int[Array, ""]:
    """The whole number of atoms nearest to a fraction of a structure's atoms; a half goes to the even number."""
    return jnp.round(fraction * _present(atoms).sum()).astype(jnp.int32)


def displace(
    key: Key[Array, ""], atoms: PaddedAtoms, sigma: ArrayLike, *, correlation: ArrayLike | None = None
) -> PaddedAtoms:
    """The atoms with each coordinate moved by a Gaussian of standard deviation `sigma`.

    Args:
        key: of the draw.
        atoms: one structure.
        sigma: in the unit of the positions.
        correlation: length over which neighbours move together, as in a molecular dynamics frame: the covariance of
            two displacements falls as ``exp(-r^2 / (2 correlation^2))``, from a sum of `WAVES` random plane waves.
            Independent atoms by default.
    """
    positions = jnp.asarray(atoms.positions)
    if correlation is None:
        steps = jax.random.normal(key, positions.shape)
    else:
        waves, phases, amplitudes = jax.random.split(key, 3)
        vectors = jax.random.normal(waves, (WAVES, 3)) / correlation
        angles = positions @ vectors.T + jax.random.uniform(phases, (WAVES,), maxval=2 * np.pi)
        steps = jnp.sqrt(2 / WAVES) * jnp.cos(angles) @ jax.random.normal(amplitudes, (WAVES, 3))
    return atoms._replace(positions=positions + jnp.where(_present(atoms)[:, None], sigma * steps, 0.0))


def remove(
    key: Key[Array, ""], atoms: PaddedAtoms, count: ArrayLike, *, among: Bool[ArrayLike, " atoms"] | None = None
) -> PaddedAtoms:
    """The atoms without `count` of them, drawn without replacement; what is removed becomes padding.

    Args:
        key: of the draw.
        atoms: one structure.
        count: how many; cut so that one atom stays.
        among: which atoms may go, a sublattice say; all by default.
    """
    present = _present(atoms)
    chosen = present if among is None else present & among
    gone = chosen & (_rank(key, chosen) < jnp.minimum(count, present.sum() - 1))
    return PaddedAtoms(
        positions=jnp.where(gone[:, None], 0.0, atoms.positions),
        species=jnp.where(gone, 0, atoms.species),
        occupancies=jnp.where(gone, 0.0, atoms.occupancies),
    )


def substitute(
    key: Key[Array, ""], atoms: PaddedAtoms, count: ArrayLike, species: Int[ArrayLike, " choices"]
) -> PaddedAtoms:
    """The atoms, `count` of which have become another species, each drawn from `species` without its own.

    Args:
        key: of the draw.
        atoms: one structure.
        count: how many; cut to the number of atoms.
        species: atomic numbers to choose from; an atom whose own is the only choice keeps it.
    """
    which, what = jax.random.split(key)
    present, choices = _present(atoms), jnp.asarray(species)
    other = jnp.where(choices == jnp.asarray(atoms.species)[:, None], -jnp.inf, 0.0)
    drawn = choices[jax.random.categorical(what, other, axis=-1)]
    changed = present & (_rank(which, present) < count)
    return atoms._replace(species=jnp.where(changed, drawn, atoms.species))


def insert(
    key: Key[Array, ""],
    atoms: PaddedAtoms,
    count: ArrayLike,
    *,
    lattice: Float[ArrayLike, "3 3"] | None = None,
    most: int | None = None,
) -> PaddedAtoms:
    """The atoms with `count` interstitials of the species that are there, in the places of padding.

    Each lies between a random atom and four of its twelve nearest, in the emptiest of `HOLE_CANDIDATES` places drawn
    there; two interstitials may come close to each other where the structure has few holes.

    Args:
        key: of the draw.
        atoms: one structure; its padding bounds the number.
        count: how many; cut to the padding and to `most`.
        lattice: periods, rows, for distances to periodic images; none by default.
        most: a static bound on `count`, for speed; the size of the arrays by default.
    """
    present = _present(atoms)
    positions, species = jnp.asarray(atoms.positions), jnp.asarray(atoms.species)
    occupied, free = jnp.argsort(~present), jnp.argsort(present)[:most]
    # Without itself among them: XLA sorts them all on a CPU where the first of the nearest is cut off.
    itself = jnp.eye(len(present), dtype=bool)
    near = jnp.where(itself, jnp.inf, _distances(positions, positions, present, lattice))
    neighbours = jax.lax.top_k(-near, min(12, len(present) - 1))[1]

    def drawn(key: Key[Array, ""]) -> tuple[Float[Array, "candidates 3"], Int[Array, " candidates"]]:
        first, others, shares = jax.random.split(key, 3)
        owner = occupied[jax.random.randint(first, (HOLE_CANDIDATES,), 0, present.sum())]
        picked = neighbours[owner[:, None], jax.random.randint(others, (HOLE_CANDIDATES, 4), 0, neighbours.shape[1])]
        steps = _nearest_image(positions[picked] - positions[owner][:, None], lattice)
        # A pick that is padding (structures of fewer than 13 atoms) is no direction to go.
        parts = jax.random.exponential(shares, (HOLE_CANDIDATES, 5))
        weights = parts[:, :4] / parts.sum(axis=1, keepdims=True) * present[picked]
        return positions[owner] + (weights[..., None] * steps).sum(axis=1), owner

    # The loop keeps XLA from drawing the candidates anew for their distance to each atom.
    candidates, owner = jax.lax.map(drawn, jax.random.split(key, len(free)))
    emptiest = _distances(candidates, positions, present, lattice).min(axis=-1).argmax(axis=-1)[:, None]
    places = jnp.take_along_axis(candidates, emptiest[..., None], axis=1)[:, 0]
    owners = jnp.take_along_axis(owner, emptiest, axis=1)[:, 0]
    filled = ~present[free] & (jnp.arange(len(free)) < count)
    return PaddedAtoms(
        positions=positions.at[free].set(jnp.where(filled[:, None], places, positions[free])),
        species=species.at[free].set(jnp.where(filled, species[owners], species[free])),
        occupancies=jnp.asarray(atoms.occupancies)
        .at[free]
        .set(jnp.where(filled, 1.0, jnp.asarray(atoms.occupancies)[free])),
    )


def strain_tensor(key: Key[Array, ""], amount: ArrayLike) -> Float[Array, "3 3"]:
    """A random symmetric strain whose largest principal strain has the size `amount`, its axes uniform in space."""
    values, axes = jax.random.split(key)
    principal = jax.random.uniform(values, (3,), minval=-1.0, maxval=1.0)
    rotation = jax.random.orthogonal(axes, 3)
    return rotation @ jnp.diag(amount * principal / jnp.abs(principal).max()) @ rotation.T


def deform(atoms: PaddedAtoms, tensor: Float[ArrayLike, "3 3"]) -> PaddedAtoms:
    """The atoms under a homogeneous strain, ``r -> (1 + tensor) r``."""
    positions = jnp.asarray(atoms.positions)
    return atoms._replace(positions=positions + positions @ jnp.asarray(tensor).T)


def _present(atoms: PaddedAtoms) -> Bool[Array, " atoms"]:
    return jnp.asarray(atoms.occupancies) > 0


def _rank(key: Key[Array, ""], chosen: Bool[Array, " atoms"]) -> Int[Array, " atoms"]:
    """A random order of the chosen atoms, 0 first; the others come after them."""
    draws = jnp.where(chosen, jax.random.uniform(key, chosen.shape), 2.0)
    return jnp.argsort(jnp.argsort(draws))


def _nearest_image(steps: Float[Array, "... 3"], lattice: Float[ArrayLike, "3 3"] | None) -> Float[Array, "... 3"]:
    """Differences of positions brought close to zero by whole periods."""
    if lattice is None:
        return steps
    periods = jnp.asarray(lattice)
    return steps - jnp.round(steps @ jnp.linalg.inv(periods)) @ periods


def _distances(
    points: Float[Array, "*points 3"],
    positions: Float[Array, "atoms 3"],
    present: Bool[Array, " atoms"],
    lattice: Float[ArrayLike, "3 3"] | None,
) -> Float[Array, "*points atoms"]:
    """Distances of points to atoms; infinite to padding."""
    steps = _nearest_image(points[..., None, :] - positions, lattice)
    return jnp.where(present, jnp.linalg.norm(steps, axis=-1), jnp.inf)
