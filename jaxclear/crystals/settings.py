"""One description out of the equivalent ones that the standard setting of a space group leaves open.

A crystal may be moved by an operation of the Euclidean normaliser of its space group without leaving the standard
setting: aluminium may have an atom at the origin of its cube or in the middle of it. spglib returns either, by the
order of the atoms; a finite piece cut along the cell differs, and with it the fingerprint. The description is taken
here in which the structure factor of a short wave vector is greatest, for the groups of the classes and for
zincblende.

Source: E. Koch, W. Fischer and U. Müller, International Tables for Crystallography A (2016), chapter 3.5, table
3.5.2.3; the choice by structure factor is this project's.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_WHOLE = np.eye(3, dtype=np.int64)
_QUARTER_TURN = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
_SAME = (_WHOLE, np.zeros(3))
_ALONG_C = [_SAME, (_WHOLE, np.array([0, 0, 0.5]))]
_ALONG_DIAGONAL = [_SAME, (_WHOLE, np.array([0.5, 0.5, 0.5]))]
_ZINCBLENDE = [(turn, np.full(3, quarters / 4)) for turn in (_WHOLE, _QUARTER_TURN) for quarters in range(4)]

EQUIVALENT: dict[int, list[tuple[Int[np.ndarray, "3 3"], Float[np.ndarray, "3"]]]] = {
    **dict.fromkeys((139, 141, 166, 194), _ALONG_C),
    **dict.fromkeys((221, 225, 227), _ALONG_DIAGONAL),
    216: _ZINCBLENDE,
}
"""Rotations and translations, by space group, from one description of a crystal to all of them: ``x -> R x + t``."""

# Short wave vectors; the zero is no vector. Those that tell descriptions apart differ from group to group.
_WAVES = np.array(sorted(itertools.product(range(4), repeat=3), key=lambda wave: (sum(n * n for n in wave), wave))[1:])
_LEAST_DIFFERENCE = 0.02
"""Of structure factors that tell two descriptions apart, relative to that of all atoms in phase."""
_ON_THE_EDGE = 1e-5
"""Fractional coordinates that are less below a whole number are on it."""
_ODD_PART = 0.1
"""Weight of the imaginary part, which decides between descriptions of equal real part."""


def one_description(dataset: Any) -> Any:
    """The dataset of spglib with the one description of the standard setting.

    Positions, transformation and origin are changed together: ``x_standard = transformation_matrix @ x +
    origin_shift`` goes on to hold, up to whole cells. Groups other than those of :data:`EQUIVALENT` keep spglib's
    description. Sites on a face of the cell are on the lower one.
    """
    equivalent = EQUIVALENT.get(int(dataset.number), [_SAME])
    positions = np.asarray(dataset.std_positions, dtype=np.float64)
    weights = np.asarray(dataset.std_types, dtype=np.float64)
    described = [positions @ rotation.T + translation for rotation, translation in equivalent]
    chosen = _greatest(np.array(described), weights / weights.sum()) if len(described) > 1 else 0
    rotation, translation = equivalent[chosen]
    return dataclasses.replace(
        dataset,
        std_positions=described[chosen] - np.floor(described[chosen] + _ON_THE_EDGE),
        transformation_matrix=rotation @ np.asarray(dataset.transformation_matrix),
        origin_shift=(rotation @ np.asarray(dataset.origin_shift) + translation) % 1.0,
    )


def _greatest(described: Float[np.ndarray, "descriptions sites 3"], weights: Float[np.ndarray, " sites"]) -> int:
    """The description whose structure factor is greatest for the first wave vector for which one is."""
    for wave in _WAVES:
        factors = np.exp(2j * np.pi * described @ wave) @ weights
        scores = factors.real + _ODD_PART * factors.imag
        first, second = np.sort(scores)[:-3:-1]
        if first - second > _LEAST_DIFFERENCE * _ODD_PART:
            return int(np.argmax(scores))
    return 0
