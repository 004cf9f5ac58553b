"""ROC curve, area and rates against plain loops over all pairs, and against the rank sum of scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxclear.metrics import MetricError, area_under, binary_scores, roc_curve


@st.composite
def scored(draw):
    """Scores with many ties, both classes."""
    count = draw(st.integers(2, 30))
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=count - 2, max_size=count - 2))]
    scores = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    return np.array(scores) / 8, np.array(labels)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_area_is_the_share_of_pairs_in_order(data):
    scores, labels = data
    above = 0.0
    pairs = 0
    for i, first in enumerate(scores):
        for j, second in enumerate(scores):
            if labels[i] == 1 and labels[j] == 0:
                pairs += 1
                above += 1 if first > second else 0.5 if first == second else 0
    area = area_under(roc_curve(scores, labels))
    assert area == pytest.approx(above / pairs)
    rank_sum = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0], method="asymptotic").statistic
    assert area == pytest.approx(rank_sum / pairs)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_points_of_the_curve_are_counted_rates(data):
    scores, labels = data
    curve = roc_curve(scores, labels)
    for false_rate, true_rate, threshold in zip(*curve, strict=True):
        called = [score >= threshold for score in scores]
        assert true_rate == pytest.approx(sum(c for c, own in zip(called, labels, strict=True) if own) / labels.sum())
        negatives = sum(c for c, own in zip(called, labels, strict=True) if not own)
        assert false_rate == pytest.approx(negatives / (1 - labels).sum())
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    assert len(curve.thresholds) == len(set(scores.tolist())) + 1


@settings(max_examples=40, deadline=None)
@given(scored(), st.floats(0, 1))
def test_rates_at_a_threshold_are_counted(data, threshold):
    scores, labels = data
    counts = {"tp": 0, "tn": 0, "fp": 0, "fn": 0}
    for score, label in zip(scores, labels, strict=True):
        counts[("t" if (score > threshold) == label else "f") + ("p" if score > threshold else "n")] += 1
    found = binary_scores(scores, labels, threshold=threshold)
    assert found.accuracy == pytest.approx((counts["tp"] + counts["tn"]) / len(labels))
    assert found.sensitivity == pytest.approx(counts["tp"] / (counts["tp"] + counts["fn"]))
    assert found.specificity == pytest.approx(counts["tn"] / (counts["tn"] + counts["fp"]))
    assert found.auc == area_under(roc_curve(scores, labels))


def test_extremes():
    labels = np.array([0, 0, 1, 1])
    assert binary_scores([0.1, 0.2, 0.8, 0.9], labels) == (1, 1, 1, 1)
    assert binary_scores([0.9, 0.8, 0.2, 0.1], labels) == (0, 0, 0, 0)
    assert area_under(roc_curve([0.3] * 4, labels)) == 0.5


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.1, 0.2], [1, 1], "labels 0 and 1, both of them, got \\[1\\]"),
        ([0.1, 0.2], [0, 2], "got \\[0, 2\\]"),
        ([0.1, np.nan], [0, 1], "finite scores"),
        ([0.1], [0, 1], "got \\(1,\\) and \\(2,\\)"),
        ([], [], "both of them"),
    ],
)
def test_errors(scores, labels, reason):
    with pytest.raises(MetricError, match=reason):
        binary_scores(scores, labels)
