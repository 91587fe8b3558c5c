"""Is one arm of an experiment better than another? Means and ratios by unit, valid at every look. Knows no lake, no names.

A unit is what was randomised (a customer, a request); what it did is two sums, a numerator and a denominator. The
metric of an arm is Σ numerator / Σ denominator; its influence per unit ψ = (num − R·den)/mean(den) (delta method, Deng,
Knoblich & Lu 2018) takes many requests of one unit for what they are. A covariate from before the assignment takes
out what would have differed anyway (CUPED, Deng et al. 2013). Bounds are confidence sequences (`sequence`).
Formulas and operating characteristics: docs/statistics.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from everloop.measure import sequence

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ALPHA = 0.05
EXPECTED = 10_000.0
"""Units at which the interval is tightest unless told otherwise; a fifth to five times as many cost a few per cent."""
FROZEN_VALUES = 100
"""So many values of the first arm other than zero fix the limits for extreme values."""
SKEWED = 2.0
"""From this skewness of those values on (an exponential's), values beyond the limits count as the limits."""
KEPT = 0.99
"""The quantile of those values that is the limit."""
LEAST_VARIED = 20
"""Units that differ from their arm's usual: with fewer in both arms nothing is said, and an arm with fewer is taken to
vary at least as much as the other: of three hundred units without one event the plain standard error would be 0."""
PRIOR_WEIGHT = 1_000.0
SAMPLE_RATIO_ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What each unit did, in the order in which they came: arrays [n]. ``arm`` 0 is what the others are held against."""

    arm: Integers
    numerator: Floats
    denominator: Floats
    covariate: Floats | None = None
    """Known before the unit's assignment; NaN: nothing is."""

    def __len__(self) -> int:
        return len(self.arm)

    def first(self, count: int) -> Units:
        """The units that came first."""
        covariate = None if self.covariate is None else self.covariate[:count]
        return Units(
            arm=self.arm[:count],
            numerator=self.numerator[:count],
            denominator=self.denominator[:count],
            covariate=covariate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where extreme numerators are cut off, fixed once by the first arm's early units. Infinite: nowhere."""

    low: float = -math.inf
    high: float = math.inf
    decided: bool = True
    """False while there are too few units to know."""

    @property
    def cuts(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One arm against the first. The bounds hold at every look together, with chance 1 − alpha; infinite: too few units."""

    base: float
    """The first arm's metric; NaN where it has none."""
    value: float
    """Base + estimate: with a covariate, what the arm's metric is for alike units."""
    estimate: float
    lower: float
    upper: float
    standard_error: float
    units: int
    """Of both arms."""
    gain: float | None = None
    """The share of the variance that the covariate took away; None without one."""
    unknown: int = 0
    """Units whose covariate is not known: they count with the mean."""

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out no difference at all."""
        return self.lower > 0 or self.upper < 0


def limits(units: Units) -> Limits:
    """Where to cut: nowhere, unless the values are skewed.

    Decided by the first `FROZEN_VALUES` numerators of the first arm that are not 0, whatever comes later. Shares, and
    metrics of which all those values are the same (0 or a fixed price), need none.
    """
    if is_share(units):
        return Limits()
    values = units.numerator[(units.arm == 0) & (units.numerator != 0)][:FROZEN_VALUES]
    if len(values) and np.all(values == values[0]):
        return Limits()
    if len(values) < FROZEN_VALUES:
        return Limits(decided=False)
    spread = float(values.std())
    skewness = float(np.mean((values - values.mean()) ** 3)) / spread**3 if spread > 0 else 0.0
    if abs(skewness) < SKEWED:
        return Limits()
    above, below = values[values > 0], values[values < 0]
    return Limits(
        low=float(np.quantile(below, 1 - KEPT)) if len(below) else -math.inf,
        high=float(np.quantile(above, KEPT)) if len(above) else math.inf,
    )


def is_share(units: Units) -> bool:
    """Whether the metric is a share: in every unit, events among what they are taken over."""
    counted = units.numerator == np.round(units.numerator)
    return bool(np.all(counted & (units.numerator >= 0) & (units.numerator <= units.denominator)))


def cut(units: Units, at: Limits) -> tuple[Units, int]:
    """The units with extreme numerators cut off, and how many were."""
    kept = np.clip(units.numerator, at.low, at.high)
    return replace(units, numerator=kept), int(np.sum(kept != units.numerator))


def compare(units: Units, arm: int = 1, *, alpha: float = ALPHA, expected: float = EXPECTED) -> Comparison:
    """``arm`` against the first one, by all units so far. May be asked at every look.

    ``alpha`` is of both sides together. ``expected``: units of both arms at which the interval is to be tightest,
    fixed before the first look.
    """
    parts = [units.arm == 0, units.arm == arm]
    n = [int(np.sum(part)) for part in parts]
    covariate, unknown = _covariate(units, parts[0] | parts[1])
    values: list[float] = []
    influences: list[Floats] = []
    covariates: list[Floats] = []
    for part in parts:
        numerator, denominator = units.numerator[part], units.denominator[part]
        total = float(denominator.sum())
        value = float(numerator.sum()) / total if total > 0 else math.nan
        values.append(value)
        influences.append((numerator - value * denominator) * (len(numerator) / total) if total > 0 else numerator * 0)
        if covariate is not None:
            covariates.append(covariate[part])
    estimate = values[1] - values[0]
    if not math.isfinite(estimate) or min(n) < 2:
        return _nothing(values, sum(n))
    plain = _variance(influences)
    variance, gain = plain, None
    if covariates:
        theta = _slope(influences, covariates)
        estimate -= theta * float(covariates[1].mean() - covariates[0].mean())
        variance = _variance([psi - theta * x for psi, x in zip(influences, covariates, strict=True)])
        gain = 1 - variance / plain if plain > 0 else 0.0
    error = math.sqrt(variance)
    ready = min(n) >= sequence.LEAST_UNITS and sum(_varied(psi) for psi in influences) >= LEAST_VARIED
    within = sequence.bound(estimate, error, sum(n) if ready else 0, alpha / 2, tightest=expected)
    return Comparison(
        base=values[0],
        value=values[0] + estimate,
        estimate=estimate,
        lower=within.lower,
        upper=within.upper,
        standard_error=error,
        units=sum(n),
        gain=gain,
        unknown=unknown,
    )


def more(found: Comparison, effect: float, *, alpha: float = ALPHA, power: float = 0.5) -> int | None:
    """About how many more units of both arms until a difference of ``effect`` is shown, with that chance.

    (c* + z_power)²·σ²/effect² − units. None where nothing is known of the spread, or ``effect`` is 0.
    """
    if found.units <= 0 or not found.standard_error > 0 or effect == 0:
        return None
    # `sequence.more` asks when the upper bound of an estimate of 0 falls under a margin: the same distance.
    return sequence.more(0.0, found.standard_error, found.units, abs(effect), alpha / 2, power=power)


def sample_ratio(units: ArrayLike, shares: ArrayLike) -> Floats:
    """The logarithm of E against "units fall to the arms with these chances": broken at E ≥ 1/`SAMPLE_RATIO_ALPHA`.

    ``units`` are [..., arms] and ``shares`` [arms]; returns [...]. A Dirichlet prior of weight 1,000 around the shares;
    exact at every look.
    """
    n, w = np.asarray(units, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    c = PRIOR_WEIGHT
    log_e: Floats = (
        gammaln(c)
        - gammaln(c + n.sum(axis=-1))
        + np.sum(gammaln(c * w + n) - gammaln(c * w), axis=-1)
        - np.sum(np.where(n > 0, n * np.log(w), 0.0), axis=-1)
    )
    return log_e


def _nothing(values: list[float], units: int) -> Comparison:
    return Comparison(
        base=values[0],
        value=values[1],
        estimate=values[1] - values[0],
        lower=-math.inf,
        upper=math.inf,
        standard_error=math.nan,
        units=units,
    )


def _covariate(units: Units, compared: NDArray[np.bool_]) -> tuple[Floats | None, int]:
    """The covariate with the mean where it is not known, and in how many of the compared units it is not."""
    if units.covariate is None:
        return None, 0
    known = np.isfinite(units.covariate)
    inside = known & compared
    mean = float(units.covariate[inside].mean()) if inside.any() else 0.0
    return np.where(known, units.covariate, mean), int(np.sum(compared & ~known))


def _variance(influences: list[Floats]) -> float:
    """Of the difference of the two arms' means."""
    own = [float(psi.var(ddof=1)) for psi in influences]
    few = [_varied(psi) < LEAST_VARIED for psi in influences]
    each = [max(own) if few[place] else own[place] for place in range(len(own))]
    return sum(spread / len(psi) for spread, psi in zip(each, influences, strict=True))


def _slope(influences: list[Floats], covariates: list[Floats]) -> float:
    """θ: what the covariate explains, within the arms, weighted as the difference weighs them."""
    below = sum(float(x.var(ddof=1)) / len(x) for x in covariates)
    above = sum(
        float(np.dot(psi - psi.mean(), x - x.mean())) / (len(x) - 1) / len(x)
        for psi, x in zip(influences, covariates, strict=True)
    )
    return above / below if below > 0 else 0.0


def _varied(influence: Floats) -> int:
    """Units that are not what most of the arm is: of rare events the events, of common ones what is none."""
    usual = np.median(influence)
    return int(np.sum(np.abs(influence - usual) > 1e-12 * max(1.0, abs(float(usual)))))
