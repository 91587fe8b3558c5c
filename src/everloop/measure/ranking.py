"""How well scores rank one class before the rest: area under the curve and average precision, with influences.

Knows nothing of several classes or of metrics as values. ``positive`` is bool [n], ``scores`` and ``weights`` float64
[n]; a score is NaN when there is no positive (or, for the area, no negative) row.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def area(positive: Booleans, scores: Floats, weights: Floats) -> float:
    """Chance that a positive row scores above a negative one, ties half."""
    pi, rest = float(weights[positive].sum()), float(weights[~positive].sum())
    if pi <= 0 or rest <= 0:
        return float("nan")
    beaten = _below(scores, weights * ~positive) / rest
    return float(np.sum((weights * beaten)[positive]) / pi)


def area_influence(positive: Booleans, scores: Floats) -> Floats:
    """Influence of each row on the area, [n], summing to 0: DeLong's placements by midranks (Sun and Xu 2014)."""
    n = len(scores)
    ones = np.ones(n)
    positives = int(positive.sum())
    if positives in (0, n):
        return np.zeros(n)
    value = area(positive, scores, ones)
    over_negatives = _below(scores, ones * ~positive) / (n - positives)
    under_positives = 1 - _below(scores, ones * positive) / positives
    share = positives / n
    influence: Floats = np.where(positive, (over_negatives - value) / share, (under_positives - value) / (1 - share))
    return influence


def average_precision(positive: Booleans, scores: Floats, weights: Floats) -> float:
    """Mean precision at the rank of each positive row, ties taken together."""
    total = float(weights[positive].sum())
    if total <= 0:
        return float("nan")
    at_or_above = _at_or_above(scores, weights)
    hits = _at_or_above(scores, weights * positive)
    precision = hits / np.maximum(at_or_above, 1e-300)
    return float(np.sum((weights * precision)[positive]) / total)


def average_precision_influence(positive: Booleans, scores: Floats) -> Floats:
    """Influence of each row on average precision, [n], summing to 0.

    [y(P − AP) + Σ over positives j scored at or below i of (y − P_j)/(n N_j)] / π, with P_j the precision and N_j the
    share of rows at the rank of j.
    """
    n = len(scores)
    positives = int(positive.sum())
    if positives == 0:
        return np.zeros(n)
    ones = np.ones(n)
    at_or_above = _at_or_above(scores, ones)
    precision = _at_or_above(scores, ones * positive) / at_or_above
    value = float(precision[positive].mean())
    per_positive = positive / at_or_above  # Y_j / (n N_j)
    below = _at_or_below(scores, per_positive)
    below_precision = _at_or_below(scores, per_positive * precision)
    influence: Floats = (positive * (precision - value) + positive * below - below_precision) * (n / positives)
    return influence


def _groups(scores: Floats, mass: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The group of equal scores each row is in, ascending, and the mass of each group."""
    _, group = np.unique(scores, return_inverse=True)
    group = group.reshape(-1)
    masses: Floats = np.bincount(group, weights=mass).astype(np.float64)
    return group, masses


def _below(scores: Floats, mass: Floats) -> Floats:
    """Mass strictly below each row's score plus half of the mass that ties with it."""
    group, masses = _groups(scores, mass)
    below: Floats = (np.cumsum(masses) - masses / 2)[group]
    return below


def _at_or_below(scores: Floats, mass: Floats) -> Floats:
    group, masses = _groups(scores, mass)
    total: Floats = np.cumsum(masses)[group]
    return total


def _at_or_above(scores: Floats, mass: Floats) -> Floats:
    group, masses = _groups(scores, mass)
    total: Floats = np.cumsum(masses[::-1])[::-1][group]
    return total
