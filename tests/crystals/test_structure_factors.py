import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.crystals import structure_factors


def test_spectrum_against_plain_sums():
    rng = np.random.default_rng(3)
    cell = rng.normal(size=(3, 3)) + 4 * np.eye(3)
    positions, kinds, weights = rng.uniform(-5, 5, (12, 3)), np.arange(12) % 2, rng.uniform(0.5, 1, 12)
    spectrum = structure_factors.spectrum(cell, positions, kinds, weights, cutoff=0.6)
    reciprocal = np.linalg.inv(cell).T
    expected = {}
    for index in np.ndindex(17, 17, 17):
        h = np.array(index) - 8
        g = h @ reciprocal
        if 0 < np.linalg.norm(g) <= 0.6:
            expected[tuple(h)] = [
                sum(
                    w * np.exp(-2j * np.pi * g @ r) for r, k, w in zip(positions, kinds, weights, strict=True) if k == s
                )
                for s in (0, 1)
            ]
    assert 2 * len(spectrum.indices) == len(expected)
    assert np.all(np.diff(spectrum.lengths) >= 0)
    for h, length, amplitude in zip(spectrum.indices, spectrum.lengths, spectrum.amplitudes.T, strict=True):
        np.testing.assert_allclose(length, np.linalg.norm(h @ reciprocal))
        np.testing.assert_allclose(amplitude, expected[tuple(h)], atol=1e-4)


def test_background_of_exponential_intensities():
    rng = np.random.default_rng(0)
    level = np.linspace(1, 5, 4000)
    estimate = structure_factors.background(rng.exponential(level), floor=0.1)
    assert np.abs(estimate / level - 1).mean() < 0.15


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.01, 0.5), st.floats(0.0, 0.005))
def test_coherence_of_vacancies_and_displacements(seed, vacancies, square):
    """The exact background gives its own vacancies and displacements back, by the line through its logarithm."""
    lengths = np.sort(np.random.default_rng(seed).uniform(0.1, 3.0, 400))
    wave = 4 * np.pi**2 * square * lengths**2
    level = 1 - (1 - vacancies) * np.exp(-wave)
    assert level.max() < 0.95
    expected = (vacancies + (1 - vacancies) * wave * np.exp(-wave)) / level
    np.testing.assert_allclose(structure_factors.coherence(level, lengths), expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31))
def test_coherence_of_a_noisy_background_follows_the_line_of_numpy(seed):
    rng = np.random.default_rng(seed)
    lengths, level = np.sort(rng.uniform(0.1, 3.0, 400)), rng.uniform(0.05, 1.2, 400)
    below = np.minimum(level, 0.95)
    slope, offset = np.polyfit(lengths**2, np.log1p(-below), 1, w=1 - below)
    filled, exponent = min(1.0, np.exp(offset)), np.maximum(0.0, -slope * lengths**2)
    expected = np.clip((1 - filled + filled * exponent * np.exp(-exponent)) / level, 0, 1)
    np.testing.assert_allclose(structure_factors.coherence(level, lengths), expected, atol=1e-6)
