"""Boxes round strong regions and focus areas, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxclear.attention import AttentionError, attentive_regions, focus_area

MAPS = hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 8)), elements=st.integers(-3, 9).map(float))


def regions_by_loops(response, threshold):
    """Flood fill over pixels that touch at an edge or a corner."""
    positive = np.maximum(response, 0)
    strong = positive > threshold * positive.max()
    seen = np.zeros(response.shape, bool)
    found = []
    for start in np.ndindex(*response.shape):
        if not strong[start] or seen[start]:
            continue
        seen[start] = True
        waiting, pixels = [start], []
        while waiting:
            row, column = waiting.pop()
            pixels.append((row, column))
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    other = (row + down, column + right)
                    inside = 0 <= other[0] < response.shape[0] and 0 <= other[1] < response.shape[1]
                    if inside and strong[other] and not seen[other]:
                        seen[other] = True
                        waiting.append(other)
        rows, columns = zip(*pixels, strict=True)
        box = (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
        found.append((sum(positive[pixel] for pixel in pixels), box, frozenset(pixels)))
    return found


@settings(max_examples=60, deadline=None)
@given(MAPS, st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_regions_are_those_of_a_flood_fill(response, threshold):
    found = attentive_regions(response, threshold=threshold)
    expected = regions_by_loops(response, threshold)
    total = np.maximum(response, 0).sum()
    assert {(tuple(region.box), frozenset(map(tuple, np.argwhere(region.mask)))) for region in found} == {
        (box, pixels) for _, box, pixels in expected
    }
    np.testing.assert_allclose([r.share for r in found], sorted((s / total for s, *_ in expected), reverse=True))
    assert [r.box for r in attentive_regions(response, threshold=threshold, most=1)] == [r.box for r in found[:1]]


def test_smoothing_joins_what_lies_close():
    response = np.zeros((20, 30))
    response[5, 4:14:3] = 1.0
    response[15, 25] = 1.5
    assert len(attentive_regions(response)) == 5
    assert attentive_regions(response, most=1)[0].box == (15, 25, 16, 26)
    row = attentive_regions(response, sigma=1.5, most=1)[0]
    assert row.mask[5, 4:14:3].all()
    assert row.share == pytest.approx(4 / 5.5)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.floats(0.01, 1))
def test_the_focus_area_holds_the_strongest_pixels(response, area):
    mask = focus_area(response, area)
    count = min(round(area * response.size), (response > 0).sum())
    assert mask.sum() == count
    if 0 < count:
        assert response[mask].min() >= max(response[~mask].max(initial=-np.inf), 0)
        assert response[mask].min() > 0


def test_nothing_responds():
    assert attentive_regions(-np.ones((3, 4))) == ()
    assert not focus_area(np.zeros((3, 4)), 0.5, sigma=1.0).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attentive_regions(np.ones((2, 2)), threshold=1.0), "expected threshold in"),
        (lambda: attentive_regions(np.ones((2, 2)), most=0), "most of at least 1"),
        (lambda: attentive_regions(np.ones((2, 2, 3))), r"expected one finite map \(H, W\), got shape \(2, 2, 3\)"),
        (lambda: focus_area(np.full((2, 2), np.nan), 0.5), "expected one finite map"),
        (lambda: focus_area(np.ones((2, 2)), 0.0), r"expected area in \(0, 1\], got 0"),
        (lambda: focus_area(np.ones((2, 2)), 0.5, sigma=-1.0), "expected sigma >= 0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(AttentionError, match=message):
        call()
