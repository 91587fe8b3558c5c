"""Is the challenger's score worse on the same rows? Bets on paired differences. Knows nothing of releases.

d = loss(challenger) − loss(champion). Three forms of evidence, sharpest first: 0/1 losses by their discordant counts,
differences in [−1, 1] by exact bets on sum and sum of squares, anything else by the confidence sequence. Rows on which
both answers have the same loss have d = 0 whatever the label: only the disagreements need labels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everloop.measure import sequence
from everloop.measure.eprocess import log_mean
from everloop.records import PairedCounts

Floats = NDArray[np.float64]

WRONG_SHARES: Floats = np.array([0.55, 0.6, 0.7, 0.8, 0.9])
"""Shares of the discordant rows on which the challenger is the wrong one: one bet against ½ for each."""
STAKES: Floats = np.array([0.9 / 2**halvings for halvings in range(6)])
"""Shares of the wealth that one pair may cost, evenly mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What the pairs say. The two logarithms are of e-values; a confidence sequence is turned into the same shape:
    at least the needed value when its bound says so, 0 otherwise.
    """

    mean: float
    log_worse: float
    """ln E against "not worse": worse is shown at E ≥ 1/alpha_worse."""
    log_not_worse: float
    """ln K against "worse by at least the margin": not worse is shown at K ≥ 1/alpha_not_worse."""
    more: int | None
    """About how many more pairs until not worse is shown, if things stay so; None: unlikely to help."""
    method: str


def discordant_worse(only_challenger_wrong: Floats, only_champion_wrong: Floats) -> Floats:
    """The logarithm of E, [...]: among the rows only one got wrong, the challenger's share against ½."""
    b, c = only_challenger_wrong[..., None], only_champion_wrong[..., None]
    log_e = b * np.log(2 * WRONG_SHARES) + c * np.log(2 * (1 - WRONG_SHARES))
    return log_mean(log_e)


def discordant_not_worse(
    pairs: Floats, only_challenger_wrong: Floats, only_champion_wrong: Floats, margin: float
) -> Floats:
    """The logarithm of K, [...]: Π(1 + λ(margin − d)) over d in {−1, 0, 1}, mixed over `STAKES`."""
    n, b, c = pairs[..., None], only_challenger_wrong[..., None], only_champion_wrong[..., None]
    stake = STAKES / (1 - margin)
    log_k = (
        b * np.log1p(stake * (margin - 1)) + c * np.log1p(stake * (margin + 1)) + (n - b - c) * np.log1p(stake * margin)
    )
    return log_mean(log_k)


def bounded_worse(total: Floats, squares: Floats) -> Floats:
    """The logarithm of E, [...], for differences in [−1, 1], from their sum and sum of squares.

    ln(1 + λy) ≥ λy − (−ln(1−λ) − λ)·y² for y ≥ −1 (Fan, Grama and Liu 2015): a bet whose state is two sums.
    """
    log_e = STAKES * total[..., None] - (-np.log1p(-STAKES) - STAKES) * squares[..., None]
    return log_mean(log_e)


def bounded_not_worse(pairs: Floats, total: Floats, squares: Floats, margin: float) -> Floats:
    """The logarithm of K, [...], against "worse by at least the margin", for differences in [−1, 1]: y = (margin − d)/(1 − margin)."""
    scale = 1 - margin
    y = (pairs * margin - total) / scale
    y_squares = np.maximum(pairs * margin**2 - 2 * margin * total + squares, 0.0) / scale**2
    return bounded_worse(y, y_squares)


def judge(paired: PairedCounts, *, margin: float | None, alpha_worse: float, alpha_not_worse: float) -> Paired:
    """What the paired differences say so far; may be asked at every look.

    Without a margin nothing can be shown "not worse".
    """
    n = float(paired.pairs)
    mean = paired.total / n if n else 0.0
    usable = margin is not None and margin > 0
    if paired.bounded:
        return _judge_bounded(paired, mean, margin if usable else None, alpha_not_worse)
    spread = math.sqrt(max(paired.squares / n - mean**2, 0.0) / n) if n else 0.0
    worse = sequence.bound(mean, spread, n, alpha_worse).lower > 0
    not_worse, more = False, None
    if usable:
        assert margin is not None
        not_worse = sequence.bound(mean, spread, n, alpha_not_worse).upper < margin
        more = sequence.more(mean, spread, n, margin, alpha_not_worse) if n else sequence.LEAST_UNITS
    return Paired(
        mean=mean,
        log_worse=-math.log(alpha_worse) if worse else 0.0,
        log_not_worse=-math.log(alpha_not_worse) if not_worse else 0.0,
        more=more,
        method="confidence sequence",
    )


def _judge_bounded(paired: PairedCounts, mean: float, margin: float | None, alpha: float) -> Paired:
    n, total, squares = (np.float64(each) for each in (paired.pairs, paired.total, paired.squares))
    b, c = np.float64(paired.only_challenger_wrong), np.float64(paired.only_champion_wrong)
    zero_one = paired.squares == b + c and paired.total == b - c
    arrays = [np.asarray(each) for each in (n, total, squares, b, c)]
    if zero_one:
        log_worse = discordant_worse(arrays[3], arrays[4])
    else:
        log_worse = bounded_worse(arrays[1], arrays[2])
    log_not_worse, more = 0.0, None
    if margin is not None and margin < 1:
        if zero_one:
            log_not_worse = float(discordant_not_worse(arrays[0], arrays[3], arrays[4], margin))
        else:
            log_not_worse = float(bounded_not_worse(arrays[0], arrays[1], arrays[2], margin))
        more = _more_bounded(float(n), max(mean, 0.0), float(squares), margin, alpha, log_not_worse)
    return Paired(
        mean=mean,
        log_worse=float(log_worse),
        log_not_worse=log_not_worse,
        more=more,
        method="discordant counts" if zero_one else "bets on sum and squares",
    )


def _more_bounded(n: float, mean: float, squares: float, margin: float, alpha: float, now: float) -> int | None:
    """From the growth of the best bet at the gap and the spread seen so far."""
    if mean >= margin:
        return None
    # A few imagined pairs with a tenth disagreeing keep the first quotes sensible.
    spread = (squares + 0.1 * 20) / (n + 20)
    scale = 1 - margin
    y = (margin - mean) / scale
    y_square = max(spread - 2 * margin * mean + margin**2, 1e-12) / scale**2
    growth = float(np.max(STAKES * y - (-np.log1p(-STAKES) - STAKES) * y_square))
    return max(0, math.ceil((math.log(1 / alpha) - now) / growth)) if growth > 0 else None
