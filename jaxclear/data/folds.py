"""Cross-validation: items dealt to folds by whole groups, the classes spread evenly."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from jaxclear.data.sources import DataError

__all__ = ["group_folds"]


def group_folds(
    labels: Int[np.ndarray, " N"], groups: Sequence[Hashable], count: int, *, seed: int = 0
) -> Int[np.ndarray, " N"]:
    """Returns the fold of each item, 0 … count - 1, so that no group (a patient, a nodule) is in two of them.

    The groups, the largest first and those of one size in a random order, go one by one to the fold to which their
    classes are most wanting: where the sum over classes c of (n_c / N_c)², summed over folds, grows least; n_c items of
    the class in the fold, N_c in all; among equals to the emptiest.

    Args:
        labels: class of each item.
        groups: one key an item.
        count: of folds, at least 2.
        seed: of the order.

    Raises:
        DataError: another number of groups than of items, or fewer groups than folds.

    Example:
        >>> group_folds(np.array([0, 0, 1, 1]), "abca", 2).tolist()
        [0, 1, 1, 0]
    """
    keys = [groups[item] for item in range(len(groups))]
    numbers: dict[Hashable, int] = {}
    of_item = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    if len(keys) != len(labels) or not 2 <= count <= len(numbers):
        raise DataError(
            f"expected {len(labels)} groups, one an item, and 2 folds or more, at most one a group; got {len(keys)} "
            f"items in {len(numbers)} groups, and {count} folds"
        )
    classes, own = np.unique(labels, return_inverse=True)
    shares = np.zeros((len(numbers), len(classes)))
    np.add.at(shares, (of_item, own), 1 / np.bincount(own)[own])
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-np.bincount(of_item)[order], kind="stable")]
    filled, fold = np.zeros((count, len(classes))), np.zeros(len(numbers), np.int64)
    for group in order:
        growth = ((filled + shares[group]) ** 2 - filled**2).sum(axis=1)
        fold[group] = np.lexsort((filled.sum(axis=1), growth))[0]
        filled[fold[group]] += shares[group]
    return fold[of_item]
