"""How well a score tells two classes apart: accuracy, sensitivity, specificity, the ROC curve and the area under it.

Array contract: one score an item, the higher the more it speaks for the positive class (label 1); labels are 0 or 1.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["BinaryScores", "MetricError", "RocCurve", "area_under", "binary_scores", "roc_curve"]


class MetricError(ValueError):
    """Scores and labels that do not fit each other, or labels of one class only."""


class RocCurve(NamedTuple):
    """The receiver operating characteristic: one point a threshold, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: share of the negative items with a score of at least the threshold.
        true_positive_rate: share of the positive items with a score of at least the threshold.
        thresholds: the different scores, descending, after infinity, at which nothing is called positive.
    """

    false_positive_rate: Float[np.ndarray, " P"]
    true_positive_rate: Float[np.ndarray, " P"]
    thresholds: Float[np.ndarray, " P"]


class BinaryScores(NamedTuple):
    """How a two-class network does, each between 0 and 1.

    Attributes:
        accuracy: share of the items that are called right.
        sensitivity: share of the positive items that are called positive.
        specificity: share of the negative items that are called negative.
        auc: area under the ROC curve.
    """

    accuracy: float
    sensitivity: float
    specificity: float
    auc: float


def roc_curve(scores: Float[Any, " N"], labels: Int[Any, " N"]) -> RocCurve:
    """Returns the ROC curve of scores. Items of equal score are passed together, so that ties make slanted pieces.

    Args:
        scores: of each item.
        labels: 1 for the positive class, 0 for the other.

    Raises:
        MetricError: other shapes or labels, scores that are not finite, or only one class.

    Example:
        >>> roc_curve([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]).true_positive_rate.tolist()
        [0.0, 0.5, 1.0, 1.0]
    """
    found, truth = _checked(scores, labels)
    thresholds, place = np.unique(-found, return_inverse=True)
    rates = [
        np.concatenate([[0.0], np.cumsum(np.bincount(place[truth == own], minlength=len(thresholds)))])
        for own in (0, 1)
    ]
    return RocCurve(rates[0] / rates[0][-1], rates[1] / rates[1][-1], np.concatenate([[np.inf], -thresholds]))


def area_under(curve: RocCurve) -> float:
    """Returns the area under a ROC curve: the chance that a positive item scores above a negative one, ties by half.

    Example:
        >>> area_under(roc_curve([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]))
        0.875

    Source: J. Hanley and B. McNeil, Radiology 143, 29 (1982).
    """
    return float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))


def binary_scores(scores: Float[Any, " N"], labels: Int[Any, " N"], *, threshold: float = 0.5) -> BinaryScores:
    """Returns accuracy, sensitivity and specificity at a threshold, and the area under the ROC curve.

    Args:
        scores: of each item, for example the probability of the positive class.
        labels: 1 for the positive class, 0 for the other.
        threshold: an item is called positive when its score is above it.

    Raises:
        MetricError: other shapes or labels, scores that are not finite, or only one class.

    Example:
        >>> binary_scores([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
        BinaryScores(accuracy=0.5, sensitivity=0.5, specificity=0.5, auc=0.75)
    """
    found, truth = _checked(scores, labels)
    right = (found > threshold) == (truth == 1)
    return BinaryScores(
        accuracy=float(right.mean()),
        sensitivity=float(right[truth == 1].mean()),
        specificity=float(right[truth == 0].mean()),
        auc=area_under(roc_curve(found, truth)),
    )


def _checked(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if found.ndim != 1 or truth.shape != found.shape or not np.isfinite(found).all():
        raise MetricError(f"expected finite scores (N,) and as many labels, got {found.shape} and {truth.shape}")
    if set(np.unique(truth).tolist()) != {0, 1}:
        raise MetricError(f"expected labels 0 and 1, both of them, got {sorted(set(np.unique(truth).tolist()))[:5]}")
    return found, truth
