"""The length by which a damaged structure is scaled: the nearest-neighbour distance of the crystal that it was.

The published protocol divides by the mean distance of the damaged structure's nearest neighbours. Noise shortens that
(by a quarter at displacements of 0.2 d_nn), vacancies lengthen it, and nearly all errors of the network on damaged
structures are errors of this scale. Here a small network reads it off the distribution of all pair distances, which
has its peaks at the undamaged distances: a correction of the measured mean, trained on damaged structures
(``experiments/train_length_scale.py``).

The features are dimensionless and do not change under rotation, translation and exchange of atoms.
"""

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxclear.crystals.batching import run_batched
from jaxclear.crystals.cells import nearest_neighbour_distance
from jaxclear.crystals.structures import Crystal
from jaxclear.models import weights

BIN = 0.04
"""Spacing and half width of the triangular bins, in mean nearest-neighbour distances."""
CENTRES = np.arange(0.3, 2.6, BIN)
"""Centres of the bins."""
NUM_FEATURES = len(CENTRES) + 3
WIDTHS = (128, 64)
"""Hidden units of the network."""
ONE_SITE = 0.03
"""Atoms closer than this, in the unit of the positions, share a site."""
_FAR = 1e3


class ScaleNetwork(nn.Module):
    """A perceptron from features to the logarithm of the true over the measured nearest-neighbour distance."""

    @nn.compact
    def __call__(self, features: Float[Array, "*batch features"]) -> Float[Array, "*batch"]:
        """The logarithm of the correction."""
        mean = self.variable("standardisation", "mean", jnp.zeros, features.shape[-1])
        deviation = self.variable("standardisation", "deviation", jnp.ones, features.shape[-1])
        hidden = (features - mean.value) / deviation.value
        for width in WIDTHS:
            hidden = nn.gelu(nn.Dense(width)(hidden))
        return nn.Dense(1)(hidden)[..., 0]


def pair_features(
    positions: Float[Array, "atoms 3"], occupancies: Float[Array, " atoms"]
) -> tuple[Float[Array, " features"], Float[Array, ""]]:
    """Features of one structure and its mean nearest-neighbour distance in the unit of the positions.

    The features are the pair distribution in units of that mean, divided by ``r^2`` and by its own average; the
    logarithm of this average; the standard deviation of the nearest-neighbour distances over their mean; and the
    logarithm of the number of atoms.

    Args:
        positions: of a finite cluster, in a unit close to its nearest-neighbour distance; padding anywhere.
        occupancies: weights; 0 for padding. Species that share a site count by them.
    """
    present = occupancies > 0
    count = occupancies.sum()
    distances = jnp.sqrt(((positions[:, None] - positions) ** 2).sum(axis=-1))
    pairs = present[:, None] & present & (distances > ONE_SITE)
    distances = jnp.where(pairs, distances, _FAR)
    nearest = distances.min(axis=1)
    mean = (occupancies * nearest).sum() / count
    spread = jnp.sqrt((occupancies * (nearest / mean - 1) ** 2).sum() / count)
    weights = occupancies[:, None] * occupancies

    def histogram(centre: Float[Array, ""]) -> Float[Array, ""]:
        return (weights * jnp.maximum(0.0, 1 - jnp.abs(distances / mean - centre) / BIN)).sum()

    found = jax.vmap(histogram)(jnp.asarray(CENTRES, jnp.float32)) / (count * CENTRES**2 * BIN)
    average = found.mean() + 1e-6
    return jnp.concatenate([found / average, jnp.stack([jnp.log(average), spread, jnp.log(count)])]), mean


def length_scale_kernel(
    variables: Any, positions: Float[Array, "batch atoms 3"], occupancies: Float[Array, "batch atoms"]
) -> Float[Array, " batch"]:
    """The nearest-neighbour distance of the undamaged crystals, in the unit of the positions; a pure function.

    Args:
        variables: of :class:`ScaleNetwork`.
        positions: of finite clusters of at least two atoms.
        occupancies: 0 for padding.
    """
    features, mean = jax.lax.map(lambda atoms: pair_features(*atoms), (positions, occupancies))
    return mean * jnp.exp(jnp.asarray(ScaleNetwork().apply(variables, features)))


@functools.cache
def shipped_variables() -> Any:
    """The variables of the scale network that ships with the package."""
    file = resources.files("jaxclear.models") / "data" / "length_scale.safetensors"
    like = jax.eval_shape(ScaleNetwork().init, jax.random.key(0), jax.ShapeDtypeStruct((NUM_FEATURES,), jnp.float32))
    found = weights.from_bytes(file.read_bytes(), like, origin=str(file))
    return jax.tree.map(jnp.asarray, found.variables)


def length_scales(clusters: Sequence[Crystal]) -> Float[np.ndarray, " batch"]:
    """The nearest-neighbour distance, in Å, of the crystals that these clusters were before they were damaged.

    Args:
        clusters: finite pieces of crystals with at least two sites each, damaged or not.

    Raises:
        StructureError: for a cluster of one site.
    """
    if not clusters:
        return np.zeros(0)
    measured = np.array([nearest_neighbour_distance(crystal.positions) for crystal in clusters])
    kernel = functools.partial(_compiled, shipped_variables())
    relative = run_batched(
        lambda positions, species, occupancies: kernel(positions, occupancies), clusters, d_nn=measured
    )
    return measured * relative


_compiled = jax.jit(length_scale_kernel)
