"""Damage as the published protocol applies it: to the finite cluster, after its standard cell was found.

A damaged cluster keeps the orientation of the pristine crystal, which is what the accuracies on damaged structures
rest on. Positions are in Å.

Source: D. Kumar, Class Based Strategies for Understanding Neural Networks, University of Waterloo (2020), table 3.2.
"""

import numpy as np

from jaxclear.crystals.structures import Crystal


def vacancies(crystal: Crystal, fraction: float, *, seed: int) -> Crystal:
    """The crystal without a random fraction of its atoms, rounded to whole atoms; one atom at least stays.

    Args:
        crystal: a cluster or a supercell.
        fraction: of the atoms, 0 to below 1.
        seed: of the choice.

    Raises:
        ValueError: for a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"expected a fraction of vacancies from 0 to below 1, got {fraction}")
    count = len(crystal.numbers)
    removed = min(round(fraction * count), count - 1)
    kept = np.sort(np.random.default_rng(seed).permutation(count)[removed:])
    return crystal._replace(
        positions=crystal.positions[kept], numbers=crystal.numbers[kept], occupancies=crystal.occupancies[kept]
    )


def displacements(crystal: Crystal, sigma: float, *, seed: int) -> Crystal:
    """The crystal with each coordinate of each atom moved by a Gaussian of standard deviation `sigma`.

    Args:
        crystal: a cluster or a supercell.
        sigma: Å.
        seed: of the draw.

    Raises:
        ValueError: for a negative or infinite `sigma`.
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"expected a finite sigma of at least 0 Å, got {sigma}")
    steps = np.random.default_rng(seed).normal(0.0, sigma, crystal.positions.shape)
    return crystal._replace(positions=crystal.positions + steps)
