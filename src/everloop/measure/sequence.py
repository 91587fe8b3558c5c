"""One-sided confidence sequence: a standard error with c in place of z, valid at every look. Knows only arithmetic.

Half-normal mixture over the drift (after Waudby-Smith et al., arXiv 2103.06476; the one-sided form is derived in
docs/statistics.md). Asymptotic: use it from about a hundred units on, and with a variance that cannot be zero.
"""

import math
from dataclasses import dataclass

from scipy.special import lambertw, ndtri

LEAST_UNITS = 100
"""Below this many units per arm (or pairs) the sequence says nothing."""
TIGHTEST = 2_000.0
"""Units at which the bound is tightest unless told otherwise; c is flat: within 4 % from a quarter of it to four times."""


def tuning(alpha: float) -> float:
    """κ: the u at which c(u)·√u's bound is tightest for its units, −W₋₁(−(2α)²/e) − 1.

    >>> round(tuning(0.05), 2), round(tuning(0.02), 2)
    (6.64, 8.71)
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}; a one-sided bound needs it strictly between 0 and 0.5.")
    return float(-lambertw(-((2 * alpha) ** 2) / math.e, k=-1).real - 1)


def critical(units: float, alpha: float, *, tightest: float = TIGHTEST) -> float:
    """c(u): what to multiply the standard error with after ``units``; infinite before the first.

    >>> round(critical(2000, 0.05), 2), round(critical(2000, 0.02), 2)
    (2.77, 3.12)
    """
    if units <= 0:
        return math.inf
    u = tuning(alpha) * units / tightest
    return math.sqrt(2 * (1 + 1 / u) * math.log(0.5 + math.sqrt(1 + u) / (2 * alpha)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An estimate with one-sided bounds, each of its own level alpha, valid at every look."""

    estimate: float
    lower: float
    upper: float


def bound(estimate: float, standard_error: float, units: float, alpha: float, *, tightest: float = TIGHTEST) -> Bound:
    """Bounds for an estimate from ``units``; infinite below `LEAST_UNITS`."""
    if units < LEAST_UNITS:
        return Bound(estimate=estimate, lower=-math.inf, upper=math.inf)
    radius = standard_error * critical(units, alpha, tightest=tightest)
    return Bound(estimate=estimate, lower=estimate - radius, upper=estimate + radius)


def more(
    estimate: float, standard_error: float, units: float, margin: float, alpha: float, *, power: float = 0.5
) -> int | None:
    """About how many more units until the upper bound falls under ``margin``, with that chance, if things stay so.

    (c* + z_power)²·σ²/(margin − max(estimate, 0))² − units. None when the estimate is at or over the margin.
    """
    if units <= 0 or estimate >= margin:
        return None
    variance = standard_error**2 * units
    best = critical(1.0, alpha, tightest=1.0)
    needed = (best + float(ndtri(power))) ** 2 * variance / (margin - max(estimate, 0.0)) ** 2
    return max(0, math.ceil(max(needed, LEAST_UNITS) - units))


def boundary_variance(
    challenger_events: float,
    challenger_units: float,
    champion_events: float,
    champion_units: float,
    margin: float,
) -> float:
    """Variance of the difference of two rates for a test at ``margin``: never the plug-in alone.

    The challenger's variance is at least what it would be at the margin: with no event yet the plug-in's radius is 0
    and up to 62 % of the challengers at the margin would be promoted.
    """
    p1 = challenger_events / max(challenger_units, 1.0)
    p0 = champion_events / max(champion_units, 1.0)
    at_margin = min(0.5, p0 + margin)
    variance_1 = max(p1 * (1 - p1), at_margin * (1 - at_margin))
    return variance_1 / max(challenger_units, 1.0) + p0 * (1 - p0) / max(champion_units, 1.0)
