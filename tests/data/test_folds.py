"""Folds of whole groups: none in two of them, every item once, the classes spread evenly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclear.data import DataError
from jaxclear.data.folds import group_folds


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=30, max_size=60), st.integers(0, 5))
def test_groups_stay_whole_and_every_fold_has_items(items, seed):
    labels = np.array([label for label, _ in items])
    groups = [f"patient {group}" for _, group in items]
    count = min(3, max(2, len(set(groups))))
    if len(set(groups)) < count:
        return
    folds = group_folds(labels, groups, count, seed=seed)
    of_group: dict[str, set[int]] = {}
    for fold, group in zip(folds, groups, strict=True):
        of_group.setdefault(group, set()).add(int(fold))
    assert all(len(found) == 1 for found in of_group.values())
    assert set(folds) == set(range(count))
    np.testing.assert_array_equal(folds, group_folds(labels, groups, count, seed=seed))


def test_classes_are_spread_evenly():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 300)
    groups = np.repeat(np.arange(300), sizes).tolist()
    labels = np.repeat((rng.uniform(size=300) < 0.3).astype(int), sizes)
    folds = group_folds(labels, groups, 10, seed=1)
    for own in (0, 1):
        counts = np.bincount(folds[labels == own], minlength=10)
        assert np.ptp(counts) <= 12
    assert not np.array_equal(folds, group_folds(labels, groups, 10, seed=2))


def test_no_fold_stays_empty_where_each_class_has_one_group():
    assert sorted(group_folds(np.array([0, 1]), "ab", 2).tolist()) == [0, 1]


def test_errors():
    labels = np.array([0, 1, 1])
    with pytest.raises(DataError, match="got 2 items in 2 groups"):
        group_folds(labels, "ab", 2)
    with pytest.raises(DataError, match="in 2 groups, and 3 folds"):
        group_folds(labels, "aab", 3)
    with pytest.raises(DataError, match="and 1 folds"):
        group_folds(labels, "abc", 1)
