"""Motifs of a structure: whether its atoms are on sites, of which kinds, with which errors, and how well they fit."""

import numpy as np
from jaxtyping import Float, Int

from jaxclear.crystals import lattice as lattices
from jaxclear.crystals import motif as motifs
from jaxclear.crystals.idealise import pure_translation
from jaxclear.crystals.motif import Motif
from jaxclear.crystals.structures import Crystal

LEAST_ON_SITES = 0.75
"""Part of the atoms that have to be on sites."""
MOST_SPREAD = 0.3
"""Greatest standard deviation of a coordinate, in nearest-neighbour distances, of atoms that are on sites."""
MOST_SITES = 40
"""Sites of a primitive cell that are taken; a cell with more is one of no lattice, mostly."""
LEAST_RESIDUAL = 0.02
"""Distance from its ideal place, in nearest-neighbour distances, that a site may have in any case."""
STANDARD_ERRORS = 5.0
"""The same in standard errors of the mean position."""
SAME_KIND = 0.3
"""Sites whose species fractions differ by less are of one kind."""


def motif_of(
    structure: Crystal, primitive: Float[np.ndarray, "3 3"], *, d_nn: float, least_occupancy: float
) -> Motif | None:
    """The averaged motif of a structure, or None when its atoms are not on sites.

    A translation that maps the motif onto itself makes the lattice finer: a chance peak had made it coarse.

    Args:
        structure: checked.
        primitive: lattice vectors, a reduced basis.
        d_nn: an estimate of the nearest-neighbour distance, Å.
        least_occupancy: of a site, relative to the median.
    """
    while True:
        motif = motifs.average(
            primitive, structure.positions, structure.occupancies, d_nn=d_nn, least_occupancy=least_occupancy
        )
        if len(motif.sites) > MOST_SITES or not motif.weights.all():
            return None
        on_sites = float(np.mean(motif.site_of_atom >= 0))
        if on_sites < LEAST_ON_SITES or np.sqrt(motif.variances.mean() / 3) > MOST_SPREAD * d_nn:
            return None
        kinds = kinds_of(shares_of(structure, motif))
        translation = pure_translation(motif.lattice, fractions_of(motif), kinds, allowed=allowed_of(motif, d_nn))
        if translation is None:
            return motif
        numerators, order = translation
        basis = lattices.hermite(np.vstack([order * np.eye(3, dtype=np.int64), numerators]))
        primitive = basis @ motif.lattice / order
        primitive = lattices.reduced(primitive)


def fractions_of(motif: Motif) -> Float[np.ndarray, "sites 3"]:
    """Fractional coordinates of the sites in the primitive lattice."""
    return motif.sites @ np.linalg.inv(motif.lattice)


def allowed_of(motif: Motif, d_nn: float) -> Float[np.ndarray, " sites"]:
    """How far each site may be from its ideal place, by the errors of the means, Å."""
    counts = np.bincount(motif.site_of_atom[motif.site_of_atom >= 0], minlength=len(motif.sites))
    freedom = max(1, counts.sum() - len(counts))
    variance = (motif.variances * counts).sum() / freedom / 3
    return np.maximum(LEAST_RESIDUAL * d_nn, STANDARD_ERRORS * np.sqrt(variance / np.maximum(counts, 1)))


def shares_of(structure: Crystal, motif: Motif) -> Float[np.ndarray, "sites species"]:
    """Fractions of the species, in the order of their numbers, on each site."""
    species, of_atom = np.unique(structure.numbers, return_inverse=True)
    on_site = motif.site_of_atom >= 0
    table = np.zeros((len(motif.sites), len(species)))
    np.add.at(table, (motif.site_of_atom[on_site], of_atom[on_site]), structure.occupancies[on_site])
    return table / table.sum(axis=1, keepdims=True)


def kinds_of(shares: Float[np.ndarray, "sites species"]) -> Int[np.ndarray, " sites"]:
    """Numbers of the kinds of sites: those whose species fractions are alike, or alike to a third one's."""
    kinds = np.arange(len(shares))
    for i in range(len(shares)):
        for j in range(i):
            if kinds[i] != kinds[j] and np.abs(shares[i] - shares[j]).max() < SAME_KIND:
                kinds[kinds == kinds[i]] = kinds[j]
    return np.unique(kinds, return_inverse=True)[1]


def description_length(motif: Motif, volume: float, d_nn: float) -> float:
    """Minus the log-likelihood (nats) of atoms on sites, positions and vacancies, and what the parameters cost (BIC).

    A lattice that is too fine spreads the atoms of each site, or leaves sites empty without need.

    Args:
        motif: sites and atoms.
        volume: of the structure, Å^3.
        d_nn: an estimate of the nearest-neighbour distance, Å.
    """
    on_site = motif.site_of_atom >= 0
    count = len(on_site)
    squares = np.where(on_site, (motif.displacements**2).sum(axis=1), (motifs.REACH * d_nn) ** 2)
    variance = max(float(squares.mean()) / 3, (0.01 * d_nn) ** 2)
    cells = volume / abs(np.linalg.det(motif.lattice))
    filled = np.clip(motif.weights / cells, 1e-9, 1 - 1e-9)
    vacancies = -cells * (filled * np.log(filled) + (1 - filled) * np.log(1 - filled)).sum()
    return float(1.5 * count * np.log(variance) + vacancies + 2 * len(motif.sites) * np.log(count))
