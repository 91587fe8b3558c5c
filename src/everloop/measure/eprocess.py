"""Evidence from a randomised canary that may be looked at after every request. Knows nothing of guards or releases.

The router draws the arm of each unit at random with a known share w. If the challenger changes nothing then, given the
outcome, the arm is still a coin with chance w, whatever the traffic does. Two bets follow whose whole state is four
counts per share epoch: order-free, additive over replicas, exact at every look. Evidence of different epochs
multiplies, so a change of the share restarts nothing.

Both bets are convex in the outcome, so fractional events (the failing share of a user's requests, any loss in [0, 1])
keep their level when they are put into the counts: they only cost power.

Derivations and operating characteristics: docs/statistics.md.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from everloop.measure.arms import Counts as Counts
from everloop.measure.arms import Floats as Floats
from everloop.measure.arms import counts as counts
from everloop.measure.arms import counts_of as counts_of
from everloop.measure.arms import difference as difference
from everloop.measure.arms import rates as rates

ROLLBACK_RATIOS: Floats = np.array([1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0])
"""How many times worse the challenger may be: one bet for each, evenly mixed."""
PROMOTION_STAKES: Floats = np.array([0.25, 0.5, 1.0, 1.5])
"""Multiples of the stake that is best when the arms are equal, evenly mixed."""
EQUAL_RATIOS: Floats = np.array([0.5, 0.75, 1.0, 1.25])
LEAST_VARIANCE = 50.0
"""How many times smaller a variance may be taken for than that of 0 and 1 with the same mean."""
LARGEST_LOSS = 0.9
"""The largest share of its wealth that one promotion bet may lose on one unit."""
LEAST_EVENTS = 15.0
"""So many events a challenger at its margin would have had before it may be shown not worse; or:"""
AMPLE = 1.5
"""so many times the requests that an equal challenger needs on average to be shown so."""


def frozen_baseline(events: float, units: float) -> float:
    """The champion's rate before the canary, (k + ½)/(n + 1): never 0 or 1. Any fixed value keeps the level."""
    return (events + 0.5) / (units + 1.0)


def rollback(observed: Counts, baseline: float) -> Floats:
    """The logarithm of E against "the challenger is not worse", [...]: roll back once E ≥ guards / alpha.

    Given an outcome x, the factor exp(arm·b(x−m)) / (1 + w(exp(b(x−m)) − 1)) has mean 1 over the arm; b = ln r, mixed
    evenly over `ROLLBACK_RATIOS`. By Ville's inequality P(ever E ≥ 1/alpha) ≤ alpha. Only worsening counts.

    >>> float(rollback(counts(0, 0, 0, 0, 0.1), 0.02))
    0.0
    """
    m = _inside(baseline)
    b = np.log(ROLLBACK_RATIOS)
    k1, n1 = observed.challenger_events[..., None, :], observed.challenger_units[..., None, :]
    k0, n0 = observed.champion_events[..., None, :], observed.champion_units[..., None, :]
    w = observed.share[..., None, :]
    b = b[:, None]
    log_e = (
        b * (1 - m) * k1
        - b * m * (n1 - k1)
        - (k1 + k0) * np.log1p(w * np.expm1(b * (1 - m)))
        - (n1 + n0 - k1 - k0) * np.log1p(w * np.expm1(-b * m))
    )
    return log_mean(np.sum(log_e, axis=-1))


def rollback_bounded(
    arm: ArrayLike, outcome: ArrayLike, share: ArrayLike, baseline: float, *, variance: float | None = None
) -> Floats:
    """The logarithm of E_r for each of `ROLLBACK_RATIOS`, [7], from single units with outcomes in [0, 1].

    The form for outcomes that are not 0 or 1: sharper than counts of fractions. Sums over units and replicas; mix the
    sums with `mixed`. ``arm`` is 1 for the challenger. ``variance`` of the outcomes, frozen like the baseline: the less
    they vary, the more is bet; any fixed bet keeps the level.
    """
    m = _inside(baseline)
    x = _bounded(outcome)
    b = (np.log(ROLLBACK_RATIOS) * (1.0 if variance is None else m * (1 - m) / variance))[:, None]
    w = np.broadcast_to(np.asarray(share, dtype=np.float64), x.shape)
    stake = b * (x - m)
    factors = np.asarray(arm, dtype=np.float64) * stake - np.log1p(w * np.expm1(stake))
    total: Floats = np.sum(factors, axis=-1)
    return total


def promotion_bounded(
    arm: ArrayLike,
    outcome: ArrayLike,
    share: float,
    baseline: float,
    margin: float,
    *,
    variance: float | None = None,
) -> Floats:
    """The logarithm of K for each of `PROMOTION_STAKES`, [4], from single units of one epoch with outcomes in [0, 1].

    As `promotion` for outcomes that are not 0 or 1; sums over units, epochs and replicas, mixed with `mixed`.
    """
    m = _inside(baseline)
    x, ours = _bounded(outcome), np.asarray(arm, dtype=np.float64)
    z = (ours / share - (1 - ours) / (1 - share)) * (x - m)
    stakes = _stakes(np.array([share]), m, margin, variance)[:, 0]
    total: Floats = np.sum(np.log1p(stakes[:, None] * (margin - z)), axis=-1)
    return total


def more_to_promote_bounded(
    log_not_worse: ArrayLike, gap: float, baseline: float, margin: float, variance: float, alpha: float, share: float
) -> int | None:
    """As `more_to_promote`, from `promotion_bounded` sums and the gap of the means; growth to the second order."""
    gap = max(0.0, gap)
    if gap >= margin:
        return None
    m = _inside(baseline)
    stakes = _stakes(np.array([share]), m, margin, variance)[:, 0]
    spread = variance * (1 / share + 1 / (1 - share))
    growth = float(np.max(stakes * (margin - gap) - stakes**2 * (spread + (margin - gap) ** 2) / 2))
    return max(0, math.ceil((math.log(1 / alpha) - mixed(log_not_worse)) / growth)) if growth > 0 else None


def frozen_variance(outcomes: ArrayLike, baseline: float) -> float:
    """Of the champion's outcomes before the canary, shrunk to what 0 and 1 would have as if by ten of them; never 0."""
    x, m = _bounded(outcomes), _inside(baseline)
    most = m * (1 - m)
    found = float(np.mean((x - m) ** 2)) if x.size else most
    return max((x.size * found + 10 * most) / (x.size + 10), most / LEAST_VARIANCE)


def mixed(log_evidence: ArrayLike) -> float:
    """The logarithm of the even mixture of the last axis: what `rollback_bounded` sums lead to."""
    return float(log_mean(np.asarray(log_evidence, dtype=np.float64)))


def promotion(observed: Counts, baseline: float, margin: float) -> Floats:
    """The logarithm of K against "the challenger is worse by at least ``margin`` at every request", [...]: passes once K ≥ 1/alpha.

    z = (A/w − (1−A)/(1−w))(x − m) has mean p1 − p0; K = mean over stakes of Π(1 + λ(margin − z)), λ near the stake
    that is best for two equal arms and small enough that no unit costs more than 90 % of the wealth. Several guards
    must each pass at the same alpha: an intersection-union test, not divided by their number.
    """
    m = _inside(baseline)
    log_factors = _promotion_log_factors(observed.share, m, margin)  # [..., stakes, 4 cells, epochs]
    cells = np.stack(
        np.broadcast_arrays(
            observed.challenger_events,
            observed.challenger_units - observed.challenger_events,
            observed.champion_events,
            observed.champion_units - observed.champion_events,
        ),
        axis=-2,
    )
    return log_mean(np.sum(cells[..., None, :, :] * log_factors, axis=(-2, -1)))


def enough(
    observed: Counts, baseline: float, margin: float, alpha: float, *, variance: float | None = None
) -> NDArray[np.bool_]:
    """Whether enough is seen, [...], for `promotion` to count at all.

    K keeps its level alpha at the margin from the first unit on. Of rare events it gets there by a handful that did not
    come, and the same luck passes one time in some hundreds who lies beyond the margin. From t units on that chance is
    at most alpha·E[K_t], and E[K_t] falls as (1 − λ·what it lies beyond)^t. So K counts once `LEAST_EVENTS` were to be
    expected at the margin; where next to none is usual, once `AMPLE` times as many requests came as an equal one needs.
    ``variance`` as in `promotion_bounded`: what hardly varies needs fewer.

    >>> [bool(enough(counts(0, n, 0, 9 * n, 0.1), 0.001, 0.002, 0.02)) for n in (4_900, 5_000)]
    [False, True]
    """
    events, grown = _seen(observed, baseline, margin, variance)
    return (events >= LEAST_EVENTS) | (grown >= AMPLE * math.log(1 / alpha))


def more_until_enough(
    observed: Counts, baseline: float, margin: float, alpha: float, share: float, *, variance: float | None = None
) -> int:
    """How many more requests (both arms, at ``share``) until `enough`; 0 when it is."""
    events, grown = (float(each) for each in _seen(observed, baseline, margin, variance))
    a_request = _events_a_unit(baseline, margin, variance) * share
    growth = float(_growth_if_equal(np.array([share]), baseline, margin, variance)[0])
    waits = [(LEAST_EVENTS - events) / a_request]
    if growth > 0:
        waits.append((AMPLE * math.log(1 / alpha) - grown) / growth)
    return max(0, math.ceil(min(waits)))


def _seen(observed: Counts, baseline: float, margin: float, variance: float | None) -> tuple[Floats, Floats]:
    """Events to be expected of a challenger at the margin, and ln K of an equal one, [...]."""
    events = np.sum(observed.challenger_units, axis=-1) * _events_a_unit(baseline, margin, variance)
    growth = _growth_if_equal(observed.share, baseline, margin, variance)
    units = observed.challenger_units + observed.champion_units
    return events, np.sum(units * growth, axis=-1)


def _events_a_unit(baseline: float, margin: float, variance: float | None) -> float:
    m = _inside(baseline)
    return (m + margin) if variance is None else (m + margin) * max(1.0, m * (1 - m) / variance)


def _growth_if_equal(share: Floats, baseline: float, margin: float, variance: float | None) -> Floats:
    """What ln K grows by with a request of either arm, on average, [..., epochs]; the best of the stakes."""
    m = _inside(baseline)
    if variance is not None:
        stakes = _stakes(share, m, margin, variance)
        spread = (variance * (1 / share + 1 / (1 - share)))[..., None, :]
        bounded: Floats = np.max(stakes * margin - stakes**2 * (spread + margin**2) / 2, axis=-2)
        return bounded
    chances = np.stack([share * m, share * (1 - m), (1 - share) * m, (1 - share) * (1 - m)], axis=-2)
    log_factors = _promotion_log_factors(share, m, margin)
    growth: Floats = np.max(np.sum(log_factors * chances[..., None, :, :], axis=-2), axis=-2)
    return growth


def promotion_by_ratio(observed: Counts, ratio: float) -> Floats:
    """The logarithm of K against "the challenger's rate is at least ``ratio`` times the champion's", [...]; events only.

    For rare events, where a margin in points needs too many requests. Choose it before the start: passing either this
    or the margin doubles alpha.
    """
    if ratio <= 1:
        raise ValueError(f"The ratio is {ratio}; it must be above 1, for example 2.")
    tried = EQUAL_RATIOS[ratio > EQUAL_RATIOS][:, None]
    w = observed.share[..., None, :]
    chance = w * tried / (1 + w * (tried - 1))
    limit = w * ratio / (1 + w * (ratio - 1))
    log_k = observed.challenger_events[..., None, :] * np.log(chance / limit) + observed.champion_events[
        ..., None, :
    ] * np.log((1 - chance) / (1 - limit))
    return log_mean(np.sum(log_k, axis=-1))


def more_to_promote(observed: Counts, baseline: float, margin: float, alpha: float, share: float) -> int | None:
    """About how many more requests (both arms, at ``share``) until `promotion` passes if things stay as they are.

    From the expected growth of the bet at the champion's rate and the gap seen so far (0 if the challenger looks
    better). None when the gap is at or over the margin: more traffic is unlikely to help.
    """
    gap = max(0.0, float(difference(observed)))
    if gap >= margin:
        return None
    m = _inside(baseline)
    # The rate is shrunk to the frozen one as if by a hundred requests, so that a first look is not a first guess.
    champion = float(np.sum(observed.champion_events) + 100 * m) / float(np.sum(observed.champion_units) + 100)
    challenger = min(1.0, champion + gap)
    log_factors = _promotion_log_factors(np.array([share]), m, margin)[..., 0]  # [stakes, 4]
    chances = np.array(
        [share * challenger, share * (1 - challenger), (1 - share) * champion, (1 - share) * (1 - champion)]
    )
    growth = log_factors @ chances
    if not np.any(growth > 0):
        return None
    now = float(promotion(observed, baseline, margin))
    return max(0, math.ceil((math.log(1 / alpha) - now) / float(np.max(growth))))


def requests_to_find(baseline: float, ratio: float, alpha: float, share: float) -> int:
    """About how many requests (both arms) until `rollback` finds a challenger whose rate is ``ratio`` times as high."""
    m = _inside(baseline)
    worse = min(1.0, m * ratio)
    b = np.log(ROLLBACK_RATIOS)
    on_event, on_none = np.log1p(share * np.expm1(b * (1 - m))), np.log1p(share * np.expm1(-b * m))
    growth = (
        share * (worse * b * (1 - m) - (1 - worse) * b * m)
        - (share * worse + (1 - share) * m) * on_event
        - (share * (1 - worse) + (1 - share) * (1 - m)) * on_none
    )
    return math.ceil(math.log(1 / alpha) / float(np.max(growth)))


def sample_ratio(challenger_units: ArrayLike, champion_units: ArrayLike, share: ArrayLike) -> Floats:
    """The logarithm of E against "units fall to the challenger with chance share", [...] from arrays [..., epochs].

    A beta prior of weight 1,000 around the share; alarm at E ≥ 1,000. Count the units that were randomised, and the
    units that have an outcome: an answer that was lost shows in the second.
    """
    n1, n0 = np.asarray(challenger_units, dtype=np.float64), np.asarray(champion_units, dtype=np.float64)
    w = np.asarray(share, dtype=np.float64)
    weight = 1_000.0
    log_e = (
        betaln(weight * w + n1, weight * (1 - w) + n0)
        - betaln(weight * w, weight * (1 - w))
        - n1 * np.log(w)
        - n0 * np.log1p(-w)
    )
    total: Floats = np.sum(np.atleast_1d(log_e), axis=-1)
    return total


def _promotion_log_factors(share: Floats, m: float, margin: float) -> Floats:
    """ln(1 + λ(margin − z)) for shares [..., epochs]: [..., stakes, 4 cells, epochs]."""
    if not margin > 0:
        raise ValueError(f"The margin is {margin}; it must be above 0, for example 0.01.")
    w = share
    z = np.stack([(1 - m) / w, -m / w, -(1 - m) / (1 - w), m / (1 - w)], axis=-2)  # [..., 4, epochs]
    stake = _stakes(w, m, margin)
    factors: Floats = np.log1p(stake[..., :, None, :] * (margin - z[..., None, :, :]))
    return factors


def _stakes(share: Floats, m: float, margin: float, variance: float | None = None) -> Floats:
    """λ of the promotion bet for shares [..., epochs]: [..., stakes, epochs]. ``variance`` of one outcome."""
    w = share
    spread = (m * (1 - m) if variance is None else variance) * (1 / w + 1 / (1 - w))
    # With a high baseline and a large share the champion's clean answers are the costly cell, not the challenger's
    # events: the bound takes whichever is larger.
    worst = (np.maximum((1 - m) / w, m / (1 - w)) - margin)[..., None, :]
    stake = PROMOTION_STAKES[:, None] * (margin / (spread + margin**2))[..., None, :]
    found: Floats = np.where(worst > 0, np.minimum(stake, LARGEST_LOSS / np.maximum(worst, 1e-12)), stake)
    return found


def log_mean(log_evidence: Floats) -> Floats:
    """The logarithm of the mean over the last axis, [...]: an even mixture of bets."""
    # scipy's logsumexp costs a quarter of a millisecond a call, more than all the rest of a look.
    top = log_evidence.max(axis=-1, keepdims=True)
    mean: Floats = np.log(np.exp(log_evidence - top).mean(axis=-1)) + top[..., 0]
    return mean


def _bounded(outcome: ArrayLike) -> Floats:
    x = np.asarray(outcome, dtype=np.float64)
    if x.size and (x.min() < 0 or x.max() > 1):
        raise ValueError(f"Outcomes lie in [{x.min()}, {x.max()}]; scale them into [0, 1] first.")
    return x


def _inside(baseline: float) -> float:
    if not 0.0 < baseline < 1.0:
        raise ValueError(f"The baseline rate is {baseline}; freeze it with frozen_baseline(events, units).")
    return baseline
