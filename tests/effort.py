"""How much is tested: everything in little by default, and what takes long with `pytest --thorough` (conftest.py)."""

import os

import pytest


def examples(few):
    """Returns how many examples to test where each takes long: a few, or five times as many."""
    return few * 5 if "TEST_THOROUGH" in os.environ else few


def few_of(values, *kept):
    """Returns values for `pytest.mark.parametrize`, of which only those to keep are tested by default."""
    missing = [value for value in kept if value not in list(values)]
    assert not missing, missing
    return [
        value
        if value in kept
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.thorough)
        for value in values
    ]
