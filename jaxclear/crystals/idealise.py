"""The symmetry of a motif whose sites are means with errors, and the motif that obeys it exactly.

A symmetry search has one tolerance for lattice and sites, and what it finds at a loose one need be neither a group nor
the largest. Here the lattice may be strained by so much, each site may be off by so much, and of the operations that
pass within a share of both the largest share that makes a group is taken.

Fractional coordinates are rows; an operation maps ``x`` to ``rotation @ x + translation``.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.005)
"""Of what lattice and sites may deviate, tried in turn."""

# In a reduced basis no operation of the lattice has other entries.
_STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step != (0, 0, 0)])


class Operations(NamedTuple):
    """Operations of a motif, each with the permutation of the sites that it makes."""

    rotations: Int[np.ndarray, "operations 3 3"]
    translations: Float[np.ndarray, "operations 3"]
    images: Int[np.ndarray, "operations sites"]
    """The site nearest to the image of each."""
    deviations: Float[np.ndarray, " operations"]
    """Share of what is allowed that the worst of lattice and sites takes."""


class Idealised(NamedTuple):
    """A lattice and sites that obey operations exactly."""

    lattice: Float[np.ndarray, "3 3"]
    """The given one under a pure stretch, Å."""
    fractions: Float[np.ndarray, "sites 3"]
    strain: float
    """Greatest principal strain of the stretch."""
    operations: Operations


def lattice_rotations(
    lattice: Float[np.ndarray, "3 3"], strain: float
) -> tuple[Int[np.ndarray, "operations 3 3"], Float[np.ndarray, " operations"]]:
    """Rotations of a lattice up to a strain, and the share of it that each takes.

    Args:
        lattice: a reduced basis.
        strain: greatest principal strain of the lattice relative to one that has the rotation.
    """
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diag(metric))
    products = _STEPS @ metric @ _STEPS.T
    squares = np.diag(products)
    # Lengths strained by up to +-strain differ by twice that, their squares by four times.
    near = np.abs(squares[:, None] / lengths**2 - 1)
    off = [np.abs(products - metric[i, j]) / (lengths[i] * lengths[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    parts = (
        near[:, None, None, 0],
        near[None, :, None, 1],
        near[None, None, :, 2],
        off[0][:, :, None],
        off[1][:, None, :],
        off[2][None, :, :],
    )
    deviations = functools.reduce(np.maximum, parts) / (4 * strain)
    triples = np.argwhere(deviations <= 1.0)
    rotations = np.swapaxes(_STEPS[triples], 1, 2)
    whole = np.abs(np.round(np.linalg.det(rotations))) == 1
    return rotations[whole], deviations[tuple(triples[whole].T)]


def pure_translation(
    lattice: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    *,
    allowed: Float[np.ndarray, " sites"],
) -> tuple[Int[np.ndarray, "3"], int] | None:
    """A translation that maps the sites onto each other, as numerators over a common order, or None.

    Args:
        lattice: a reduced basis, Å.
        fractions: of the sites.
        kinds: of the sites.
        allowed: greatest distance of each site from its ideal place, Å.
    """
    identity = np.eye(3, dtype=np.int64)[None]
    found = _placed(lattice, fractions, kinds, (identity, np.zeros(1)), allowed)
    sites = np.arange(len(fractions))
    for translation, image in zip(found.translations, found.images, strict=True):
        order, reached = 1, image
        while not np.array_equal(reached, sites):
            order, reached = order + 1, image[reached]
        numerators = np.rint(translation * order).astype(np.int64)
        if np.any(numerators % order):
            return numerators, order
    return None


def operations(
    lattice: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    *,
    strain: float,
    allowed: Float[np.ndarray, " sites"],
) -> Operations:
    """All operations of a motif within what lattice and sites may deviate.

    Args:
        lattice: a reduced basis, Å.
        fractions: of the sites.
        kinds: of the sites; an operation maps each to one of its kind.
        strain: greatest principal strain.
        allowed: greatest distance of each site from its ideal place, Å.
    """
    return _placed(lattice, fractions, kinds, lattice_rotations(lattice, strain), allowed)


def _placed(
    lattice: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    candidates: tuple[Int[np.ndarray, "rotations 3 3"], Float[np.ndarray, " rotations"]],
    allowed: Float[np.ndarray, " sites"],
) -> Operations:
    """The operations that rotations of a lattice, with their deviations, make on a motif."""
    rotations, deviations = candidates
    rarest = np.bincount(kinds).argmin()
    starts = np.flatnonzero(kinds == rarest)
    turned = fractions @ np.swapaxes(rotations, 1, 2)
    shifts = fractions[starts][None] - turned[:, starts[:1]]
    gaps = (turned[:, None] + shifts[:, :, None])[..., None, :] - fractions
    gaps -= np.round(gaps)
    squares = ((gaps @ lattice) ** 2).sum(axis=-1)
    squares = np.where(kinds[:, None] == kinds[None, :], squares, np.inf)
    images = squares.argmin(axis=-1)
    chosen = np.take_along_axis(gaps, images[..., None, None], axis=-2)[..., 0, :]
    # One site's error is in the translation that maps it: the mean gap takes it out.
    means = chosen.mean(axis=2)
    translations = shifts - means
    distances = np.linalg.norm((chosen - means[:, :, None]) @ lattice, axis=-1)
    off = (distances / (allowed + allowed[images])).max(axis=-1)
    worst = np.maximum(off, deviations[:, None])
    one_to_one = np.all(np.sort(images, axis=-1) == np.arange(len(fractions)), axis=-1)
    which, start = np.nonzero(one_to_one & (worst <= 1.0))
    return Operations(rotations[which], translations[which, start], images[which, start], worst[which, start])


def is_group(rotations: Int[np.ndarray, "operations 3 3"]) -> bool:
    """Whether products of any two are there, and no two are the same."""
    keys = (rotations.reshape(len(rotations), 9) + 1) @ 3 ** np.arange(9)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    if np.abs(products).max() > 1:
        return False
    return len(np.unique(keys)) == len(keys) and bool(np.isin((products + 1) @ 3 ** np.arange(9), keys).all())


def symmetrised(
    lattice: Float[np.ndarray, "3 3"], fractions: Float[np.ndarray, "sites 3"], group: Operations
) -> Idealised:
    """The mean of lattice and sites over the operations of a group."""
    rotations = group.rotations.astype(float)
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ (lattice @ lattice.T) @ rotations, axis=0)
    inverse = np.linalg.inv(lattice)
    values, vectors = np.linalg.eigh(inverse @ metric @ inverse.T)
    stretch = vectors * np.sqrt(values) @ vectors.T
    moved = fractions @ np.swapaxes(rotations, 1, 2) + group.translations[:, None]
    gaps = moved - fractions[group.images]
    gaps -= np.round(gaps)
    shift = np.zeros_like(fractions)
    np.add.at(shift, group.images.ravel(), gaps.reshape(-1, 3))
    shift /= len(rotations)
    return Idealised(lattice @ stretch, fractions + shift, float(np.abs(np.sqrt(values) - 1).max()), group)


def idealised(
    lattice: Float[np.ndarray, "3 3"],
    fractions: Float[np.ndarray, "sites 3"],
    kinds: Int[np.ndarray, " sites"],
    *,
    strain: float,
    allowed: Float[np.ndarray, " sites"],
) -> Idealised:
    """The motif in the largest group of operations that it obeys within what lattice and sites may deviate.

    Args:
        lattice: a reduced basis, Å.
        fractions: of the sites.
        kinds: of the sites.
        strain: greatest principal strain that idealising the lattice may take.
        allowed: greatest distance that each site may move, Å.
    """
    found = operations(lattice, fractions, kinds, strain=strain, allowed=allowed)
    for share in SHARES:
        group = Operations(*(part[found.deviations <= share] for part in found))
        if not len(group.rotations) or not is_group(group.rotations):
            continue
        ideal = symmetrised(lattice, fractions, group)
        moves = np.linalg.norm((ideal.fractions - fractions) @ lattice, axis=1)
        if ideal.strain <= strain and np.all(moves <= allowed):
            return ideal
    identity = found.deviations == found.deviations.min()
    return symmetrised(lattice, fractions, Operations(*(part[identity][:1] for part in found)))
