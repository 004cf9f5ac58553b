import json
from importlib import resources

import numpy as np
import pytest

from jaxclear.crystals.form_factors import MAX_ATOMIC_NUMBER, coefficients, form_factors

NUMBERS = np.arange(MAX_ATOMIC_NUMBER + 1)


def test_forward_scattering_counts_electrons():
    np.testing.assert_allclose(form_factors(NUMBERS, np.zeros(1))[:, 0], NUMBERS, atol=0.06)


def test_padding_scatters_nothing():
    assert not form_factors(np.array([0]), np.linspace(0, 3, 5)).any()


def test_agrees_with_the_electron_scattering_table_of_pymatgen():
    # Another parametrisation, of another quantity: f = Z - 41.78214 (s/2)^2 sum a exp(-b (s/2)^2) (Mott and Bethe).
    path = resources.files("pymatgen.analysis.diffraction") / "atomic_scattering_params.json"
    table = json.loads(path.read_text())
    from pymatgen.core import Element

    s = np.linspace(0.8, 2.4, 9)
    deviations = []
    for number in range(2, 93):
        a, b = np.array(table[Element.from_Z(number).symbol]).T[..., None]
        other = number - 41.78214 * (s / 2) ** 2 * np.sum(a * np.exp(-b * (s / 2) ** 2), axis=0)
        deviations.append(np.abs(form_factors(np.array([number]), s)[0] - other).max() / number)
    assert np.median(deviations) < 0.02
    assert max(deviations) < 0.075  # tin, whose electron table leaves the line of its neighbours; the next is 0.052


def test_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        coefficients()[0] = 1


@pytest.mark.parametrize("number", [-1, 99])
def test_unknown_element(number):
    with pytest.raises(ValueError, match="atomic numbers 0 to 98"):
        form_factors(np.array([number]), np.zeros(1))
