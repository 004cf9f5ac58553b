"""X-ray form factors of neutral atoms, from the Cromer–Mann table that gemmi maintains.

``f(s) = sum_{i=1..4} a_i exp(-b_i s^2 / 4) + c`` with ``s = 2 sin(theta) / wavelength`` in cycles per Å (no 2π). The
table covers hydrogen (1) to californium (98); row 0 is zero, so that a padding atom scatters nothing.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

MAX_ATOMIC_NUMBER = 98
"""The heaviest element of the table, californium."""


@functools.cache
def coefficients() -> Float[np.ndarray, "99 9"]:
    """Cromer–Mann coefficients of all elements as rows ``(a1..a4, b1..b4, c)``, float64; ``b`` in Å².

    Source: International Tables for Crystallography, volume C (1992), table 6.1.1.4, as kept by gemmi
    (``Element.it92``).
    """
    import gemmi

    table = np.zeros((MAX_ATOMIC_NUMBER + 1, 9))
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        entry = gemmi.Element(number).it92
        if entry is None:
            raise RuntimeError(f"expected Cromer–Mann coefficients of element {number} in gemmi, got none")
        table[number] = (*entry.a, *entry.b, entry.c)
    table.setflags(write=False)
    return table


def form_factors(
    numbers: Int[np.ndarray, " atoms"], wave_numbers: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "atoms points"]:
    """Form factors in electrons for every atomic number at every wave number, float64.

    Args:
        numbers: atomic numbers 0 to 98; 0 gives zeros.
        wave_numbers: ``|s|`` in cycles per Å.

    Raises:
        ValueError: for an atomic number outside the table.
    """
    numbers = np.asarray(numbers)
    if numbers.size and (numbers.min() < 0 or numbers.max() > MAX_ATOMIC_NUMBER):
        raise ValueError(f"expected atomic numbers 0 to {MAX_ATOMIC_NUMBER}, got {numbers.min()} to {numbers.max()}")
    rows = coefficients()[numbers]
    a, b, c = rows[:, :4, None], rows[:, 4:8, None], rows[:, 8, None]
    return np.sum(a * np.exp(-b * (np.asarray(wave_numbers) / 2) ** 2), axis=1) + c
