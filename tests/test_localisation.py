"""Maps scored against masks, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.localisation import LocalisationError, localise


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)))
def test_shares_and_hits_are_those_of_loops(seed, shape):
    rng = np.random.default_rng(seed)
    responses, masks = rng.normal(size=shape), rng.uniform(size=shape) < 0.3
    within = rng.uniform(size=shape) < 0.7
    found = localise(responses, masks, within=within)
    for b in range(shape[0]):
        total = on_mask = 0.0
        pixels = inside = 0
        best, hit = 0.0, False
        for row, column in np.ndindex(*shape[1:]):
            if not within[b, row, column]:
                continue
            inside += 1
            pixels += masks[b, row, column]
            response = max(responses[b, row, column], 0.0)
            total += response
            on_mask += response * masks[b, row, column]
            if response > best:
                best, hit = response, masks[b, row, column]
        if total == 0 or pixels == 0:
            assert np.isnan([found.share[b], found.area[b], found.hit[b]]).all()
        else:
            np.testing.assert_allclose([found.share[b], found.area[b]], [on_mask / total, pixels / inside])
            assert found.hit[b] == hit


def test_a_map_that_knows_nothing_has_the_share_of_the_area():
    masks = np.zeros((1, 40, 50), bool)
    masks[0, 5:15, 20:30] = True
    found = localise(np.ones((1, 40, 50)), masks)
    assert found.share == found.area == pytest.approx(0.05)
    assert localise(np.where(masks, 2.0, -1.0), masks).share == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(LocalisationError, match="expected responses and boolean masks of one shape"):
        localise(np.ones((2, 3, 3)), np.ones((2, 3, 4), bool))
    with pytest.raises(LocalisationError, match="int64"):
        localise(np.ones((2, 3)), np.ones((2, 3), np.int64))
