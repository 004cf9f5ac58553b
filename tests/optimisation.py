"""Programs as the tests compile them, beside the same as users have them."""

import jax
import numpy as np


def assert_same_at_both_levels(function, *inputs):
    """What a function gives is the same, but for rounding, at LLVM's level of the tests (conftest.py) and XLA's own."""
    found, expected = (
        jax.jit(function, compiler_options={"xla_backend_optimization_level": level})(*inputs) for level in (0, 3)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max(initial=0))
