"""Blocks of equal size: each of what is divided has its place, in order, and little is filled."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxclear.even_blocks import even_groups, group_size, places_in_blocks

counts = st.integers(1, 3000)
few = st.integers(1, 12)


@given(counts, few)
def test_even_groups_take_all(count, most):
    number, size = even_groups(count, most)
    assert size <= most
    assert count <= number * size < count + number
    assert even_groups(number * size, most) == (number, size)


@given(counts, st.integers(1, 70), few, few)
def test_every_place_is_in_a_block_in_order(count, most, devices, together):
    places = places_in_blocks(count, most, devices=devices, together=together)
    np.testing.assert_array_equal(places.ravel()[:count], np.arange(count))
    assert (places.ravel()[count:] == count - 1).all()
    blocks, size = places.shape
    assert size <= most
    assert blocks % devices == 0
    assert blocks // devices % group_size(blocks // devices, together) == 0


@given(counts, few)
def test_groups_are_filled_little(count, most):
    size = group_size(count, most)
    filled = -(-count // size) * size
    assert size <= most
    assert 2 * size >= min(most, count)
    assert filled - count < min(size, 2 + count / most)
    assert group_size(filled, most) == size
