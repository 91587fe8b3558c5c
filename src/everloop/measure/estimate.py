"""What a score would be without labels, were the probabilities true; and whether they are. Knows no versions, no lake.

Each row counts with every class, weighted by the probability that the model gives it (CBPE, as NannyML calls it). It
sees that rows have become harder, never that the same rows mean something else by now: so it is advice and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from everloop.measure import metrics
from everloop.spec.metric import Custom, Metric

Floats = NDArray[np.float64]

DRAWS = 50
BINS = 10
LEAST_ROWS = 300
GAP = 0.03
"""Mean distance between probability and frequency from which on the probabilities are called wrong, where it is no chance."""
ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    value: float
    standard_error: float
    """Of the score that labels would give: they are draws, too."""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    gap: float
    """Mean distance between the probability of what was decided and how often it came true."""
    holds: bool
    rows: int


def expected(metric: Metric, probabilities: ArrayLike, *, positive: int = 1, seed: int = 0) -> Estimate | None:
    """The score of these rows [n, classes] were each label drawn with them; None for a user's metric or too few rows."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(p) < LEAST_ROWS or isinstance(metric, Custom):
        return None
    n, classes = int(p.shape[0]), int(p.shape[1])
    truth = np.repeat(np.arange(classes), n)
    value = metrics.score(metric, truth, np.tile(p, (classes, 1)), weights=p.T.ravel(), positive=positive)
    random = np.random.default_rng(seed)
    reach = np.cumsum(p, axis=1)
    drawn = []
    for _ in range(DRAWS):
        label = np.minimum((random.random((n, 1)) > reach).sum(axis=1), classes - 1)
        drawn.append(metrics.score(metric, label, p, positive=positive))
    told = np.asarray(drawn)[np.isfinite(drawn)]
    if not math.isfinite(value) or len(told) < 2:
        return None
    return Estimate(value=value, standard_error=float(told.std(ddof=1)), rows=n)


def calibration(truth: ArrayLike, probabilities: ArrayLike) -> Calibration | None:
    """Whether what is called 80 % sure comes true in 80 of 100; None for fewer than 300 labelled rows.

    Hosmer and Lemeshow's sum over ten bins of the decided class's probability: wrong where chance does not explain it
    and the gap matters.
    """
    y, p = np.asarray(truth), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(y) < LEAST_ROWS:
        return None
    decided = p.argmax(axis=1)
    sure, right = p[np.arange(len(p)), decided], (decided == y).astype(np.float64)
    edges = np.unique(np.quantile(sure, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, sure, side="right")
    count = np.bincount(place, minlength=len(edges) + 1)
    off = np.bincount(place, weights=right - sure, minlength=len(count))
    spread = np.bincount(place, weights=sure * (1 - sure), minlength=len(count))
    told = spread > 0
    gap = float(np.abs(off).sum() / len(y))
    chance = float(chi2.sf(np.sum(off[told] ** 2 / spread[told]), int(told.sum())))
    return Calibration(gap=gap, holds=chance >= ALPHA or gap < GAP, rows=len(y))


def over_represented(labelled: ArrayLike, due: ArrayLike) -> tuple[float, float]:
    """How much more often something is so among labelled rows than among all that are due, and z of the difference.

    Both are 0 or 1 by row; ``labelled`` are among ``due``.
    """
    some, all_ = np.asarray(labelled, dtype=np.float64), np.asarray(due, dtype=np.float64)
    if not len(some) or not len(all_) or all_.mean() in (0.0, 1.0):
        return 1.0, 0.0
    share = float(all_.mean())
    # Drawn without putting back: the more of them have a label, the less their share can differ.
    left = max(1 - len(some) / len(all_), 1e-9)
    error = math.sqrt(share * (1 - share) / len(some) * left)
    return float(some.mean()) / share, (float(some.mean()) - share) / error
