"""How sure a comparison over windows is: draws of whole windows shared by all policies. Knows no policies and no costs.

Windows are resampled and not rows, for the rows of a week err together, and in blocks, for a bad week is followed by
another. All policies get the same draw, so what was hard for everybody cancels in their differences. A score that is no
mean over rows (an area, an RMSE) is moved by its influence function: the sum of a window's influences is what the window
does to the score over all rows, so nothing is ranked again and a thousand draws are one product of matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from everloop.measure import metrics
from everloop.measure.paired import quantile
from everloop.spec.metric import Custom, Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

DRAWS = 2_000
LEAST_BLOCK = 0.87
ROUNDING = 1e-9
LEAST_WINDOWS = 8
"""With fewer windows nothing is told apart: a block bootstrap of seven values has no tails to speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influences:
    """What each window does to the score over all rows of several policies."""

    score: Floats
    """Over all rows, [policies]."""
    sums: Floats
    """Sums of the influences of a window's rows, [policies, windows]; each row of it sums to 0."""
    rows: Floats
    """Scored rows of each window, [windows]."""
    greater_is_better: bool
    exact: bool
    """The score is that over all rows; False: it is the mean of the windows' own scores, weighted by rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Policies beside one another. All arrays are [policies] unless it is said."""

    score: Floats
    standard_error: Floats
    lower: Floats
    upper: Floats
    """Two-sided 1 − alpha bounds of each score on its own."""
    behind: Floats
    """How much worse than the best looking policy, in the score's unit, ≥ 0."""
    behind_at_most: Floats
    """Simultaneous upper bounds on how much worse than the truly best policy: all of them hold together with 1 − alpha."""
    p_value: Floats
    """How well the data agree with this policy being among the best; the set holds those above alpha."""
    indistinct: Booleans
    """Cannot be told apart from the best: the set that holds the truly best policy with 1 − alpha."""
    chance_best: Floats
    """In this share of the draws it has the best score; ties are shared. Not the probability that it is the best."""
    error_between: Floats
    """Standard errors of the differences, [policies, policies]."""
    alpha: float
    block: float
    """Mean length of a block, in windows."""
    windows: int


def influences(
    metric: Metric, truth: ArrayLike, predictions: list[ArrayLike], window: ArrayLike, *, positive: int = 1
) -> Influences:
    """Window sums of the influence functions of the score over all rows, one row for each policy.

    ``truth`` and each of ``predictions`` as in `metrics` over the same rows [n]; ``window`` int [n], 0 … W−1. A `Custom`
    metric has no influence function: use `of_windows`. To first order Σ_w c_w·Ψ_w / Σ_w c_w·n_w is the change of the score
    if window w occurs c_w times; for means over rows it is exact.

    >>> from everloop.spec.metric import Accuracy
    >>> found = influences(Accuracy(), [1, 0, 1, 1], [np.array([1, 0, 0, 0])], [0, 0, 1, 1])
    >>> found.score.tolist(), found.sums.tolist()
    ([0.5], [[1.0, -1.0]])
    """
    if isinstance(metric, Custom):
        raise ValueError(f"{metric.name} is a user's function and has no influence; use of_windows.")
    y, place = np.asarray(truth), np.asarray(window, dtype=np.int64)
    rows = np.bincount(place).astype(np.float64)
    score = np.array([metrics.score(metric, y, each, positive=positive) for each in predictions])
    sums = np.array(
        [
            np.bincount(place, weights=metrics.influence(metric, y, each, positive=positive), minlength=len(rows))
            for each in predictions
        ]
    )
    return Influences(score=score, sums=sums, rows=rows, greater_is_better=metric.greater_is_better, exact=True)


def of_windows(scores: ArrayLike, rows: ArrayLike, *, greater_is_better: bool) -> Influences:
    """The same for the mean of the windows' own scores, weighted by their rows.

    ``scores`` float [policies, windows], ``rows`` [windows]. A window in which any policy has no score (NaN: no positive
    row, say) counts for none of them.
    """
    values, weight = np.asarray(scores, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    told = np.isfinite(values).all(axis=0) & (weight > 0)
    weight = np.where(told, weight, 0.0)
    values = np.where(told, values, 0.0)
    mean = values @ weight / weight.sum() if weight.sum() else np.full(len(values), np.nan)
    sums = np.where(told, (values - mean[:, None]) * weight, 0.0)
    return Influences(score=mean, sums=sums, rows=weight, greater_is_better=greater_is_better, exact=False)


def compare(
    found: Influences, *, alpha: float = 0.05, block: float | None = None, draws: int = DRAWS, seed: int = 0
) -> Compared:
    """Errors, the set of policies that cannot be told apart from the best, and bounds on what each loses.

    The set is the model confidence set of Hansen, Lunde and Nason (Econometrica 79, 2011) with the range statistic: while
    max |d_ij|/se_ij exceeds the 1 − alpha quantile of max |d*_ij − d_ij|/se_ij, the policy that is worst in that maximum
    leaves. Pairs and not distances to the mean, because what pairs share cancels. ``behind_at_most`` is Hsu's comparison
    with the best (Annals of Statistics 12, 1984), max over j of d_kj + c·se_kj. Draws are stationary blocks (`draw`) of
    mean length ``block``. None: what `block_length` finds in the differences, at least .87·√windows, for few windows
    cannot show their dependence (the bandwidth of Lazarus, Lewis, Stock and Watson, JBES 36, 2018, for this kernel); and
    the errors are widened by Student's t over as many blocks as there are, at the level of the largest of all pairs.
    Simulated, five equal policies with autocorrelation 0, .5, .8 of their differences are all kept in .99, .91, .57 of
    runs with 22 windows and .94, .87, .67 with 126 (tests hold it): strong dependence in a short history is not cured.

    With fewer than 8 windows everything is indistinct and the bounds are infinite.
    """
    sign = -1.0 if found.greater_is_better else 1.0
    loss = sign * found.score
    used = found.rows > 0
    sums, rows = sign * found.sums[:, used], found.rows[used]
    count, windows = sums.shape
    if count == 0:
        raise ValueError("There is no policy to compare; give at least one.")
    behind = loss - loss.min()
    if windows < LEAST_WINDOWS:
        unknown = np.full(count, np.inf)
        return Compared(
            score=found.score,
            standard_error=unknown,
            lower=-unknown,
            upper=unknown,
            behind=behind,
            behind_at_most=unknown if count > 1 else np.zeros(1),
            p_value=np.ones(count),
            indistinct=np.ones(count, dtype=np.bool_),
            chance_best=np.full(count, 1 / count),
            error_between=np.full((count, count), np.inf),
            alpha=alpha,
            block=1.0,
            windows=windows,
        )
    length = block
    if length is None:
        length = max(block_length(_contrasts(sums / rows)), min(LEAST_BLOCK * math.sqrt(windows), windows / 3))
    counts = draw(windows, block=length, draws=draws, seed=seed).astype(np.float64)
    moved = (counts @ sums.T) / (counts @ rows)[:, None]  # how far each draw moves each loss, [draws, policies]
    alone, together = (_widen(windows, length, alpha / (2 * each)) for each in (1, count))
    error = alone * np.sqrt(np.mean(moved**2, axis=0))
    radius = alone * np.quantile(np.abs(moved), 1 - alpha, axis=0)
    gap = loss[:, None] - loss[None, :]
    square = moved.T @ moved / draws
    spread = np.diag(square)
    error_between = np.sqrt(np.maximum(spread[:, None] + spread[None, :] - 2 * square, 0.0))
    # Two that served the same models differ by rounding alone.
    error_between[error_between < 1e-6 * math.sqrt(float(spread.max()))] = 0.0
    p_value = _confidence_set(gap / together, moved, error_between)
    return Compared(
        score=found.score,
        standard_error=error,
        lower=found.score - radius,
        upper=found.score + radius,
        behind=behind,
        behind_at_most=together * _behind_at_most(gap / together, moved, error_between, alpha),
        p_value=p_value,
        indistinct=p_value > alpha,
        chance_best=_chance_best(loss + moved),
        error_between=error_between,
        alpha=alpha,
        block=length,
        windows=windows,
    )


def draw(windows: int, *, block: float, draws: int = DRAWS, seed: int = 0) -> Integers:
    """How often each window occurs in each draw, int64 [draws, windows]; every row sums to ``windows``.

    The stationary bootstrap (Politis and Romano, JASA 89, 1994): blocks of geometric length with mean ``block`` ≥ 1 from
    anywhere, around the end to the beginning, so that no window is rarer than another.

    >>> draw(5, block=2.0, draws=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    if not block >= 1:
        raise ValueError(f"A mean block of {block} windows; it must be at least 1.")
    random = np.random.default_rng(seed)
    starts = random.random((draws, windows)) < 1 / block
    starts[:, 0] = True
    begins = random.integers(0, windows, (draws, windows))
    position = np.broadcast_to(np.arange(windows), (draws, windows))
    since = np.maximum.accumulate(np.where(starts, position, 0), axis=1)
    chosen = (np.take_along_axis(begins, since, axis=1) + position - since) % windows
    flat = chosen + windows * np.arange(draws)[:, None]
    counts: Integers = np.bincount(flat.ravel(), minlength=draws * windows).reshape(draws, windows).astype(np.int64)
    return counts


def block_length(series: ArrayLike) -> float:
    """The mean block that the stationary bootstrap should have, 1 for independent values.

    ``series`` float [windows] or [series, windows]; of several the autocorrelations are averaged, for the longest of
    many single estimates is an accident. Politis and White (Econometric Reviews 23, 2004) with the correction of Patton,
    Politis and White (28, 2009): b = (2G²/D)^⅓·n^⅓, D = 2·g(0)², with the flat-top kernel, the bandwidth twice the lag
    after which √log₁₀(n) (at least 5) autocorrelations in a row stay below 2·√(log₁₀ n/n); at most min(3√n, n/3).
    """
    values = np.atleast_2d(np.asarray(series, dtype=np.float64))
    n = int(values.shape[1])
    if n < LEAST_WINDOWS:
        return 1.0
    quiet = max(5, math.ceil(math.sqrt(math.log10(n))))
    lags = min(n - 1, math.ceil(math.sqrt(n)) + quiet)
    x = values - values.mean(axis=1, keepdims=True)
    covariance = np.stack([np.sum(x[:, lag:] * x[:, : n - lag], axis=1) / n for lag in range(lags + 1)], axis=1)
    moves = covariance[:, 0] > 1e-24 * max(1.0, float(np.abs(values).max()) ** 2)
    if not moves.any():
        return 1.0
    correlation = np.mean(covariance[moves] / covariance[moves, :1], axis=0)
    loud = np.abs(correlation[1:]) >= 2 * math.sqrt(math.log10(n) / n)
    last = next(lag for lag in range(lags + 1) if not loud[lag : lag + quiet].any())
    if last == 0:
        return 1.0
    reach = min(2 * last, lags)
    lag = np.arange(-reach, reach + 1)
    smooth = np.clip(2 * (1 - np.abs(lag) / reach), 0, 1) * correlation[np.abs(lag)]
    slope, spectrum = float(np.sum(smooth * np.abs(lag))), float(np.sum(smooth))
    longest = max(1.0, min(3 * math.sqrt(n), n / 3))
    if spectrum <= 0:
        return longest
    return min(longest, max(1.0, math.cbrt(slope**2 / spectrum**2 * n)))


def _contrasts(means: Floats) -> Floats:
    """The series whose dependence matters: each policy against the mean of all; one policy alone as it is."""
    contrasts: Floats = means if len(means) == 1 else means - means.mean(axis=0)
    return contrasts


def _widen(windows: int, block: float, level: float) -> float:
    """Student's t over the normal quantile at a level, for about as many independent values as there are blocks."""
    blocks = max(3, round(windows / block))
    normal = -float(ndtri(level))
    return quantile(level, blocks) / normal * math.sqrt(blocks / (blocks - 1))


def _studentised(difference: Floats, error: Floats) -> Floats:
    """Difference over error. Without an error a difference is certain (infinite), but for rounding (0)."""
    certain = np.where(np.abs(difference) > ROUNDING, np.copysign(np.inf, difference), 0.0)
    t: Floats = np.where(error > 0, difference / np.where(error > 0, error, 1.0), certain)
    return t


def _drawn(difference: Floats, error: Floats) -> Floats:
    """The same of differences in draws, which are of mean 0: without an error they are rounding."""
    t: Floats = np.where(error > 0, difference / np.where(error > 0, error, 1.0), 0.0)
    return t


def _confidence_set(gap: Floats, moved: Floats, error: Floats) -> Floats:
    """p-values of the model confidence set, [policies]: the largest so far when the policy was eliminated, 1 for the last.

    Who leaves when depends on what was observed alone. So the order is made first, and the sets are gone through from
    the smallest: each policy that is added brings its own pairs to the maximum, and no draw ever holds all of them.
    """
    t = _studentised(gap, error)
    left = list(range(len(gap)))
    order, observed = list[int](), list[float]()
    while len(left) > 1:
        among = t[np.ix_(left, left)].max(axis=1)
        observed.append(float(among.max()))
        order.append(left.pop(int(np.argmax(among))))
    largest = np.zeros(len(moved))
    chances = list[float]()
    for policy, seen in zip(reversed(order), reversed(observed), strict=True):
        against = np.abs(_drawn(moved[:, [policy]] - moved[:, left], error[policy, left]))
        largest = np.maximum(largest, against.max(axis=1))
        chances.append(float(np.mean(largest >= seen)))
        left.append(policy)
    p_value = np.ones(len(gap))
    p_value[order] = np.maximum.accumulate(chances[::-1]) if chances else 1.0
    return p_value


def _behind_at_most(gap: Floats, moved: Floats, error: Floats, alpha: float) -> Floats:
    count = len(gap)
    if count == 1:
        return np.zeros(1)
    largest = np.zeros(len(moved))
    for each in range(count):
        t = _drawn(moved[:, [each]] - moved, error[each])
        largest = np.maximum(largest, t.max(axis=1))
    reach = float(np.quantile(largest, 1 - alpha))
    bound = gap + reach * error
    bound[np.arange(count), np.arange(count)] = 0.0
    at_most: Floats = np.maximum(bound.max(axis=1), 0.0)
    return at_most


def _chance_best(losses: Floats) -> Floats:
    best = losses <= losses.min(axis=1, keepdims=True) + 1e-12
    share: Floats = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return share
